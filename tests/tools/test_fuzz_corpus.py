"""The fuzzers' corpus: every kept input is read again, so that fixed bugs stay fixed."""

from __future__ import annotations

import tracemalloc

import pytest

pytest.importorskip("resource", reason="the judge's limits are POSIX's")

from tools.fuzz import corpus
from tools.fuzz.oracle import Judge, strict
from tools.fuzz.targets import TARGETS

_BYTES, _BYTES_A_BYTE = 4 << 20, 300  # limit of what Python and numpy allocate: fixed, and for each byte of input


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_breaks_no_promise(name: str) -> None:
    inputs = corpus.load(name)
    assert inputs, f"{corpus.path_of(name)} has no inputs"
    with Judge(TARGETS[name]) as judge, strict():
        for data in inputs:
            judge.judge(data)


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.bounded])
def test_readers_take_memory_in_proportion_to_the_file(name: str) -> None:
    with Judge(TARGETS[name]) as judge, strict():
        for data in corpus.load(name):
            tracemalloc.start()
            judge.judge(data)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < _BYTES + _BYTES_A_BYTE * len(data), data[:80]


def test_the_corpus_is_small() -> None:
    files = [path for path in corpus.CORPUS.iterdir() if path.is_file()]
    assert {path.stem for path in files} == set(TARGETS)
    assert sum(path.stat().st_size for path in files) < 300_000
    assert sum(len(corpus.load(name)) for name in TARGETS) < 400
