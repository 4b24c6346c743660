"""How many layers a GPU takes: the most that load."""

from __future__ import annotations

from collections.abc import Callable


def most_that_fit(most: int, fits: Callable[[int], bool]) -> int | None:
    """The largest n of 0..most for which fits(n) says yes, None when none does; most itself is tried first.

    What fits with n is taken to fit with fewer; about log2(most) tries.
    """
    if fits(most):
        return most
    low, high = -1, most  # low fits (or nothing is known to), high does not
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low if low >= 0 else None
