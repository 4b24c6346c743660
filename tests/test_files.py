from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from pa_lite.errors import OutputError
from pa_lite.files import check_space, check_target, uninterrupted, whole_file, write_text


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
