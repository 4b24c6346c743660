"""Portions of a sequence: as many items at a time as a step with bounded memory takes. Imports nothing of pa_lite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def portions(items: Iterable[T], size: Callable[[T], int], largest: int, most: int | None = None) -> Iterator[list[T]]:
    """Yield the items in order, in lists whose sizes add up to at most `largest`, or of one larger item.

    `size` returns an item's size, in the unit of `largest`; `most` is how many items a list may have, None for any
    number. Nothing is yielded for no items.
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
