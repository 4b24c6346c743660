"""The bound on a merge's memory, with vocabularies of the size of real ones. Linux only, as peaks are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from pa_lite.ggml.container import read_gguf_header
from tools.bench.runs import BenchError
from tools.bench.vocabulary import make_pair, make_tokenizer, run_merge

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is known on Linux alone")
BOUND = 128  # MB; json.loads of each of these tokenizer.json takes more on its own, twice with the interpreter


@pytest.fixture(scope="module", params=["byte-level", "sentencepiece", "model"])
def pair(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("vocabulary")
    config = make_tokenizer(folder / "tokenizer", request.param, 120_000, 3000, indented=True)
    return make_pair(folder, folder / "tokenizer", config)


def test_the_bound_holds_and_the_estimate_is_near(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out, bound = tmp_path / "m.gguf", ("--max-memory", f"{BOUND}M")
    plan = run_merge("plan", pair, "-o", out, *bound, "--dry-run", "--json")
    assert plan.printed["problems"] == []
    assert plan.peak <= BOUND * 1e6
    merge = run_merge("merge", pair, "-o", out, *bound)
    assert merge.peak <= BOUND * 1e6
    assert len(read_gguf_header(out).metadata["tokenizer.ggml.tokens"].value) == 120_000
    assert merge.peak <= plan.printed["memory"] <= 1.15 * merge.peak


def test_a_bound_that_cannot_hold_is_refused_with_one_that_does(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    small = ("--max-memory", "60M")
    plan = run_merge("plan", pair, "-o", out, *small, "--dry-run", "--json")
    (told,) = plan.printed["problems"]
    assert told.startswith("--max-memory 60M is too little: this merge needs ")
    needed = int(told.removesuffix("M.").rpartition(" ")[2])
    with pytest.raises(BenchError, match="--max-memory 60M is too little"):
        run_merge("merge", pair, "-o", out, *small)
    merge = run_merge("merge", pair, "-o", out, "--max-memory", f"{needed}M")
    assert merge.peak <= needed * 1e6


def test_many_lams_share_one_vocabulary(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """A header for each of eleven files would hold eleven vocabularies."""
    one = run_merge("one", pair, "-o", tmp_path / "m.gguf", "--threads", "1")
    lams = ",".join(str(i / 20) for i in range(11))
    eleven = run_merge("eleven", pair, "-o", tmp_path, "--threads", "1", "--lam", lams)
    assert len(list(tmp_path.glob("*.gguf"))) == 12
    assert eleven.peak <= one.peak + 8e6
