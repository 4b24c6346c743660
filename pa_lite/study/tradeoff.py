"""The trade-off along lam: few-shot accuracy and instructions followed at each lam, and what may be said of them."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pa_lite.checkpoints import Location, open_checkpoints
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.follow.instructions import FollowResult, Instruction, follow_instructions
from pa_lite.merge.plan import PlanOptions, plan_merge
from pa_lite.merge.write import write_merge
from pa_lite.statistics import Estimate, mean_over_tasks, significant_z
from pa_lite.tasks.scoring import ScoreOptions, SuiteResult, score_tasks
from pa_lite.tasks.spec import TaskSpec

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Point:
    """Both measurements at one lam."""

    lam: float
    few_shot: SuiteResult
    follow: FollowResult


@dataclass(frozen=True)
class TradeOff:
    """The measured points in order of lam; items and instructions are the same at every point."""

    points: tuple[Point, ...]

    @property
    def best(self) -> Point:
        """The point with the highest few-shot accuracy, the first of equals."""
        return max(self.points, key=lambda p: p.few_shot.accuracy.value)

    def difference(self, left: Point, right: Point) -> Estimate:
        """Few-shot accuracy at `left` minus that at `right`, paired by item, averaged over tasks."""
        rows = zip(left.few_shot.tasks, right.few_shot.tasks, strict=True)
        return mean_over_tasks(
            [[float(a.right) - float(b.right) for a, b in zip(x.items, y.items, strict=True)] for x, y in rows]
        )

    def conclusion(self) -> str:
        """One plain sentence, drawn from the numbers alone.

        The best lam was picked among n: a difference counts as clear when it exceeds the two-sided 5% quantile that is
        corrected for n - 1 comparisons (Bonferroni), else as within noise.
        """
        first, last, best = self.points[0], self.points[-1], self.best
        z = significant_z(len(self.points) - 1)

        def against(other: Point, name: str) -> str:
            if other is best:
                return ""
            d = self.difference(best, other)
            sure = "clearly" if d.value > z * d.stderr else "but within noise"
            return f", {100 * d.value:.1f} points above {name} (lam {other.lam:g}; {sure})"

        told = f"Few-shot accuracy is highest at lam {best.lam:g}" + against(last, "instruct") + against(first, "base")
        shown = [p for p in self.points if p in (first, best, last)]
        followed = ", ".join(f"{100 * p.follow.accuracy:.0f}% at lam {p.lam:g}" for p in shown)
        return f"{told}. Instructions followed: {followed}."


def measure_tradeoff(
    base: Location,
    instruct: Location,
    lams: Sequence[float],
    tasks: Sequence[TaskSpec],
    instructions: Sequence[Instruction],
    options: ScoreOptions | None = None,
    max_tokens: int = 32,
    workers: int = 1,
    progress: Progress | None = None,
) -> TradeOff:
    """Merge at every lam (F16, one pass over the inputs, temporary files), score the tasks, follow the instructions.

    `workers` lams are measured at a time, each on one thread: right for models so small that threads would wait for
    each other. `progress` gets (steps done, steps in all). Raises what merging, scoring and generating raise.
    """
    left, right = open_checkpoints([base, instruct])
    plan = plan_merge(left, right, PlanOptions("F16"))
    steps, done, lock = 2 * len(lams) + 1, 0, threading.Lock()

    def step() -> None:
        nonlocal done
        with lock:
            done += 1
            if progress is not None:
                progress(done, steps)

    def measure(lam: float, path: Path) -> Point:
        with Model(path, EngineOptions(threads=1)) as model:
            few_shot = score_tasks(model, tasks, options)
            step()
            follow = follow_instructions(model, instructions, max_tokens)
        path.unlink()
        step()
        return Point(lam, few_shot, follow)

    with tempfile.TemporaryDirectory(prefix="pa-lite-") as folder:
        outputs = [(lam, Path(folder) / f"{i}.gguf") for i, lam in enumerate(lams)]
        write_merge(plan, outputs)
        step()
        with ThreadPoolExecutor(workers) as pool:
            try:
                return TradeOff(tuple(pool.map(measure, *zip(*outputs, strict=True))))
            finally:
                pool.shutdown(cancel_futures=True)
