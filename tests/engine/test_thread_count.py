"""The number of threads follows the load of other programs."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pa_lite.engine import thread_count
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.requests import make_requests
from pa_lite.engine.scoring import score_requests
from pa_lite.engine.thread_count import ThreadCount, Usage, read_usage
from pa_lite.system.machine import cores


class Machine:
    """A fake machine; `advance` moves its clock, while programs use a number of cores."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, n_cores: int) -> None:
        self.clock = self.own = self.all = 0.0
        monkeypatch.setattr(thread_count, "cores", lambda: n_cores)
        monkeypatch.setattr(time, "monotonic", lambda: self.clock)

    def read(self) -> Usage:
        return Usage(self.clock, self.own, self.all)

    def advance(self, own: float, others: float, seconds: float = 0.5) -> None:
        self.clock += seconds
        self.own += own * seconds
        self.all += (own + others) * seconds


def test_a_busy_program_takes_one_thread_for_as_long_as_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 2)
    count = ThreadCount(0, machine.read)
    seen = []
    for own, others in ((2, 0), (1.33, 0.67), (1, 1), (1, 1), (1, 0.3), (1, 0), (2, 0)):
        machine.advance(own, others)
        seen.append(count.measure())
    assert seen == [2, 1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("n_cores", "others", "threads"),
    [
        (8, 0.0, 8),
        (8, 0.2, 8),
        (8, 0.9, 7),
        (8, 1.1, 7),
        (8, 3.8, 4),
        (8, 7.9, 1),
        (8, 12.0, 1),
        (2, 5.0, 1),
        (1, 3.0, 1),
    ],
)
def test_partly_used_cores_count_in_part(
    monkeypatch: pytest.MonkeyPatch, n_cores: int, others: float, threads: int
) -> None:
    machine = Machine(monkeypatch, n_cores)
    count = ThreadCount(0, machine.read)
    machine.advance(1, others)
    assert count.measure() == threads


def test_a_load_at_the_threshold_does_not_oscillate(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 4)
    count = ThreadCount(0, machine.read)
    seen = []
    for others in itertools.islice(itertools.cycle((0.3, 0.4)), 20):
        machine.advance(3, others)
        seen.append(count.measure())
    assert set(seen) == {4}
    machine.advance(3, 0.5)
    assert count.measure() == 3
    for others in (0.3, 0.4, 0.3):
        machine.advance(3, others)
        assert count.measure() == 3


def test_load_is_not_measured_more_often_than_the_clock_resolves(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 2)
    count = ThreadCount(0, machine.read)
    machine.advance(0, 2, seconds=0.01)
    assert count.measure() == 2
    machine.advance(0, 2, seconds=0.2)
    assert count.measure() == 1


def test_an_explicit_number_of_threads_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 2)
    count = ThreadCount(2, machine.read)
    machine.advance(0, 2)
    assert count.measure() == 2


def test_all_threads_are_used_where_load_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert read_usage() is None
    assert ThreadCount(0).measure() == cores()


def _usage() -> Usage:
    usage = read_usage()
    assert usage is not None
    return usage


@pytest.fixture
def busy_program() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_load_of_other_programs_is_measured(busy_program: subprocess.Popen[bytes]) -> None:
    before, start = _usage(), os.times()
    while time.monotonic() - before.clock < 1.0:  # this process computes too, and must not be counted
        pass
    after, end = _usage(), os.times()
    others = (after.all - before.all) - (after.own - before.own)
    assert after.own - before.own == pytest.approx(end.user + end.system - start.user - start.system, abs=0.1)
    psutil = pytest.importorskip("psutil")
    used = sum(psutil.Process(busy_program.pid).cpu_times()[:2])
    assert others >= 0.5 * min(used, 0.5)


@pytest.mark.parametrize("cache_type", ["F32", "F16"])
def test_the_number_of_threads_does_not_change_results(tiny_ggufs: dict[str, Path], cache_type: str) -> None:
    scores = []
    for threads in (1, 2, 3, 4):
        with Model(tiny_ggufs["F16"], EngineOptions(threads=threads, gpu_layers=0, cache_type=cache_type)) as model:
            requests = make_requests(model, "One two three four five six seven.", [" eight", " nine ten", " a"])
            scores.append(score_requests(model, requests))
    assert scores.count(scores[0]) == len(scores)


def test_each_batch_uses_the_current_number_of_threads(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F16"], EngineOptions(gpu_layers=0)) as model:
        numbers = itertools.cycle((1, 2, 2, 1))  # the first of each pair is for a new context, the second for its batch

        class Changing(ThreadCount):
            def measure(self) -> int:
                return next(numbers)

        set_numbers: list[int] = []
        lib = model.lib

        class Seen:
            def __getattr__(self, name: str) -> object:
                return getattr(lib, name)

            def llama_set_n_threads(self, handle: object, n: int, n_batch: int) -> None:
                set_numbers.append(n)
                assert n == n_batch
                lib.llama_set_n_threads(handle, n, n_batch)
                assert lib.llama_n_threads(handle) == n

        model.lib, model.thread_count = Seen(), Changing(2)
        requests = make_requests(model, "One two three.", [" four", " five"])
        changing = score_requests(model, requests) + score_requests(model, requests)
        model.lib, model.thread_count = lib, ThreadCount(1)
        assert changing == score_requests(model, requests) * 2
        assert set(set_numbers) == {1, 2}
