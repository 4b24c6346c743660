"""Stale results of a run folder: those measured from other inputs than the plan's, why, and which may be kept.

A cell's key is a digest of all its inputs, so stale results are never mistaken for the plan's. They are listed with
the reason and measured again, or kept with --keep-stale, which the study reports.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pa_lite.study.plan import StudyPlan
from pa_lite.study.store import Cell, Store, StoredCell

_log = logging.getLogger(__name__)
UNRECORDED = "measured before pa-lite recorded everything that determines a result (tokenizer, chat template, settings)"
_ITEMS = "other items or exemplars (--limit, --shots, --seed, --seeds)"
# keys of a cell's inputs and of its workload's facts -> reasons for messages; other keys are shown as they are
_REASONS = {
    "base": "other checkpoints", "instruct": "other checkpoints", "schedule": "another schedule",
    "recipe": "other tensor types or another token alignment",
    "engine": "other engine settings", "chunk": "other engine settings",
    "method": "another version of pa-lite's method of measuring",
    "judge": "another judge", "prompt": "another judge prompt", "pairs": "other answers to compare",
    "items": _ITEMS, "shots": _ITEMS, "seeds": _ITEMS, "spec": "other task files", "instructions": "other instructions",
    "prompts": "other prompts", "system": "another system prompt (--system)", "date": "another date (--date)",
    "template_args": "other template arguments (--template-arg)", "text": "other text (--text)",
    "window": "other windows of text", "answers": "other answers of instruct",
}  # fmt: skip
# a change in one of these means another model or other items, so that results are not comparable
_DECISIVE = {"base", "instruct", "recipe", "schedule", "judge", "prompt", "pairs", "items", "shots", "seeds",
             "spec", "instructions", "prompts", "text", "window", "answers"}  # fmt: skip
_DERIVED = ("identity", "judge_identity")  # digests of inputs that are compared one by one
_SHOWN = 3  # header keys named in a message
_LONGEST = 40  # characters of a value in a message


@dataclass(frozen=True, kw_only=True)
class Stale:
    """A planned cell and the closest stored result from other inputs, with the reasons why they differ."""

    cell: Cell
    old: StoredCell
    reasons: tuple[str, ...]
    may_be_kept: bool


def is_recorded(inputs: Mapping[str, Any]) -> bool:
    """Return whether a cell recorded all its inputs, which 0.1.0 did not."""
    return "header" in inputs or "judge_header" in inputs


@dataclass(frozen=True)
class Settled:
    """Stale results, divided into those measured again and those kept in place of the plan's cells."""

    again: tuple[Stale, ...]
    kept: tuple[Stale, ...]

    def report(self) -> None:
        """Log what is measured again and what is kept, with the reasons."""
        for action, found in (("measured again", self.again), ("kept (--keep-stale)", self.kept)):
            for reason, names in by_reason(found).items():
                _log.warning("%s: %s; reason: %s", action, ", ".join(names), reason)
        if any(s.may_be_kept for s in self.again):
            _log.warning("use --keep-stale to keep these results as they are")


def settle_plan(plan: StudyPlan, store: Store, keep_stale: bool = False) -> tuple[StudyPlan, Settled]:
    """Return the plan with kept stale results in place of its cells, and what happens to all stale results."""
    found = _find_stale([p.cell for p in plan.cells], store.cells())
    kept = {s.cell.key: s for s in found if keep_stale and s.may_be_kept}
    cells = tuple(replace(p, kept=kept[p.cell.key].old) if p.cell.key in kept else p for p in plan.cells)
    again = tuple(s for s in found if s.cell.key not in kept)
    return replace(plan, cells=cells), Settled(again, tuple(kept.values()))


def _find_stale(cells: Sequence[Cell], stored: Sequence[StoredCell]) -> list[Stale]:
    """Return the unfinished cells that have stored results from other inputs, in order."""
    finished = {c.key for c in stored if c.summary is not None}
    older: dict[tuple[float, str, str, str], list[StoredCell]] = {}
    for old in (c for c in stored if c.n_done):
        older.setdefault((old.lam, old.type, old.kind, old.name), []).append(old)
    found = []
    for cell in (c for c in cells if c.key not in finished):
        similar = older.get((cell.lam, cell.type, cell.kind, cell.name), ())
        if candidates := [_compare(cell, old) for old in similar if old.key != cell.key]:
            found.append(min(candidates, key=lambda s: (not s.may_be_kept, len(s.reasons), -s.old.started)))
    return found


def by_reason(found: Iterable[Stale]) -> dict[str, list[str]]:
    """Return reason -> sorted names of workloads, without duplicates."""
    names: dict[str, set[str]] = {}
    for stale in found:
        for reason in stale.reasons:
            names.setdefault(reason, set()).add(stale.cell.name)
    return {reason: sorted(held) for reason, held in names.items()}


def differences(cell: Cell, old: StoredCell) -> dict[str, bool]:
    """Return how a stored cell's inputs differ: reason -> whether it makes the results incomparable."""
    return dict(_differences(old.inputs, cell.inputs))


def _compare(cell: Cell, old: StoredCell) -> Stale:
    differing = differences(cell, old)
    is_whole = old.summary is not None and old.n_items == cell.n_items
    return Stale(cell=cell, old=old, reasons=tuple(differing), may_be_kept=is_whole and not any(differing.values()))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yield how two cells' inputs differ: a reason, and whether it makes the results incomparable."""
    parts = ((old, new), (_table(old, "work"), _table(new, "work")))
    is_recorded = all(old.keys() >= new.keys() - {"seeds"} for old, new in parts)  # absent for one draw of exemplars
    if not is_recorded:
        yield UNRECORDED, False
    for before, now in parts:
        for key in sorted(before.keys() | now.keys()):
            if key == "work" or key in _DERIVED or before.get(key) == now.get(key):
                continue
            if key in now and key not in before:
                continue  # not recorded
            if key in ("header", "judge_header"):
                yield f"another {_header_changes(_table(before, key), _table(now, key))}", False
            elif key == "llama_cpp_python":
                yield f"another llama.cpp ({_values(before[key], now.get(key))})", False
            else:
                yield _REASONS.get(key, f"another {key}"), key in _DECISIVE


def _table(inputs: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = inputs.get(key)
    return value if isinstance(value, Mapping) else {}


def _header_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Name the header keys that differ, with short values: `llama.rope.freq_base (10000.0 before, 500.0 now)`."""
    keys = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    shown = [f"{k} ({_values(old.get(k), new.get(k))})" for k in keys[:_SHOWN]]
    more = f" and {len(keys) - _SHOWN} more keys" if len(keys) > _SHOWN else ""
    return ", ".join(shown).replace(" ()", "") + more


def _values(old: object, new: object) -> str:
    """Return two values as text if they are short; header values without their type."""
    shown = ["none" if v is None else str(v).rpartition(" ")[2] for v in (old, new)]
    return f"{shown[0]} before, {shown[1]} now" if max(map(len, shown)) <= _LONGEST else ""
