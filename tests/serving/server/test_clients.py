"""Real clients: the package `openai` and curl."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from pa_lite.api.server import running_server
from pa_lite.serving.server.options import ServeOptions
from tests.support.http_requests import call
from tests.support.served import ONE, Lams

openai = pytest.importorskip("openai")
QUESTION = "Where is Rome?"  # the answer is a sentence
MESSAGES: Any = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as found:
        yield found


def test_openai_chats(client: Any, lams: Lams) -> None:
    answer = client.chat.completions.create(model="demo@0.6", messages=MESSAGES, max_tokens=16)
    (choice,) = answer.choices
    assert lams.check(0.6, lams.prompt(QUESTION), 16, choice.message.content)
    assert (answer.model, answer.lam, choice.message.role) == ("demo@0.6", 0.6, "assistant")
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    parsed = client.chat.completions.with_raw_response.create(model="demo", messages=MESSAGES, max_tokens=1)
    assert parsed.status_code == 200


def test_openai_streams_chats(client: Any) -> None:
    whole = client.chat.completions.create(model="demo", messages=MESSAGES, max_tokens=16, n=2)
    stream = client.chat.completions.create(
        model="demo", messages=MESSAGES, max_tokens=16, n=2, stream=True, stream_options={"include_usage": True}
    )
    texts, usage = {0: "", 1: ""}, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == {i: whole.choices[i].message.content for i in (0, 1)}
    assert usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens
    with client.chat.completions.stream(model="demo", messages=MESSAGES, max_tokens=16) as events:
        final = events.get_final_completion()
    assert final.choices[0].message.content == texts[0]


def test_openai_reads_logprobs(client: Any) -> None:
    words: dict[str, Any] = {"model": "demo@0.3", "messages": MESSAGES, "max_tokens": 4, "logprobs": True}
    answer = client.chat.completions.create(top_logprobs=3, **words)
    content = answer.choices[0].logprobs.content
    assert b"".join(bytes(e.bytes) for e in content).decode().strip() == answer.choices[0].message.content
    for entry in content:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].token == entry.token  # greedy
        assert entry.top_logprobs[0].logprob == entry.logprob < 0
    streamed = [
        entry.token
        for chunk in client.chat.completions.create(stream=True, **words)
        for choice in chunk.choices
        if choice.logprobs
        for entry in choice.logprobs.content
    ]
    assert streamed == [entry.token for entry in content]


def test_openai_completes(client: Any, lams: Lams) -> None:
    prompts = ["- gek -> faz\n- pok ->", "The robin is"]
    answer = client.completions.create(model="demo@0", prompt=prompts, max_tokens=6, logprobs=2)
    for prompt, choice in zip(prompts, answer.choices, strict=True):
        assert lams.check(0.0, lams.model(0.0).tokenize(prompt, True), 6, choice.text)
        assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs) == len(choice.logprobs.text_offset)
    stream = client.completions.create(model="demo@0", prompt=prompts, max_tokens=6, stream=True)
    texts = ["", ""]
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in answer.choices]
    echoed = client.completions.create(model="demo@0", prompt=prompts[0], max_tokens=0, echo=True, logprobs=1)
    assert echoed.choices[0].text == prompts[0]
    assert echoed.choices[0].logprobs.token_logprobs[0] is None


def test_openai_passes_further_fields(client: Any) -> None:
    more = {"lam": 0.9, "top_k": 1, "min_p": 0.1}
    answer = client.chat.completions.create(
        model="demo", messages=MESSAGES, max_tokens=8, temperature=1.0, seed=1, extra_body=more
    )
    greedy = client.chat.completions.create(model="demo@0.9", messages=MESSAGES, max_tokens=8)
    assert (answer.model, answer.choices[0].message.content) == ("demo@0.9", greedy.choices[0].message.content)


def test_openai_lists_models(client: Any) -> None:
    assert [model.id for model in client.models.list()][:3] == ["demo", "demo@0", "demo@0.1"]
    assert client.models.retrieve("demo@0.35").lam == 0.35


def test_openai_raises_its_errors(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="context of demo has 512") as caught:
        client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "word " * 600}])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    assert caught.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError, match="use demo or demo@LAM") as missing:
        client.completions.create(model="gpt-4o", prompt="x")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="frequency_penalty"):
        client.chat.completions.create(model="demo", messages=MESSAGES, frequency_penalty=1)


def test_openai_sends_the_key() -> None:
    options = ServeOptions(port=0, api_key="secret", queue=0, parallel=1, models=1)
    with running_server("demo", options, ONE) as served:
        wrong = openai.OpenAI(base_url=f"{served.url}/v1", api_key="wrong", max_retries=0)
        right = openai.OpenAI(base_url=f"{served.url}/v1", api_key="secret", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            wrong.models.list()
        long: dict[str, Any] = {"model": "demo", "max_tokens": 500, "temperature": 1.9, "n": 16}
        extra = {"temperature": 100.0}
        with right.completions.create(prompt="The", stream=True, extra_body=extra, **long) as stream:
            next(iter(stream))
            with pytest.raises(openai.RateLimitError, match="Try again in") as caught:
                right.chat.completions.create(model="demo", messages=MESSAGES)
            assert int(caught.value.response.headers["retry-after"]) >= 1
        # the stream is closed: its work is cancelled, and a client that tries again is answered
        again = right.with_options(max_retries=10).chat.completions.create(model="demo", messages=MESSAGES, max_tokens=2)
        assert again.choices[0].message.content
        wrong.close()
        right.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(url: str) -> None:
    def curl(*words: str) -> str:
        return subprocess.run(
            ["curl", "-sS", "--noproxy", "*", "--max-time", "120", *words], check=True, capture_output=True, text=True
        ).stdout

    header = ("-H", "Content-Type: application/json")
    body = {"model": "demo@0.6", "messages": MESSAGES, "max_tokens": 16}
    expected = call(url, "/v1/chat/completions", body).json["choices"]
    assert json.loads(curl(f"{url}/v1/chat/completions", *header, "-d", json.dumps(body)))["choices"] == expected
    streamed = curl("-N", f"{url}/v1/chat/completions", *header, "-d", json.dumps({**body, "stream": True}))
    assert streamed.endswith("data: [DONE]\n\n")
    assert json.loads(curl(f"{url}/health"))["status"] == "ok"
    assert "pa_lite_requests_total" in curl(f"{url}/metrics")
