"""Limits: of the queue, and of what one request may ask for."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from pa_lite.api.server import running_server
from pa_lite.serving.server import bodies
from pa_lite.serving.server.options import MAX_ANSWERS, MAX_MESSAGES, MAX_N, MAX_PROMPTS, MAX_STOPS, ServeOptions
from tests.support.http_requests import Reply, call, connected, eventually, request_bytes
from tests.support.served import ONE, user

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
LONG: dict[str, Any] = {"prompt": "The", "max_tokens": 500, "n": 16, "temperature": 100.0, "stream": True}
SHORT: dict[str, Any] = {"prompt": "The", "max_tokens": 1}


@pytest.mark.parametrize("queue", [0, 1])
def test_requests_beyond_the_queue_are_refused_and_told_when_to_try_again(queue: int) -> None:
    options = ServeOptions(port=0, parallel=1, models=1, queue=queue)
    with running_server("demo", options, ONE) as served:
        url = served.url
        assert call(url, TEXT, SHORT).status == 200  # a free model takes requests at once
        replies: list[Reply] = []

        def wait_in_queue() -> None:
            replies.append(call(url, TEXT, SHORT))

        with connected(url) as first:
            first.sendall(request_bytes(url, TEXT, json.dumps(LONG).encode()))
            assert first.recv(1024).startswith(b"HTTP/1.1 200")
            waiting = [threading.Thread(target=wait_in_queue) for _ in range(queue)]
            for thread in waiting:
                thread.start()
            assert eventually(lambda: call(url, "/health").json["waiting"] == queue)
            for path, body in ((TEXT, SHORT), (CHAT, {"messages": user("x")}), (TEXT, {**SHORT, "lam": 0.1})):
                refused = call(url, path, body)
                assert (refused.status, refused.error["code"]) == (429, "queue_full")
                assert refused.error["type"] == "rate_limit_error"
                seconds = refused.headers["retry-after"]
                assert 1 <= int(seconds) <= 60
                message = f"{queue} requests are waiting, which is the limit. Try again in {seconds} s."
                assert refused.error["message"] == message
            assert call(url, "/tokenize", {"prompt": "x"}).status == 200  # needs no model's turn
        for thread in waiting:
            thread.join()
        assert [reply.status for reply in replies] == [200] * queue
        assert eventually(lambda: call(url, TEXT, SHORT).status == 200)  # once the cancelled work has ended


def test_all_requests_of_a_full_queue_are_answered(url: str) -> None:
    found: list[tuple[int, int]] = []

    def run(i: int) -> None:
        reply = call(url, TEXT, {"prompt": [i + 5, 7], "max_tokens": 2, "lam": (i % 4) / 10, "echo": i % 3 == 0})
        found.append((i, reply.status))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [(i, 200) for i in range(40)]


def test_what_one_request_may_ask_for(url: str) -> None:
    def status(path: str, **body: Any) -> int:
        return call(url, path, {"max_tokens": 1, **body}).status

    for n, expected in ((MAX_N, 200), (MAX_N + 1, 400)):
        assert status(CHAT, messages=user("x"), n=n) == expected
        assert status(TEXT, prompt="x", n=n) == expected
    for n, expected in ((MAX_STOPS, 200), (MAX_STOPS + 1, 400)):
        assert status(TEXT, prompt="x", stop=[f"stop {i}" for i in range(n)]) == expected
    for n, expected in ((MAX_PROMPTS, 200), (MAX_PROMPTS + 1, 400)):
        assert status(TEXT, prompt=["x"] * n) == expected
        assert status(TEXT, prompt=[[5]] * n, echo=True, logprobs=1) == expected
    refused = call(url, TEXT, {"prompt": ["x"] * 100, "n": 3})
    assert refused.error["message"] == f"100 prompts with n 3 are 300 answers; the limit is {MAX_ANSWERS}."
    messages = [{"role": "user", "content": "x"}] * (MAX_MESSAGES + 1)
    assert f"the limit is {MAX_MESSAGES}" in call(url, CHAT, {"messages": messages}).error["message"]
    assert call(url, "/detokenize", {"tokens": [5] * ((1 << 20) + 1)}).status == 400


def test_answers_end_at_the_end_of_the_context(url: str) -> None:
    reply = call(url, TEXT, {"prompt": [5] * 500, "max_tokens": 2_000_000_000, "temperature": 100.0, "seed": 1}).json
    assert reply["usage"]["total_tokens"] <= 512
    assert call(url, TEXT, {"prompt": "x", "max_tokens": 1 << 31}).status == 400


def test_the_bodies_of_all_requests_together_are_bounded(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_ALL_VALUES", 10_000)
    refused = call(url, TEXT, {**SHORT, "user": "x" * 20_000})
    assert (refused.status, refused.headers["retry-after"], refused.error["code"]) == (429, "5", "queue_full")
    assert call(url, TEXT, SHORT).status == 200
