"""Drop connections whose clients do not send requests, or do not read answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

from pa_lite.serving.server.options import IDLE_SECONDS, UNREAD_SECONDS


class Connections:
    """Notes since when each connection of uvicorn is idle or unread. `drop_slow` is called about once a second."""

    def __init__(
        self, idle: float = IDLE_SECONDS, unread: float = UNREAD_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Drop a connection after `idle` seconds without a complete request, or `unread` seconds with unread data."""
        self._idle, self._unread, self._clock = idle, unread, clock
        self._since: dict[Any, tuple[bool, float]] = {}  # protocol -> (is unread, since when)

    def drop_slow(self, protocols: Iterable[Any]) -> None:
        """Close slow ones of uvicorn's protocols at once. What works for them notices that the client is gone."""
        now, since = self._clock(), {}
        for protocol in list(protocols):
            transport: asyncio.Transport | None = protocol.transport
            if transport is None:
                continue
            is_unread = transport.get_write_buffer_size() > 0
            cycle = protocol.cycle  # of the latest request
            is_idle = cycle is None or cycle.response_complete
            if not is_unread and not is_idle:
                continue
            known = self._since.get(protocol)
            begin = known[1] if known is not None and known[0] == is_unread else now
            if now - begin >= (self._unread if is_unread else self._idle):
                transport.abort()
                continue
            since[protocol] = (is_unread, begin)
        self._since = since
