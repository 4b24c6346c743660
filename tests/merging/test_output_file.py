"""Killed merges leave no partial file under the target's name, and resuming gives the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import pa_lite
from pa_lite.checkpoints import readers
from pa_lite.errors import OutputError
from pa_lite.ggml.container import HeaderBytes
from pa_lite.merging import output_file
from pa_lite.merging.output_file import PartialFile
from pa_lite.merging.write import MergeOptions
from pa_lite.system.markers import is_free
from tests.support import tiny
from tests.support.interrupts import interrupted
from tests.support.reports import Reports

KILLS = 30
RESUME = MergeOptions(threads=1, resume=True)


@pytest.fixture(scope="module")
def large_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A pair of 26 million parameters, which takes some tenths of a second to merge."""
    config = {**tiny.CONFIG, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6}
    folder = tmp_path_factory.mktemp("large")
    base = tiny.weights(1, config)
    tiny.write_checkpoint(folder / "base", base, config=config)
    tiny.write_checkpoint(folder / "instruct", tiny.weights(2, config, near=base), config=config)
    return folder / "base", folder / "instruct"


def start(pair: tuple[Path, Path], target: Path, *more: str) -> subprocess.Popen[str]:
    """Start a merge in a child process that records each tensor at once and is slow enough to be hit anywhere."""
    code = (
        "import sys, pa_lite.cli\nfrom pa_lite.merging import stream as s, write as w\n"
        "w._RECORD_SECONDS = 0\n"
        "s.BLOCK_VALUES = 1 << 14\n"
        "pa_lite.cli.main(sys.argv[1:])\n"
    )
    words = ["merge", *map(str, pair), "--lam", "0.7", "--type", "Q8_0", "-o", str(target), *more]
    return subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists() and process.poll() is None:
        time.sleep(0.001)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_kills_at_random_moments_leave_nothing_broken(large_pair: tuple[Path, Path], tmp_path: Path) -> None:
    (expected,) = pa_lite.merge(*large_pair, (0.7,), output=tmp_path / "expected.gguf")
    whole = expected.read_bytes()
    target, rng = tmp_path / "out" / "x.gguf", random.Random(0)
    target.parent.mkdir()
    part = target.with_name(".x.gguf.part")
    landed = 0
    for _ in range(KILLS):
        process = start(large_pair, target, "--resume")
        wait_for(part, process)
        time.sleep(rng.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if target.exists():
            assert target.read_bytes() == whole
            target.unlink()
        else:
            landed += 1
            assert {p.name for p in target.parent.iterdir()} <= {".x.gguf.part", ".x.gguf.part.done"}
    assert landed > KILLS // 3, "too few kills came in time"
    process = start(large_pair, target, "--resume")
    _, err = process.communicate()
    assert process.returncode == 0
    assert "error" not in err
    assert target.read_bytes() == whole
    assert [p.name for p in target.parent.iterdir()] == ["x.gguf"]


def test_resume_reads_only_what_is_missing(
    large_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "x.gguf"
    interrupted(large_pair, target, monkeypatch, RESUME)
    recorded = (tmp_path / ".x.gguf.part.done").read_text("utf-8").splitlines()
    assert len(recorded) > 3
    seen = Reports()
    pa_lite.merge(*large_pair, (0.7,), output=target, options=RESUME, progress=seen)
    size = target.stat().st_size
    assert seen[0][1] > sum(1 for _ in recorded) * 100  # starts with what the partial file had
    assert seen[-1][1] < size
    (again,) = pa_lite.merge(*large_pair, (0.7,), output=tmp_path / "y.gguf")
    assert again.read_bytes() == target.read_bytes()


def test_without_resume_nothing_is_left(
    large_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(large_pair, tmp_path / "x.gguf", monkeypatch, MergeOptions())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["other", "cut", "none", "lonely"])
@pytest.mark.parametrize("options", [RESUME, MergeOptions()], ids=["resume", "restart"])
def test_a_partial_file_of_another_merge_is_not_continued(
    large_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, options: MergeOptions
) -> None:
    target = tmp_path / "x.gguf"
    interrupted(large_pair, target, monkeypatch, RESUME)
    part, journal = tmp_path / ".x.gguf.part", tmp_path / ".x.gguf.part.done"
    if damage == "cut":
        os.truncate(part, part.stat().st_size - 1000)
    if damage == "none":
        journal.unlink()
    if damage == "lonely":
        part.unlink()
    lam = 0.6 if damage == "other" else 0.7
    pa_lite.merge(*large_pair, (lam,), output=target, options=options)
    (again,) = pa_lite.merge(*large_pair, (lam,), output=tmp_path / "y.gguf")
    assert again.read_bytes() == target.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.gguf", "y.gguf"]


def test_a_partial_file_of_0_1_0_is_continued(
    large_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "x.gguf"
    interrupted(large_pair, target, monkeypatch, RESUME)
    journal = tmp_path / ".x.gguf.part.done"
    head, *names = journal.read_text("utf-8").splitlines()
    journal.write_text("\n".join([json.loads(head)["digest"], *names]) + "\n", "utf-8")  # its journal had no marker
    seen = Reports()
    pa_lite.merge(*large_pair, (0.7,), output=target, options=RESUME, progress=seen)
    assert seen[0][1] > len(names) * 100
    (again,) = pa_lite.merge(*large_pair, (0.7,), output=tmp_path / "y.gguf")
    assert again.read_bytes() == target.read_bytes()


ODD = ["link", "dangling link", "hard link", "folder", "named pipe", "another file", "empty file", "other GGUF"]


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes of POSIX")
@pytest.mark.parametrize("name", [".x.gguf.part", ".x.gguf.part.done"])
@pytest.mark.parametrize("kind", ODD)
def test_a_foreign_file_at_a_temporary_name_is_kept(
    tiny_pair: tuple[Path, Path], tmp_path: Path, name: str, kind: str
) -> None:
    folder, outside = tmp_path / "out", tmp_path / "outside"
    folder.mkdir()
    path = folder / name
    content = {"empty file": b"", "other GGUF": b"GGUF" + bytes(50_000)}.get(kind, b"mine")
    if kind in ("link", "hard link"):
        outside.write_bytes(content)
    if kind == "hard link":
        os.link(outside, path)
    elif kind.endswith("link"):
        path.symlink_to(outside)
    elif kind == "folder":
        path.mkdir()
    elif kind == "named pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    for options in (RESUME, MergeOptions(), MergeOptions(force=True)):
        with pytest.raises(OutputError, match=r"\.part(\.done)?: is in the way of x\.gguf: it (is a|has no marker)"):
            pa_lite.merge(*tiny_pair, (0.5,), output=folder / "x.gguf", options=options)
    assert [p.name for p in folder.iterdir()] == [name]
    if path.is_file() and not path.is_symlink():
        assert path.read_bytes() == content
    assert (outside.read_bytes() if outside.exists() else b"mine") == b"mine"
    assert outside.exists() is (kind in ("link", "hard link"))


def test_resume_of_several_lams_keeps_finished_files(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = pa_lite.merge(*tiny_pair, (0.2, 0.4), output=tmp_path)
    before, bytes_of_two = one.stat().st_mtime_ns, two.read_bytes()
    two.unlink()
    assert pa_lite.merge(*tiny_pair, (0.2, 0.4), output=tmp_path, options=RESUME) == [one, two]
    assert one.stat().st_mtime_ns == before
    assert two.read_bytes() == bytes_of_two
    one.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        pa_lite.merge(*tiny_pair, (0.2, 0.4), output=tmp_path, options=RESUME)


def test_resume_does_not_accept_a_file_of_another_alignment(tmp_path: Path) -> None:
    """Base's tokenizer decides how rows are aligned, and only the recipe in the metadata shows that."""
    base, instruct = tiny.write_pair(tmp_path / "pair")
    (target,) = pa_lite.merge(base, instruct, (0.5,), output=tmp_path / "x.gguf")
    assert pa_lite.merge(base, instruct, (0.5,), output=target, options=RESUME) == [target]
    definition = json.loads((base / "tokenizer.json").read_text("utf-8"))
    vocabulary = definition["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (base / "tokenizer.json").write_text(json.dumps(definition), "utf-8")
    with pytest.raises(OutputError, match="exists already"):
        pa_lite.merge(base, instruct, (0.5,), output=target, options=RESUME)


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
def test_a_second_process_on_the_same_target_is_rejected(large_pair: tuple[Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    process = start(large_pair, target)
    wait_for(tmp_path / ".x.gguf.part.done", process)  # created after the lock is taken
    process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(OutputError, match="another process is writing it"):
            pa_lite.merge(*large_pair, (0.7,), output=target)
    finally:
        process.send_signal(signal.SIGCONT)
    _, err = process.communicate()
    assert process.returncode == 0
    assert "error" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


def test_verify_finds_a_difference(
    tiny_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pa_lite.merge(*tiny_pair, (0.5,), output=tmp_path / "good.gguf", options=MergeOptions(verify=True))
    good = (tmp_path / "good.gguf").read_bytes()
    plain = pa_lite.merge(*tiny_pair, (0.5,), output=tmp_path / "plain.gguf")[0]
    assert plain.read_bytes() == good
    forget = readers.RandomFile.forget_cache

    def damage(self: readers.RandomFile) -> None:
        with self.path.open("r+b") as f:
            f.seek(-100, 2)
            f.write(b"\x55")
        forget(self)

    monkeypatch.setattr(readers.RandomFile, "forget_cache", damage)
    with pytest.raises(OutputError, match=r"verification failed: .* differs from what was written"):
        pa_lite.merge(*tiny_pair, (0.5,), output=tmp_path / "bad.gguf", options=MergeOptions(verify=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good.gguf", "plain.gguf"]


def is_ending(frame: FrameType | None) -> bool:
    """Return whether a frame runs within the end of a merge, where Ctrl-C is delayed."""
    while frame is not None and frame.f_code.co_filename == output_file.__file__:
        if frame.f_code.co_name in ("close", "partial_files"):
            return True
        frame = frame.f_back
    return False


def interrupted_at(line: int, run: Callable[[], None]) -> bool:
    """Call `run` and raise KeyboardInterrupt at its line-th line within PartialFile. Return whether it was reached.

    The end of the merge is skipped, because Ctrl-C is delayed there.
    """
    seen = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal seen
        if frame.f_code.co_filename != output_file.__file__ or is_ending(frame):
            return None
        if event == "line":
            seen += 1
            if seen == line:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_an_interrupt_at_any_line_leaves_nothing(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    def run() -> None:
        pa_lite.merge(*tiny_pair, (0.2, 0.7), output=tmp_path, options=MergeOptions(threads=1))

    line = 1
    while interrupted_at(line, run):
        assert list(tmp_path.iterdir()) == [], line
        line += 1
    assert line > 30  # both files were opened, written and finished while traced
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
def test_the_journal_is_locked_until_it_is_removed(
    tiny_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renamed file is not locked any more, so the journal's lock must keep other processes from starting."""
    rename, held = Path.replace, []

    def replace(self: Path, target: Path) -> Path:
        done = rename(self, target)
        held.append(not is_free(self.with_name(self.name + ".done")))
        with pytest.raises(OutputError, match="another process is writing it"):
            PartialFile(target, HeaderBytes((b"GGUF",)), 8, "other", resume=False).open()
        return done

    monkeypatch.setattr(Path, "replace", replace)
    pa_lite.merge(*tiny_pair, (0.2, 0.7), output=tmp_path)
    assert held == [True, True]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be replaced on Windows")
def test_a_file_that_replaced_the_temporary_one_does_not_become_the_output(
    tiny_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    part = tmp_path / ".x.gguf.part"

    def swap(_phase: str, _done: int, _total: int, _unit: str) -> None:
        if part.exists() and not part.is_symlink():
            part.unlink()
            part.symlink_to("/etc/hostname")

    with pytest.raises(OutputError, match="another program removed or replaced"):
        pa_lite.merge(*tiny_pair, (0.5,), output=tmp_path / "x.gguf", progress=swap)
    assert [p.name for p in tmp_path.iterdir()] == [part.name]
    assert part.is_symlink()


def test_a_file_that_cannot_be_renamed_is_removed(
    tiny_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, _target: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OutputError, match="cannot be written: Permission denied"):
        pa_lite.merge(*tiny_pair, (0.2, 0.5), output=tmp_path)
    assert list(tmp_path.iterdir()) == []
