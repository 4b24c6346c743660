"""Clients that vanish, stall or come in crowds: their work is cancelled, and others are answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import pa_lite
from pa_lite.api.server import running_server
from pa_lite.serving.server.connections import Connections
from pa_lite.serving.server.run import RunningServer
from tests.support.http_requests import call, connected, eventually, request_bytes
from tests.support.served import ONE, user

# nearly uniform tokens: with this seed, none of them ends the answer
LONG: dict[str, Any] = {"prompt": [5], "max_tokens": 500, "temperature": 100.0, "seed": 1}


def is_idle(url: str) -> bool:
    health = call(url, "/health").json
    return bool(health["running"] == health["waiting"] == 0)


def body(**more: Any) -> bytes:
    return json.dumps({**LONG, **more}).encode()


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"n": 3}, {"echo": True, "logprobs": 5, "max_tokens": 0}])
def test_work_of_a_client_that_goes_is_cancelled(server: RunningServer, url: str, more: dict[str, Any]) -> None:
    if "echo" in more:
        more = {**more, "prompt": [list(range(300 + i, 800 + i)) for i in range(100)]}
    before = server.host.models.n_decoded
    with connected(url) as connection:
        connection.sendall(request_bytes(url, "/v1/completions", body(**more)))
        assert eventually(lambda: server.host.models.is_busy)
    assert eventually(lambda: is_idle(url) and not server.host.models.is_busy)
    assert server.host.models.n_decoded - before < 20_000  # far less than 100 prompts


def test_a_client_that_goes_while_it_waits_is_forgotten(url: str, server: RunningServer) -> None:
    streams = [connected(url) for _ in range(8)]
    for stream in streams:
        stream.sendall(request_bytes(url, "/v1/completions", body(stream=True)))
    assert eventually(lambda: call(url, "/health").json["waiting"] > 0)
    for stream in reversed(streams):  # those that wait first
        stream.close()
    assert eventually(lambda: is_idle(url) and not server.host.models.is_busy)


def test_a_reset_in_mid_stream_is_survived(url: str) -> None:
    connection = connected(url)
    connection.sendall(request_bytes(url, "/v1/completions", body(stream=True)))
    assert connection.recv(100)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    connection.close()
    assert eventually(lambda: is_idle(url))


@pytest.fixture
def narrow() -> Iterator[str]:
    """A server of one answer at a time, where one further request may wait."""
    options = pa_lite.ServeOptions(port=0, models=1, parallel=1, queue=1)
    with running_server("demo", options, ONE) as running:
        yield running.url


def test_requests_beyond_the_queue_are_429_and_none_is_lost(narrow: str) -> None:
    statuses: list[int] = []
    texts: set[str] = set()

    def run() -> None:
        reply = call(narrow, "/v1/completions", {**LONG, "max_tokens": 200})
        statuses.append(reply.status)
        if reply.status == 200:
            texts.add(reply.json["choices"][0]["text"])
        else:
            assert reply.error["code"] == "queue_full"
            assert 1 <= int(reply.headers["retry-after"]) <= 60

    threads = [threading.Thread(target=run) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 2
    assert len(texts) == 1
    assert call(narrow, "/v1/completions", {**LONG, "max_tokens": 1}).status == 200
    assert is_idle(narrow)


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Client:
    """A connection as uvicorn shows it."""

    def __init__(self, unread: int = 0, is_working: bool = False) -> None:
        self.unread, self.is_aborted, self.response_complete = unread, False, not is_working
        self.transport = self.cycle = self

    def get_write_buffer_size(self) -> int:
        return self.unread

    def abort(self) -> None:
        self.is_aborted = True


def test_idle_and_unread_connections_are_dropped_after_their_time() -> None:
    clock = Clock()
    watched = Connections(idle=10, unread=20, clock=clock)
    idle, working, unread, reading = Client(), Client(is_working=True), Client(5, True), Client(5, True)
    fresh = Client()
    fresh.cycle = None  # type: ignore[assignment]
    dropped: dict[str, float] = {}
    clients = {"idle": idle, "working": working, "unread": unread, "reading": reading, "fresh": fresh}
    for second in range(60):
        clock.now = float(second)
        reading.unread = 0 if second % 7 == 0 else 5
        watched.drop_slow([c for name, c in clients.items() if name not in dropped])
        dropped.update({name: second for name, c in clients.items() if c.is_aborted and name not in dropped})
    assert dropped == {"idle": 10, "fresh": 10, "unread": 20}


def test_a_client_that_does_not_read_is_dropped_and_its_work_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream is larger than all buffers between, so that sending stops."""
    from pa_lite.serving.server import run

    monkeypatch.setattr(run, "Connections", lambda: Connections(idle=3600, unread=0.5))
    options = pa_lite.ServeOptions(port=0, models=1, parallel=16)
    with running_server("demo", options, ONE) as running, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        host, port = running.url.removeprefix("http://").split(":")
        connection.settimeout(120)
        connection.connect((host, int(port)))
        sent = body(stream=True, n=16, logprobs=20, prompt=[[5], [6], [7], [8]] * 4)
        connection.sendall(request_bytes(running.url, "/v1/completions", sent))
        assert eventually(lambda: running.host.models.is_busy)
        assert eventually(lambda: is_idle(running.url), 120)
        assert is_cut(connection)


def is_cut(connection: socket.socket) -> bool:
    """Return whether a stream ends, by a reset or otherwise, without its last event."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            answer = answer[-100:] + part
    return b"[DONE]" not in answer


def test_an_idle_connection_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    from pa_lite.serving.server import run

    monkeypatch.setattr(run, "Connections", lambda: Connections(idle=0.5, unread=3600))
    with running_server("demo", pa_lite.ServeOptions(port=0, models=1), ONE) as running:
        for head in (b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: "):
            with connected(running.url) as connection:
                connection.sendall(head)
                assert is_cut(connection)
        assert is_idle(running.url)


def test_many_connections_at_once_are_all_answered(url: str) -> None:
    async def one(i: int) -> int:
        content = json.dumps({"messages": user(f"Who is Tobi? {i}"), "max_tokens": 2, "stream": i % 2 == 0}).encode()
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request_bytes(url, "/v1/chat/completions", content, "Connection: close"))
        answer = await reader.read()
        writer.close()
        return int(answer.split()[1])

    async def run() -> list[int]:
        return await asyncio.gather(*(one(i) for i in range(100)))

    statuses = asyncio.run(run())
    assert statuses == [200] * 100
    assert eventually(lambda: is_idle(url))
