"""Markers: only files and folders that pa-lite marked are removed, and only those the user was shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pa_lite.system import markers
from pa_lite.system.markers import (
    DOWNLOAD,
    FILE,
    FOLDER,
    MERGE,
    RESULTS,
    claimed,
    is_free,
    marker_at,
    marker_line,
    marker_of,
    parse_marker,
    read_results_head,
    remove_marked,
    remove_tree,
    take_claim,
    temporary_folder,
)
from pa_lite.system.opening import NotPlainError

posix = pytest.mark.skipif(os.name != "posix", reason="locks and links of POSIX")


# names that pa-lite gives to marked files
X, FOLDER_X, BLOB_X = ".x.0123456789ab.part", "pa-lite-1-0123abcd", "x.pa-lite.incomplete"


def mark(path: Path, kind: str = FILE, of: str | None = None) -> Path:
    """Write the marker file that a killed process would have left next to a path."""
    marker_of(path).write_bytes(marker_line(kind, path.name if of is None else of))
    return marker_of(path)


def test_a_marker_names_what_it_marks() -> None:
    line = marker_line(MERGE, ".größe.gguf.part", digest="d")
    entry = parse_marker(line)
    assert entry is not None
    assert (entry["kind"], entry["of"], entry["pid"], entry["digest"]) == (MERGE, ".größe.gguf.part", os.getpid(), "d")
    assert line.count(b"\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        b"", b"\n", b"pa-lite temporary file\n", b"{}\n", marker_line(FILE, "x")[:-1], b" " + marker_line(FILE, "x"),
        marker_line(FILE, "x").replace(b'"file", ', b'"other", '), marker_line(FILE, "x").replace(b": 1,", b": 2,"),
        marker_line(FILE, "x").replace(b'"of": "x"', b'"of": 5'), marker_line(FILE, "x" * (1 << 17)),
        b'{"pa-lite temporary file": ' + b"[" * 100_000 + b"\n", b'{"pa-lite temporary file": 1}\n',
    ],
)  # fmt: skip
def test_other_lines_are_not_markers(line: bytes) -> None:
    assert parse_marker(line) is None


@posix
def test_only_marked_files_are_removed(tmp_path: Path) -> None:
    for name in (X, FOLDER_X, "unmarked"):
        (tmp_path / name).mkdir() if name == FOLDER_X else (tmp_path / name).write_text("x", "utf-8")
    (tmp_path / FOLDER_X / "deep").mkdir()
    (tmp_path / FOLDER_X / "deep" / "inner").touch()
    (tmp_path / "unmarked.own").write_text("my notes\n", "utf-8")
    assert remove_marked(mark(tmp_path / X))
    assert remove_marked(mark(tmp_path / FOLDER_X, FOLDER))
    assert not remove_marked(tmp_path / "unmarked.own")
    assert not remove_marked(tmp_path / "none.own")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["unmarked", "unmarked.own"]


@posix
@pytest.mark.parametrize(
    "of",
    ["other", "../outside", "/outside", "", ".", "..", "x/y", "x\0", f"../{X}", f"./{X}", ".y.0123456789ab.part"],
    ids=repr,
)
def test_a_marker_for_another_name_removes_nothing(tmp_path: Path, of: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    kept = [folder / X, folder / "other", tmp_path / "outside"]
    for path in kept:
        path.write_text("mine", "utf-8")
    assert not remove_marked(mark(folder / X, of=of))
    assert all(path.read_text("utf-8") == "mine" for path in kept)


@posix
@pytest.mark.parametrize("kind", [FILE, FOLDER, DOWNLOAD])
def test_a_file_of_another_kind_than_marked_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / {FILE: X, FOLDER: FOLDER_X, DOWNLOAD: BLOB_X}[kind]
    if kind == FOLDER:
        path.write_text("mine", "utf-8")
    else:
        path.mkdir()
    assert not remove_marked(mark(path, kind))
    assert path.exists()
    path.rename(tmp_path / "real")
    link = path
    link.symlink_to(tmp_path / "real")
    assert not remove_marked(mark(link, kind))
    assert link.is_symlink()


@posix
def test_a_file_that_replaced_the_one_found_stays(tmp_path: Path) -> None:
    path = tmp_path / X
    path.write_text("ours", "utf-8")
    seen = path.lstat()
    marker = mark(path)
    path.rename(tmp_path / "moved")
    path.write_text("mine", "utf-8")
    assert not remove_marked(marker, seen)
    assert path.read_text("utf-8") == "mine"
    assert remove_marked(marker)  # without facts of an earlier listing, the marker decides


@posix
def test_a_link_or_pipe_is_not_a_marker(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(marker_line(FILE, X))
    (tmp_path / X).write_text("mine", "utf-8")
    (tmp_path / f"{X}.own").symlink_to(tmp_path / "real")
    assert not remove_marked(tmp_path / f"{X}.own")
    (tmp_path / f"{X}.own").unlink()
    os.link(tmp_path / "real", tmp_path / f"{X}.own")  # forged by a hard link: the file has two names
    assert not remove_marked(tmp_path / f"{X}.own")
    (tmp_path / f"{X}.own").unlink()
    os.mkfifo(tmp_path / f"{X}.own")
    assert not remove_marked(tmp_path / f"{X}.own")
    assert marker_at(tmp_path / f"{X}.own") is None
    assert (tmp_path / X).read_text("utf-8") == "mine"


@posix
def test_markers_of_other_users_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / FOLDER_X
    path.mkdir()
    marker = mark(path, FOLDER)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    assert not remove_marked(marker)
    assert path.is_dir()


@posix
def test_removing_a_folder_follows_no_links_and_leaves_another_folder_of_that_name(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    (outside / "thesis").write_text("mine", "utf-8")
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "file").symlink_to(outside / "thesis")
    (folder / "deep").mkdir()
    (folder / "deep" / "link").symlink_to("../..")
    remove_tree(folder, folder.lstat())
    assert not folder.exists()
    assert (outside / "thesis").read_text("utf-8") == "mine"
    seen = outside.lstat()
    (tmp_path / "other").mkdir()
    with pytest.raises(NotPlainError, match="another folder by now"):
        remove_tree(tmp_path / "other", seen)
    folder.symlink_to(outside)
    with pytest.raises(OSError, match=r"directory|symbolic"):
        remove_tree(folder, seen)
    assert (outside / "thesis").exists()


@posix
def test_a_folder_replaced_by_a_link_during_removal_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    (outside / "thesis").write_text("mine", "utf-8")
    (folder / "deep").mkdir(parents=True)
    look = os.stat

    def swap(path: Any, **options: Any) -> os.stat_result:
        facts = look(path, **options)
        if path == "deep":
            (folder / "deep").rmdir()
            (folder / "deep").symlink_to(outside)
        return facts

    monkeypatch.setattr(os, "stat", swap)
    with pytest.raises(OSError, match=r"directory|symbolic"):
        remove_tree(folder, folder.lstat())
    assert (outside / "thesis").read_text("utf-8") == "mine"


@posix
def test_a_disk_mounted_in_a_folder_is_not_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x" / "mounted").mkdir(parents=True)
    (tmp_path / "x" / "mounted" / "file").touch()
    monkeypatch.setattr(markers, "is_same", lambda *_: True)
    facts = os.stat_result([*tmp_path.lstat()[:2], tmp_path.lstat().st_dev + 1, *tmp_path.lstat()[3:]])
    with pytest.raises(NotPlainError, match="another disk is mounted there"):
        remove_tree(tmp_path / "x", facts)
    assert (tmp_path / "x" / "mounted" / "file").exists()


IN_FOLDER = """
from pa_lite.system.markers import temporary_folder
with temporary_folder() as folder:
    (folder / "data").write_text("half")
    print(folder, flush=True)
    input()
