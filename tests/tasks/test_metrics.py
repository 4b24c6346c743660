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
    set_em,
    set_f1,
    set_partial_f1,
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


GOLD = ("person: Ada Byron", "place: Leyden")


@pytest.mark.parametrize(
    ("text", "golds", "f1", "em", "partial"),
    [
        (" Place: leyden; person: ada  byron ;", [GOLD], 1.0, 1.0, 1.0),
        ("person: Ada Byron\nplace: Leyden", [GOLD], 1.0, 1.0, 1.0),
        ("person: Ada Byron; person: Ada Byron", [GOLD], 2 / 3, 0.0, 2 / 3),  # a repeated entry counts once
        ("person: Ada", [GOLD], 0.0, 0.0, 2 * (2 / 3) / 3),
        ("person: Ada; person: Byron", [GOLD], 0.0, 0.0, 2 * (2 / 3) / 4),  # only one of them is paired
        ("place: Ada Byron", [GOLD], 0.0, 0.0, 0.0),  # the name is wrong
        ("person: Ada Byron; place: Leyden; place: Rome", [GOLD], 4 / 5, 0.0, 4 / 5),
        ("none", [("none",)], 1.0, 1.0, 1.0),
        ("none", [GOLD], 0.0, 0.0, 0.0),
        ("person: Ada", [("none",)], 0.0, 0.0, 0.0),
        ("", [GOLD], 0.0, 0.0, 0.0),
        ("", [("none",)], 0.0, 0.0, 0.0),
        (" ; : ;\n", [("the",)], 1.0, 1.0, 1.0),  # both are empty after normalisation
        ("x", [("the",)], 0.0, 0.0, 0.0),
        ("time:", [("time: six",)], 0.0, 0.0, 0.0),
        ("time: 6: 30", [("time: 6: 30",)], 1.0, 1.0, 1.0),  # the name ends at the first colon
        ("b: x", [("a: x",), ("b: x",)], 1.0, 1.0, 1.0),
        ("x", [], 0.0, 0.0, 0.0),
    ],
)
def test_set_metrics(text: str, golds: list[tuple[str, ...]], f1: float, em: float, partial: float) -> None:
    steps = ("lower", "articles", "blanks")
    assert set_f1(text, golds, steps) == pytest.approx(f1)
    assert set_em(text, golds, steps) == em
    assert set_partial_f1(text, golds, steps) == pytest.approx(partial)


ENTRIES = st.lists(
    st.tuples(st.sampled_from("ab"), st.lists(st.sampled_from("xyz"), min_size=1, max_size=3)), max_size=4
)
Pairs = list[tuple[str, list[str]]]


def _written(entries: Pairs, separator: str = "; ") -> str:
    return separator.join(f"{name}: {' '.join(words)}" for name, words in entries) or "none"


def _slow_partial(left: Pairs, right: Pairs) -> float:
    """Return the partial F1 by trying every one-to-one pairing of the distinct entries."""
    a, b = ([(n, " ".join(w)) for n, w in e] or [("", "none")] for e in (left, right))
    sides = sorted((list(dict.fromkeys(a)), list(dict.fromkeys(b))), key=len)

    def pair(one: tuple[str, str], other: tuple[str, str]) -> float:
        mine, theirs = set(one[1].split()), set(other[1].split())
        common = len(mine & theirs) if one[0] == other[0] else 0
        return 2 * common / (len(mine) + len(theirs))

    few, many = sides
    total = max(sum(map(pair, few, order)) for order in itertools.permutations(many, len(few)))
    return 2 * total / (len(few) + len(many))


@settings(deadline=None)
@given(ENTRIES, ENTRIES, st.sampled_from(["; ", "\n", ";"]))
def test_set_metrics_are_those_of_every_pairing(left: Pairs, right: Pairs, separator: str) -> None:
    gold = [tuple(_written(right, "\0").split("\0"))]
    text = _written(left, separator)
    f1, em, partial = (metric(text, gold, ()) for metric in (set_f1, set_em, set_partial_f1))
    mine = {(n, " ".join(w)) for n, w in left} or {("", "none")}
    other = {(n, " ".join(w)) for n, w in right} or {("", "none")}
    hits = sum(entry in other for entry in mine)
    precision, recall = hits / len(mine), hits / len(other)
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall) if hits else 0.0)
    assert em == float(mine == other)
    assert partial == pytest.approx(_slow_partial(left, right))
    assert 0 <= em <= f1 <= partial + 1e-12 <= 1 + 2e-12
    assert (em == 1) == (f1 == 1)


@settings(deadline=None)
@given(ENTRIES, ENTRIES)
def test_set_metrics_are_symmetric_and_ignore_order(left: Pairs, right: Pairs) -> None:
    for metric in (set_f1, set_em, set_partial_f1):
        value = metric(_written(left), [tuple(_written(right).split("; "))], ())
        assert metric(_written(right), [tuple(_written(left).split("; "))], ()) == pytest.approx(value)
        assert metric(_written(left[::-1]), [tuple(_written(right).split("; "))], ()) == pytest.approx(value)
    assert set_em(_written(left), [tuple(_written(left).split("; "))], ()) == 1


def test_pruned_pairs_of_entries_score_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    gold = tuple(f"a: w{i} x" for i in range(8))
    for n in (1, 8, 300, 1600):
        text = "; ".join(f"{'ab'[i % 5 == 4]}: w{i % 11} y{i} {'x' * (i % 3)}" for i in range(n))
        monkeypatch.setattr(metrics, "_FEW_PAIRS", 10**9)
        slow = set_partial_f1(text, [gold], ())
        monkeypatch.setattr(metrics, "_FEW_PAIRS", 0)
        assert set_partial_f1(text, [gold], ()) == pytest.approx(slow)
        assert slow > 0


def test_pruned_pairs_of_spans_score_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    gold = tuple(f"w{i} x" for i in range(8))
    for n in (3, 8, 300, 1600, 1700):
        text = ", ".join(f"w{i % 11} {'x' * (i % 3)}" for i in range(n))
        monkeypatch.setattr(metrics, "_FEW_PAIRS", 10**9)
        slow = metrics.drop_f1(text, [gold])
        monkeypatch.setattr(metrics, "_FEW_PAIRS", 0)
        assert metrics.drop_f1(text, [gold]) == slow
