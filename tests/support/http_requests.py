"""Requests to a server on loopback: whole replies, streams, and raw bytes."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

TIMEOUT = 120.0  # seconds: generous, because machines are slow at times


@dataclass(frozen=True)
class Reply:
    """A reply: status, headers with names in lower case, and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        """The error of a reply in OpenAI's form."""
        assert set(self.json) == {"error"}
        found = self.json["error"]
        assert set(found) == {"message", "type", "param", "code"}
        assert found["message"]
        assert "\n" not in found["message"]
        return found

    @property
    def events(self) -> list[Any]:
        """The documents of a stream that ended with [DONE]."""
        assert self.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in self.body.decode("utf-8").split("\n\n") if line and not line.startswith(":")]
        assert lines.pop() == "data: [DONE]"
        assert all(line.startswith("data: {") for line in lines)
        return [json.loads(line.removeprefix("data: ")) for line in lines]


def call(
    url: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, method: str = ""
) -> Reply:  # fmt: skip
    """Return the reply to a request; a body that is not bytes is sent as JSON."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    sent = {} if body is None else {"Content-Type": "application/json"}
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, content, {**sent, **(headers or {})})
        reply = connection.getresponse()
        return Reply(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
    finally:
        connection.close()


def connected(url: str) -> socket.socket:
    """Return an open connection to a server."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    return socket.create_connection((parts.hostname, parts.port or 80), timeout=TIMEOUT)


def request_bytes(url: str, path: str, body: bytes = b"", *lines: str, method: str = "POST") -> bytes:
    """Return the bytes of a request, with further lines in its head; the body's length is given unless a line does."""
    head = [f"{method} {path} HTTP/1.1"]
    given = "".join(lines).lower()
    if "host:" not in given:
        head.append(f"Host: {urlsplit(url).netloc}")
    if body and "content-type:" not in given:
        head.append("Content-Type: application/json")
    if body and "content-length:" not in given and "transfer-encoding:" not in given:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, *lines, "", ""]).encode("latin-1") + body


def raw(url: str, content: bytes) -> tuple[int, bytes]:
    """Send bytes, and return the status and all that comes back until the server closes the connection."""
    with connected(url) as connection:
        connection.sendall(content)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return int(answer.split(b" ", 2)[1]) if answer else 0, answer


def eventually(is_true: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Return whether something becomes true within some time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_true():
            return True
        time.sleep(0.02)
    return is_true()
