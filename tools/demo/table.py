"""Print the model card's tables for pairs trained with several seeds: python -m tools.demo table DIR [DIR...]

Each DIR has base/ and instruct/ as `tools.demo train` writes them. The lam is chosen on dev and reported on test.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from pa_lite.checkpoints.pairs import Pair
from pa_lite.statistics import Mean, mean_over_tasks
from pa_lite.study.curves import Curves, estimates, means
from pa_lite.study.demo import measure_demo


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def percent(found: Mean) -> str:
    return f"{100 * found.value:.1f} ± {100 * found.stderr:.1f}"


def table(curves: Curves) -> list[str]:
    """Return one line for each lam: the averages with standard errors, then each family's accuracy."""
    tasks, follow = curves.tasks, curves.follow
    assert follow is not None
    n = sum(t.n for t in tasks)
    names = [f"{t.name.removeprefix('demo_')} ({t.n})" for t in tasks]
    head = ["lam", f"few-shot % (n {n})", f"followed % (n {follow.n})", *names]
    lines = [row(head), row(["---"] * len(head))]
    averages = zip(curves.lams, estimates(tasks), estimates([follow]), strict=True)
    for i, (lam, few, followed) in enumerate(averages):
        own = [f"{100 * t.values[i].mean():.1f}" for t in tasks]
        lines.append(row([f"{lam:.1f}", percent(few), percent(followed), *own]))
    for name in ("majority", "chance"):
        guesses = [100 * float(getattr(t, name) or 0) for t in tasks]
        lines.append(row([name, f"{np.mean(guesses):.1f}", "", *(f"{g:.1f}" for g in guesses)]))
    return lines


def difference(curves: Curves, lam: float, other: float) -> Mean:
    """Few-shot accuracy at a lam minus that at another, paired by item, averaged over tasks."""
    a, b = curves.lams.index(lam), curves.lams.index(other)
    return mean_over_tasks([t.values[a] - t.values[b] for t in curves.tasks])


def told(name: str, d: Mean) -> str:
    return f"{name} {100 * d.value:+.1f} (s.e. {100 * d.stderr:.1f})"


def best(curves: Curves) -> float:
    """Return the lam of the highest few-shot accuracy, the first of equals."""
    return curves.lams[int(means(curves.tasks).argmax())]


def main() -> None:
    """Print for each pair its test table and the lam chosen on dev; then the differences over all pairs."""
    against: dict[str, list[float]] = {"base": [], "instruct": []}
    for folder in map(Path, sys.argv[1:]):
        pair = Pair(name=str(folder), base=folder / "base", instruct=folder / "instruct")
        chosen, test = best(measure_demo(pair, "dev")), measure_demo(pair)
        print(f"\n### {folder}\n")
        print("\n".join(table(test)))
        base, instruct = difference(test, chosen, 0.0), difference(test, chosen, 1.0)
        on_test = told("best on test minus instruct", difference(test, best(test), 1.0))
        print(f"\nchosen on dev: lam {chosen:g}; on test minus base and minus instruct:")
        print(f"{told('base', base)}, {told('instruct', instruct)}; {on_test} at lam {best(test):g}")
        against["base"].append(base.value)
        against["instruct"].append(instruct.value)
    for name, values in against.items():
        if len(values) > 1:
            spread = float(np.std(values, ddof=1) / np.sqrt(len(values)))
            mean = 100 * float(np.mean(values))
            print(f"over {len(values)} seeds, minus {name}: {mean:+.1f} (s.e. over seeds {100 * spread:.1f})")


if __name__ == "__main__":
    main()
