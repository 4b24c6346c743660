"""Split a sequence into portions of limited size, for steps with limited memory. Imports nothing of pa_lite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def portions(items: Iterable[T], size: Callable[[T], int], largest: int, most: int | None = None) -> Iterator[list[T]]:
    """Yield the items in order, in lists whose sizes add up to at most `largest`; a larger item gets its own list.

    `size` returns an item's size, in the unit of `largest`. `most` limits the items of a list, None for no limit.
    Without items, nothing is yielded.
    """
    portion: list[T] = []
    held = 0
    for item in items:
        own = size(item)
        if portion and (held + own > largest or len(portion) == most):
            yield portion
            portion, held = [], 0
        portion.append(item)
        held += own
    if portion:
        yield portion
