"""A finished study read back from its store: curves, examples, setting. Measures nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import numpy as np

from pa_lite.errors import InputError
from pa_lite.study.curves import MOST_TASKS, Curves, Series, means
from pa_lite.study.results_file import damaged
from pa_lite.study.rows import NEEDED
from pa_lite.study.staleness import UNRECORDED, is_recorded
from pa_lite.study.store import Store, StoredCell
from pa_lite.study.summary import Example, Kept, StudySummary

_EXAMPLES = 6
# of one study: time and memory of its charts and resamplings grow with them
_MOST_LAMS = 1001


def value_of(record: Mapping[str, Any], kind: str) -> float:
    """What an item's record adds to its average, in [0, 1]; NaN for answers, which only a judge values."""
    if kind == "answers":
        return float("nan")
    if kind == "task":
        return float(record["metrics"][record["metric"]])
    if kind == "wins":
        return float("nan") if record["preference"] is None else float(record["preference"]) - 1
    return float(bool(record["followed"]))


def planned_cells(store: Store) -> list[StoredCell]:
    """The cells of the study as it was last run, in its order: no stale ones. Raises InputError when there are none."""
    by_key = {c.key: c for c in store.cells()}
    found = [by_key[key] for key in store.facts().get("cells", []) if key in by_key]
    if not found:
        raise InputError(f"{store.path.parent}: the study has no results yet. Run the sweep first.")
    return found


