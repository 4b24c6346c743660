"""Metrics: choices picked by loglikelihood, and generated answers compared with gold answers. Uses no model."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pa_lite.tasks.answers import normalise, parse_number

Gold = tuple[str, ...]  # one accepted answer as its spans, nearly always one
# DROP's F1 is rounded to two decimals: with more predicted spans than this for each gold span it is below 0.005
_ROUNDS_TO_0 = 201
_FEW_PAIRS = 10_000  # pairs of a gold and a predicted span for which every pair is scored


@dataclass(frozen=True, kw_only=True)
class ChoiceScores:
    """The scores of an item's choices: sums of ln p in nats, and the choices without their leading space."""

    logprobs: tuple[float, ...]
    choices: tuple[str, ...]
    n_tokens: tuple[int, ...]
    unconditional: tuple[float, ...] | None = None


def _best(scores: Sequence[float]) -> int:
    return int(np.argmax(scores))  # ties go to the first


def _per(scores: ChoiceScores, lengths: Sequence[int]) -> int:
    return _best([p / n for p, n in zip(scores.logprobs, lengths, strict=True)])


def _mutual(scores: ChoiceScores) -> int:
    assert scores.unconditional is not None
    return _best([p - u for p, u in zip(scores.logprobs, scores.unconditional, strict=True)])


# metric -> the choice that it picks; names and definitions are lm-eval's, except acc_token
CHOICE_METRICS: dict[str, Callable[[ChoiceScores], int]] = {
    "acc": lambda s: _best(s.logprobs),
    "acc_norm": lambda s: _per(s, [len(c) for c in s.choices]),  # characters, not bytes
    "acc_bytes": lambda s: _per(s, [len(c.encode()) for c in s.choices]),
    "acc_token": lambda s: _per(s, s.n_tokens),
    "acc_mutual_info": _mutual,
}


def pick_choices(scores: ChoiceScores) -> dict[str, int]:
    """Return the index of the choice that each metric picks; acc_mutual_info only with unconditional scores."""
    return {
        name: pick(scores)
        for name, pick in CHOICE_METRICS.items()
        if name != "acc_mutual_info" or scores.unconditional is not None
    }


def exact_match(text: str, golds: Sequence[Gold], steps: Sequence[str]) -> float:
    """Return 1 if the normalised text equals that of a gold answer, else 0; spans of a gold are joined by commas."""
    answer = normalise(text, steps)
    return float(any(answer == normalise(", ".join(g), steps) for g in golds))


def token_f1(text: str, golds: Sequence[Gold], steps: Sequence[str]) -> float:
    """Return the F1 of words with the best gold answer, in [0, 1]; an empty answer is right only if a gold is empty.

    Source: the evaluation of SQuAD 2.0 (Rajpurkar et al. 2018).
    """
    counted = Counter(normalise(text, steps).split())  # computed once: there may be thousands of gold answers
    return max((_f1(counted, normalise(", ".join(g), steps).split()) for g in golds), default=0.0)


def _f1(words: Counter[str], gold: Sequence[str]) -> float:
    n_words = sum(words.values())
    if not n_words or not gold:
        return float(n_words == len(gold))
    common = sum(min(words[word], n) for word, n in Counter(gold).items())
    return 2 * common / (n_words + len(gold))


def numeric_match(text: str, golds: Sequence[Gold], _steps: Sequence[str] = ()) -> float:
    """Return 1 if the text is a number equal in value to a gold answer (`1,000.0` equals `1000`), else 0."""
    value = parse_number(text)
    return float(value is not None and any(value == parse_number(g[0]) for g in golds))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _drop_words(span: str) -> str:
    """Return a span normalised as by DROP's evaluation: split at spaces and hyphens, numbers as floats, no articles."""
    words = []
    for word in re.split("[ -]", span.lower()):
        if not _is_number(word):
            word = "".join(c for c in word if c not in string.punctuation)
        word = str(float(word)) if _is_number(word) else re.sub(r"\b(?:a|an|the)\b", " ", word)
        words += word.split()
    return " ".join(words)


def _drop_pair(gold: frozenset[str], words: frozenset[str]) -> float:
    """Return the F1 of two bags of words; 0 if the gold contains numbers and `words` has none of them."""
    numbers = {w for w in gold if _is_number(w)}
    if numbers and not numbers & words:
        return 0.0
    if not gold and not words:
        return 1.0
    common = len(gold & words)
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(gold)
    return 2 * precision * recall / (precision + recall)  # this form, as the published rounding depends on the last bit


