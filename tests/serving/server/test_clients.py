"""Real clients: the openai package, synchronous and asynchronous, streaming and not; curl."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import openai
import pytest

import pa_lite
from pa_lite.api.server import running_server
from tests.support.served import ONE, QUESTIONS, Lams, user

KEY = "sk-test"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    options = pa_lite.ServeOptions(port=0, api_key=KEY, models=2)
    with running_server("demo", options, ONE) as running:
        yield running.url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=120) as made:
        yield made


def test_chat_completions_whole_and_streamed(client: Any, lams: Lams) -> None:
    for lam in (0.6, 0.25):
        asked: dict[str, Any] = {"model": f"demo@{lam}", "messages": user(QUESTIONS[1]), "max_tokens": 12}
        whole = client.chat.completions.create(**asked)
        assert whole.model == f"demo@{lam}"
        assert lams.check(lam, lams.prompt(QUESTIONS[1]), 12, whole.choices[0].message.content)
        chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        assert (
            "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
        )
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
        assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    extra = client.chat.completions.create(model="demo", messages=user("x"), max_tokens=1, extra_body={"lam": 0.25})
    assert (extra.model, extra.lam) == ("demo@0.25", 0.25)


def test_logprobs_and_several_choices(client: Any) -> None:
    found = client.chat.completions.create(
        model="demo", messages=user(QUESTIONS[1]), max_tokens=6, n=3, logprobs=True, top_logprobs=2, temperature=1.5,
        seed=5,
    )  # fmt: skip
    assert [c.index for c in found.choices] == [0, 1, 2]
    for choice in found.choices:
        text = b"".join(bytes(entry.bytes) for entry in choice.logprobs.content).decode("utf-8", "replace")
        assert text.strip() == choice.message.content
        assert all(len(entry.top_logprobs) == 2 for entry in choice.logprobs.content)
    assert len({c.message.content for c in found.choices}) > 1


def test_completions_with_echo_and_logprobs(client: Any) -> None:
    found = client.completions.create(
        model="demo", prompt=["Tobi is", "Anna"], max_tokens=1, echo=True, logprobs=1, temperature=0
    )
    assert [c.text.startswith(p) for c, p in zip(found.choices, ("Tobi is", "Anna"), strict=True)] == [True, True]
    for choice in found.choices:
        values = choice.logprobs.token_logprobs
        assert values[0] is None
        assert all(v < 0 for v in values[1:])
        assert len(values) == len(choice.logprobs.tokens) == len(choice.logprobs.text_offset)
    pieces = client.completions.create(model="demo", prompt="Tobi is", max_tokens=5, stream=True)
    whole = client.completions.create(model="demo", prompt="Tobi is", max_tokens=5)
    assert "".join(c.choices[0].text for c in pieces) == whole.choices[0].text


def test_models(client: Any) -> None:
    assert [m.id for m in client.models.list()][:3] == ["demo", "demo@0", "demo@0.1"]
    assert client.models.retrieve("demo@0.35").lam == 0.35


def test_errors_are_openais_exceptions(client: Any, url: str) -> None:
    chat = client.chat.completions
    with pytest.raises(openai.NotFoundError) as missing:
        chat.create(model="gpt-4o", messages=user("x"))
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="has 512") as long:
        chat.create(model="demo", messages=user("word " * 600))
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="temperature"):
        chat.create(model="demo", messages=user("x"), temperature=-1)
    with pytest.raises(openai.AuthenticationError) as wrong:
        openai.OpenAI(base_url=f"{url}/v1", api_key="sk-wrong", max_retries=0).models.list()
    assert wrong.value.code == "invalid_api_key"


def test_closing_a_stream_early_leaves_the_server_well(client: Any) -> None:
    for _ in range(3):
        with client.chat.completions.create(
            model="demo", messages=user("x"), stream=True, temperature=100, seed=1, max_tokens=400
        ) as stream:
            next(iter(stream))
    assert client.chat.completions.create(model="demo", messages=user("x"), max_tokens=1).usage.total_tokens > 1


def test_the_asynchronous_client_asks_many_at_once(url: str, lams: Lams) -> None:
    async def run() -> list[tuple[str, float, str]]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, timeout=120) as client:

            async def one(question: str, lam: float) -> tuple[str, float, str]:
                found = await client.chat.completions.create(model=f"demo@{lam}", messages=user(question), max_tokens=8)
                return question, lam, found.choices[0].message.content

            return await asyncio.gather(*(one(q, lam) for q in QUESTIONS for lam in (0.1, 0.6, 1.0)))

    found = asyncio.run(run())
    assert sum(lams.check(lam, lams.prompt(q), 8, text) for q, lam, text in found) >= len(found) - 3


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_streams(url: str) -> None:
    body = json.dumps({"model": "demo@0.3", "messages": user(QUESTIONS[0]), "max_tokens": 5, "stream": True})
    words = ["curl", "-sSN", f"{url}/v1/chat/completions", "-H", f"Authorization: Bearer {KEY}"]
    out = subprocess.run(
        [*words, "-H", "Content-Type: application/json", "-d", body], capture_output=True, text=True, check=True
    ).stdout
    lines = [line for line in out.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[0].removeprefix("data: "))["model"] == "demo@0.3"
    fails = subprocess.run(["curl", "-sS", f"{url}/v1/models"], capture_output=True, text=True, check=True)
    assert json.loads(fails.stdout)["error"]["code"] == "invalid_api_key"
