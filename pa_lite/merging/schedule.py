"""Lam schedules: different lams for parts of a model, by tensor group and layer range.

A schedule is a list of rules. The last rule that matches a tensor sets its lam; a tensor without a match keeps the
lam of the merge. In one line: `attention: 0.4; layers 0-7: 0.2; ffn layers 8-15: 0.9; layers: [0.2, 0.8]`. In TOML:
`[[rules]]` tables with `group`, `layers` and `lam`. A list of lams is spread evenly over the layers of the range and
interpolated in between.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pa_lite.errors import InputError, nearest
from pa_lite.merging.groups import GROUPS, group_of, layer_of
from pa_lite.merging.lams import parse_lams
from pa_lite.untrusted.rows import read_toml
from pa_lite.untrusted.tables import ANYTHING, TABLES, check_table

_RULE = re.compile(
    r"(?P<group>[a-z]+)?\s*(?P<all>layers)?\s*(?:(?P<first>\d{1,9})(?:\s*-\s*(?P<last>\d{1,9}))?)?\s*:\s*(?P<lam>[^:]+)"
)


@dataclass(frozen=True)
class Rule:
    """Lams for a group (None for all groups) in layers first..last.

    With `layers` None, one lam also applies outside the layers; several lams are spread over all layers.
    """

    lams: tuple[float, ...]
    group: str | None = None
    layers: tuple[int, int | None] | None = None

    def lam_of(self, name: str, n_layers: int) -> float | None:
        """Return the lam that the rule gives a tensor, None when the rule does not match."""
        layer = layer_of(name)
        if self.group is not None and group_of(name) != self.group:
            return None
        if self.layers is None and len(self.lams) == 1:
            return self.lams[0]
        first, last = self.layers or (0, None)
        last = n_layers - 1 if last is None else last
        if layer is None or not first <= layer <= last:
            return None
        positions = np.linspace(first, last, len(self.lams))
        return float(np.interp(layer, positions, self.lams))


@dataclass(frozen=True)
class Schedule:
    """Rules in order, and the text that they were parsed from, which the output's metadata records."""

    rules: tuple[Rule, ...] = ()
    text: str = ""

    def lam_of(self, name: str, lam: float, n_layers: int) -> float:
        """Return the lam of a tensor in a model of n_layers that is merged at `lam`."""
        given = [rule.lam_of(name, n_layers) for rule in self.rules]
        return next((x for x in reversed(given) if x is not None), lam)

    def check(self, n_layers: int) -> None:
        """Raise InputError for a rule with layers that the model does not have."""
        for rule in self.rules:
            if rule.layers is not None and max(rule.layers[0], rule.layers[1] or 0) >= n_layers:
                raise InputError(
                    f"schedule: layers {_show(rule.layers)} do not exist: the model has layers 0-{n_layers - 1}."
                )


def _show(layers: tuple[int, int | None]) -> str:
    return f"{layers[0]}-{'' if layers[1] is None else layers[1]}"


def _rule(group: Any, layers: tuple[int, int | None] | None, lam: Any, where: str) -> Rule:
    if group is not None and group not in GROUPS:
        raise InputError(f"{where}: unknown tensor group {group!r}.{nearest(str(group), GROUPS)}")
    values = lam if isinstance(lam, list) else [lam]
    if not values or any(isinstance(x, bool) or not isinstance(x, int | float) for x in values):
        raise InputError(f"{where}: lam must be a number or a list of numbers, not {lam!r}.")
    if layers is not None and layers[1] is not None and layers[1] < layers[0]:
        raise InputError(f"{where}: layers {_show(layers)} end before they start.")
    try:
        for x in values:
            parse_lams(str(x))  # checks the range of a lam
    except InputError as e:
        raise InputError(f"{where}: {e}") from None
    return Rule(tuple(float(x) for x in values), group, layers)


def read_schedule(value: str | Schedule) -> Schedule:
    """Return a schedule unchanged, or parse a string; an empty string gives a schedule without rules."""
    if isinstance(value, Schedule):
        return value
    return parse_schedule(value) if value else Schedule()


def parse_schedule(text: str) -> Schedule:
    """Parse the one-line notation, or read the TOML file `text`. Raises InputError that quotes the bad rule."""
    if text.endswith(".toml"):
        return _read_toml(Path(text))
    rules = []
    for part in filter(None, (p.strip() for p in re.split(r"[;\n]", text))):
        found = _RULE.fullmatch(part)
        if found is None or not (found["group"] or found["all"]):
            raise InputError(
                f"schedule rule {part!r} is not GROUP [layers A-B]: LAM, e.g. 'attention layers 0-7: 0.4'."
            )
        group, ranged = found["group"], found["all"]
        if group == "layers":  # the pattern reads a leading `layers` as the group
            group, ranged = None, "layers"
        if found["first"] is not None and not ranged:
            raise InputError(f"schedule rule {part!r}: write 'layers' before the numbers.")
        layers = None
        if ranged:
            first = int(found["first"] or 0)
            layers = (first, int(found["last"]) if found["last"] else first if found["first"] else None)
        rules.append(_rule(group, layers, _lams(found["lam"], part), f"schedule rule {part!r}"))
    if not rules:
        raise InputError("the schedule has no rules.")
    return Schedule(tuple(rules), text)


def _lams(text: str, part: str) -> list[float]:
    inner = text.strip()
    if inner.startswith("[") != inner.endswith("]"):
        raise InputError(f"schedule rule {part!r}: a bracket is missing.")
    return [parse_lams(x)[0] for x in inner.strip("[]").split(",")]


def _read_toml(path: Path) -> Schedule:
    document, text = read_toml(path)
    entries = check_table(document, str(path), {"rules": TABLES}).get("rules")
    if not entries:
        raise InputError(f"{path}: there are no [[rules]] tables.")
    return Schedule(tuple(_toml_rule(e, f"{path}: rule {i}") for i, e in enumerate(entries, 1)), text)


def _toml_rule(entry: dict[str, Any], where: str) -> Rule:
    check_table(entry, where, dict.fromkeys(("group", "layers", "lam"), ANYTHING), ["lam"])
    layers = None
    if "layers" in entry:
        found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", str(entry["layers"]))
        if found is None:
            raise InputError(f"{where}: layers is {entry['layers']!r:.80}, but must be a string such as '0-7'.")
        layers = (int(found[1]), int(found[2] or found[1]))
    return _rule(entry.get("group"), layers, entry["lam"], where)
