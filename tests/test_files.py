from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pa_lite import files
from pa_lite.errors import OutputError
from pa_lite.files import (
    check_space,
    check_target,
    is_free,
    remove_if_free,
    take_lock,
    temporary_folder,
    uninterrupted,
    whole_file,
    write_errors,
    write_text,
)


def test_a_failing_writer_leaves_the_target_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old", "utf-8")

    def write_half() -> None:
        with whole_file(target) as temporary:
            temporary.write_text("half", "utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert target.read_text("utf-8") == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_write_text_replaces_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "größer\n")
    write_text(target, "new\n")
    assert target.read_bytes() == b"new\n"
    assert list(tmp_path.iterdir()) == [target]


def test_refusals_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("", "utf-8")
    with pytest.raises(OutputError, match=r"exists already. Use --force"):
        check_target(tmp_path / "there")
    check_target(tmp_path / "there", force=True)
    with pytest.raises(OutputError, match="no such folder"):
        check_target(tmp_path / "no" / "file")
    with pytest.raises(OutputError, match="is a folder"):
        check_target(tmp_path, force=True)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OutputError, match="is a device, socket or pipe"):
            check_target(tmp_path / "pipe", force=True)
    with pytest.raises(OutputError, match="MB are needed"):
        check_space(tmp_path, 1 << 60)


def test_full_disk_is_one_clear_error() -> None:
    with pytest.raises(OutputError, match=r"cannot be written|disk is full"):
        write_text(Path("/proc/pa-lite-cannot-be-here"), "x")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_waits_for_the_end_of_the_block() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("the rest")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == ["the rest"]


posix = pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
IN_WHOLE_FILE = """
import pathlib, sys
from pa_lite.files import whole_file
with whole_file(pathlib.Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print(temporary, flush=True)
    input()
"""
IN_FOLDER = """
from pa_lite.files import temporary_folder
with temporary_folder() as folder:
    (folder / "data").write_text("half")
    print(folder, flush=True)
    input()
"""


def child(code: str, *words: str | Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that waits within a block of ours, and the temporary file or folder that it has there."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().rstrip("\n"))


@posix
def test_the_next_writer_removes_what_a_killed_one_left_and_not_what_a_living_one_holds(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    dead, left = child(IN_WHOLE_FILE, target)
    living, held = child(IN_WHOLE_FILE, target)
    stranger = tmp_path / ".b.txt.0123456789ab.part"  # another target's
    stranger.touch()
    dead.kill()
    dead.wait()
    write_text(target, "whole")
    assert sorted(tmp_path.iterdir()) == sorted([target, held, stranger])
    assert (left.exists(), is_free(held), remove_if_free(held)) == (False, False, False)
    living.communicate("\n")
    assert target.read_text("utf-8") == "half"  # it came last
    assert sorted(tmp_path.iterdir()) == sorted([target, stranger])


@posix
def test_a_temporary_folder_is_ours_until_our_process_ends() -> None:
    process, folder = child(IN_FOLDER)
    assert not is_free(folder)
    assert not remove_if_free(folder)
    process.kill()
    process.wait()
    assert (folder / "data").read_text("utf-8") == "half"
    assert remove_if_free(folder)
    assert not folder.exists()
    with temporary_folder() as again:
        assert not is_free(again)
    assert not again.exists()


@posix
def test_a_folder_that_was_made_just_now_may_not_be_locked_yet(tmp_path: Path) -> None:
    young = tmp_path / f"pa-lite-{os.getpid()}-abc"
    young.mkdir()
    assert not is_free(young)  # its process lives
    os.utime(young, (0, 0))
    assert is_free(young)
    orphan = tmp_path / "pa-lite-999999999-abc"
    orphan.mkdir()
    assert is_free(orphan)


@posix
def test_a_lock_is_opened_anew_when_the_file_was_removed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cleaners = tmp_path / "x.part", [Path.unlink]

    def lock(descriptor: int, patience: float = 0.0) -> bool | None:
        if cleaners:
            cleaners.pop()(path)  # another process cleans up between our opening and locking
        return take_lock(descriptor, patience)

    monkeypatch.setattr(files, "take_lock", lock)
    with files.open_locked(path) as f:
        assert os.path.samestat(os.fstat(f.fileno()), path.stat())


def test_where_nothing_can_be_locked_only_what_is_old_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.part"
    path.touch()
    monkeypatch.setattr(files, "take_lock", lambda *_: None)
    assert not is_free(path)
    os.utime(path, (0, 0))
    assert is_free(path)
    write_text(tmp_path / "x", "whole")  # and writing needs no locks
    assert (tmp_path / "x").read_text("utf-8") == "whole"


@posix
def test_a_file_gets_its_name_behind_its_bytes_and_the_folder_is_brought_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, events = tmp_path / "a.txt", []

    def fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        events.append(("folder" if is_folder else "file", target.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(target, "x")
    assert events == [("file", False), ("folder", True)]


def test_a_full_disk_is_told_with_what_is_left(tmp_path: Path) -> None:
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
