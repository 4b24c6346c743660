"""Items are split into portions of limited size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pa_lite.untrusted.portions import portions


@pytest.mark.parametrize(
    ("items", "most", "expected"),
    [
        ([], None, []),
        ([3, 3, 90, 1, 1], None, [[3, 3], [90], [1, 1]]),
        ([3, 3, 90, 1, 1], 1, [[3], [3], [90], [1], [1]]),
        ([10, 10, 0, 0], None, [[10, 10, 0, 0]]),
        ([10, 10, 0, 0], 3, [[10, 10, 0], [0]]),
        ([90, 90], None, [[90], [90]]),
    ],
)
def test_portions_are_as_large_as_allowed(items: list[int], most: int | None, expected: list[list[int]]) -> None:
    assert list(portions(items, lambda n: n, 20, most)) == expected


@given(st.lists(st.integers(0, 30)), st.integers(0, 30), st.none() | st.integers(1, 5))
def test_every_item_is_in_one_portion_in_order(items: list[int], largest: int, most: int | None) -> None:
    found = list(portions(iter(items), lambda n: n, largest, most))
    assert [n for portion in found for n in portion] == items
    assert all(portion and (len(portion) == 1 or sum(portion) <= largest) for portion in found)
    assert all(len(portion) <= (most or len(items)) for portion in found)
