"""A file with which llama.cpp crashes, hangs or takes too much memory does so in a separate process: one error."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import pa_lite
from pa_lite.checkpoints import open_checkpoints
from pa_lite.cli import main
from pa_lite.engine import probe as module
from pa_lite.engine.in_memory import InMemoryModel
from pa_lite.engine.model import EngineOptions
from pa_lite.engine.model_reference import open_model
from pa_lite.engine.probe import ProbeLimits, limits_for, probe, probe_file
from pa_lite.errors import CheckpointError, EngineError
from pa_lite.ggml.metadata import array, string, uint32
from pa_lite.merging.plan import PlanOptions, plan_merge
from tests.engine.test_model import split
from tests.engine.test_refusals import changed, float32

AMPLE = ProbeLimits(30, 1 << 30)
ONE = EngineOptions(threads=1)


def children() -> set[int]:
    """Return the running child processes of this process."""
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text("ascii").split()))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for verdicts in an empty cache folder."""
    monkeypatch.setattr(module, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "probed"


def test_a_valid_file_passes(tiny_ggufs: dict[str, Path]) -> None:
    for path in tiny_ggufs.values():
        probe(path, AMPLE)


def test_a_file_that_crashes_llama_cpp_is_an_error(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    """Files that the checks of the header refuse, given to the probe without these checks."""
    twice = {"tokenizer.ggml.tokens": array("STRING", ["a"] * 320)}
    path = changed(tiny_ggufs["F32"], tmp_path / "twice.gguf", twice, {})
    before = children()
    with pytest.raises(CheckpointError, match="crashed while loading it") as caught:
        probe(path, AMPLE)
    message = str(caught.value)
    assert message.startswith(f"{path}: llama.cpp crashed while loading it (SIGABRT): llama-vocab.cpp:")
    assert "GGML_ASSERT(id_to_token.size() == token_to_id.size()) failed" in message
    assert "--no-probe" in message
    assert "\n" not in message
    assert children() == before

    path = changed(
        tiny_ggufs["F32"], tmp_path / "eps.gguf", {"llama.attention.layer_norm_rms_epsilon": float32(-1)}, {}
    )
    with pytest.raises(CheckpointError, match=r"SIGABRT.*GGML_ASSERT\(eps >= 0\.0f\) failed"):
        probe(path, AMPLE)  # crashes in the first decode, not while loading


def test_a_file_that_llama_cpp_refuses_is_an_error(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    path = changed(tiny_ggufs["F32"], tmp_path / "x.gguf", {"tokenizer.ggml.pre": string("mine")}, {})
    with pytest.raises(EngineError, match=r"cannot load it: .*unknown pre-tokenizer type: 'mine'"):
        probe(path, AMPLE)
    with pytest.raises(EngineError, match="cannot load it"):
        probe(tmp_path / "nothing.gguf", AMPLE)


def endless(source: Path, target: Path) -> Path:
    """Write a model with an RWKV vocabulary without tokens of one byte, with which llama.cpp never stops tokenising."""
    texts = [f"<unused{i}>" for i in range(320)]
    fields = {"tokenizer.ggml.model": string("rwkv"), "tokenizer.ggml.tokens": array("STRING", texts)}
    return changed(source, target, fields, {})


def test_a_file_that_takes_too_much_memory_is_an_error(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    path = endless(tiny_ggufs["F32"], tmp_path / "x.gguf")
    before = children()
    with pytest.raises(CheckpointError, match="needs more than 200 MB in addition to the file"):
        probe(path, ProbeLimits(60, 200_000_000))
    assert children() == before


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_memory_is_also_watched_by_the_parent(
    tiny_ggufs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child's own limit is lifted by changing the request."""
    asked = json.dumps

    def generous(value: object) -> str:
        return asked(value | {"memory": 1 << 40} if isinstance(value, dict) else value)

    monkeypatch.setattr(json, "dumps", generous)
    path = endless(tiny_ggufs["F32"], tmp_path / "x.gguf")
    with pytest.raises(CheckpointError, match="needs more than 300 MB in addition to the file"):
        probe(path, ProbeLimits(60, 300_000_000))


def test_a_file_that_takes_too_long_is_an_error(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    path, before = endless(tiny_ggufs["F32"], tmp_path / "x.gguf"), children()
    start = time.monotonic()
    with pytest.raises(CheckpointError, match="took more than 0 seconds"):
        probe(path, ProbeLimits(0.2, 1 << 40))
    assert time.monotonic() - start < 5
    assert children() == before


def test_limits_grow_with_the_file() -> None:
    small, large = limits_for(100_000_000), limits_for(40_000_000_000)
    assert small.seconds == pytest.approx(62)
    assert large.seconds == pytest.approx(860)
    assert large.memory - small.memory == pytest.approx(10e9, rel=0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_an_interrupt_leaves_no_process(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    path, before = endless(tiny_ggufs["F32"], tmp_path / "x.gguf"), children()
    threading.Timer(0.4, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        probe(path, ProbeLimits(60, 1 << 40))
    assert children() == before


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_the_worker_does_not_outlive_a_killed_program(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    path = endless(tiny_ggufs["F32"], tmp_path / "x.gguf")
    code = (
        "import sys; from pathlib import Path; from pa_lite.engine.probe import ProbeLimits, probe\n"
        "probe(Path(sys.argv[1]), ProbeLimits(60, 1 << 40))"
    )
    program = subprocess.Popen([sys.executable, "-c", code, str(path)])
    listed = Path(f"/proc/{program.pid}/task/{program.pid}/children")
    for _ in range(500):
        if worker := listed.read_text("ascii").split():
            break
        time.sleep(0.01)
    time.sleep(0.3)  # it has read its request
    program.kill()
    program.wait()
    for _ in range(500):
        try:
            state = Path(f"/proc/{worker[0]}/stat").read_text("ascii").rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":  # a zombie, as its parent is gone
            return
        time.sleep(0.01)
    raise AssertionError(f"process {worker[0]} is still there")


def test_a_file_is_probed_once(
    tiny_ggufs: dict[str, Path], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_ggufs["Q8_0"].read_bytes())
    tried: list[Path] = []
    real = probe

    def counted(file: Path, limits: ProbeLimits, descriptors: tuple[int, ...] = ()) -> None:
        tried.append(file)
        real(file, limits, descriptors)

    monkeypatch.setattr(module, "probe", counted)
    probe_file(path)
    probe_file(path)
    assert tried == [path]
    assert [json.loads(p.read_text("utf-8"))["identity"][0] for p in cache.iterdir()] == [str(path)]

    state = path.stat()
    path.write_bytes(path.read_bytes())  # written again, with the old times
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    probe_file(path)
    assert len(tried) == 2

    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "0.3.99")
    probe_file(path)
    assert len(tried) == 3  # another llama.cpp may behave differently


def test_every_part_of_a_split_model_counts(tiny_ggufs: dict[str, Path], tmp_path: Path, cache: Path) -> None:
    first, second = split(tiny_ggufs["F32"], tmp_path)
    probe_file(first)
    assert len(list(cache.iterdir())) == 1
    probe_file(first)
    assert len(list(cache.iterdir())) == 1
    second.write_bytes(second.read_bytes())
    probe_file(first)
    assert len(list(cache.iterdir())) == 2
    second.unlink()
    with pytest.raises(CheckpointError, match=r"m-00002-of-00002\.gguf: cannot be read: No such file or directory"):
        probe_file(first)


def test_files_refused_by_the_checks_start_no_process(
    tiny_ggufs: dict[str, Path], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "probe", lambda *_: pytest.fail("it was tried"))
    with pytest.raises(CheckpointError, match="no token for the byte"):
        probe_file(endless(tiny_ggufs["F32"], tmp_path / "x.gguf"))
    assert not cache.exists()


def test_a_failure_is_not_remembered(
    tiny_ggufs: dict[str, Path], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "check_loadable", lambda _header: None)
    path = endless(tiny_ggufs["F32"], tmp_path / "x.gguf")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="in addition to the file"):
            probe_file(path, ProbeLimits(60, 100_000_000))
    assert not cache.exists()


def test_old_verdicts_are_removed_and_verdicts_are_optional(
    tiny_ggufs: dict[str, Path], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 3)
    for i in range(5):
        module._remember([f"/m{i}"])
        os.utime(module._verdict([f"/m{i}"]), (i, i))
    assert {json.loads(p.read_text("utf-8"))["identity"][0] for p in cache.iterdir()} == {"/m2", "/m3", "/m4"}
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "cache_folder", lambda: tmp_path / "file" / "cache")
    probe_file(tiny_ggufs["Q8_0"])  # the folder cannot be created


@pytest.mark.skipif(os.name != "posix", reason="named pipes of POSIX")
def test_only_verdicts_are_removed_and_only_the_files_verdict_counts(
    tiny_ggufs: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 1)
    cache.mkdir(parents=True)
    for name in ("notes", "0" * 64):
        (cache / name).write_text("mine", "utf-8")
        os.utime(cache / name, (1, 1))
    for i in range(4):
        module._remember([f"/m{i}"])
    assert sorted(p.name for p in cache.iterdir() if p.read_bytes() == b"mine") == ["0" * 64, "notes"]
    assert [module._passed([f"/m{i}"]) for i in (0, 3)] == [False, True]
    other = module._verdict(["/other"])
    other.write_bytes(module._verdict(["/m3"]).read_bytes())
    assert not module._passed(["/other"])
    other.unlink()
    os.mkfifo(other)
    assert not module._passed(["/other"])
    tried: list[Path] = []
    monkeypatch.setattr(module, "probe", lambda path, *_: tried.append(path))
    (cache / "0").touch()
    probe_file(tiny_ggufs["Q8_0"])
    assert tried == [tiny_ggufs["Q8_0"]]


def test_files_are_probed_when_opened_by_reference(
    tiny_ggufs: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_model(str(tiny_ggufs["Q8_0"]), ONE):
        assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(module, "probe", lambda *_: pytest.fail("it was tried"))
    with open_model(str(tiny_ggufs["F16"]), EngineOptions(threads=1, probe=False)), pa_lite.load("demo@0.7", ONE):
        pass  # the embedded pair is merged in memory
    with open_model(str(tiny_ggufs["Q8_0"]), ONE):
        pass  # it was probed before


def test_a_merge_of_gguf_files_is_probed_once(
    tiny_pair: tuple[Path, Path], tiny_ggufs: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[int, ...]] = []
    real = probe

    def counted(path: Path, limits: ProbeLimits, descriptors: tuple[int, ...] = ()) -> None:
        tried.append(tuple(descriptors))
        real(path, limits, descriptors)

    monkeypatch.setattr(module, "probe", counted)
    base, instruct = open_checkpoints([str(tiny_ggufs["F16"]), str(tiny_ggufs["Q8_0"])])
    plan = plan_merge(base, instruct, PlanOptions(type="F16"))
    for lam in (0.3, 0.6):
        with InMemoryModel(plan, lam, ONE) as moved:
            moved.move(0.9)
            assert len(moved.model.tokenize("the")) > 0
    assert len(tried) == 1
    assert len(tried[0]) == moved.is_in_memory or not moved.is_in_memory
    assert [json.loads(p.read_text("utf-8"))["identity"][0] for p in cache.iterdir()] == ["merged"]
    base, instruct = open_checkpoints([str(folder) for folder in tiny_pair])
    with InMemoryModel(plan_merge(base, instruct, PlanOptions(type="F16")), 0.3, ONE):
        assert len(tried) == 1  # its metadata come from pa-lite


def test_the_command_line_reports_one_line(
    tiny_ggufs: dict[str, Path], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Without the checks of the header, as for a fault that they do not know yet."""
    path = endless(tiny_ggufs["F32"], tmp_path / "x.gguf")
    monkeypatch.setattr(module, "check_loadable", lambda _header: None)
    monkeypatch.setattr(module, "limits_for", lambda _size: ProbeLimits(60, 100_000_000))
    with pytest.raises(SystemExit) as e:
        main(["follow", str(path), "--set", "demo", "--threads", "1"])
    assert e.value.code == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert f"{path}: llama.cpp needs more than 100 MB" in lines[-1]


def test_a_probe_without_a_process_is_an_error(
    tiny_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(
        EngineError,
        match=r"cannot be tried in a separate process: no process can be started: .* --no-probe does without",
    ):
        probe(tiny_ggufs["F32"], AMPLE)


def test_sizes_that_do_not_match_tensors_are_refused(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    path = changed(tiny_ggufs["F32"], tmp_path / "x.gguf", {"llama.feed_forward_length": uint32(97)}, {})
    with pytest.raises(EngineError, match="has wrong shape"):
        probe(path, AMPLE)
