"""Prints the model card's tables for pairs trained with several seeds: python tools/demo_table.py DIR [DIR...]

Each DIR holds base/ and instruct/ as train_demo_pair.py writes them. The lam is chosen on dev and reported on test.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from pa_lite.checkpoints.pairs import Pair
from pa_lite.statistics import Estimate
from pa_lite.study.demo import measure_demo
from pa_lite.study.tradeoff import TradeOff


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def percent(value: float, stderr: float) -> str:
    return f"{100 * value:.1f} ± {100 * stderr:.1f}"


def table(result: TradeOff) -> list[str]:
    """One line for each lam: the averages with standard errors, then each family's accuracy."""
    tasks = result.points[0].few_shot.tasks
    n = sum(t.n for t in tasks)
    names = [f"{t.task.removeprefix('demo_')} ({t.n})" for t in tasks]
    head = ["lam", f"few-shot % (n {n})", f"followed % (n {result.points[0].follow.n})", *names]
    lines = [row(head), row(["---"] * len(head))]
    for p in result.points:
        few = p.few_shot.accuracy
        cells = [f"{p.lam:.1f}", percent(few.value, few.stderr), percent(p.follow.accuracy, p.follow.stderr)]
        lines.append(row([*cells, *(f"{100 * t.accuracy:.1f}" for t in p.few_shot.tasks)]))
    lines.append(row(["majority", f"{100 * result.points[0].few_shot.majority:.1f}", "", *(
        f"{100 * t.majority:.1f}" for t in tasks)]))  # fmt: skip
    chance = 100 * float(np.mean([t.chance for t in tasks]))
    lines.append(row(["chance", f"{chance:.1f}", "", *(f"{100 * t.chance:.1f}" for t in tasks)]))
    return lines


def told(name: str, d: Estimate) -> str:
    return f"{name} {100 * d.value:+.1f} (s.e. {100 * d.stderr:.1f})"


def main() -> None:
    """For each pair its test table and the lam chosen on dev; then the differences over all pairs."""
    against: dict[str, list[float]] = {"base": [], "instruct": []}
    for folder in map(Path, sys.argv[1:]):
        pair = Pair(str(folder), folder / "base", folder / "instruct")
        dev, test = measure_demo(pair, "dev"), measure_demo(pair)
        at = {p.lam: p for p in test.points}
        chosen, first, last = at[dev.best.lam], test.points[0], test.points[-1]
        print(f"\n### {folder}\n")
        print("\n".join(table(test)))
        base, instruct = test.difference(chosen, first), test.difference(chosen, last)
        best = told("best on test minus instruct", test.difference(test.best, last))
        print(f"\nchosen on dev: lam {chosen.lam:g}; on test minus base and minus instruct:")
        print(f"{told('base', base)}, {told('instruct', instruct)}; {best} at lam {test.best.lam:g}")
        against["base"].append(base.value)
        against["instruct"].append(instruct.value)
    for name, values in against.items():
        if len(values) > 1:
            spread = float(np.std(values, ddof=1) / np.sqrt(len(values)))
            mean = 100 * float(np.mean(values))
            print(f"over {len(values)} seeds, minus {name}: {mean:+.1f} (s.e. over seeds {100 * spread:.1f})")


main()