"""


@posix
def test_a_temporary_folder_is_held_until_its_process_ends() -> None:
    words = [sys.executable, "-c", IN_FOLDER]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().rstrip("\n"))
        assert folder.parent == Path(tempfile.gettempdir())
        assert folder.stat().st_mode & 0o077 == 0
        assert not is_free(marker_of(folder))
        assert not remove_marked(marker_of(folder))
        process.kill()
    assert (folder / "data").read_text("utf-8") == "half"
    assert json.loads(marker_of(folder).read_bytes())["pid"] == process.pid
    assert remove_marked(marker_of(folder))
    assert not folder.exists()
    assert not marker_of(folder).exists()
    with temporary_folder() as again:
        assert not is_free(marker_of(again))
    assert not again.exists()
    assert not marker_of(again).exists()


@posix
def test_a_claim_removes_its_marker_and_refuses_a_taken_name(tmp_path: Path) -> None:
    path = tmp_path / X

    def interrupted() -> None:
        with claimed(path, FILE):
            assert [p.name for p in tmp_path.iterdir()] == [f"{X}.own"]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    marker_of(path).write_text("mine", "utf-8")
    with pytest.raises(FileExistsError), claimed(path, FILE):
        pass
    with pytest.raises(NotPlainError, match="it is not a marker of pa-lite"):
        take_claim(path, FILE)
    assert marker_of(path).read_text("utf-8") == "mine"
    marker_of(path).unlink()
    with claimed(path, FILE):
        path.write_text("could not be removed", "utf-8")
    assert remove_marked(marker_of(path))  # the marker is still there


@posix
def test_a_download_stays_claimed_across_processes(tmp_path: Path) -> None:
    path = tmp_path / BLOB_X
    with take_claim(path, DOWNLOAD):
        assert not is_free(marker_of(path))
    assert is_free(marker_of(path))
    with take_claim(path, DOWNLOAD):
        pass
    mark(path, FILE)
    with pytest.raises(NotPlainError, match="not a marker"):
        take_claim(path, DOWNLOAD)


def test_without_locks_only_old_files_count_as_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / X
    marker = mark(path)
    monkeypatch.setattr(markers, "take_lock", lambda *_: None)
    assert not is_free(marker)
    os.utime(marker, (0, 0))
    assert is_free(marker)


OLD_FACTS = dict.fromkeys(("model", "chat template", "system prompt", "prompts", "options"), "0" * 32)


@pytest.mark.parametrize(
    ("head", "is_ours"),
    [
        (marker_line(RESULTS, "x", facts={"model": "a"}, n=3), True),
        (marker_line(RESULTS, "x", facts={"model": "a"}), False),
        (marker_line(RESULTS, "x", facts={"model": 5}, n=3), False),
        (marker_line(MERGE, "x", facts={"model": "a"}, n=3), False),
        (json.dumps({"facts": OLD_FACTS, "n": 3}).encode() + b"\n", True),  # of 0.1.0
        (json.dumps({"facts": OLD_FACTS, "n": 3}).encode(), False),
        (json.dumps({"facts": OLD_FACTS, "n": 3, "more": 1}).encode() + b"\n", False),
        (b'{"facts": {"model": "x"}, "n": 3}\n', False),
        (b'{"facts": {}, "n": 0}\n', False),
        (b'{"text": "a row of mine"}\n', False),
        (b"", False),
    ],
)
def test_journals_of_pa_lite_are_recognised(tmp_path: Path, head: bytes, is_ours: bool) -> None:
    (tmp_path / "x").write_bytes(head + b'{"place": 0, "result": 1}\n')
    with (tmp_path / "x").open("rb") as file:
        assert (read_results_head(file) is not None) is is_ours
