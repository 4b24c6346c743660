"""Measure the embedded pair and write what comes with it: chart.svg, and curves.json for the server's page.

python -m tools.demo curves
"""

from __future__ import annotations

import json
from pathlib import Path

from pa_lite.checkpoints.pairs import find_pair, models_folder
from pa_lite.serving.page.study_view import study_view
from pa_lite.study.curves import Curves
from pa_lite.study.demo import TITLE, measure_demo
from pa_lite.study.report.matplotlib_charts import curves_svg
from pa_lite.system.atomic import write_text


def write_curves(curves: Curves, folder: Path) -> None:
    """Write both files of measured curves."""
    write_text(folder / "chart.svg", curves_svg(curves, TITLE))
    write_text(folder / "curves.json", json.dumps(study_view(curves), indent=1) + "\n")


def main() -> None:
    """Measure the pair and write the files."""
    write_curves(measure_demo(find_pair("demo")), models_folder() / "demo")


if __name__ == "__main__":
    main()
