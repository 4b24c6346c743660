"""Progress on stderr: a bar on a terminal, a plain line a minute elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from pa_lite.progress import Progress
from pa_lite.sanitize import one_line

_FORMAT = "{percentage:3.0f}%|{bar:12}| {desc}"
_WINDOW = 20.0  # seconds of work that the shown speed is measured over
_REDRAW = 0.2  # seconds
_FIRST_LINE, _BETWEEN_LINES = 5.0, 60.0  # seconds


def duration(seconds: float) -> str:
    """Return a duration as people say it: `40 s`, `12 min`, `2 h 5 min`."""
    if seconds < 180:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _amount(n: float, unit: str) -> str:
    """Return an amount with its unit; bytes and values in thousands or millions."""
    if unit not in ("B", "values"):
        return f"{n:,.0f} {unit}" if n >= 10 or n == int(n) else f"{n:.1f} {unit}"
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.3g} {prefix}{unit}" if unit == "B" else f"{n / size:.3g} {prefix} {unit}"
    return f"{n:.0f} {unit}"


class Meter:
    """What is done, how fast, and how long the rest takes. Reports without a total, such as tokens, give a speed only.

    An estimate of the time left that the work itself gives (`expect`) is preferred to the speed so far.
    """

    def __init__(self, phase: str) -> None:
        self.phase, self.done, self.total, self.unit = phase, 0, 0, ""
        self.started = self.shown = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque()
        self._made = self._last = 0  # units without a total, such as tokens
        self._made_unit, self._made_since = "", self.started
        self._expected: tuple[float, float] | None = None

    def __call__(self, phase: str, done: int, total: int, unit: str, /) -> None:
        now = time.monotonic()
        if not total:
            self._made += done - self._last if done >= self._last else done  # each engine call counts from 0
            self._last = done
            if unit != self._made_unit:
                self._made_unit, self._made_since = unit, now if self._made_unit else self.started
        else:
            if unit != self.unit or total != self.total or done < self.done:
                self._marks.clear()  # another kind of work; what an earlier run did does not count towards the speed
                self._expected = None if unit != self.unit else self._expected
            self.phase, self.done, self.total, self.unit = phase, done, total, unit
            self._marks.append((now, done))
            while now - self._marks[0][0] > _WINDOW and len(self._marks) > 2:
                self._marks.popleft()
        self.draw(now)

    def expect(self, seconds: float) -> None:
        """Note how many seconds of work are left, by an estimate of the work itself."""
        self._expected = time.monotonic(), seconds

    def speed(self, now: float) -> float | None:
        """Return the units done each second of late; None before anything is known."""
        if len(self._marks) < 2 or now <= self._marks[0][0]:
            return None
        return (self._marks[-1][1] - self._marks[0][1]) / (now - self._marks[0][0])

    def left(self, now: float) -> float | None:
        """Return the seconds left; None where unknown."""
        if self._expected is not None:
            at, seconds = self._expected
            return max(0.0, seconds - (now - at))
        speed = self.speed(now)
        return (self.total - self.done) / speed if speed else None

    def text(self, now: float) -> str:
        """Return the phase, the speed and the time left, such as `lam 0.5 · 142 items/s · 12 min left`."""
        parts = [self.phase]
        speed, left = self.speed(now), self.left(now)
        if speed:
            parts.append(f"{_amount(speed, self.unit)}/s")
        if self._made and now > self._made_since:
            parts.append(f"{self._made / (now - self._made_since):.0f} {self._made_unit}/s")
        if left is not None and self.done < self.total:
            parts.append(f"{duration(left)} left")
        return " · ".join(parts)

    def draw(self, now: float) -> None:
        """Show the state, if it is time to."""

    def close(self, failed: bool) -> None:
        """End the display."""


class _Bar(Meter):
    """A bar on a terminal."""

    def __init__(self, phase: str) -> None:
        super().__init__(phase)
        from tqdm import tqdm

        tqdm.monitor_interval = 0  # its thread prints a warning where no thread can be started
        self._bar: Any = tqdm(
            total=1, disable=None, file=sys.stderr, leave=False, bar_format=_FORMAT, miniters=1, mininterval=0,
            dynamic_ncols=True,
        )  # fmt: skip
        self._bar.set_description_str(one_line(phase))
        self.shown = 0.0

    def draw(self, now: float) -> None:
        if now - self.shown < _REDRAW and self.done < self.total:
            return
        self.shown = now
        self._bar.total, self._bar.n = max(1, self.total), self.done
        self._bar.set_description_str(one_line(self.text(now)), refresh=False)
        self._bar.refresh()

    def close(self, failed: bool) -> None:
        self._bar.close()


class _Lines(Meter):
    """A plain line at the start, one a minute, and one at the end, for logs. Short work prints nothing."""

    def draw(self, now: float) -> None:
        if self.total and now - self.started >= _FIRST_LINE:
            if self.shown == self.started:
                self._say(f"{self.phase}: started, {_amount(self.total, self.unit)} in all")
                self.shown = now
            elif now - self.shown >= _BETWEEN_LINES:
                share = f"{100 * self.done / self.total:.0f}% ({_amount(self.done, self.unit)})"
                self._say(f"{share}: {self.text(now)}")
                self.shown = now

    def close(self, failed: bool) -> None:
        if self.shown != self.started and not failed:
            took = duration(time.monotonic() - self.started)
            self._say(f"{self.phase}: done, {_amount(self.done, self.unit)} in {took}")

    @staticmethod
    def _say(line: str) -> None:
        click.echo(one_line(line), err=True)


@contextmanager
def bar(phase: str, kept: str = "") -> Iterator[Progress]:
    """Show progress on stderr: a bar if that is a terminal, else plain lines.

    `phase` is the label until the first report. `kept` says what Ctrl-C leaves and how to continue; it is added to the
    interrupt.
    """
    meter: Meter = _Bar(phase) if sys.stderr.isatty() else _Lines(phase)
    failed = True
    try:
        yield meter
        failed = False
    except KeyboardInterrupt as e:
        raise KeyboardInterrupt(kept) from e
    finally:
        meter.close(failed)
