from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pa_lite.errors import OutputError
from pa_lite.system.atomic import check_space, check_target, whole_file, write_errors, write_text
from pa_lite.system.interrupts import uninterrupted
from pa_lite.system.markers import is_free, marker_of


def test_a_failing_writer_leaves_the_target_unchanged(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old", "utf-8")

    def write_half() -> None:
        with whole_file(target) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert target.read_text("utf-8") == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_write_text_replaces_the_file_atomically(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "größer\n")
    write_text(target, "new\n")
    assert target.read_bytes() == b"new\n"
    assert list(tmp_path.iterdir()) == [target]


def test_refused_targets_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("", "utf-8")
    with pytest.raises(OutputError, match=r"exists already. Use --force"):
        check_target(tmp_path / "there")
    check_target(tmp_path / "there", force=True)
    with pytest.raises(OutputError, match="does not exist"):
        check_target(tmp_path / "no" / "file")
    with pytest.raises(OutputError, match="is a folder"):
        check_target(tmp_path, force=True)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OutputError, match="is a device, socket or pipe"):
            check_target(tmp_path / "pipe", force=True)
    with pytest.raises(OutputError, match="MB of disk space"):
        check_space(tmp_path, 1 << 60)


def test_a_full_disk_is_one_clear_error() -> None:
    with pytest.raises(OutputError, match=r"cannot be written|disk is full"):
        write_text(Path("/proc/pa-lite-cannot-be-here"), "x")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_is_delayed_to_the_end_of_the_block() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("the rest")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have set it to be ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == ["the rest"]


posix = pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
IN_WHOLE_FILE = """
import pathlib, sys
from pa_lite.system.atomic import whole_file
with whole_file(pathlib.Path(sys.argv[1])) as file:
    file.write(b"half")
    print(flush=True)
    input()
"""


def writing(target: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a process that waits while it writes a file, and return its temporary file."""
    words = [sys.executable, "-c", IN_WHOLE_FILE, str(target)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    (marker,) = (p for p in target.parent.glob(".*.own") if json.loads(p.read_bytes())["pid"] == process.pid)
    return process, marker.with_name(marker.name.removesuffix(".own"))


@posix
def test_the_next_writer_removes_files_of_killed_writers_only(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    dead, left = writing(target)
    living, held = writing(target)
    foreign = tmp_path / ".b.txt.0123456789ab.part"  # belongs to another target
    unmarked = tmp_path / ".a.txt.0123456789ab.part"  # named like one of this target, but without a marker
    for path in (foreign, unmarked):
        path.write_text("mine", "utf-8")
    dead.kill()
    dead.wait()
    write_text(target, "whole")
    stays = [target, foreign, unmarked]
    assert sorted(tmp_path.iterdir()) == sorted([*stays, held, marker_of(held)])
    assert (left.exists(), marker_of(left).exists(), is_free(marker_of(held))) == (False, False, False)
    living.communicate("\n")
    assert target.read_text("utf-8") == "half"  # the last write wins
    assert sorted(tmp_path.iterdir()) == sorted(stays)


@posix
def test_a_link_at_the_target_is_replaced_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    for name, content in (("there", "mine"), ("absent", None)):
        folder = tmp_path / name
        folder.mkdir()
        target = folder / "a.txt"
        target.symlink_to(outside)
        if content is not None:
            outside.write_text(content, "utf-8")
        with pytest.raises(OutputError, match=r"a\.txt: exists already\. Use --force"):
            check_target(target)
        check_target(target, force=True)
        write_text(target, "new")
        assert not target.is_symlink()
        assert target.read_text("utf-8") == "new"
        assert (outside.read_text("utf-8") if outside.exists() else None) == content
        outside.unlink(missing_ok=True)


@posix
def test_a_temporary_file_replaced_by_another_program_does_not_become_the_target(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"

    def replaced() -> None:
        with whole_file(target) as file:
            file.write(b"ours")
            (temporary,) = tmp_path.glob(".*.part")
            temporary.unlink()
            temporary.symlink_to("/etc/hostname")

    with pytest.raises(OutputError, match="another program removed or replaced the file"):
        replaced()
    assert list(tmp_path.iterdir()) == []


@posix
def test_a_file_is_synced_before_it_is_renamed_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, events = tmp_path / "a.txt", []

    def fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        events.append(("folder" if is_folder else "file", target.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(target, "x")
    assert events == [("file", False), ("folder", True)]


def test_a_full_disk_error_says_what_is_left_behind(tmp_path: Path) -> None:
    def fail(*told: str) -> None:
        with write_errors(tmp_path, *told):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OutputError, match=r"the disk is full .*; nothing was left behind"):
        fail()
    with pytest.raises(OutputError, match=r"the disk is full .*; half of it is kept"):
        fail("half of it is kept.")


def test_a_folder_that_cannot_be_listed_or_synced_can_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> list[str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    begin = os.open

    def no_folders(path: Path, flags: int, *more: int) -> int:
        return begin(path, flags, *more) if path != tmp_path else int(refuse()[0])

    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(os, "open", no_folders)
    write_text(tmp_path / "a.txt", "x")
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
