"""Receive the bodies of requests: bounded in bytes, in values and in time, each alone and all together. Pure ASGI."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pa_lite.serving.server.errors import ApiError
from pa_lite.serving.server.options import BODY_SECONDS, MAX_ALL_VALUES, MAX_BODY, MAX_VALUES
from pa_lite.untrusted.strict_json import json_memory

_DISCARDED = 64 << 20  # bytes of a body that is too large are read, so that its sender sees the error
_DISCARD_SECONDS = 3.0


class Bodies:
    """Middleware that receives a whole body before the application sees the request."""

    def __init__(self, app: ASGIApp, seconds: float = BODY_SECONDS) -> None:
        """Receive each body within `seconds`."""
        self._app, self._seconds = app, seconds
        self._held = 0  # bytes that the values of all present bodies take, estimated

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413 for a body that is too large, 408 for one that is too slow, 429 if all together are too large."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        values = 0
        try:
            body = await self._received(scope, receive)
            if body is None:
                return  # the client is gone
            values = json_memory(body)
            if values > MAX_VALUES:
                raise ApiError(413, "the body has too many values.", code="body_too_large")
            if self._held + values > MAX_ALL_VALUES:
                raise ApiError(
                    429, "the bodies of all requests are too large together. Try again later.", code="queue_full",
                    headers={"Retry-After": "5"},
                )  # fmt: skip
            self._held += values
        except ApiError as e:
            await e.response(scope, receive, send)
            return
        try:
            await self._app(scope, _replaying(body, receive), send)
        finally:
            self._held -= values

    async def _received(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the body, None if the connection ended. Raises the HTTP errors 413 and 408."""
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > MAX_BODY and b"expect" in headers:
            raise _too_large()  # before the client sends it
        try:
            return await asyncio.wait_for(_read(receive), self._seconds)
        except asyncio.TimeoutError:
            raise ApiError(
                408, f"the body did not come within {self._seconds:g} s.", headers={"Connection": "close"}
            ) from None


async def _read(receive: Receive) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            await _discard(receive, message)
            raise _too_large()
        if not message.get("more_body", False):
            return bytes(body)


async def _discard(receive: Receive, message: Message) -> None:
    """Read on for a moment: a sender whose connection is reset would not see the error."""
    loop = asyncio.get_running_loop()
    end, n = loop.time() + _DISCARD_SECONDS, 0
    while message.get("more_body", False) and n < _DISCARDED and loop.time() < end:
        try:
            message = await asyncio.wait_for(receive(), max(0.0, end - loop.time()))
        except asyncio.TimeoutError:
            return
        n += len(message.get("body", b""))


def _too_large() -> ApiError:
    return ApiError(
        413, f"the body is larger than {MAX_BODY >> 20} MiB.", code="body_too_large", headers={"Connection": "close"}
    )


def _replaying(body: bytes, receive: Receive) -> Receive:
    """Return a function that gives the body once, and then what `receive` gives: the end of the connection."""
    is_given = False

    async def replay() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
