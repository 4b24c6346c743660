"""Bodies that are too large, too slow, or hostile; each is refused, and the server continues."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from pa_lite.serving.server import bodies
from pa_lite.serving.server.bodies import Bodies
from pa_lite.serving.server.options import MAX_BODY
from tests.support.http_requests import call, connected, raw, request_bytes
from tests.support.served import user

PATH = "/v1/chat/completions"


def well(url: str) -> bool:
    """Return whether the server still answers."""
    return call(url, PATH, {"messages": user("Hello"), "max_tokens": 1}).status == 200


def refused(url: str, content: bytes) -> Any:
    reply = call(url, PATH, content)
    assert reply.status == 400
    return reply.error


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def test_large_bodies_are_413_with_and_without_a_length(url: str) -> None:
    body = json.dumps({"messages": user("x" * MAX_BODY)}).encode()
    reply = call(url, PATH, body)
    assert (reply.status, reply.error["code"]) == (413, "body_too_large")
    assert "larger than 4 MiB" in reply.error["message"]
    parts = [body[i : i + 100_000] for i in range(0, len(body), 100_000)]
    sent = request_bytes(url, PATH, chunked(*parts), "Transfer-Encoding: chunked", "Connection: close")
    assert raw(url, sent)[0] == 413
    assert well(url)


def test_a_client_that_asks_first_is_refused_before_it_sends(url: str) -> None:
    head = request_bytes(url, PATH, b"", f"Content-Length: {MAX_BODY + 1}", "Expect: 100-continue", "Connection: close")
    status, answer = raw(url, head)
    assert status == 413
    assert b"100 Continue" not in answer


def test_a_chunked_body_is_read(url: str) -> None:
    body = json.dumps({"messages": user("Hello"), "max_tokens": 1}).encode()
    sent = request_bytes(url, PATH, chunked(body[:7], body[7:]), "Transfer-Encoding: chunked", "Connection: close")
    assert raw(url, sent)[0] == 200
    for wrong in (b"zz\r\n", b"-1\r\n", b"f" * 30 + b"\r\n"):
        sent = request_bytes(url, PATH, wrong, "Transfer-Encoding: chunked", "Connection: close")
        assert raw(url, sent)[0] in (0, 400)
    both = request_bytes(url, PATH, chunked(body), "Transfer-Encoding: chunked", "Content-Length: 5")
    assert raw(url, both + b"\r\n")[0] in (200, 400)
    assert well(url)


def test_hostile_json_is_one_plain_error(url: str) -> None:
    deep = 100_000
    for content, words in (
        (b"", "the body is missing"),
        (b"{", "not valid JSON"),
        (b"null", "must be a JSON object"),
        (b"[]", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b"[" * deep, "nested more than 64 deep"),
        (b'{"a":' * deep, "nested more than 64 deep"),
        (b'{"messages":' + b"[" * 70 + b"]" * 70 + b"}", "nested more than 64 deep"),
        (b'{"messages": NaN}', "it has NaN"),
        (b'{"temperature": Infinity}', "it has Infinity"),
        (b'{"temperature": 1e999}', "is too large"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "more than 4300 digits"),
        (b'{"seed": ' + b"9" * 4000 + b', "messages": [{"role": "user", "content": "x"}]}', "seed"),
        (b'{"messages": [], "messages": []}', "duplicate key"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "lone surrogate"),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', "not valid JSON"),
        (b'\xef\xbb\xbf{"messages": []}', "not valid JSON"),
        ('{"messages": []}'.encode("utf-16"), "not valid JSON"),
        (b'{"\\u0000": 1, "messages": [{"role": "user", "content": "x"}]}', "unknown field"),
        (b'{"__proto__": {}, "messages": [{"role": "user", "content": "x"}]}', "unknown field"),
    ):
        assert words in refused(url, content)["message"], content[:60]
    assert well(url)


def test_nul_and_odd_characters_in_texts_are_answered(url: str) -> None:
    for text in ("a\x00b", "\x1b[31m", "\ufeff", "\U0010ffff", "‮", "é" * 50, "👩‍👩‍👧‍👦"):
        reply = call(url, PATH, {"messages": user(text), "max_tokens": 1})
        assert reply.status == 200, text
        assert b"\x00" not in reply.body
        stop = call(url, PATH, {"messages": user("x"), "max_tokens": 1, "stop": text[:200]})
        assert stop.status == 200


def test_many_values_are_413(url: str) -> None:
    reply = call(url, PATH, b'{"messages":[' + b"[]," * 1_300_000 + b"[]]}")
    assert (reply.status, reply.error["code"]) == (413, "body_too_large")
    assert "too many values" in reply.error["message"]
    assert well(url)


def test_a_body_that_stays_away_is_dropped_when_the_client_goes(url: str) -> None:
    with connected(url) as connection:
        connection.sendall(request_bytes(url, PATH, b"", "Content-Length: 1000"))
        connection.sendall(b'{"messages"')
    assert well(url)


class Wire:
    """The messages of one request, and what is answered."""

    def __init__(self, messages: list[Message]) -> None:
        self._messages, self.sent = messages, list[Message]()

    async def receive(self) -> Message:
        if not self._messages:
            await asyncio.Event().wait()
        return self._messages.pop(0)

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])


async def echo(_scope: Scope, receive: Receive, send: Send) -> None:
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


SCOPE: Scope = {"type": "http", "headers": [], "method": "POST", "path": "/"}


def part(content: bytes, more: bool = True) -> Message:
    return {"type": "http.request", "body": content, "more_body": more}


def test_a_slow_body_is_408() -> None:
    wire = Wire([part(b"{")])
    asyncio.run(Bodies(echo, seconds=0.05)(SCOPE, wire.receive, wire.send))
    assert wire.status == 408
    assert b"within 0.05 s" in wire.sent[1]["body"]
    assert (b"connection", b"close") in wire.sent[0]["headers"]


def test_a_client_that_goes_gets_nothing() -> None:
    wire = Wire([part(b"{"), {"type": "http.disconnect"}])
    asyncio.run(Bodies(echo)(SCOPE, wire.receive, wire.send))
    assert wire.sent == []


def test_all_bodies_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_ALL_VALUES", 3000)
    release = asyncio.Event()

    async def hold(scope: Scope, receive: Receive, send: Send) -> None:
        await release.wait()
        await echo(scope, receive, send)

    async def run() -> list[int]:
        app = Bodies(hold)
        wires = [Wire([part(b"x" * 900), part(b"x" * 100, False)]) for _ in range(5)]
        tasks = [asyncio.create_task(app(SCOPE, w.receive, w.send)) for w in wires]
        await asyncio.sleep(0.01)
        release.set()
        await asyncio.gather(*tasks)
        later = Wire([part(b"y", False)])
        await app(SCOPE, later.receive, later.send)
        return [w.status for w in (*wires, later)]

    assert asyncio.run(run()) == [200, 200, 200, 429, 429, 200]