def load_study(store: Store, kind: str | None = None) -> StudySummary:
    """The study of one type of weights (by default the first): all lams that are finished in everything.

    Raises InputError when no lam is, or the type was not measured.
    """
    facts, cells = store.facts(), planned_cells(store)
    types = list(dict.fromkeys(c.type for c in cells))
    kind = kind or types[0]
    if kind not in types:
        raise InputError(f"{store.path.parent}: type {kind!r} was not measured; measured: {', '.join(types)}.")
    cells = [c for c in cells if c.type == kind]
    names = list(dict.fromkeys((c.kind, c.name) for c in cells))
    _check_shape(store, facts, cells)
    finished = {(c.kind, c.name, c.lam) for c in cells if c.summary is not None}
    waiting = sorted({c.lam for c in cells if not all((*name, c.lam) in finished for name in names)})
    lams = sorted({c.lam for c in cells} - set(waiting))
    if not lams:
        raise InputError(f"{store.path.parent}: no lam is finished yet. Run the same sweep again to go on.")
    values: dict[tuple[str, str, float], list[float]] = {}
    short: set[str] = set()
    for c in (c for c in cells if c.lam in lams):  # the records of one cell in memory at a time
        records = store.items(c.key)
        values[c.kind, c.name, c.lam] = [value_of(record, c.kind) for record in records]
        short.update(told for record in records for told in record.get("remarks", ()))
    summaries = {(c.kind, c.name): c.summary or {} for c in cells if c.lam == lams[0]}
    series = {
        (work, name): Series(
            name,
            str(summaries[work, name].get("area", "")),
            np.array([values[work, name, lam] for lam in lams]),
            *(summaries[work, name].get(guess) or None for guess in ("majority", "chance")),
        )
        for work, name in names
        if work != "answers"
    }
    remarks = [f"Not finished, and left out: lam {', '.join(f'{lam:g}' for lam in waiting)}."] if waiting else []
    remarks += [f"For lack of memory at some lam: {told}." for told in sorted(short)]
    reasons = store.kept()
    kept = tuple(Kept(c.kind, c.name, c.lam, reasons[c.key]) for c in cells if c.key in reasons and c.lam in lams)
    remarks += _told_of_age([c for c in cells if c.lam in lams], kept, reasons)
    others = [t for t in types if t != kind]
    if others:
        remarks.append(f"Weights as {kind}; measured too, each with a page of its own (--type): {', '.join(others)}.")
    for key, one in list(series.items()):
        judged = ~np.isnan(one.values).any(axis=0)  # the same items at every lam
        if not judged.all():
            remarks.append(
                f"{one.name}: {(~judged).sum()} of {one.n} pairs could not be judged at every lam, and are left out."
            )
            series[key] = replace(one, values=one.values[:, judged])
        if not judged.any():
            del series[key]

    def first(work: str) -> Series | None:
        return next((s for (w, _), s in series.items() if w == work), None)

    curves = Curves(
        tuple(lams), tuple(s for (w, _), s in series.items() if w == "task"), first("follow"), first("wins")
    )
    best = lams[int(means(curves.tasks).argmax())]
    third = lams[len(lams) // 2] if best in (lams[0], lams[-1]) else best
    shown = min((n for n in names if n[0] in ("follow", "answers")), key=lambda n: n[0] != "follow", default=None)
    keys = {c.lam: c.key for c in cells if (c.kind, c.name) == shown}
    examples = _examples({lam: store.items(keys[lam]) for lam in (lams[0], third, lams[-1])}) if shown else ()
    return StudySummary(
        str(facts["pair"]), kind, curves, examples, _setting(facts, cells, curves), tuple(remarks), kept
    )


def _check_shape(store: Store, facts: Mapping[str, Any], cells: Sequence[StoredCell]) -> None:
    """Raise InputError where a study's cells do not fit together, or a fact that every study has is not there."""
    missing = [name for name in NEEDED if name not in facts]
    if missing:
        raise damaged(store.path, f"table facts has no row {missing[0]}")
    seen: dict[tuple[str, str, float], str] = {}
    counts: dict[tuple[str, str], int] = {}
    for c in cells:
        if (c.kind, c.name, c.lam) in seen:
            raise damaged(store.path, f"table cells, row {c.key}: another row stands for the same task and lam")
        seen[c.kind, c.name, c.lam] = c.key
        if counts.setdefault((c.kind, c.name), c.n_items) != c.n_items:
            raise damaged(store.path, f"table cells, row {c.key}: n_items is another one than at other lams")
    n_lams, n_tasks = len({c.lam for c in cells}), sum(kind == "task" for kind, _ in counts)
    if n_lams > _MOST_LAMS or n_tasks > MOST_TASKS:
        raise InputError(
            f"{store.path}: the study has {n_lams} lams and {n_tasks} tasks. At most {_MOST_LAMS} lams and "
            f"{MOST_TASKS} tasks can be shown together. Run a sweep with fewer into another folder (--run)."
        )
    if not n_tasks:
        raise damaged(store.path, "table cells has no task of the study")


def _told_of_age(cells: Sequence[StoredCell], kept: Sequence[Kept], reasons: Mapping[str, object]) -> list[str]:
    """Say which results were kept although their inputs differ, and which are older than the record of all inputs."""
    lams: dict[tuple[str, str], list[float]] = {}
    for one in kept:
        for reason in one.reasons:
            lams.setdefault((reason, one.name), []).append(one.lam)
    names: dict[tuple[str, tuple[float, ...]], list[str]] = {}
    for (reason, name), at in lams.items():
        names.setdefault((reason, tuple(dict.fromkeys(at))), []).append(name)
    told = [
        f"Kept from an earlier run (--keep-stale): {', '.join(held)} at lam {', '.join(f'{lam:g}' for lam in at)}; "
        f"reason to measure again: {reason}."
        for (reason, at), held in names.items()
    ]
    old = [c.name for c in cells if c.key not in reasons and not is_recorded(c.inputs)]
    if old:
        shown = ", ".join(dict.fromkeys(old))
        told.append(f"{UNRECORDED[0].upper()}{UNRECORDED[1:]}: {shown}. A new sweep measures this again.")
    return told


def _examples(answers: Mapping[float, Sequence[Mapping[str, Any]]]) -> tuple[Example, ...]:
    """Return some instructions with their answers by lam; those where the lams differ in following come first."""
    first = next(iter(answers.values()))
    order = sorted(range(len(first)), key=lambda i: -len({a[i].get("followed") for a in answers.values()}))
    return tuple(
        Example(
            str(first[i]["instruction"]),
            tuple((lam, str(a[i]["output"]), a[i].get("followed")) for lam, a in answers.items()),
        )
        for i in order[:_EXAMPLES]
    )


def _identities(cells: Sequence[StoredCell]) -> str:
    """Return the identities of the models, the first digits of each, by lam."""
    found = {c.lam: str(c.inputs["identity"])[:16] for c in cells if "identity" in c.inputs}
    return ", ".join(f"lam {lam:g} {mark}" for lam, mark in sorted(found.items())) or "not recorded"


def _setting(facts: Mapping[str, Any], cells: Sequence[StoredCell], curves: Curves) -> tuple[tuple[str, str], ...]:
    versions = {f"{k} {v}" for c in cells for k, v in c.environment.items() if k not in ("platform", "python")}
    started, seconds = min(c.started for c in cells), sum(c.seconds for c in cells)
    inputs = cells[0].inputs
    lines = [
        ("pair", str(facts["pair"])),
        ("parameters", f"{facts['parameters'] / 1e6:.1f} million"),
        ("weights", ", ".join(dict.fromkeys(c.type for c in cells))),
        ("schedule", str(facts["schedule"] or "the same lam for every tensor")),
        ("few-shot items", ", ".join(f"{s.name} {s.n}" for s in curves.tasks)),
    ]
    if curves.follow is not None:
        lines.append(("instructions", f"{curves.follow.name}, {curves.follow.n} prompts, greedy, strict"))
    if curves.wins is not None:
        lines.append(("preferences", f"{curves.wins.name}, {curves.wins.n} instructions"))
    if facts.get("system"):
        lines.append(("system prompt", str(facts["system"])))
    if facts.get("template_args"):
        lines.append(("template arguments", json.dumps(facts["template_args"], ensure_ascii=False)))
    if facts.get("date") and any("date" in c.inputs.get("work", {}) for c in cells):
        lines.append(("date in prompts", str(facts["date"])))
    return (
        *lines,
        ("seed of the exemplars", str(facts["seed"])),
        ("intervals", "95% bootstrap over items, tasks taken as given"),
        ("versions", ", ".join(sorted(versions))),
        ("machine", ", ".join(sorted({str(c.environment.get("platform")) for c in cells}))),
        ("fingerprints", ", ".join(f"{end} {inputs.get(end, 'not recorded')[:16]}" for end in ("base", "instruct"))),
        ("identity", _identities(cells)),
        ("measured", f"{datetime.fromtimestamp(started, timezone.utc):%Y-%m-%d}, {seconds:.0f} s of work"),
    )
