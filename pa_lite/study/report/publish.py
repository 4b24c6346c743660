"""Writing of a study's reports: page, figures, CSV and lm-eval files."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from pa_lite.alpaca.known import read_known
from pa_lite.errors import InputError, OutputError
from pa_lite.ggml.quant_types import type_name
from pa_lite.study.export import item_rows, lm_eval_document, to_csv
from pa_lite.study.report.matplotlib_charts import figure_names, write_png
from pa_lite.study.report.page import is_page, to_html
from pa_lite.study.results import load_study
from pa_lite.study.store import Store, has_results, read_store
from pa_lite.study.summary import StudySummary
from pa_lite.system.atomic import check_target, write_errors, write_text
from pa_lite.untrusted.safe_names import file_name

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Where to write the page (None: report.html in the run folder) and further files; `type` is the weight type.

    `calibration` is a file of known preferences, with which the study's judge is compared.
    """

    output: Path | None = None
    png: Path | None = None
    csv: Path | None = None
    lm_eval: Path | None = None
    type: str | None = None
    calibration: Path | None = None
    force: bool = False

    def __post_init__(self) -> None:
        """Convert paths from strings, and a type in any case."""
        for name in ("output", "png", "csv", "lm_eval", "calibration"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(value))
        if self.type is not None:
            object.__setattr__(self, "type", type_name(self.type))


def publish(run: Path, options: ReportOptions | None = None) -> tuple[list[Path], StudySummary]:
    """Write the reports of the study in a run folder; return the files written and the study.

    Raises InputError when there are no results, OutputError when a file exists or cannot be written.
    """
    options = options or ReportOptions()
    if not has_results(run):
        raise InputError(f"{run}: has no study results. Run `pa-lite sweep` first, or name its run folder.")
    known = None if options.calibration is None else read_known(options.calibration)
    page = options.output or run / "report.html"
    # an earlier page in the run folder may be replaced without `force`
    check_target(page, options.force or (options.output is None and is_page(page)))
    if options.csv is not None:
        check_target(options.csv, options.force, "--csv")
    with read_store(run) as store:
        study = load_study(store, options.type, known)
        if options.lm_eval is not None:
            _check_tasks(run, study)
        for folder in (options.png, options.lm_eval):
            if folder is not None:
                _make(folder)
        name = file_name(f"{study.pair}_{study.type}")
        lam_names = {lam: f"{lam:g}" for lam in study.curves.lams}
        if len(set(lam_names.values())) < len(lam_names):  # lams that differ only after six digits
            lam_names = {lam: repr(lam) for lam in lam_names}
        pages = {lam: f"results_{name}_{text}.json" for lam, text in lam_names.items()}
        names = {"--png": [f"{name}.png" for name in figure_names(study)], "--lm-eval": list(pages.values())}
        for option, folder in (("--png", options.png), ("--lm-eval", options.lm_eval)):
            for name in names[option]:
                if folder is not None:
                    check_target(folder / name, options.force, option)
        write_text(page, to_html(study))
        written = [page]
        if options.png is not None:
            written += write_png(study, options.png)
        if options.csv is not None:
            _write_items(store, options.csv)
            written.append(options.csv)
        if options.lm_eval is not None:
            for lam, name in pages.items():
                path = options.lm_eval / name
                write_text(path, json.dumps(lm_eval_document(store, study.type, lam), indent=2) + "\n")
                written.append(path)
    return written, study


def _check_tasks(run: Path, study: StudySummary) -> None:
    """Raise InputError if the study has no task for lm-eval's format; log what else that leaves out."""
    if not study.curves.tasks:
        raise InputError(f"{run}: has no task, and --lm-eval writes results of tasks only. Omit --lm-eval.")
    if any(series is not None for _, series in study.curves.unlabelled()):
        _log.warning("--lm-eval leaves out what was measured without labels: its format has results of tasks only")


def write_items(run: Path, path: Path) -> None:
    """Write every finished item of the study in a run folder as CSV. Raises PaLiteError."""
    with read_store(run) as store:
        _write_items(store, path)


def _write_items(store: Store, path: Path) -> None:
    write_text(path, to_csv(item_rows(store)))


def _make(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is not a folder. Name another.")
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
