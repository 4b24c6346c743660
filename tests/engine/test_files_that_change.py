"""Model files that cannot be read, or change while llama.cpp uses them, give one error and no result."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pa_lite.alpaca.outputs import OutputsTarget, write_outputs
from pa_lite.alpaca.prompts import Prompt
from pa_lite.cli.mapped import report_unreadable_maps
from pa_lite.engine.generation import GenerationOptions
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.readable import check_readable
from pa_lite.errors import CheckpointError, InputChangedError
from tests.support.ggufs import split_gguf

ONE = EngineOptions(threads=1)
linux = pytest.mark.skipif(sys.platform != "linux", reason="maps are filled at once on Linux alone")


@pytest.fixture
def model_file(tiny_ggufs: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copyfile(tiny_ggufs["F32"], tmp_path / "model.gguf"))


def test_a_file_that_changes_during_use_is_an_error(model_file: Path) -> None:
    with Model(model_file, ONE) as model:
        with model.context(64):
            pass
        with pytest.raises(InputChangedError, match=r"model.gguf: was changed or deleted"), model.context(64):
            os.utime(model_file, ns=(0, 1))
        with pytest.raises(ZeroDivisionError), model.context(64):
            raise ZeroDivisionError  # the earlier error is reported
        model_file.unlink()
        with pytest.raises(InputChangedError), model.context(64):
            pass


def test_a_changed_part_of_a_split_model_is_an_error(model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    parts = split_gguf(model_file, tmp_path / "parts", 3)
    for changed in parts:
        with Model(parts[0], ONE) as model:
            with model.context(64):
                pass
            with pytest.raises(InputChangedError, match=changed.name), model.context(64):
                os.utime(changed, ns=(0, changed.stat().st_mtime_ns + 1))


@linux
def test_every_part_of_a_split_model_is_read_before_it_is_mapped(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parts").mkdir()
    parts = split_gguf(model_file, tmp_path / "parts", 2)
    read: list[Path] = []
    monkeypatch.setattr("pa_lite.engine.model.check_readable", read.append)
    Model(parts[0], ONE).close()
    assert read == parts


def test_answers_of_a_changed_file_are_not_kept(model_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with Model(model_file, ONE) as model, pytest.raises(InputChangedError):
        write_outputs(
            model, [Prompt("a", "x"), Prompt("b", "x")], "m", OutputsTarget(out / "a.json"),
            GenerationOptions(max_tokens=2), progress=lambda *_: os.utime(model_file, ns=(0, 1)),
        )  # fmt: skip
    assert list(out.iterdir()) == []


@linux
def test_an_unreadable_part_is_reported_before_the_file_is_mapped(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_readable(model_file)
    send = os.sendfile

    def sick(out: int, source: int, offset: int, count: int) -> int:
        if offset:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return send(out, source, offset, min(count, 4096))

    monkeypatch.setattr(os, "sendfile", sick)
    with pytest.raises(CheckpointError, match=r"model.gguf: cannot be read at byte 4096: Input/output error"):
        Model(model_file, ONE)
    monkeypatch.setattr("pa_lite.engine.readable.available_memory", lambda: 1000)
    Model(model_file, ONE).close()  # a file larger than memory is not read twice


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="a signal of POSIX")
def test_a_read_error_in_a_mapped_file_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "mapped").write_bytes(bytes(1 << 20))
    code = """
import ctypes, mmap, os, sys
from pa_lite.cli.mapped import report_unreadable_maps
with report_unreadable_maps(), open(sys.argv[1], "r+b") as f:
    held = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)
    os.truncate(sys.argv[1], 0)
    start = ctypes.c_char.from_buffer(held)
    ctypes.CDLL(None).memchr(ctypes.byref(start), 7, 1 << 20)  # without the GIL, like llama.cpp
"""
    ended = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "mapped"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: a memory-mapped file, most likely the model, can no longer be read")
    assert ended.stderr.count("\n") == 1


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="a signal of POSIX")
def test_signal_handlers_are_restored_after_the_block() -> None:
    code = """
import json, signal
from pa_lite.cli.mapped import report_unreadable_maps
with report_unreadable_maps():
    inside = callable(signal.getsignal(signal.SIGBUS))
print(json.dumps([inside, signal.getsignal(signal.SIGBUS) == signal.SIG_DFL, signal.set_wakeup_fd(-1)]))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout) == [True, True, -1]
    before = signal.getsignal(signal.SIGBUS)
    with report_unreadable_maps():
        pass
    assert signal.getsignal(signal.SIGBUS) == before
