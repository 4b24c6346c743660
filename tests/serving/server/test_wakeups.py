"""Waking coroutines from threads: nothing is lost, and calls into the loop are shared."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from pa_lite.serving.server.wakeups import Wakeups


def test_every_event_is_set_by_few_calls_into_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> int:
        loop, n = asyncio.get_running_loop(), 0
        original = loop.call_soon_threadsafe

        def counted(*args: Any, **named: Any) -> Any:
            nonlocal n
            n += 1
            return original(*args, **named)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        wakeups, events = Wakeups(loop), [asyncio.Event() for _ in range(500)]
        for event in events:
            wakeups.wake(event)  # as many as come before the loop looks
        await asyncio.gather(*(event.wait() for event in events))
        return n

    assert asyncio.run(run()) == 1


def test_wakeups_of_several_threads_are_not_lost() -> None:
    async def run() -> None:
        wakeups, events = Wakeups(asyncio.get_running_loop()), [asyncio.Event() for _ in range(2000)]

        def wake(part: list[asyncio.Event]) -> None:
            for event in part:
                wakeups.wake(event)

        threads = [threading.Thread(target=wake, args=(events[i::4],)) for i in range(4)]
        for thread in threads:
            thread.start()
        await asyncio.wait_for(asyncio.gather(*(event.wait() for event in events)), 60)
        for thread in threads:
            thread.join()

    asyncio.run(run())


def test_after_the_end_of_the_loop_the_caller_gets_an_error() -> None:
    async def make() -> tuple[Wakeups, asyncio.Event]:
        return Wakeups(asyncio.get_running_loop()), asyncio.Event()

    wakeups, event = asyncio.run(make())
    for _ in range(2):  # which cancels an answer that cannot be read any more
        with pytest.raises(RuntimeError):
            wakeups.wake(event)
