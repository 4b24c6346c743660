"""A study's numbers as CSV, JSON and in lm-eval's format. CSV cells that a spreadsheet would run are escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from pa_lite.errors import InputError
from pa_lite.sanitize import csv_cell, without_nonfinite
from pa_lite.statistics import Mean, spread_of_mean
from pa_lite.study.comparisons import Best, Difference, holm
from pa_lite.study.curves import Curves
from pa_lite.study.measures import AGREEMENT
from pa_lite.study.records import ScoredItem
from pa_lite.study.results import planned_cells
from pa_lite.study.results_file import damaged
from pa_lite.study.sentences import stand_ins
from pa_lite.study.store import Store
from pa_lite.study.summary import Reading, StudySummary, against_ends, comparisons, conclusion, readings, table
from pa_lite.study.workloads import WORKLOADS, TaskWorkload
from pa_lite.tasks.results import add_numbers, empty_document


def to_csv(rows: Iterable[Mapping[str, float | str | None]]) -> str:
    """Return a CSV file's content: a header and one line per row; numbers in full, None and NaN empty."""
    lines: list[str] = []
    names: list[str] = []
    for row in rows:
        if not lines:
            names = list(row)
            lines.append(",".join(map(csv_cell, names)))
        lines.append(",".join(_cell(row[name]) for name in names))
    return "".join(f"{line}\n" for line in lines)


def _cell(value: float | str | None) -> str:
    if value is None or value != value:
        return ""
    return csv_cell(value) if isinstance(value, str) else repr(value)


def _reading(reading: Reading) -> dict[str, Any]:
    """Return a reading as a JSON object; the keys of `Best` are null where no lam is the best.

    `text` is there only where a text chose the lam.
    """
    best = dict.fromkeys(field.name for field in fields(Best)) if reading.best is None else asdict(reading.best)
    if best["text"] is None:
        del best["text"]
    return {"name": reading.name, "goal": asdict(reading.goal), **best, "sentence": reading.sentence}


def to_document(study: StudySummary) -> dict[str, Any]:
    """Return a study as one JSON document: averages with n and standard error, differences, readings, setting.

    `comparisons` says for few-shot accuracy and following whether the lams differ measurably, and how many items would
    show a difference of 2 points; and the same for what was measured without labels, which `unlabelled` lists.
    """
    curves = study.curves
    out = {
        "pair": study.pair,
        "type": study.type,
        "lams": list(curves.lams),
        "conclusion": conclusion(curves),
        "readings": [_reading(r) for r in readings(curves)],
        "comparisons": {name: asdict(found) for name, found in comparisons(curves).items()},
        "averages": table(curves),
        "differences": difference_rows(against_ends(curves)),
        "tasks": [
            {
                "name": t.name,
                "area": t.area,
                "n": t.n,
                "majority": t.majority,
                "chance": t.chance,
                "clusters": len(set(t.clusters)) if t.clusters else None,
            }
            for t in curves.tasks
        ],
        **_unlabelled(curves),
        "setting": dict(study.setting),
        "remarks": list(study.remarks),
        "kept_stale": [asdict(kept) for kept in study.kept],
        "judge_signs": list(curves.judge_signs),
        "judge_check": None if curves.judge_check is None else asdict(curves.judge_check),
    }
    strict: dict[str, Any] = without_nonfinite(out)
    return strict


def _unlabelled(curves: Curves) -> dict[str, Any]:
    """Return what was measured without labels, as `unlabelled`, and what stands in for what; nothing without any."""
    found = [(measure, series) for measure, series in curves.unlabelled() if series is not None]
    if not found:
        return {}
    rows = [
        {
            "name": series.name,
            "measure": measure.group,
            "n": series.n,
            "unit": measure.unit or None,
            "clusters": len(set(series.clusters)) if series.clusters else None,
        }
        for measure, series in found
    ]
    has_agreement = curves.compliance is not None and curves.compliance_measure is AGREEMENT
    return {"unlabelled": rows, "stand_ins": stand_ins(bool(curves.skill) and not curves.tasks, has_agreement)}


def difference_rows(against: Mapping[str, Mapping[str, Sequence[Difference]]]) -> list[dict[str, float | str]]:
    """Return differences from base and instruct as rows: group, end (`against`), and the fields of `Difference`.

    `family` names the tests that `p_corrected` is corrected for; `p_corrected_file` is corrected for those of all rows.
    """
    rows: list[dict[str, float | str]] = [
        {"group": group, "against": end, **asdict(d), "family": f"{group} against {end}, {len(found)} lams"}
        for group, ends in against.items()
        for end, found in ends.items()
        for d in found
    ]
    whole = holm([d.p for ends in against.values() for found in ends.values() for d in found])
    return [{**row, "p_corrected_file": p} for row, p in zip(rows, whole, strict=True)]


