"""Streams of completions from an OpenAI-compatible server on loopback, read with as little work as possible.

The client shares the processor with the server that it measures, so it looks only at what it counts.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tools.bench.runs import BenchError

_TIMEOUT = 600.0  # seconds for one answer


@dataclass(frozen=True)
class Reply:
    """One streamed answer: seconds to its first token and to its end, and the number of chunks with a token."""

    first: float
    seconds: float
    n: int


@dataclass(frozen=True)
class Group:
    """The replies to requests that were sent at the same moment, and the seconds until the last one ended."""

    replies: Sequence[Reply]
    seconds: float

    @property
    def speed(self) -> float:
        """Tokens a second, all streams together."""
        return sum(reply.n for reply in self.replies) / self.seconds


async def _stream(port: int, body: Mapping[str, Any]) -> Reply:
    text = json.dumps({**body, "stream": True}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
    )
    begin = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + text)
    first, n, status = 0.0, 0, b""
    while line := await reader.readline():
        if not status:
            status = line
            if b" 200 " not in line:
                raise BenchError(f"the server answered {line.decode().strip()}: {(await reader.read(2000))[-300:]!r}")
        if line.startswith(b'data: {"') and b'"text":""' not in line:
            first = first or time.perf_counter() - begin
            n += 1
    writer.close()
    if not n:
        raise BenchError("an answer has no tokens.")
    return Reply(first, time.perf_counter() - begin, n)


async def _all(port: int, bodies: Iterable[Mapping[str, Any]]) -> list[Reply]:
    return await asyncio.wait_for(asyncio.gather(*(_stream(port, body) for body in bodies)), _TIMEOUT)


def together(port: int, bodies: Sequence[Mapping[str, Any]]) -> Group:
    """Send all requests at once and read their streams to the end."""
    begin = time.perf_counter()
    replies = asyncio.run(_all(port, bodies))
    return Group(replies, time.perf_counter() - begin)


def in_turn(port: int, bodies: Sequence[Mapping[str, Any]]) -> Group:
    """Send one request after another."""
    begin = time.perf_counter()
    replies = [reply for body in bodies for reply in asyncio.run(_all(port, [body]))]
    return Group(replies, time.perf_counter() - begin)
