"""The demonstration: a whole study on the embedded pair, offline, in under a minute."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from pa_lite.checkpoints.pairs import Pair, find_pair
from pa_lite.errors import OutputError
from pa_lite.progress import Progress
from pa_lite.study.curves import Curves
from pa_lite.study.export import to_document
from pa_lite.study.plan import StudyOptions
from pa_lite.study.report.matplotlib_charts import curves_svg
from pa_lite.study.report.page import to_html
from pa_lite.study.results_file import FILE
from pa_lite.study.summary import StudySummary
from pa_lite.study.sweep import sweep_pair
from pa_lite.system.atomic import write_errors, write_text
from pa_lite.system.markers import temporary_folder
from pa_lite.tasks.scoring import ScoreOptions

TITLE = "The embedded pair between base and instruct"
DEMO_FOLDER = "pa-lite-demo"  # the default output folder
LAMS = tuple(i / 10 for i in range(11))


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """The study, and the paths of the files written."""

    study: StudySummary
    results: Path
    chart: Path
    report: Path


def _options(split: str) -> StudyOptions:
    return StudyOptions(lams=LAMS, tasks=("demo",), follow=f"demo:{split}", score=ScoreOptions(split=split))


def measure_demo(pair: Pair, split: str = "test", progress: Progress | None = None) -> Curves:
    """Measure the demo's lams, tasks and instructions on a pair: the embedded one, or one from another seed."""
    with temporary_folder() as folder:
        return sweep_pair(pair, _options(split), folder, progress).curves


def run_demo(folder: Path, progress: Progress | None = None) -> DemoResult:
    """Sweep the embedded pair over lam 0, 0.1, ..., 1 in the folder: the study, results.json, chart.svg, report.html.

    The folder is created if necessary; results of an earlier run in it are reused. Raises OutputError when it cannot be
    written, or holds files of these names but no study.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is not a folder. Name another with -o.")
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("results.json", "chart.svg", "report.html")]
    existing = [path for path in paths if os.path.lexists(path)]
    if existing and not (folder / FILE).exists():
        raise OutputError(f"{existing[0]}: exists already, not from a demo. Name another folder with -o.")
    study = sweep_pair(find_pair("demo"), _options("test"), folder, progress)
    out = DemoResult(study=study, results=paths[0], chart=paths[1], report=paths[2])
    write_text(out.results, json.dumps(to_document(out.study), indent=1) + "\n")
    write_text(out.chart, curves_svg(out.study.curves, TITLE))
    write_text(out.report, to_html(out.study))
    return out