def reading_rows(found: Sequence[Reading]) -> list[dict[str, float | str | None]]:
    """Return readings as rows: name, lam and the fields of `Best`, its intervals as three columns, and the sentence."""
    rows: list[dict[str, float | str | None]] = []
    for reading in found:
        row: dict[str, float | str | None] = {"name": reading.name}
        for name in ("lam", "low", "high"):
            row[name] = None if reading.best is None else getattr(reading.best, name)
        row["ties"] = None if reading.best is None else " ".join(f"{lam:g}" for lam in reading.best.ties)
        names = ["few_shot", "gain_over_base", "gain_over_instruct"]
        if any(each.best is not None and each.best.text is not None for each in found):
            names.insert(1, "text")
        for name in names:
            each = None if reading.best is None else getattr(reading.best, name)
            row[name] = None if each is None else each.value
            row[f"{name}_low"] = None if each is None else each.low
            row[f"{name}_high"] = None if each is None else each.high
        rows.append({**row, "sentence": reading.sentence})
    return rows


def item_rows(store: Store) -> Iterator[dict[str, float | str | None]]:
    """Yield every finished item of the study as last run: kind, name, type, lam, item number, value, output.

    A prompt whose answer instruct gave has two rows, of the kinds `agreement` and `answer-nats`. Where items count by
    their length, as those of text, there is also a column `weight`.

    `stale` says how the inputs of a kept result (--keep-stale) differ from the study's; it is empty for others. `seed`
    is that of the exemplars before a task's item; it is None for other kinds.
    """
    kept, first, cells = store.kept(), store.facts().get("seed"), planned_cells(store)
    is_weighted = any(WORKLOADS[cell.kind].is_weighted for cell in cells)
    for cell in cells:
        workload, n = WORKLOADS[cell.kind], cell.n_items // cell.seeds
        type_, lam = (cell.type, cell.lam) if workload.is_along_lam else (None, None)
        seeds = None if first is None or workload is not TaskWorkload else range(first, first + cell.seeds)
        for number, result in enumerate(store.results(cell.key)):
            for kind, value in workload.values(result).items():
                yield {
                    "kind": kind, "name": cell.name, "type": type_, "lam": lam, "item": number % n,
                    "value": value, "output": result.output, "stale": "; ".join(kept.get(cell.key, ())),
                    "seed": None if seeds is None else seeds[number // n],
                    **({"weight": workload.weight(result)} if is_weighted else {}),
                }  # fmt: skip


def lm_eval_document(store: Store, weight_type: str, lam: float) -> dict[str, Any]:
    """Return the tasks of one lam in the format of lm-eval's results file, with a `pa_lite` key added.

    With several draws of exemplars, a number is the average over them; its error is over items alone, as lm-eval's.

    What was measured without labels is left out: the format has results of tasks only. Raises InputError when no task
    is finished at that lam.
    """
    wanted = (weight_type, lam, TaskWorkload.kind)
    cells = [c for c in planned_cells(store) if (c.type, c.lam, c.kind) == wanted and c.summary is not None]
    if not cells:
        raise InputError(f"{store.path.parent}: has no finished task at lam {lam:g} with type {weight_type}.")
    facts, kept = store.facts(), store.kept()
    out = empty_document()
    for cell in cells:
        results: list[ScoredItem] = store.results(cell.key)
        keys = results[0].metrics.keys()
        if any(r.metrics.keys() != keys for r in results):
            raise damaged(store.path, f"table items: not all records of cell {cell.key:.12} have the same metrics")
        numbers, summary = {}, cell.summary or {}
        for key in keys:
            values = np.reshape([float(r.metrics[key]) for r in results], (cell.seeds, -1)).mean(axis=0).tolist()
            full = key if "," in key else f"{key},none"
            numbers[full] = Mean(sum(values) / len(values), spread_of_mean(values, summary.get("clusters")).stderr)
        work = cell.inputs.get("work", {})
        version = work.get("spec", "")[:16]
        n = cell.n_items // cell.seeds
        add_numbers(out, cell.name, numbers, (n, n), version, work.get("shots"))
        out["group_subtasks"][cell.name] = []
    out["config"] = {
        "model": "pa-lite", "model_args": f"{facts['pair']}@{lam:g} as {weight_type}", "limit": facts["limit"],
        "fewshot_seed": facts["seed"],
    }  # fmt: skip
    out["pa_lite"] = {
        "pair": facts["pair"], "lam": lam, "type": weight_type, "environment": cells[0].environment,
        "identity": cells[0].inputs.get("identity", ""),
        "kept_stale": {c.name: list(kept[c.key]) for c in cells if c.key in kept},
    }  # fmt: skip
    return out
