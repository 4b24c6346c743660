"""Inputs that change or become unreadable during a merge are detected, and no mixed output is written."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import pa_lite
from pa_lite.checkpoints import open_checkpoint, readers
from pa_lite.checkpoints.fingerprint import fingerprint
from pa_lite.errors import CheckpointError, InputChangedError, OutputError
from pa_lite.ggml.kernels import ByteArray
from pa_lite.merging import output_file, stream, write
from pa_lite.merging.plan import plan_merge
from pa_lite.merging.write import MergeOptions, write_merge
from tests.support import tiny
from tests.support.interrupts import interrupted

RESUME = MergeOptions(threads=1, resume=True)
Pair = tuple[Path, Path]


@pytest.fixture
def pair(tiny_pair: Pair, tmp_path: Path) -> Pair:
    """A copy that a test may damage."""
    sides = tmp_path / "inputs" / "base", tmp_path / "inputs" / "instruct"
    for source, target in zip(tiny_pair, sides, strict=True):
        shutil.copytree(source, target)
    (tmp_path / "out").mkdir()
    return sides


def weights(folder: Path) -> Path:
    return sorted(folder.glob("*.safetensors"))[0]


def overwrite(file: Path, start: int, n: int) -> None:
    """Change bytes in place; header and size stay the same."""
    with file.open("r+b") as f:
        f.seek(start)
        raw = np.frombuffer(f.read(n), np.uint8) ^ 1
        f.seek(start)
        f.write(raw.tobytes())


def overwrite_the_end(file: Path) -> None:
    overwrite(file, file.stat().st_size - 100, 100)


def replace(file: Path) -> None:
    other = file.with_suffix(".new")
    shutil.copyfile(file, other)
    overwrite_the_end(other)
    other.replace(file)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


@pytest.mark.parametrize("change", [overwrite_the_end, replace, cut, Path.unlink])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("resume", [False, True])
def test_an_input_that_changes_during_a_merge_is_detected(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], side: int, resume: bool
) -> None:
    file, changes = weights(pair[side]), [change]

    def meanwhile(_phase: str, done: int, _total: int, _unit: str) -> None:
        if done and changes:
            changes.pop()(file)

    monkeypatch.setattr(write, "_RECORD_SECONDS", 0.0)
    with pytest.raises(InputChangedError, match=file.name):
        pa_lite.merge(
            *pair, (0.5,), output=tmp_path / "out" / "x.gguf", options=MergeOptions(threads=1, resume=resume),
            progress=meanwhile,
        )  # fmt: skip
    assert not changes
    assert list((tmp_path / "out").iterdir()) == []  # not even partial files for --resume


def test_a_change_between_header_and_weights_is_detected(pair: Pair, tmp_path: Path) -> None:
    plan = plan_merge(open_checkpoint(pair[0]), open_checkpoint(pair[1]))
    overwrite_the_end(weights(pair[0]))
    with pytest.raises(InputChangedError, match="changed while being read"):
        write_merge(plan, [(0.5, tmp_path / "out" / "x.gguf")])
    assert list((tmp_path / "out").iterdir()) == []


def test_an_error_caused_by_a_change_reports_the_change(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = weights(pair[0])

    def encode(*_: object) -> object:
        overwrite_the_end(file)
        raise CheckpointError("non-finite values")

    monkeypatch.setattr(stream.BlockWorker, "encode", encode)
    with pytest.raises(InputChangedError, match=file.name):
        pa_lite.merge(*pair, (0.5,), output=tmp_path / "out" / "x.gguf")


def test_reading_an_input_is_not_a_change(pair: Pair, tmp_path: Path) -> None:
    file = weights(pair[0])
    seen: list[bytes] = []
    (merged,) = pa_lite.merge(
        *pair, (0.5,), output=tmp_path / "out" / "x.gguf", progress=lambda *_: seen.append(file.read_bytes())
    )
    assert merged.exists()
    assert len(set(seen)) == 1


@pytest.fixture(scope="module")
def large_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A pair of 7 million parameters: large enough for bytes between the samples of the fingerprint."""
    config = {**tiny.CONFIG, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6}
    folder = tmp_path_factory.mktemp("large")
    base = tiny.weights(1, config)
    tiny.write_checkpoint(folder / "base", base, config=config)
    tiny.write_checkpoint(folder / "instruct", tiny.weights(2, config, near=base), config=config)
    return folder / "base", folder / "instruct"


