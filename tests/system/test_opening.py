"""Only regular files are opened, and only new ones are created, whatever is in a folder that others can write to."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from pa_lite.system import opening
from pa_lite.system.locks import take_lock
from pa_lite.system.opening import (
    NotPlainError,
    create_file,
    is_at,
    is_link,
    open_or_create,
    open_own,
    open_regular,
    read_regular,
    remove_open,
)

posix = pytest.mark.skipif(os.name != "posix", reason="links, pipes and locks of POSIX")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        before = Path.cwd()
        os.chdir(path.parent)  # a socket's path may have about 100 bytes
        try:
            s.bind(path.name)
        finally:
            os.chdir(before)


ODD: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "named pipe": os.mkfifo if os.name == "posix" else Path.mkdir,
    "socket": _socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@posix
@pytest.mark.parametrize("kind", ODD)
def test_other_than_regular_files_are_refused_without_blocking(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    ODD[kind](path)
    for read in (open_regular, read_regular):
        with pytest.raises(NotPlainError, match=f"it is a {kind}, not a regular file"):
            read(path)
    with pytest.raises(NotPlainError, match=r"it is a (folder|named pipe|socket|link), not a regular file"):
        open_own(path)
    with pytest.raises(FileExistsError):
        create_file(path, b"x")


@posix
@pytest.mark.parametrize("target", ["there", "absent"])
def test_links_are_followed_for_reading_and_never_for_writing(tmp_path: Path, target: str) -> None:
    link, outside = tmp_path / "link", tmp_path / "there"
    outside.write_bytes(b"mine")
    link.symlink_to(tmp_path / target)
    assert is_link(link)
    assert not is_link(outside)
    if target == "there":
        assert read_regular(link) == b"mine"
    else:
        with pytest.raises(FileNotFoundError):
            read_regular(link)
    with pytest.raises(NotPlainError, match="it is a link"):
        open_own(link)
    with pytest.raises(FileExistsError):
        create_file(link, b"x")
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["link", "there"]
    assert outside.read_bytes() == b"mine"


@posix
def test_a_hard_link_is_not_opened_for_writing(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"mine")
    os.link(elsewhere, tmp_path / "x")
    with pytest.raises(NotPlainError, match="it is a hard link: the file also has another name"):
        open_own(tmp_path / "x")
    assert read_regular(tmp_path / "x") == b"mine"


@posix
@pytest.mark.parametrize("kind", ["link", "named pipe", "hard link"])
def test_a_file_swapped_between_check_and_open_is_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, outside = tmp_path / "x", tmp_path / "outside"
    path.write_bytes(b"ours")
    outside.write_bytes(b"mine")
    begin = os.open

    def swap(*words: Any, **options: Any) -> int:
        if Path(words[0]) == path:
            path.unlink()
            if kind == "link":
                path.symlink_to(outside)
            elif kind == "hard link":
                os.link(outside, path)
            else:
                os.mkfifo(path)
        return begin(*words, **options)

    monkeypatch.setattr(os, "open", swap)
    with pytest.raises(NotPlainError, match=f"it is a {kind}"):
        open_own(path)


@posix
def test_a_pipe_swapped_in_before_reading_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"ours")
    begin = os.open

    def swap(*words: Any, **options: Any) -> int:
        path.unlink()
        os.mkfifo(path)
        return begin(*words, **options)

    monkeypatch.setattr(os, "open", swap)
    with pytest.raises(NotPlainError, match="it is a named pipe"):
        read_regular(path)


@pytest.mark.parametrize("unnamed", [True, False])
def test_a_new_file_has_its_content_and_lock(tmp_path: Path, unnamed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both with files that are unnamed until they are complete, and on systems that do not support these."""
    if not unnamed:
        monkeypatch.setattr(opening, "_UNNAMED", 0)
    path = tmp_path / "größe"
    with create_file(path, b"first\n", lock=True, append=True) as file:
        assert path.read_bytes() == b"first\n"
        assert is_at(file.fileno(), path)
        file.write(b"second\n")
        file.flush()
        if os.name == "posix":
            with path.open("rb") as other:
                assert take_lock(other.fileno()) is False
            assert path.stat().st_nlink == 1
    assert path.read_bytes() == b"first\nsecond\n"
    with pytest.raises(FileExistsError):
        create_file(path, b"x")
    assert path.read_bytes() == b"first\nsecond\n"

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        create_file(tmp_path / "half", fail)
    assert [p.name for p in tmp_path.iterdir()] == ["größe"]


def test_a_file_is_opened_or_made_by_one_of_several(tmp_path: Path) -> None:
    path = tmp_path / "x"
    made, is_new = open_or_create(path, b"first", lock=0.0)
    with made:
        assert is_new
        with pytest.raises(BlockingIOError):
            open_or_create(path, b"other", lock=0.0)
    again, is_new = open_or_create(path, b"other", lock=0.0, append=True)
    with again:
        again.write(b"+")
        assert not is_new
    assert path.read_bytes() == b"first+"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "none")
    with pytest.raises(NotPlainError):
        open_or_create(link)
    assert not (tmp_path / "none").exists()


@posix
def test_a_lock_on_a_file_that_was_removed_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a lock gets a file that has the name, not the one that its holder removed meanwhile."""
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def take(descriptor: int, patience: float = 0.0) -> bool | None:
        if path.exists() and path.read_bytes() == b"old":
            path.unlink()
        return take_lock(descriptor, patience)

    monkeypatch.setattr(opening, "take_lock", take)
    file, is_new = open_or_create(path, b"new", lock=0.0)
    with file:
        assert is_new
    assert path.read_bytes() == b"new"


@pytest.mark.skipif(sys.platform != "linux", reason="files without a name are Linux's")
def test_no_process_sees_a_new_file_without_its_content(tmp_path: Path) -> None:
    seen: list[bytes] = []
    path, made = tmp_path / "x", threading.Event()

    def look(file: BinaryIO) -> None:
        file.write(b"marker")
        file.flush()
        seen.append(b"".join(p.read_bytes() for p in tmp_path.iterdir()))
        made.set()

    create_file(path, look).close()
    assert made.is_set()
    assert seen == [b""]  # the file had no name yet
    assert path.read_bytes() == b"marker"


@posix
def test_an_open_file_is_removed_only_while_it_has_its_name(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with create_file(path, b"ours") as file:
        path.unlink()
        path.write_bytes(b"another's")
        assert not remove_open(file, path)
        assert path.read_bytes() == b"another's"
    with open_own(path) as file:
        assert remove_open(file, path)
    assert not path.exists()


@posix
def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch()
    code = "import sys\nfrom pa_lite.system.opening import open_own, take_lock\nimport pathlib\n"
    code += "f = open_own(pathlib.Path(sys.argv[1])); print(take_lock(f.fileno()), flush=True); input()"
    words = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        with open_own(path) as file:
            assert take_lock(file.fileno(), 0.05) is False
            process.kill()
            process.wait()
            assert take_lock(file.fileno(), 10.0) is True


@posix
@pytest.mark.parametrize("missing", ["_NO_LINK", "_NO_WAIT"])
def test_systems_without_these_flags_still_refuse_links(
    tmp_path: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, missing, 0)
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(NotPlainError):
            open_own(tmp_path / name)
    with pytest.raises(NotPlainError):
        open_regular(tmp_path / "pipe")
