"""Count requests and their durations, and answer 500 for bugs. Pure ASGI, outside everything else."""

from __future__ import annotations

import asyncio
import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pa_lite.serving.server.errors import INTERNAL, ApiError
from pa_lite.serving.server.metrics import Metrics

_log = logging.getLogger(__name__)
_OTHER = "other"  # stands for paths that are not routes


class Recorder:
    """Middleware that counts and logs."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application, and count the request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.monotonic(), 0

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except asyncio.CancelledError:  # the server ends, after its grace
            _log.debug("%s was cut short", scope["path"])
        except Exception:  # noqa: BLE001 - the client gets one line, the log the rest
            _log.exception("internal error (a bug in pa-lite)")
            if not status:
                await ApiError(500, INTERNAL).response(scope, receive, send_noted)
        finally:
            seconds = time.monotonic() - begin
            endpoint = getattr(scope.get("route"), "path", _OTHER)
            self._metrics.add_request(endpoint, status or 499, seconds)
            _log.debug("%s %s: %d in %.2f s", scope["method"], endpoint, status, seconds)