def test_resume_with_other_weights_and_the_same_header_starts_again(
    large_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = tmp_path / "base", tmp_path / "instruct"
    for source, target in zip(large_pair, pair, strict=True):
        shutil.copytree(source, target)
    out = tmp_path / "out" / "x.gguf"
    out.parent.mkdir()
    interrupted(pair, out, monkeypatch, RESUME, lam=0.5, blocks=25)
    assert len(out.with_name(".x.gguf.part.done").read_text("utf-8").splitlines()) > 3
    before = fingerprint(open_checkpoint(pair[0]))
    for file in sorted(pair[0].glob("*.safetensors")):
        size = file.stat().st_size
        for i in range(63):  # between any two samples of 4 KiB
            overwrite(file, (size - 4096) * i // 63 + 50000, 1000)
    assert fingerprint(open_checkpoint(pair[0])) == before
    pa_lite.merge(*pair, (0.5,), output=out, options=RESUME)
    (fresh,) = pa_lite.merge(*pair, (0.5,), output=tmp_path / "fresh.gguf")
    assert out.read_bytes() == fresh.read_bytes()


def test_a_failing_input_disk_is_reported_and_resume_keeps_the_merged_part(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sick, read, left = weights(pair[1]), readers.RandomFile._read, [0]
    monkeypatch.setattr(write, "_RECORD_SECONDS", 0.0)

    def failing(self: readers.RandomFile, view: memoryview, offset: int) -> int | None:
        left[0] -= self.path == sick
        if self.path == sick and left[0] < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(self, view, offset)

    with monkeypatch.context() as patch:
        patch.setattr(readers.RandomFile, "_read", failing)
        for options in (MergeOptions(threads=1), RESUME):
            left[0] = 6
            with pytest.raises(CheckpointError, match=rf"{sick.name}: cannot be read at byte \d+: Input/output error"):
                pa_lite.merge(*pair, (0.5,), output=tmp_path / "out" / "x.gguf", options=options)
            kept = {p.name for p in (tmp_path / "out").iterdir()}
            assert kept == ({".x.gguf.part", ".x.gguf.part.done"} if options.resume else set())
    (merged,) = pa_lite.merge(*pair, (0.5,), output=tmp_path / "out" / "x.gguf", options=RESUME)
    assert merged.read_bytes() == pa_lite.merge(*pair, (0.5,), output=tmp_path / "y.gguf")[0].read_bytes()


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="the file that gives real errors exists on Linux only")
def test_a_real_read_error_names_file_and_byte() -> None:
    buffer: ByteArray = np.empty(16, np.uint8)
    with (
        readers.RandomFile(Path("/proc/self/mem"), "r") as file,
        pytest.raises(CheckpointError, match=r"/proc/self/mem: cannot be read at byte 0: Input/output error"),
    ):
        file.read_into(buffer, 0)


@pytest.mark.parametrize("resume", [False, True])
def test_a_target_that_another_process_finished_meanwhile_is_kept(
    tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    target, open_part = tmp_path / "x.gguf", output_file.PartialFile.open

    def late(self: output_file.PartialFile) -> None:
        open_part(self)
        target.write_bytes(b"another's")

    monkeypatch.setattr(output_file.PartialFile, "open", late)
    with pytest.raises(OutputError, match="exists already"):
        pa_lite.merge(*tiny_pair, (0.5,), output=target, options=MergeOptions(resume=resume))
    assert target.read_bytes() == b"another's"
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


def test_a_full_disk_says_how_to_resume(tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(output_file, "reserve", full)
    for options, message in ((RESUME, "continue with --resume"), (MergeOptions(), "nothing was left behind")):
        with pytest.raises(OutputError, match=message):
            pa_lite.merge(*tiny_pair, (0.5,), output=tmp_path / "x.gguf", options=options)
        assert list(tmp_path.iterdir()) == []  # no tensor was complete
