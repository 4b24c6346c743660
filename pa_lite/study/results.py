"""Reading of a finished study from its store: curves, examples, setting."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

from pa_lite.alpaca.known import Known
from pa_lite.alpaca.win_rate import BY_DEFINITION, MINIMAL
from pa_lite.errors import InputError
from pa_lite.statistics import Mean
from pa_lite.study.curves import MOST_TASKS, Curves, Series, Values, means
from pa_lite.study.judged_workloads import CalibrationWorkload, WinsWorkload
from pa_lite.study.judging import StudyJudging, judge_remarks
from pa_lite.study.measures import AGREEMENT, ANSWERS, FEW_SHOT, FOLLOWING, MEASURES, PREFERRED, TEXT, Measure
from pa_lite.study.records import AnsweredItem, FollowedItem
from pa_lite.study.results_file import damaged
from pa_lite.study.rows import REQUIRED
from pa_lite.study.staleness import UNRECORDED, is_recorded
from pa_lite.study.store import Store, StoredCell
from pa_lite.study.summary import Example, Kept, StudySummary, intervals_in_words
from pa_lite.study.unlabelled import AgreementWorkload, InstructWorkload, TextWorkload
from pa_lite.study.workloads import WORKLOADS, FollowWorkload, TaskWorkload

_EXAMPLES = 6
_MOST_LAMS = 1001  # in a study: time and memory of charts and resampling grow with them


def refuse_search(store: Store) -> None:
    """Raise InputError where the folder holds the evaluations of a search, and no study."""
    if not store.facts().get("cells") and any("search" in c.inputs for c in store.cells()):
        raise InputError(
            f"{store.path.parent}: contains a search, not a study of every lam: the same search shows its result."
        )


def planned_cells(store: Store) -> list[StoredCell]:
    """Return the cells of the study as last run, in its order, without stale ones. Raises InputError without any."""
    by_key = {c.key: c for c in store.cells()}
    found = [by_key[key] for key in store.facts().get("cells", []) if key in by_key]
    if not found:
        refuse_search(store)
        raise InputError(f"{store.path.parent}: the study has no results yet. Run `pa-lite sweep` first.")
    return found


def load_study(store: Store, weight_type: str | None = None, known: Known | None = None) -> StudySummary:
    """Return the study of one weight type (by default the first), with all lams whose workloads are all finished.

    The judge is compared with `known` preferences, by default with those that the sweep got. Raises InputError when no
    lam is finished, the type was not measured, or the judge judged none of the known pairs.
    """
    facts, cells = store.facts(), planned_cells(store)
    once = [c for c in cells if not WORKLOADS[c.kind].is_along_lam and c.summary is not None]
    if all(c.kind == InstructWorkload.kind for c in cells):  # stopped before the lams
        raise _unfinished(store)
    cells = [c for c in cells if WORKLOADS[c.kind].is_along_lam]
    if not cells:
        raise damaged(store.path, "table cells has no task")
    types = list(dict.fromkeys(c.type for c in cells))
    weight_type = weight_type or types[0]
    if weight_type not in types:
        raise InputError(f"{store.path.parent}: type {weight_type!r} was not measured; measured: {', '.join(types)}.")
    cells = [c for c in cells if c.type == weight_type]
    _check_shape(store, facts, cells)
    measured = {c.lam for c in cells}
    finished = [{c.lam for c in group if c.summary is not None} for group in _by_work(cells).values()]
    lams = sorted(measured.intersection(*finished))
    if not lams:
        raise _unfinished(store)
    remarks = []
    if unfinished := sorted(measured.difference(lams)):
        remarks.append(f"Not finished and left out: lam {', '.join(f'{lam:g}' for lam in unfinished)}.")
    cells = sorted((c for c in cells if c.lam not in unfinished), key=lambda c: c.lam)
    series: dict[Measure, list[Series]] = {}
    unjudged, reduced = list[str](), set[str]()
    judging = StudyJudging()
    for group in _by_work(cells).values():
        workload, weights = WORKLOADS[group[0].kind], list[float]()
        values: dict[str, list[list[float]]] = {name: [] for name in workload.measures()}
        for cell in group:  # only one cell's records are in memory at a time
            results = store.results(cell.key)
            for name, at_lams in values.items():
                at_lams.append([workload.values(result)[name] for result in results])
            weights = [workload.weight(result) for result in results]
            reduced.update(remark for result in results for remark in result.remarks)
            judging.add(cell, results)
        for name, measure in workload.measures().items():
            found, skipped = _series(group, np.array(values[name]), measure, weights)
            unjudged += skipped
            series.setdefault(measure, []).extend(found)
    remarks += _draw_remarks(facts, cells)
    remarks += [f"For lack of memory at some lam: {remark}." for remark in sorted(reduced)]
    for cell in once:
        if WORKLOADS[cell.kind] is CalibrationWorkload:
            judging.add(cell, store.results(cell.key))
    reasons = store.kept()
    aged = [*cells, *once]
    kept = tuple(Kept(kind=c.kind, name=c.name, lam=c.lam, reasons=reasons[c.key]) for c in aged if c.key in reasons)
    remarks += _age_remarks(aged, kept, reasons)
    old = [c.name for c in aged if (c.summary or {}).get("version", 1) < WORKLOADS[c.kind].summary_version]
    if old:
        remarks.append(
            f"Summarised by an older pa-lite: {', '.join(dict.fromkeys(old))}. A new sweep brings this up to date "
            "without measuring again."
        )
    others = [t for t in types if t != weight_type]
    if others:
        remarks.append(
            f"Weights as {weight_type}; also measured, each with a separate page (--type): {', '.join(others)}."
        )
    follow, wins, text, agreement, answers = (
        next(iter(series.get(measure, ())), None) for measure in (FOLLOWING, PREFERRED, TEXT, AGREEMENT, ANSWERS)
    )
    stored = Known(source=str(store.path), values={key: (p, q) for key, (p, q) in facts.get("known", {}).items()})
    check, adjusted = judging.compare(known or stored)
    if known is not None and check is None:
        raise _not_judged(known, store, cells)
    control, is_minimal, control_remarks = _length_controlled(cells)
    curves = Curves(
        lams=tuple(lams),
        tasks=tuple(series.get(FEW_SHOT, ())),
        follow=follow,
        wins=wins,
        length_controlled=control,
        is_minimal_control=is_minimal,
        judge_check=check,
        judge_signs=judging.signs,
        text=text,
        agreement=agreement,
        answers=answers,
    )
    unjudged += [*control_remarks, *judge_remarks(curves), *adjusted]
    return StudySummary(
        pair=str(facts["pair"]),
        type=weight_type,
        curves=curves,
        examples=_examples(store, cells, curves),
        setting=_setting(facts, cells, series, curves),
        remarks=tuple(remarks + unjudged),
        kept=kept,
    )


def _unfinished(store: Store) -> InputError:
    return InputError(f"{store.path.parent}: no lam is finished yet. Run the same sweep again to continue it.")


def _by_work(cells: Sequence[StoredCell]) -> dict[tuple[str, str], list[StoredCell]]:
    """Return (kind, name) -> cells of that workload, in their order."""
    out: dict[tuple[str, str], list[StoredCell]] = {}
    for cell in cells:
        out.setdefault((cell.kind, cell.name), []).append(cell)
    return out


def _series(
    cells: Sequence[StoredCell], values: Values, measure: Measure, weights: Sequence[float]
) -> tuple[list[Series], list[str]]:
    """Return a workload's series of the items with a value at every lam, and a remark on items left out, if any.

    `cells` are those of the workload at every lam, `weights` those of its items.
    """
    cell = cells[0]
    by_seed = values.reshape(len(values), cell.seeds, -1).swapaxes(0, 1)
    values = by_seed.mean(axis=0)
    judged = ~np.isnan(values).any(axis=0)  # the same items at every lam
    what = "prompts could not be checked" if cell.kind == FollowWorkload.kind else "pairs were not judged"
    remark = f"{cell.name}: {(~judged).sum()} of {judged.size} {what} at every lam and are left out."
    summary = cell.summary or {}
    clusters = summary.get("clusters")
    own = np.reshape(weights, (cell.seeds, -1))[0][judged]
    found = Series(
        name=cell.name,
        area=str(summary.get("area", "")),
        values=values[:, judged],
        by_seed=by_seed[:, :, judged] if cell.seeds > 1 else None,
        clusters=tuple(clusters[i] for i in np.flatnonzero(judged)) if clusters else None,
        metrics=_other_metrics(cells),
        majority=summary.get("majority"),
        chance=summary.get("chance") or None,
        weights=tuple(own.tolist()) if len(set(weights)) > 1 else None,
        is_share=measure.is_share,
    )
    return [found] if judged.any() else [], [] if judged.all() else [remark]


def _other_metrics(cells: Sequence[StoredCell]) -> dict[str, tuple[Mean, ...]]:
    """Return the averages at every lam by the other metrics that the summaries of all cells have."""
    found = [(c.summary or {}).get("metrics", {}) for c in cells]
    keys = [key for key in found[0] if all(key in each for each in found)]
    return {key: tuple(_mean(each[key]) for each in found) for key in keys}


def _mean(numbers: Mapping[str, Any]) -> Mean:
    value, stderr = (math.nan if numbers[k] is None else float(numbers[k]) for k in ("value", "stderr"))
    return Mean(value, stderr)


def _draw_remarks(facts: Mapping[str, Any], cells: Sequence[StoredCell]) -> list[str]:
    """Return a remark on tasks whose exemplars are fixed in a study of several draws, if any."""
    seeds = facts.get("seeds", 1)
    fixed = dict.fromkeys(c.name for c in cells if c.kind == TaskWorkload.kind and c.seeds == 1)
    if seeds == 1 or not fixed:
        return []
    return [f"Scored once, not with {seeds} draws of exemplars, as no exemplars are drawn: {', '.join(fixed)}."]


def _controls(cells: Sequence[StoredCell]) -> list[Mapping[str, Any]]:
    """Return the length-controlled win rates in the cells' summaries, as `WinsWorkload` computed them."""
    summaries = [c.summary or {} for c in cells if WORKLOADS[c.kind] is WinsWorkload]
    return [summary["length_controlled"] for summary in summaries if "length_controlled" in summary]


