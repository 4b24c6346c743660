"""The bound on a merge's memory holds with vocabularies of realistic size. Peaks are measured on Linux only."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from pa_lite.ggml.container import read_gguf_header
from tools.bench.runs import BenchError
from tools.bench.vocabulary import make_pair, make_tokenizer, run_merge

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is known on Linux only")
BOUND = 128  # MB; json.loads of any of these tokenizer.json files takes more, and twice as much with the interpreter


@pytest.fixture(scope="module", params=["byte-level", "sentencepiece", "model"])
def pair(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("vocabulary")
    config = make_tokenizer(folder / "tokenizer", request.param, 120_000, 3000, indented=True)
    return make_pair(folder, folder / "tokenizer", config)


def test_the_bound_holds_and_the_estimate_is_close(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out, bound = tmp_path / "m.gguf", ("--max-memory", f"{BOUND}M")
    plan = run_merge("plan", pair, "-o", out, *bound, "--dry-run", "--json")
    assert plan.printed["problems"] == []
    assert plan.peak <= BOUND * 1e6
    merge = run_merge("merge", pair, "-o", out, *bound)
    assert merge.peak <= BOUND * 1e6
    assert len(read_gguf_header(out).metadata["tokenizer.ggml.tokens"].value) == 120_000
    assert merge.peak <= plan.printed["memory"] <= 1.15 * merge.peak


def test_a_bound_that_is_too_small_is_rejected_and_the_suggested_one_holds(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "m.gguf"
    small = ("--max-memory", "60M")
    plan = run_merge("plan", pair, "-o", out, *small, "--dry-run", "--json")
    (problem,) = plan.printed["problems"]
    assert problem.startswith("--max-memory 60M is not enough: this merge needs ")
    needed = int(problem.removesuffix("M.").rpartition(" ")[2])
    with pytest.raises(BenchError, match="--max-memory 60M is not enough"):
        run_merge("merge", pair, "-o", out, *small)
    merge = run_merge("merge", pair, "-o", out, "--max-memory", f"{needed}M")
    assert merge.peak <= needed * 1e6


def test_many_lams_share_one_vocabulary(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Eleven files must not hold eleven copies of the vocabulary in memory."""
    one = run_merge("one", pair, "-o", tmp_path / "m.gguf", "--threads", "1")
    lams = ",".join(str(i / 20) for i in range(11))
    eleven = run_merge("eleven", pair, "-o", tmp_path, "--threads", "1", "--lam", lams)
    assert len(list(tmp_path.glob("*.gguf"))) == 12
    assert eleven.peak <= one.peak + 8e6
