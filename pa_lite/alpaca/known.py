"""Known preferences: annotations by people or a strong judge, with which a judge is compared.

Pairs match by instruction and both outputs, in either order, so that annotations of other models' outputs, without
names, and by several annotators can be used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pa_lite.alpaca.annotations import Judgement, read_judgement
from pa_lite.alpaca.calibration import JudgeCheck, check_judge
from pa_lite.alpaca.pairing import AnswerPair
from pa_lite.alpaca.records import read_records
from pa_lite.errors import InputError

_DIGITS = 16  # of the digest of each of the three strings of a pair


@dataclass(frozen=True, kw_only=True)
class Known:
    """Known preferences by `pair_key`: the preference for output 2 in [0, 1], and 1 where output 2 is longer, else 0.

    For equal lengths the second is 0.5. `pairs` are the pairs with output 1 as the reference's, `names` the generators
    of outputs 1 and 2, where the file has them; `annotators` are the names under `annotator`.
    """

    source: str
    values: Mapping[str, tuple[float, float]]
    pairs: tuple[AnswerPair, ...] = ()
    names: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    annotators: frozenset[str] = frozenset()

    def find(self, key: str) -> tuple[float, float] | None:
        """Return the values of a pair, mirrored where the file has its outputs in the other order; None if unknown."""
        if key in self.values:
            return self.values[key]
        found = self.values.get(mirrored(key))
        return None if found is None else (1 - found[0], 1 - found[1])

    def among(self, keys: Iterable[str]) -> dict[str, tuple[float, float]]:
        """Return the values of the known pairs among these, by key; each pair in one order."""
        out: dict[str, tuple[float, float]] = {}
        for key in keys:
            found = self.find(key)
            if found is not None and mirrored(key) not in out:
                out[key] = found
        return out

    def check_names(self, keys: Iterable[str], reference: str, model: str) -> None:
        """Raise InputError where the file has the outputs of one of the two generators under the other's name."""
        for key in keys:
            other = mirrored(key)
            is_swapped = self.names.get(key) == (model, reference) or self.names.get(other) == (reference, model)
            if is_swapped and key != other and model != reference:
                raise InputError(
                    f"{self.source}: has an output of {model!r} under the name {reference!r}, so its preferences may "
                    "be the wrong way round. Check the order of generator_1 and generator_2."
                )

    def check_annotator(self, judge: str) -> None:
        """Raise InputError where all preferences are by the judge itself."""
        if self.annotators == {judge}:
            raise InputError(
                f"{self.source}: its preferences are by {judge!r}, the judge itself. Use those of people or of a "
                "stronger judge."
            )

    def no_common_pair(self, where: str) -> InputError:
        """Return the error for a file that knows none of the judged pairs; `where` names these."""
        return InputError(
            f"{self.source}: has none of the pairs of {where}: a pair is the same instruction and the same two outputs."
        )


def pair_key(instruction: str, output_1: str, output_2: str) -> str:
    """Return the key of a pair in this order: 48 hexadecimal digits; white space around the strings does not count."""
    return "".join(
        hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
        for text in (instruction, output_1, output_2)
    )


def mirrored(key: str) -> str:
    """Return the key of the same pair in the other order."""
    return key[:_DIGITS] + key[2 * _DIGITS :] + key[_DIGITS : 2 * _DIGITS]


def key_of(pair: AnswerPair | Judgement) -> str:
    """Return the key of a pair, with the reference's output first."""
    outputs = (pair.reference, pair.model) if isinstance(pair, AnswerPair) else (pair.output_1, pair.output_2)
    return pair_key(pair.instruction, *outputs)


def read_known(path: Path) -> Known:
    """Read a file of known preferences: annotations as for `read_annotations`, of any generators and annotators.

    Several preferences for a pair are averaged. Raises InputError, naming file and entry, for a missing string or
    preference, a preference out of range, and a file without any preference.
    """
    rows = read_records(path)
    given: dict[str, list[float]] = {}
    pairs: dict[str, AnswerPair] = {}
    names: dict[str, tuple[str, str]] = {}
    annotators = set[str]()
    for number, row in enumerate(rows, 1):
        judgement = read_judgement(row, f"{path}: entry {number}")
        if judgement.preference is None:
            continue
        preference, key = judgement.preference - 1, key_of(judgement)
        annotators.add(str(row.get("annotator")))
        if mirrored(key) in given and mirrored(key) != key:
            given[mirrored(key)].append(1 - preference)
            continue
        given.setdefault(key, []).append(preference)
        pairs[key] = AnswerPair(
            instruction=judgement.instruction, reference=judgement.output_1, model=judgement.output_2, dataset=None
        )
        generators = row.get("generator_1"), row.get("generator_2")
        if isinstance(generators[0], str) and isinstance(generators[1], str):
            names[key] = generators[0], generators[1]
    if not given:
        raise InputError(
            f"{path}: none of its {len(rows)} entries has a preference, so it has nothing to compare with."
        )
    values = {key: (sum(found) / len(found), _longer(pairs[key])) for key, found in given.items()}
    return Known(
        source=str(path), values=values, pairs=tuple(pairs.values()), names=names, annotators=frozenset(annotators)
    )


def _longer(pair: AnswerPair) -> float:
    """Return 1 where output 2 has more characters, 0 where it has fewer, else 0.5."""
    return (1 + (len(pair.model) > len(pair.reference)) - (len(pair.model) < len(pair.reference))) / 2


def compare_judge(
    known: Known, judged: Iterable[tuple[str, float]], all_judged: Sequence[float] | None = None
) -> JudgeCheck | None:
    """Compare a judge's preferences, in [0, 1] by key, with the known ones; None where no pair is known.

    A pair that occurs several times counts once. `all_judged` are the preferences on all pairs of a win rate that the
    known ones adjust. Standard errors take pairs of the same instruction as one cluster.
    """
    preferences: dict[str, float] = {}
    for key, preference in judged:
        preferences.setdefault(key, preference)
    found = known.among(preferences)
    if not found:
        return None
    numbers: dict[str, int] = {}
    instructions = [numbers.setdefault(key[:_DIGITS], len(numbers)) for key in found]
    known_values, longer = zip(*found.values(), strict=True)
    return check_judge([preferences[key] for key in found], known_values, longer, all_judged, instructions)