def _length_controlled(cells: Sequence[StoredCell]) -> tuple[tuple[Mean, ...], bool, list[str]]:
    """Return the length-controlled win rate at every lam, whether it is the minimal form, and remarks.

    The rates are empty unless they are known at all lams, in the same form: the two forms do not compare.
    """
    controls = _controls(cells)
    numbers = [[math.nan if c[k] is None else float(c[k]) for k in ("value", "fit_stderr")] for c in controls]
    is_known = len(numbers) == len({c.lam for c in cells}) and all(math.isfinite(value) for value, _ in numbers)
    forms = {str(c["form"]) for c in controls} - {BY_DEFINITION}
    if not is_known or len(forms) > 1:
        remark = (
            "Length-controlled win rates are left out: they have the full form at some lams, the minimal at others."
        )
        return (), False, [remark] if is_known else []
    return tuple(Mean(value, error) for value, error in numbers), MINIMAL in forms, []


def _not_judged(known: Known, store: Store, cells: Sequence[StoredCell]) -> InputError:
    """Return the error for a study whose judge judged none of the known pairs."""
    wins = [c.summary or {} for c in cells if WORKLOADS[c.kind] is WinsWorkload]
    if not wins:
        return InputError(f"{store.path.parent}: the study has no judge to compare with {known.source}.")
    if all("pairs" in summary for summary in wins):
        return InputError(
            f"{known.source}: has none of the pairs that the judge of {store.path.parent} judged. Run the sweep again "
            "with --calibration: then the judge judges the pairs of the file, too."
        )
    return InputError(
        f"{store.path.parent}: an older pa-lite judged it and did not record the pairs. Run the sweep again with "
        "--calibration; nothing is judged twice."
    )


