from __future__ import annotations

import pytest

from pa_lite.errors import InputError
from pa_lite.merging.lams import format_lam, parse_lams


@pytest.mark.parametrize(
    ("text", "lams"),
    [
        ("0.7", (0.7,)),
        ("1", (1.0,)),
        ("-0.5", (-0.5,)),
        ("0.2, 0.5", (0.2, 0.5)),
        ("0:1:0.1", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
        ("0:1:0.4", (0.0, 0.4, 0.8)),
        ("0.5:0.5:1,2", (0.5, 2.0)),
    ],
)
def test_lams_are_parsed_exactly(text: str, lams: tuple[float, ...]) -> None:
    assert parse_lams(text) == lams  # exact: 0.3 and not 0.30000000000000004


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("abc", "'abc' is not a number"),
        ("", "'' is not a number"),
        ("nan", "is not a number"),
        ("inf", "outside"),
        ("11", "outside"),
        ("0:1", "is not LO:HI:STEP"),
        ("1:0:0.1", "LO <= HI"),
        ("0:1:0", "positive STEP"),
        ("0:1:1e-9", "at most 1001"),
        ("0.5,0.50", "duplicate lam 0.50"),
        (",".join(f"{i}e-3" for i in range(1002)), "1002 lams are too many: one run takes at most 1001"),
        ("1_0", "'1_0' is not a number"),
        ("\u0660.\u0665", "is not a number"),
    ],
)
def test_invalid_lams_are_rejected(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_lams(text)


def test_lams_are_formatted_shortly() -> None:
    assert [format_lam(x) for x in (0, 0.7, 0.125, 1 / 3)] == ["0.00", "0.70", "0.125", "0.3333333333333333"]