def best_alignment(scores: Sequence[Sequence[float]]) -> list[float]:
    """Return the scores of the one-to-one assignment of rows to columns with the largest sum; all scores are >= 0.

    One value for each row, then 0 for each surplus column (Hungarian method, O(rows^2 n) for n columns).
    """
    n_rows, n = len(scores), max(len(scores), *(len(row) for row in scores))
    cost = np.zeros((n_rows + 1, n + 1))
    for i, row in enumerate(scores, 1):
        cost[i, 1 : len(row) + 1] = np.negative(row)
    rows, columns = np.zeros(n_rows + 1), np.zeros(n + 1)  # potentials
    match, way = np.zeros(n + 1, int), np.zeros(n + 1, int)  # column -> its row; column -> the previous one on the path
    for i in range(1, n_rows + 1):
        match[0], j = i, 0
        slack, used = np.full(n + 1, np.inf), np.zeros(n + 1, bool)
        while match[j]:
            used[j] = True
            reduced = cost[match[j]] - rows[match[j]] - columns
            nearer = ~used & (reduced < slack)
            slack[nearer], way[nearer] = reduced[nearer], j
            following = int(np.argmin(np.where(used, np.inf, slack)))
            step = slack[following]
            rows[match[used]] += step
            columns[used] -= step
            slack[~used] -= step
            j = following
        while j:
            match[j], j = match[way[j]], int(way[j])
    found = sorted((i, j) for j, i in enumerate(match[1:].tolist(), 1) if i)
    return [*(float(-cost[i, j]) for i, j in found), *([0.0] * (n - n_rows))]


def _aligned(
    gold: Sequence[frozenset[str]],
    predicted: Sequence[frozenset[str]],
    score: Callable[[frozenset[str], frozenset[str]], float],
) -> list[float]:
    """Return best_alignment of the scores of gold and predicted spans; spans without a common word score 0.

    With very many pairs, each gold span keeps only its best len(gold) predicted spans: an optimal assignment needs no
    others, because the other gold spans take at most len(gold) - 1 of them.
    """
    if len(gold) * len(predicted) <= _FEW_PAIRS:
        return best_alignment([[score(g, p) for p in predicted] for g in gold])
    holders: dict[str, list[int]] = {}
    for j, words in enumerate(predicted):
        for word in words or {""}:
            holders.setdefault(word, []).append(j)
    rows: list[dict[int, float]] = []
    for g in gold:
        near = dict.fromkeys(j for word in g or {""} for j in holders.get(word, ()))
        scored = sorted(((score(g, predicted[j]), -j) for j in near), reverse=True)[: len(gold)]
        rows.append({-j: value for value, j in scored})
    columns = sorted({j for row in rows for j in row})
    aligned = best_alignment([[row.get(j, 0.0) for j in columns] for row in rows])[: len(gold)]
    return aligned + [0.0] * (max(len(gold), len(predicted)) - len(aligned))


class _SpansOf:
    """The normalised spans of an output: split at commas if the gold has several, as exemplars join them, else whole.

    Each form is normalised once, whatever the number of gold answers.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._known: dict[bool, list[str]] = {}
        self._n_spans = text.count(", ") + 1

    def are_too_many(self, gold: Gold) -> bool:
        """Return whether F1 rounds to 0.00 because of the number of predicted spans alone."""
        return len(gold) > 1 and self._n_spans > _ROUNDS_TO_0 * len(gold)

    def of(self, gold: Gold) -> list[str]:
        """Return the spans to compare with a gold answer."""
        is_split = len(gold) > 1
        if is_split not in self._known:
            self._known[is_split] = [_drop_words(s) for s in (self._text.split(", ") if is_split else [self._text])]
        return self._known[is_split]


def drop_f1(text: str, golds: Sequence[Gold], _steps: Sequence[str] = ()) -> float:
    """Return DROP's F1: bags of words aligned one to one, mean over the longer side, two decimals, best gold.

    Source: Dua et al. 2019, section 5, and the published evaluation's treatment of numbers.
    """
    best = 0.0
    spans = _SpansOf(text)
    for gold in golds:
        if spans.are_too_many(gold):
            continue
        predicted = [frozenset(s.split()) for s in spans.of(gold)]
        wanted = [frozenset(_drop_words(s).split()) for s in gold]
        aligned = _aligned(wanted, predicted, _drop_pair)
        best = max(best, float(np.round(np.mean(aligned), 2)))  # numpy rounds x.xx5 as in the published figures
    return best


def drop_em(text: str, golds: Sequence[Gold], _steps: Sequence[str] = ()) -> float:
    """Return DROP's exact match: 1 if some gold answer has the same normalised spans in any order, else 0."""

    spans = _SpansOf(text)

    def right(gold: Gold) -> bool:
        if len(gold) > 1 and text.count(", ") + 1 != len(gold):
            return False
        return set(spans.of(gold)) == {_drop_words(s) for s in gold}

    return float(any(map(right, golds)))