def _check_shape(store: Store, facts: Mapping[str, Any], cells: Sequence[StoredCell]) -> None:
    """Raise InputError when a study's cells are inconsistent or a required fact is missing."""
    missing = [name for name in REQUIRED if name not in facts]
    if missing:
        raise damaged(store.path, f"table facts has no row {missing[0]}")
    seen: dict[tuple[str, str, float], str] = {}
    counts: dict[tuple[str, str], tuple[int, int]] = {}
    for c in cells:
        if (c.kind, c.name, c.lam) in seen:
            raise damaged(store.path, f"table cells, row {c.key}: another row is for the same task and lam")
        seen[c.kind, c.name, c.lam] = c.key
        if counts.setdefault((c.kind, c.name), (c.n_items, c.seeds)) != (c.n_items, c.seeds):
            raise damaged(store.path, f"table cells, row {c.key}: n_items or seeds differ from those at other lams")
    n_lams, n_tasks = len({c.lam for c in cells}), sum(workload == TaskWorkload.kind for workload, _ in counts)
    kinds = {workload for workload, _ in counts}
    if n_lams > _MOST_LAMS or n_tasks > MOST_TASKS:
        raise InputError(
            f"{store.path}: the study has {n_lams} lams and {n_tasks} tasks, more than the {_MOST_LAMS} lams and "
            f"{MOST_TASKS} tasks that a report can show. Run a sweep with fewer into another folder (--run)."
        )
    if not kinds & {TaskWorkload.kind, TextWorkload.kind, AgreementWorkload.kind}:
        raise damaged(store.path, "table cells has no task")


def _age_remarks(cells: Sequence[StoredCell], kept: Sequence[Kept], reasons: Mapping[str, object]) -> list[str]:
    """Return remarks on results kept although their inputs differ, and on results with unrecorded inputs."""
    lams: dict[tuple[str, str], list[float]] = {}
    for one in kept:
        for reason in one.reasons:
            lams.setdefault((reason, one.name), []).append(one.lam)
    names: dict[tuple[str, tuple[float, ...]], list[str]] = {}
    for (reason, name), at in lams.items():
        names.setdefault((reason, tuple(dict.fromkeys(at))), []).append(name)
    remarks = [
        f"Kept from an earlier run (--keep-stale): {', '.join(held)} at lam {', '.join(f'{lam:g}' for lam in at)}; "
        f"reason to measure again: {reason}."
        for (reason, at), held in names.items()
    ]
    old = [c.name for c in cells if c.key not in reasons and not is_recorded(c.inputs)]
    if old:
        shown = ", ".join(dict.fromkeys(old))
        remarks.append(f"{UNRECORDED[0].upper()}{UNRECORDED[1:]}: {shown}. A new sweep measures this again.")
    return remarks


