"""Find the largest number of layers that fits on a GPU."""

from __future__ import annotations

from collections.abc import Callable


def most_that_fit(most: int, fits: Callable[[int], bool]) -> int | None:
    """Return the largest n of 0..most for which fits(n) is true, None if there is none; `most` is tried first.

    Uses a binary search: if n fits, fewer are assumed to fit as well.
    """
    if fits(most):
        return most
    low, high = -1, most  # low fits (-1: none known), high does not
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low if low >= 0 else None