_ENTRY_END = re.compile(r"[;\n]")
_Entries = frozenset[tuple[str, str]]


def _entries(texts: Iterable[str], steps: Sequence[str]) -> _Entries:
    """Return the distinct `name: value` entries as normalised (name, value); without a colon, the name is empty."""
    found = set()
    for text in texts:
        name, colon, value = text.partition(":")
        entry = normalise(name if colon else "", steps).strip(), normalise(value if colon else text, steps).strip()
        if any(entry):
            found.add(entry)
    return frozenset(found)


def _best_set(
    text: str, golds: Sequence[Gold], steps: Sequence[str], score: Callable[[_Entries, _Entries], float]
) -> float:
    """Return the best score of an answer's entries, separated by `;` or line ends, with a gold's, one in each span."""
    answer = _entries(_ENTRY_END.split(text), steps)
    return max((score(answer, _entries(gold, steps)) for gold in golds), default=0.0)


def _set_f1(answer: _Entries, gold: _Entries) -> float:
    return 2 * len(answer & gold) / (len(answer) + len(gold)) if answer or gold else 1.0


def _partial_f1(answer: _Entries, gold: _Entries) -> float:
    if not answer or not gold:
        return float(answer == gold)
    wanted, found = (
        [frozenset(f"{name}:{word}" for word in value.split() or [""]) for name, value in sorted(entries)]
        for entries in (gold, answer)
    )
    return 2 * sum(_aligned(wanted, found, _overlap)) / (len(answer) + len(gold))


def _overlap(gold: frozenset[str], words: frozenset[str]) -> float:
    return 2 * len(gold & words) / (len(gold) + len(words))


def set_em(text: str, golds: Sequence[Gold], steps: Sequence[str]) -> float:
    """Return 1 if the answer has exactly the entries (`name: value; ...`) of a gold answer, in any order, else 0."""
    return _best_set(text, golds, steps, lambda answer, gold: float(answer == gold))


def set_f1(text: str, golds: Sequence[Gold], steps: Sequence[str]) -> float:
    """Return the F1 of the answer's set of entries with the best gold answer, in [0, 1]; names and values must match.

    On entities it is the exact-match F1 of named entity recognition, for one item and without repeated mentions.
    """
    return _best_set(text, golds, steps, _set_f1)


def set_partial_f1(text: str, golds: Sequence[Gold], steps: Sequence[str]) -> float:
    """Return `set_f1` in which entries with the same name count by the F1 of their values' distinct words, in [0, 1].

    Entries of both sides are paired one to one so that the sum is largest. It is never below `set_f1`.
    """
    return _best_set(text, golds, steps, _partial_f1)


# metric -> the score in [0, 1] of a generated answer, given golds and the task's normalisation steps
TEXT_METRICS: dict[str, Callable[[str, Sequence[Gold], Sequence[str]], float]] = {
    "exact_match": exact_match,
    "f1": token_f1,
    "numeric": numeric_match,
    "drop_f1": drop_f1,
    "drop_em": drop_em,
    "set_f1": set_f1,
    "set_em": set_em,
    "set_partial_f1": set_partial_f1,
}


def weighted_f1(
    golds: npt.NDArray[np.int64], picks: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return the F1 of the classes, averaged with their shares as weights, for each row of `counts`.

    `golds` and `picks`, [k], are the classes of the distinct outcomes; `counts`, [resamples, k], their counts.
    """
    total = np.zeros(counts.shape[0])
    for label in np.unique(golds):
        hit = counts[:, (golds == label) & (picks == label)].sum(1)
        n_gold, n_picked = counts[:, golds == label].sum(1), counts[:, picks == label].sum(1)
        both = n_gold + n_picked
        total += n_gold * np.divide(2 * hit, both, out=np.zeros(len(both)), where=both > 0)
    average: npt.NDArray[np.float64] = total / counts.sum(1)
    return average


# metrics of a whole task with fixed classes, which are not means over items
CLASS_METRICS = {"f1_weighted": weighted_f1}

METRICS_OF_KIND: dict[str, tuple[str, ...]] = {
    "MC": (*CHOICE_METRICS, *CLASS_METRICS),
    "FMC": (*CHOICE_METRICS, *CLASS_METRICS),
    "G": tuple(TEXT_METRICS),
}
