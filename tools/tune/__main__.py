"""Tune on thirty rows of each demo family, drawn many times, and compare with the family's own test split.

The rows are drawn from the dev split, so that no test item has a part in any choice. Each draw is a tuning as
`pa-lite tune` does it, up to the choice of the lam; the accuracy at every lam is that of the whole test split, once.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pa_lite.checkpoints.pairs import models_folder
from pa_lite.study.curves import means
from pa_lite.study.plan import StudyOptions, plan_study
from pa_lite.study.sweep import sweep_pair
from pa_lite.study.tune.run import Searched, plan_tuning, search_lams
from pa_lite.tasks.spec import find_tasks
from pa_lite.tasks.task_file import task_text

LAMS = tuple(i / 10 for i in range(11))
AS_TABLES = ("town", "job", "pet", "colour", "kind")  # opposite has fewer rows in its dev split
AS_TASKS = ("lookup", "labels")  # their rows contain their exemplars
ROWS, POINTS = 30, 0.02


@dataclass(frozen=True)
class Draw:
    """One tuning: what it found, and the test accuracy of the family at every lam."""

    found: Searched
    truth: Any
    seconds: float

    @property
    def regret(self) -> float:
        return self._regret(self.found.choice.lam)

    def _regret(self, lam: float) -> float:
        return float(self.truth.max() - self.truth[LAMS.index(lam)])

    @property
    def is_good(self) -> bool:
        return self.regret <= POINTS + 1e-9

    @property
    def window_is_good(self) -> bool:
        return min(map(self._regret, self.found.choice.window)) <= POINTS + 1e-9

    @property
    def highest_is_good(self) -> bool:
        return self._regret(self.found.choice.highest) <= POINTS + 1e-9

    @property
    def text_is_good(self) -> bool:
        return self._regret(LAMS[int(np.argmin(self.found.bits))]) <= POINTS + 1e-9


def options_of(family: str, seed: int, folder: Path) -> StudyOptions:
    """Write a draw of rows of a family as a user has them; return the options of the tuning."""
    lines = (models_folder() / f"demo/data/{family}.jsonl").read_text("utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] == "dev"]
    taken = [rows[i] for i in sorted(np.random.default_rng([seed, len(family)]).permutation(len(rows))[:ROWS])]
    if family in AS_TABLES:
        path = folder / f"{family}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["question", "answer"])
            writer.writerows([row["query"], row["choices"][row["answer"]]] for row in taken)
        return StudyOptions(lams=LAMS, examples=path)  # type: ignore[arg-type]
    table = folder / f"{family}.jsonl"
    table.write_text("".join(json.dumps({**row, "split": "test"}) + "\n" for row in taken), "utf-8")
    (spec,) = find_tasks([f"demo_{family}"])
    path = folder / f"{family}.toml"
    path.write_text(task_text(replace(spec, name=family, folder=folder, data={"test": table.name}), folder), "utf-8")
    return StudyOptions(lams=LAMS, tasks=(str(path),))


def draw(family: str, seed: int, truth: Any) -> Draw:
    """Tune on one draw of rows."""
    with tempfile.TemporaryDirectory() as name:
        folder, start = Path(name), time.perf_counter()
        tuning = plan_tuning("demo", options_of(family, seed, folder), None, "")
        found = search_lams(tuning, folder / "run")
        return Draw(found, truth, time.perf_counter() - start)


def shares(folder: Path) -> Mapping[str, float]:
    """Return the share of a sweep's time that the first pass of a tuning takes, and its share of the tokens."""
    tuning = plan_tuning("demo", options_of("town", 0, folder), None, "")
    found = search_lams(tuning, folder / "run")
    start = time.perf_counter()
    again = replace(tuning, plan=replace(tuning.plan, options=replace(tuning.plan.options, lams=LAMS)))
    sweep_pair("demo", plan_study("demo", options_of("town", 0, folder)).options, folder / "sweep")
    sweep = time.perf_counter() - start
    start = time.perf_counter()
    search_lams(again, folder / "again")
    return {
        "first_pass_share_of_tokens": tuning.first_share,
        "search_share_of_evaluations": len(found.measured) / len(LAMS),
        "tuning_share_of_time": (time.perf_counter() - start) / sweep,
    }


def summary(draws: Sequence[Draw]) -> dict[str, Any]:
    """Return the figures of a family."""
    return {
        "within_2_points": sum(d.is_good for d in draws),
        "window_has_such_a_lam": sum(d.window_is_good for d in draws),
        "highest_point": sum(d.highest_is_good for d in draws),
        "text_alone": sum(d.text_is_good for d in draws),
        "mean_regret_points": round(100 * float(np.mean([d.regret for d in draws])), 2),
        "largest_regret_points": round(100 * max(d.regret for d in draws), 2),
        "flat": sum(d.found.choice.is_flat for d in draws),
        "lams": [d.found.choice.lam for d in draws],
        "gains": [round(d.found.choice.gain, 4) for d in draws],
        "seconds": round(float(np.mean([d.seconds for d in draws])), 2),
        "of": len(draws),
    }


def main() -> None:
    """Print one JSON document: for each family, in how many draws the lam is within 2 points of the best."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="draws of rows of each family")
    parser.add_argument("--families", default=",".join((*AS_TABLES, *AS_TASKS)), help="families, comma-separated")
    parser.add_argument("--work", type=Path, help="folder for the study of the test splits, which is reused")
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.work or Path(temporary)
        tasks = StudyOptions(lams=LAMS, tasks=("demo",))
        curves = sweep_pair("demo", tasks, work / "test").curves
        truth = {series.name.removeprefix("demo_"): means([series]) for series in curves.tasks}
        out: dict[str, Any] = {"shares": dict(shares(Path(temporary)))}
        for family in chosen.families.split(","):
            out[family] = summary([draw(family, seed, truth[family]) for seed in range(chosen.seeds)])
            out[family]["test"] = [round(100 * float(value), 1) for value in truth[family]]
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
