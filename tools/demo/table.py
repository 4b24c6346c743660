"""Print the model card's tables for pairs trained with several seeds: python -m tools.demo table DIR [DIR...]

Each DIR has base/ and instruct/ as `tools.demo train` writes them. The lam is chosen on dev and reported on test. The
last lines compare it with both ends over all seeds, with an interval that covers other seeds and other words.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pa_lite.checkpoints.pairs import Pair
from pa_lite.statistics import Mean, Spread, mean_over_tasks, spread_of_average, spread_of_mean, t_quantile, unit_sums
from pa_lite.study.curves import Curves, Values, estimates, means
from pa_lite.study.demo import measure_demo
from tools.demo.world import read_rows

DATA = Path(__file__).resolve().parents[2] / "models" / "demo" / "data"


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


def gaps(curves: Curves, lam: float, other: float) -> list[Values]:
    """Return for every task its items' accuracy at a lam minus that at another."""
    a, b = curves.lams.index(lam), curves.lams.index(other)
    return [t.values[a] - t.values[b] for t in curves.tasks]


def difference(curves: Curves, lam: float, other: float) -> Mean:
    """Few-shot accuracy at a lam minus that at another, paired by item, averaged over tasks."""
    return mean_over_tasks([g.tolist() for g in gaps(curves, lam, other)])


def queries(curves: Curves) -> list[str]:
    """Return the word that every test item asks about, over all tasks: items about the same word are correlated."""
    rows = [read_rows(DATA, t.name.removeprefix("demo_"), "test") for t in curves.tasks]
    assert [len(r) for r in rows] == [t.n for t in curves.tasks]
    return [row["query"] for task in rows for row in task]


def spread_over_words(found: Sequence[Values], words: Sequence[str]) -> Spread:
    """Return the spread of the average over tasks of their items' means, with the items of a word as one cluster.

    Source: the cluster-robust variance of a mean, of each item's part in the average.
    """
    parts = np.concatenate([(g - g.mean()) / (len(g) * len(found)) for g in found])
    numbers = np.unique(words, return_inverse=True)[1]
    sums, _ = unit_sums(parts, numbers)
    n = len(sums)
    return Spread(float(np.sqrt(sums @ sums * n / (n - 1))), n - 1.0, n)


def over_seeds(found: Sequence[Sequence[Values]], words: Sequence[str]) -> tuple[float, float, float]:
    """Return the mean difference over seeds and its 95% interval, for other seeds and other words.

    `found` is [seeds][tasks] of [items]. The variances over seeds and over words add up, which counts their interaction
    twice, so the interval is rather too wide; degrees of freedom by Satterthwaite (1946).
    """
    values = [float(np.mean([g.mean() for g in seed])) for seed in found]
    average = [np.mean(task, axis=0) for task in zip(*found, strict=True)]
    both = spread_of_average([spread_of_mean(values), spread_over_words(average, words)])
    half = t_quantile(0.975, both.df) * 2 * both.stderr  # of the sum, not of the average
    return float(np.mean(values)), float(np.mean(values)) - half, float(np.mean(values)) + half


def told(name: str, d: Mean) -> str:
    return f"{name} {100 * d.value:+.1f} (s.e. {100 * d.stderr:.1f})"


def best(curves: Curves) -> float:
    """Return the lam of the highest few-shot accuracy, the first of equals."""
    return curves.lams[int(means(curves.tasks).argmax())]


def main() -> None:
    """Print for each pair its test table and the lam chosen on dev; then the differences over all pairs."""
    against: dict[str, list[list[Values]]] = {"base": [], "instruct": []}
    words: list[str] = []
    for folder in map(Path, sys.argv[1:]):
        pair = Pair(name=str(folder), base=folder / "base", instruct=folder / "instruct")
        chosen, test = best(measure_demo(pair, "dev")), measure_demo(pair)
        words = queries(test)
        print(f"\n### {folder}\n")
        print("\n".join(table(test)))
        print(f"\nchosen on dev: lam {chosen:g}; on test:")
        for name, end in (("base", 0.0), ("instruct", 1.0)):
            print(told(f"minus {name}", difference(test, chosen, end)))
            against[name].append(gaps(test, chosen, end))
        print(
            told("best on test minus instruct", difference(test, best(test), 1.0)), f"at lam {best(test):g}", flush=True
        )
    for name, found in against.items():
        if len(found) > 1:
            value, low, high = (100 * x for x in over_seeds(found, words))
            print(f"over {len(found)} seeds, minus {name}: {value:+.1f} (95% interval {low:+.1f} to {high:+.1f})")


if __name__ == "__main__":
    main()
