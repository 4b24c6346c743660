"""Metrics compared with slow, obvious implementations."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_lite.tasks import metrics
from pa_lite.tasks.metrics import (
    ChoiceScores,
    best_alignment,
    drop_em,
    drop_f1,
    exact_match,
    numeric_match,
    pick_choices,
    token_f1,
    weighted_f1,
)

STEPS = ("lower", "punctuation", "articles", "blanks")


def test_each_metric_normalises_by_its_own_length() -> None:
    scores = ChoiceScores(
        logprobs=(-3.0, -4.0, -6.0),
        choices=("ab", "éé é", "abcdefgh"),  # 2, 4 and 8 characters; 2, 7 and 8 bytes
        n_tokens=(1, 4, 4),
        unconditional=(-1.0, -9.0, -2.0),
    )
    assert pick_choices(scores) == {
        "acc": 0,  # -3
        "acc_norm": 2,  # -1.5 -1 -0.75
        "acc_bytes": 1,  # -1.5 -0.57 -0.75
        "acc_token": 1,  # -3 -1 -1.5
        "acc_mutual_info": 1,  # -2 5 -4
    }


def test_characters_and_bytes_agree_on_ascii_only() -> None:
    def picks(a: str, b: str) -> tuple[int, int]:
        got = pick_choices(ChoiceScores(logprobs=(-10.0, -11.0), choices=(a, b), n_tokens=(1, 1)))
        return got["acc_norm"], got["acc_bytes"]

    assert picks("zwoelf", "zwölfe") == (0, 1)  # six characters each, but seven bytes
    assert picks("zwoelf", "zwolfe") == (0, 0)


def test_ties_go_to_the_first_and_mutual_info_needs_unconditional_scores() -> None:
    got = pick_choices(ChoiceScores(logprobs=(-2.0, -2.0), choices=("a", "b"), n_tokens=(1, 1)))
    assert got == {"acc": 0, "acc_norm": 0, "acc_bytes": 0, "acc_token": 0}


@pytest.mark.parametrize(
    ("text", "golds", "steps", "right"),
    [
        ("St. Louis", ["Saint Louis", "St. Louis"], ("lower", "punctuation"), 1.0),
        ("st louis", ["St. Louis"], ("lower", "punctuation", "blanks"), 1.0),
        ("the Moon!", ["moon"], STEPS, 1.0),
        ("theatre", ["atre"], STEPS, 0.0),  # articles are removed only as whole words
        ("(A)", ["(A)"], (), 1.0),
        ("(a)", ["(A)"], (), 0.0),
        ("$1,250.", ["1250"], ("number",), 1.0),
        ("", [""], STEPS, 1.0),
        ("x", [], STEPS, 0.0),
    ],
)
def test_exact_match(text: str, golds: list[str], steps: tuple[str, ...], right: float) -> None:
    assert exact_match(text, [(g,) for g in golds], steps) == right


@pytest.mark.parametrize(
    ("text", "golds", "value"),
    [
        ("the cat sat", ["cat sat down"], 2 * 2 / (2 + 3)),
        ("cat cat", ["cat"], 2 / 3),
        ("dog", ["cat", "a dog"], 1.0),
        ("", ["cat"], 0.0),
        ("cat", [""], 0.0),
        ("the", [""], 1.0),  # empty after normalisation
    ],
)
def test_token_f1(text: str, golds: list[str], value: float) -> None:
    assert token_f1(text, [(g,) for g in golds], STEPS) == pytest.approx(value)


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_token_f1_is_precision_and_recall(left: list[str], right: list[str]) -> None:
    got = token_f1(" ".join(left), [(" ".join(right),)], ())
    rest, common = list(right), 0
    for word in left:
        if word in rest:
            rest.remove(word)
            common += 1
    if not left or not right:
        assert got == float(left == right)
    elif not common:
        assert got == 0
    else:
        precision, recall = common / len(left), common / len(right)
        assert got == pytest.approx(2 * precision * recall / (precision + recall))


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        ("1,000.0", "1000", 1.0),
        ("$5", "5.00", 1.0),
        ("-5", "5", 0.0),
        ("−5", "-5", 1.0),
        ("5 apples", "5", 0.0),
        ("[invalid]", "5", 0.0),
        ("0.1", "0.10", 1.0),
        ("18.", "18", 1.0),
        ("nan", "nan", 0.0),
    ],
)
def test_numeric_match(text: str, gold: str, right: float) -> None:
    assert numeric_match(text, [(gold,)]) == right


def assignments(scores: Sequence[Sequence[float]]) -> float:
    """Return the largest sum of scores over all one-to-one assignments."""
    n_rows, n_columns = len(scores), len(scores[0])
    if n_rows > n_columns:
        return assignments([list(column) for column in zip(*scores, strict=True)])
    return max(
        sum(scores[i][j] for i, j in enumerate(order)) for order in itertools.permutations(range(n_columns), n_rows)
    )


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_alignment_has_the_largest_sum(n_rows: int, n_columns: int, data: st.DataObject) -> None:
    grades = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 2 / 3, 0.8, 1.0])
    scores = [[data.draw(grades) for _ in range(n_columns)] for _ in range(n_rows)]
    aligned = best_alignment(scores)
    assert len(aligned) == max(n_rows, n_columns)
    assert sum(aligned) == pytest.approx(assignments(scores))
    assert all(value in scores[i] for i, value in enumerate(aligned[:n_rows]) if value)


@pytest.mark.parametrize(
    ("text", "golds", "f1", "em"),
    [
        ("5", [("5",)], 1.0, 1.0),
        ("5.0", [("5",)], 1.0, 1.0),
        ("5 goals", [("5",)], 0.67, 0.0),
        ("6 goals", [("5 goals",)], 0.0, 0.0),  # the number is wrong
        ("the Mill FC", [("Mill FC",)], 1.0, 1.0),
        ("Dale, Mill FC", [("Mill FC", "Dale")], 1.0, 1.0),  # in any order
        ("Dale", [("Mill FC", "Dale")], 0.5, 0.0),
        ("Dale, Mill, Ash", [("Mill FC", "Dale")], 0.56, 0.0),
        ("Paris, France", [("Paris, France",)], 1.0, 1.0),  # one span keeps its comma
        ("3-May-1901", [("3 May 1901",)], 1.0, 1.0),
        ("x", [("5",), ("x",)], 1.0, 1.0),
        ("", [("",)], 1.0, 1.0),
    ],
)
def test_drop_f1_and_exact_match(text: str, golds: list[tuple[str, ...]], f1: float, em: float) -> None:
    assert drop_f1(text, golds) == pytest.approx(f1)
    assert drop_em(text, golds) == em


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40))
def test_weighted_f1_is_the_mean_weighted_by_class(pairs: list[tuple[int, int]]) -> None:
    golds, picks = map(list, zip(*pairs, strict=True))
    expected = 0.0
    for label in set(golds):
        hit = sum(g == p == label for g, p in pairs)
        precision = hit / max(1, picks.count(label))
        recall = hit / golds.count(label)
        f1 = 2 * precision * recall / (precision + recall) if hit else 0.0
        expected += f1 * golds.count(label) / len(pairs)
    distinct = np.array(sorted(set(pairs))).T
    counts = np.array([[pairs.count(p) for p in sorted(set(pairs))]])
    assert weighted_f1(distinct[0], distinct[1], counts)[0] == pytest.approx(expected)


def test_pruned_pairs_of_spans_score_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    gold = tuple(f"w{i} x" for i in range(8))
    for n in (3, 8, 300, 1600, 1700):
        text = ", ".join(f"w{i % 11} {'x' * (i % 3)}" for i in range(n))
        monkeypatch.setattr(metrics, "_FEW_PAIRS", 10**9)
        slow = metrics.drop_f1(text, [gold])
        monkeypatch.setattr(metrics, "_FEW_PAIRS", 0)
        assert metrics.drop_f1(text, [gold]) == slow
