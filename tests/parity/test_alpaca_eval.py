"""Compare with alpaca_eval, in a separate environment: win rates, loading of our files, length control.

PA_LITE_ALPACA_EVAL_PYTHON is that environment's interpreter.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import pa_lite
from pa_lite.alpaca.annotations import read_annotations
from pa_lite.alpaca.outputs import to_json
from pa_lite.alpaca.win_rate import FULL, MINIMAL, WinRate, find_length_data, win_rate
from pa_lite.engine.model import EngineOptions
from tests.cli.test_cli import run
from tests.support.alpaca_files import SHARED, annotation_rows, write_data_set, write_rows

pytestmark = pytest.mark.parity

# the data set that it would download is in a folder
_RATES = """
import json, pathlib, sys
import alpaca_eval.metrics.glm_winrate as glm
folder, *files = sys.argv[1:]
glm.hf_hub_download = lambda **asked: str(pathlib.Path(folder) / asked["filename"])
out = []
for path in files:
    for form in ("length_controlled_minimal", "length_controlled_v1"):
        rows = json.loads(pathlib.Path(path).read_text("utf-8"))
        found = glm.get_length_controlled_winrate(rows, glm_name=form, save_weights_dir=None)
        out.append({k: float(v) for k, v in found.items()})
print("RESULT " + json.dumps(out))
"""
# its complete evaluation, with a judge that finds every pair equal
_EVALUATE = """
import json, sys
import alpaca_eval
from alpaca_eval.annotators import PairwiseAnnotator
class Draws(PairwiseAnnotator):
    def __init__(self, annotators_config):
        self.input_keys = ["instruction"]
    def __call__(self, pairs):
        return pairs.assign(preference=1.5).to_dict(orient="records")
board, rows = alpaca_eval.evaluate(
    sys.argv[1], sys.argv[2], Annotator=Draws, fn_metric="get_winrate", sort_by="win_rate", output_path=None,
    precomputed_leaderboard=None, is_return_instead_of_print=True,
)
print("RESULT " + json.dumps([board.index.tolist(), board["avg_length"].tolist(), rows]))
"""


@pytest.fixture(scope="module")
def peer() -> str:
    python = os.environ.get("PA_LITE_ALPACA_EVAL_PYTHON")
    if not python:
        pytest.skip("set PA_LITE_ALPACA_EVAL_PYTHON to an interpreter that has alpaca-eval")
    return python


def ask(peer: str, code: str, *words: object) -> Any:
    done = subprocess.run([peer, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (result,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return json.loads(result.removeprefix("RESULT "))


def assert_equal(got: WinRate, theirs: dict[str, float], form: str, points: float) -> None:
    for name in ("win_rate", "standard_error", "discrete_win_rate", "n_wins", "n_wins_base", "n_draws", "n_total"):
        assert getattr(got, name) == pytest.approx(theirs[name], abs=1e-9), name
    assert got.length_controlled_form == form
    assert got.length_controlled is not None
    assert got.length_controlled.value == pytest.approx(theirs["length_controlled_winrate"], abs=points)
    assert got.length_controlled.stderr == pytest.approx(theirs["lc_standard_error"], abs=0.01)


def test_win_rates_of_generated_annotations(peer: str, tmp_path: Path) -> None:
    """Annotations of many sizes and tendencies, with draws and null preferences, in both forms."""
    folder = write_data_set(tmp_path / "data", 400)
    paths = []
    for seed, n in enumerate((30, 100, 250, 400)):
        rows = annotation_rows(n, seed)
        for row in rows[5::23]:
            row["preference"] = [None, 0, 1, 2][seed]
        paths.append(write_rows(tmp_path / f"{n}.json", rows))
    theirs = iter(ask(peer, _RATES, folder, *paths))
    for path in paths:
        read = read_annotations(path)
        assert_equal(win_rate(read), next(theirs), MINIMAL, 0.05)
        assert_equal(win_rate(read, *find_length_data(read, "full", folder)), next(theirs), FULL, 0.05)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} does not exist")
def test_win_rates_of_published_annotations(peer: str, tmp_path: Path) -> None:
    """The full form with invented difficulties: there is no local copy of the real ones."""
    outputs = json.loads((SHARED / "model_outputs_gpt4_1106_preview.json").read_text("utf-8"))
    folder = write_data_set(tmp_path / "data", len(outputs))
    write_rows(folder / "alpaca_eval.json", outputs)
    paths = sorted((SHARED / "annotations").glob("*.json"))
    theirs = iter(ask(peer, _RATES, folder, *paths))
    for path in paths:
        read = read_annotations(path)
        assert_equal(win_rate(read), next(theirs), MINIMAL, 0.05)
        full = win_rate(read, *find_length_data(read, "full", folder))
        # where rows are missing it uses another row's difficulty, we the instruction's own
        assert_equal(full, next(theirs), FULL, 0.05 if len(read.judgements) == len(outputs) else 0.5)


def test_alpaca_eval_reads_our_files(peer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """alpaca_eval loads and joins generate's outputs, and counts judge's annotations."""
    texts = ["What is the town of Suki?", "Greet me.", "What does Kedo keep?", "Größe? 日本 \u2028", 'Tell "more".']
    paths = []
    for lam in ("0", "1"):
        with pa_lite.load(f"demo@{lam}", EngineOptions(threads=1)) as model:
            made = model.generate(texts)
        paths.append(tmp_path / f"lam{lam}.json")
        paths[-1].write_text(to_json(made), "utf-8")
    names, lengths, rows = ask(peer, _EVALUATE, paths[1], paths[0])
    assert names == ["demo@1"]
    assert [r["instruction"] for r in rows] == texts
    for key, path in (("output_1", paths[0]), ("output_2", paths[1])):
        assert [r[key] for r in rows] == [r["output"] for r in json.loads(path.read_text("utf-8"))]
    assert lengths == [sum(len(r["output_2"]) for r in rows) // len(rows)]

    target = tmp_path / "annotations.json"
    words = ["judge", paths[1], "--reference", paths[0], "--judge", "demo@0.5", "--threads", 1, "--allow-empty"]
    assert run(capsys, *words, "-o", target)[0] == 0
    minimal, _ = ask(peer, _RATES, write_data_set(tmp_path / "data", len(texts)), target)
    ours = win_rate(read_annotations(target))
    assert_equal(ours, minimal, MINIMAL, 0.05)
    assert ours.win_rate != 50
