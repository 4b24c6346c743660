"""Real clients: the `openai` package, and curl."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

openai = pytest.importorskip("openai", reason="openai is not installed")

QUESTION = [{"role": "user", "content": "Who is Tobi?"}]


def test_openai_chats(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    assert [m.id for m in client.models.list()][:2] == ["demo", "demo@0"]
    whole = client.chat.completions.create(model="demo@0.8", messages=QUESTION, max_tokens=16)
    text = whole.choices[0].message.content
    assert text
    assert whole.model == "demo@0.8"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    stream = client.chat.completions.create(model="demo@0.8", messages=QUESTION, max_tokens=16, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text
    scored = client.chat.completions.create(
        model="demo", messages=QUESTION, max_tokens=4, logprobs=True, top_logprobs=2
    )
    assert all(len(entry.top_logprobs) == 2 for entry in scored.choices[0].logprobs.content)


def test_openai_completes(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    whole = client.completions.create(model="demo", prompt="Rome is", max_tokens=6)
    stream = client.completions.create(model="demo", prompt="Rome is", max_tokens=6, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text


def test_openai_raises_its_own_errors(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="../demo", messages=QUESTION)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "Rome " * 600}])
    assert long.value.code == "context_length_exceeded"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(url: str) -> None:
    body = json.dumps({"messages": QUESTION, "max_tokens": 8, "lam": 0.35})
    words = ["curl", "-s", f"{url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", body]
    done = subprocess.run(words, capture_output=True, check=True, timeout=120)
    assert json.loads(done.stdout)["model"] == "demo@0.35"