def _examples(store: Store, cells: Sequence[StoredCell], curves: Curves) -> tuple[Example, ...]:
    """Return some instructions with their answers at three lams, first those where following differs between the lams.

    The lams are the first, the last, and the best few-shot one (or the middle one). Checked instructions are preferred.
    """
    lams = curves.lams
    best = lams[int(means(curves.skill).argmax())] if curves.skill else lams[0]
    third = lams[len(lams) // 2] if best in (lams[0], lams[-1]) else best
    groups = [group for group in _by_work(cells).values() if issubclass(WORKLOADS[group[0].kind].result, AnsweredItem)]
    if not groups:
        return ()
    keys = {c.lam: c.key for c in min(groups, key=lambda group: list(WORKLOADS).index(group[0].kind))}
    answers = {lam: store.results(keys[lam]) for lam in (lams[0], third, lams[-1])}

    def followed(result: AnsweredItem) -> bool | None:
        return result.followed if isinstance(result, FollowedItem) else None

    first = answers[lams[0]]
    order = sorted(range(len(first)), key=lambda i: -len({followed(a[i]) for a in answers.values()}))
    return tuple(
        Example(first[i].instruction, tuple((lam, a[i].output, followed(a[i])) for lam, a in answers.items()))
        for i in order[:_EXAMPLES]
    )


def _identities(cells: Sequence[StoredCell]) -> str:
    """Return the first digits of each model's identity, by lam."""
    found = {c.lam: str(c.inputs["identity"])[:16] for c in cells if "identity" in c.inputs}
    return ", ".join(f"lam {lam:g} {mark}" for lam, mark in sorted(found.items())) or "not recorded"


def _seed_line(facts: Mapping[str, Any]) -> tuple[str, str]:
    seed, seeds = facts["seed"], facts.get("seeds", 1)
    if seed is None or seeds == 1:
        return "seed for exemplars", str(seed)
    return "seeds for exemplars", f"{seed} to {seed + seeds - 1}: each item with {seeds} draws of exemplars"


def _exemplars(cells: Sequence[StoredCell]) -> str | None:
    """Return what there is to say about the draw of exemplars where no task has any, else None."""
    shots = {c.inputs.get("work", {}).get("shots") for c in cells if c.kind == TaskWorkload.kind}
    return "no exemplars" if shots == {0} else None


def _setting(
    facts: Mapping[str, Any],
    cells: Sequence[StoredCell],
    series: Mapping[Measure, Sequence[Series]],
    curves: Curves,
) -> tuple[tuple[str, str], ...]:
    versions = {f"{k} {v}" for c in cells for k, v in c.environment.items() if k not in ("platform", "python")}
    started, seconds = min(c.started for c in cells), sum(c.seconds for c in cells)
    inputs = cells[0].inputs
    lines = [
        ("pair", str(facts["pair"])),
        ("parameters", f"{facts['parameters'] / 1e6:.1f} million"),
        ("weights", ", ".join(dict.fromkeys(c.type for c in cells))),
        ("schedule", str(facts["schedule"] or "the same lam for every tensor")),
        *(
            (m.items, ", ".join(m.count.format(name=s.name, n=s.n) for s in series[m]))
            for m in MEASURES
            if m.items and series.get(m)
        ),
    ]
    forms = {control["form"] for control in _controls(cells) if control["form"]}
    if forms:
        lines.append(("length control", ", ".join(sorted(forms))))
    if facts.get("system"):
        lines.append(("system prompt", str(facts["system"])))
    if facts.get("template_args"):
        lines.append(("template arguments", json.dumps(facts["template_args"], ensure_ascii=False)))
    if facts.get("date") and any("date" in c.inputs.get("work", {}) for c in cells):
        lines.append(("date in prompts", str(facts["date"])))
    return (
        *lines,
        *([_seed_line(facts)] if curves.tasks else []),
        ("intervals", intervals_in_words(curves, _exemplars(cells))),
        ("versions", ", ".join(sorted(versions))),
        ("machine", ", ".join(sorted({str(c.environment.get("platform")) for c in cells}))),
        ("fingerprints", ", ".join(f"{end} {inputs.get(end, 'not recorded')[:16]}" for end in ("base", "instruct"))),
        ("identity", _identities(cells)),
        ("measured", f"{datetime.fromtimestamp(started, timezone.utc):%Y-%m-%d}, {seconds:.0f} s of work"),
    )
