"""Results of a run folder that were measured from other inputs than a plan's: which, why, and which may be kept.

A cell's key is a digest of all its inputs, so such results are never taken for the plan's own. They are listed with the
reason and measured again, or kept where the user says so (--keep-stale), which the study then reports.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pa_lite.study.plan import StudyPlan
from pa_lite.study.store import Cell, Store, StoredCell

_log = logging.getLogger(__name__)
UNRECORDED = "measured before pa-lite recorded all that decides a result (tokenizer, chat template, settings)"
_ITEMS = "other items or exemplars (--limit, --shots, --seed)"
# what of a cell's inputs, and of its work's facts, the user knows under another name; other keys stand for themselves
_WORDS = {
    "base": "other checkpoints", "instruct": "other checkpoints", "schedule": "another schedule",
    "recipe": "tensors made in another way (their types, or how tokens are aligned)",
    "engine": "other engine settings", "chunk": "other engine settings",
    "method": "another version of pa-lite's way of measuring",
    "judge": "another judge", "prompt": "another prompt of the judge", "pairs": "other answers to compare",
    "items": _ITEMS, "shots": _ITEMS, "spec": "other task files", "instructions": "other instructions",
    "prompts": "other prompts", "system": "another system prompt (--system)", "date": "another date (--date)",
    "template_args": "other template arguments (--template-arg)",
}  # fmt: skip
# with another of these it is another model, or other items: nothing that could stand beside the rest of the study
_DECISIVE = {"base", "instruct", "recipe", "schedule", "judge", "prompt", "pairs", "items", "shots", "spec",
             "instructions", "prompts"}  # fmt: skip
_FOLLOWS = ("identity", "judge_identity")  # digests of what is compared one by one
_SHOWN = 3  # keys of a header that are named
_LONGEST = 40  # characters of a value that is shown


@dataclass(frozen=True)
class Stale:
    """A planned cell of which the folder has a result from other inputs: the nearest, and in what they differ."""

    cell: Cell
    old: StoredCell
    reasons: tuple[str, ...]
    may_be_kept: bool


def is_recorded(inputs: Mapping[str, Any]) -> bool:
    """Return whether a cell's inputs are those of a pa-lite that recorded all of them: 0.1.0 did not."""
    return "header" in inputs or "judge_header" in inputs


@dataclass(frozen=True)
class Settled:
    """What becomes of stale results: those that are measured again, and those that stand in for a plan's cells."""

    again: tuple[Stale, ...]
    kept: tuple[Stale, ...]

    def report(self) -> None:
        """Log what is measured again and what is kept, with the reasons."""
        for told, found in (("measured again", self.again), ("kept (--keep-stale)", self.kept)):
            for reason, names in by_reason(found).items():
                _log.warning("%s: %s; reason: %s", told, ", ".join(names), reason)
        if any(s.may_be_kept for s in self.again):
            _log.warning("to keep these results as they are, use --keep-stale")


def settle_plan(plan: StudyPlan, store: Store, keep_stale: bool = False) -> tuple[StudyPlan, Settled]:
    """Return the plan with older results that are kept in the place of its cells, and what becomes of all of them."""
    found = _find_stale([p.cell for p in plan.cells], store.cells())
    kept = {s.cell.key: s for s in found if keep_stale and s.may_be_kept}
    cells = tuple(replace(p, kept=kept[p.cell.key].old) if p.cell.key in kept else p for p in plan.cells)
    again = tuple(s for s in found if s.cell.key not in kept)
    return replace(plan, cells=cells), Settled(again, tuple(kept.values()))


def _find_stale(cells: Sequence[Cell], stored: Sequence[StoredCell]) -> list[Stale]:
    """Return the cells that are stored from other inputs and are not finished from their own, in their order."""
    finished = {c.key for c in stored if c.summary is not None}
    older: dict[tuple[float, str, str, str], list[StoredCell]] = {}
    for old in (c for c in stored if c.n_done):
        older.setdefault((old.lam, old.type, old.kind, old.name), []).append(old)
    found = []
    for cell in (c for c in cells if c.key not in finished):
        alike = older.get((cell.lam, cell.type, cell.kind, cell.name), ())
        if candidates := [_compare(cell, old) for old in alike if old.key != cell.key]:
            found.append(min(candidates, key=lambda s: (not s.may_be_kept, len(s.reasons), -s.old.started)))
    return found


def by_reason(found: Iterable[Stale]) -> dict[str, list[str]]:
    """Return reason -> names of tasks and sets, each once, sorted."""
    names: dict[str, set[str]] = {}
    for stale in found:
        for reason in stale.reasons:
            names.setdefault(reason, set()).add(stale.cell.name)
    return {reason: sorted(held) for reason, held in names.items()}


def differences(cell: Cell, old: StoredCell) -> dict[str, bool]:
    """Return in what a stored cell's inputs differ: reason -> whether it makes the two incomparable."""
    return dict(_differences(old.inputs, cell.inputs))


def _compare(cell: Cell, old: StoredCell) -> Stale:
    differing = differences(cell, old)
    is_whole = old.summary is not None and old.n_items == cell.n_items
    return Stale(cell, old, tuple(differing), is_whole and not any(differing.values()))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yield in what two cells' inputs differ: a reason, and whether it makes them incomparable."""
    parts = ((old, new), (_table(old, "work"), _table(new, "work")))
    is_recorded = all(old.keys() >= new.keys() for old, new in parts)
    if not is_recorded:
        yield UNRECORDED, False
    for before, now in parts:
        for key in sorted(before.keys() | now.keys()):
            if key == "work" or key in _FOLLOWS or before.get(key) == now.get(key):
                continue
            if key in now and key not in before:
                continue  # not recorded
            if key in ("header", "judge_header"):
                yield f"another {_header_changes(_table(before, key), _table(now, key))}", False
            elif key == "llama_cpp_python":
                yield f"another llama.cpp ({_values(before[key], now.get(key))})", False
            else:
                yield _WORDS.get(key, f"another {key}"), key in _DECISIVE


def _table(inputs: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = inputs.get(key)
    return value if isinstance(value, Mapping) else {}


def _header_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Name the keys of a header that differ, with short values: `llama.rope.freq_base (10000.0 before, 500.0 now)`."""
    keys = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    told = [f"{k} ({_values(old.get(k), new.get(k))})" for k in keys[:_SHOWN]]
    more = f" and {len(keys) - _SHOWN} more keys" if len(keys) > _SHOWN else ""
    return ", ".join(told).replace(" ()", "") + more


def _values(old: object, new: object) -> str:
    """Show two values if they are short ones; a header's without their type."""
    shown = ["none" if v is None else str(v).rpartition(" ")[2] for v in (old, new)]
    return f"{shown[0]} before, {shown[1]} now" if max(map(len, shown)) <= _LONGEST else ""
