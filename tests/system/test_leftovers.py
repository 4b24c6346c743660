"""Leftovers of killed runs are found by marker, listed with what they hold, and removed unless a process holds them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import pa_lite
from pa_lite.alpaca.journal import Journal
from pa_lite.cli import main
from pa_lite.errors import InputError, OutputError
from pa_lite.merging.write import MergeOptions
from pa_lite.system.leftovers import Leftover, find_downloads, find_leftovers, remove
from pa_lite.system.markers import (
    DOWNLOAD,
    FILE,
    FOLDER,
    MERGE,
    RESULTS,
    marker_line,
    marker_of,
    remove_marked,
    take_claim,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
FOREIGN = (
    ".x.part",
    "x.gguf.part",
    ".y.0123456789AB.part",
    "pa-lite-notes",
    "blob.incomplete",
    ".z.json.part",
    "z.own",
)
OURS = (
    ".m.gguf.part", ".a.json.part", ".n.gguf.part.done", ".report.html.0123456789ab.part", "pa-lite-999-0123abcd",
    ".harness.0123456789ab.part", ".gone.txt.0123456789ab.part.own",
)  # fmt: skip
# names as 0.1.0 gave them, without a marker
UNMARKED = (
    ".begun.gguf.part", ".page.html.0123456789ab.part", "pa-lite-999-abcdefgh", ".harness.fedcba987654.part",
    ".old.gguf.part", ".lonely.gguf.part.done",
)  # fmt: skip
MINE = ("pa-lite-2-experiments", "pa-lite-2024-thesis")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One leftover of every kind, and other files with similar names."""
    tmp_path = tmp_path / "folder"
    tmp_path.mkdir()
    merge, run = tmp_path / ".m.gguf.part", tmp_path / ".a.json.part"
    data = b"GGUF" + bytes(9996)
    merge.write_bytes(data)
    start = [4096, hashlib.sha256(data[:4096]).hexdigest()]
    names = b"blk.0.attn_q.weight\nblk.0.attn_k.weight\n"
    head = marker_line(MERGE, merge.name, digest="d", start=start)
    (tmp_path / ".m.gguf.part.done").write_bytes(head + names)
    (tmp_path / ".n.gguf.part.done").write_bytes(head)
    lines = [{"place": 3, "result": "a"}, {"place": 0, "result": "b"}]
    results = "".join(json.dumps(line) + "\n" for line in lines) + '{"place": 5, "res'
    run.write_bytes(marker_line(RESULTS, run.name, facts={"model": "x"}, n=9) + results.encode())
    (tmp_path / ".report.html.0123456789ab.part").write_text("<html", "utf-8")
    (tmp_path / ".report.html.0123456789ab.part.own").write_bytes(marker_line(FILE, ".report.html.0123456789ab.part"))
    (tmp_path / ".gone.txt.0123456789ab.part.own").write_bytes(marker_line(FILE, ".gone.txt.0123456789ab.part"))
    for name in (*OURS[4:6], *UNMARKED[2:4], *MINE):
        (tmp_path / name).mkdir()
        (tmp_path / name / "inner").write_bytes(bytes(5000))
        if name in OURS:
            (tmp_path / f"{name}.own").write_bytes(marker_line(FOLDER, name))
    (tmp_path / ".begun.gguf.part").touch()
    (tmp_path / ".page.html.0123456789ab.part").write_text("<html", "utf-8")
    (tmp_path / ".old.gguf.part").write_bytes(data)
    for name in (".old.gguf.part.done", ".lonely.gguf.part.done"):
        (tmp_path / name).write_text("0" * 64 + "\n", "utf-8")
    for name in FOREIGN:
        (tmp_path / name).write_text("mine", "utf-8")
    (tmp_path / ".link.0123456789ab.part").symlink_to(run)
    os.mkfifo(tmp_path / ".pipe.gguf.part")
    return tmp_path


def staying() -> list[str]:
    """Return the names that remain when every removable leftover is removed."""
    return sorted([*FOREIGN, *UNMARKED, *MINE, ".old.gguf.part.done", ".link.0123456789ab.part", ".pipe.gguf.part"])


def by_name(found: list[Leftover]) -> dict[str, Leftover]:
    return {each.path.name: each for each in found}


def test_only_marked_leftovers_are_found_and_removed(folder: Path) -> None:
    found = by_name(find_leftovers([folder, folder]))
    ours = {name: each for name, each in found.items() if each.marker is not None}
    assert {name: (each.what, each.loses) for name, each in ours.items()} == {
        ".m.gguf.part": ("merge of m.gguf", "2 merged tensors; merge --resume would continue from there"),
        ".a.json.part": ("run of a.json", "2 of 9 results; --resume would continue from there"),
        ".n.gguf.part.done": ("list of a merge that was deleted", ""),
        ".report.html.0123456789ab.part": ("file that was being written", ""),
        ".gone.txt.0123456789ab.part.own": ("marker of a file that was deleted", ""),
        "pa-lite-999-0123abcd": ("temporary folder", ""),
        ".harness.0123456789ab.part": ("temporary folder", ""),
    }
    assert found.keys() - ours.keys() == set(UNMARKED)
    assert not any(each.in_use for each in found.values())
    assert ours[".m.gguf.part"].nbytes >= 10000
    assert 5000 <= ours["pa-lite-999-0123abcd"].nbytes < 10000
    assert all(0 <= each.age < 60 for each in found.values())
    for each in ours.values():
        assert remove(each), each
    for name in UNMARKED:
        with pytest.raises(OutputError, match=r"has no marker of pa-lite, so it stays\. Delete it yourself"):
            remove(found[name])
    assert sorted(p.name for p in folder.iterdir()) == staying()
    assert {each.path.name for each in find_leftovers([folder])} == set(UNMARKED)


def test_a_leftover_that_changed_after_it_was_listed_stays(folder: Path) -> None:
    """The user agreed to remove what was listed, not another file or folder that has its name by now."""
    found = by_name(find_leftovers([folder]))
    for name in (".m.gguf.part", ".a.json.part", ".report.html.0123456789ab.part"):
        content = (folder / name).read_bytes()
        (folder / name).rename(folder / f"moved{name}")
        (folder / name).write_bytes(content)
    (folder / "pa-lite-999-0123abcd").rename(folder / "moved")
    (folder / "pa-lite-999-0123abcd").mkdir()
    (folder / ".harness.0123456789ab.part.own").write_text("no marker any more", "utf-8")
    (folder / ".n.gguf.part.done").write_text("mine", "utf-8")
    changed = [*OURS[:2], *OURS[2:6]]
    for name in changed:
        assert not remove(found[name]), name
        assert (folder / name).exists(), name


FORGED = ("Documents", "thesis.txt", ".x.part", "pa-lite-2024-thesis", "weights.gguf", ".x.0123456789ab.part.txt")


@pytest.mark.parametrize("kind", [FILE, FOLDER, DOWNLOAD])
@pytest.mark.parametrize("name", FORGED)
def test_a_forged_marker_next_to_a_users_file_removes_nothing(tmp_path: Path, kind: str, name: str) -> None:
    """Someone's archive may contain `Documents.own`, unpacked next to the user's Documents."""
    path = tmp_path / name
    if kind == FOLDER:
        path.mkdir()
        (path / "inner").write_text("mine", "utf-8")
    else:
        path.write_text("mine", "utf-8")
    marker_of(path).write_bytes(marker_line(kind, name))
    main(["doctor", "--clean", "--yes", str(tmp_path)])
    assert (path / "inner" if kind == FOLDER else path).read_text("utf-8") == "mine"
    assert not remove_marked(marker_of(path))
    assert path.exists()


@pytest.mark.parametrize(
    ("data", "of", "n"),
    [(b"my notes", ".x.part", 1), (b"my notes", ".x.part", 8), (b"GGUF" + bytes(60), ".y.part", 32)],
)
def test_a_forged_list_next_to_a_users_file_removes_nothing(tmp_path: Path, data: bytes, of: str, n: int) -> None:
    """Anyone who knows how a file starts can compute its digest, so only the start of a GGUF file counts as proof."""
    (tmp_path / ".x.part").write_bytes(data)
    start = [n, hashlib.sha256(data[:n]).hexdigest()]
    (tmp_path / ".x.part.done").write_bytes(marker_line(MERGE, of, digest="d", start=start))
    main(["doctor", "--clean", "--yes", str(tmp_path)])
    assert (tmp_path / ".x.part").read_bytes() == data


def test_a_list_does_not_make_a_users_file_removable(folder: Path) -> None:
    (folder / ".m.gguf.part").write_bytes(b"GGUF" + b"my own weights" * 1000)
    found = by_name(find_leftovers([folder]))[".m.gguf.part"]
    assert (found.marker, found.is_removable) == (None, False)


def test_a_deep_search_includes_folders_below(folder: Path) -> None:
    assert find_leftovers([folder.parent]) == []
    deep = find_leftovers([folder.parent], deep=True)
    assert len(deep) == len(OURS) + len(UNMARKED)
    with pytest.raises(InputError, match=r"nowhere: does not exist or is not a folder"):
        find_leftovers([folder / "nowhere"])


def test_files_from_the_future_have_age_zero(folder: Path) -> None:
    for path in folder.iterdir():
        os.utime(path, (time.time() + 1e6, time.time() + 1e6), follow_symlinks=False)
    assert {each.age for each in find_leftovers([folder])} == {0.0}


def test_unfinished_downloads_in_the_hub_cache_are_found(tmp_path: Path) -> None:
    blobs = tmp_path / "models--org--name" / "blobs"
    blobs.mkdir(parents=True)
    broken = blobs / f"{'a' * 64}.pa-lite.incomplete"
    broken.write_bytes(bytes(3_000_000))
    marker = marker_of(broken)
    marker.write_bytes(marker_line(DOWNLOAD, broken.name))
    (blobs / f"{'b' * 64}.incomplete").touch()  # of another program
    old = blobs / f"{'c' * 64}.pa-lite.incomplete"
    old.write_bytes(bytes(1000))
    found, unmarked = find_downloads(tmp_path)
    assert (found.path, found.what, found.loses) == (broken, "unfinished download", "3.0 MB fetched")
    assert (unmarked.path, unmarked.marker) == (old, None)
    with take_claim(broken, DOWNLOAD):
        found, _ = find_downloads(tmp_path)
        assert found.in_use
        assert not remove(found)
    assert remove(found)
    assert not marker.exists()
    assert [each.path for each in find_downloads(tmp_path)] == [old]
    assert find_downloads(tmp_path / "none") == []


def test_leftovers_held_by_a_process_stay(tmp_path: Path) -> None:
    with Journal(tmp_path / "a.json", {"model": "x"}, 2) as journal:
        journal.add(0, "answer")
        (found,) = find_leftovers([tmp_path])
        assert found.in_use
        assert not remove(found)
        journal.add(1, "answer")
    assert len((tmp_path / ".a.json.part").read_text("utf-8").splitlines()) == 3


@pytest.fixture
def running_merge(tiny_pair: tuple[Path, Path], tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A merge that is paused halfway, and its target."""
    target = tmp_path / "m.gguf"
    code = (
        "import pathlib, sys, time, pa_lite\nfrom pa_lite.merging.write import MergeOptions\n"
        "pa_lite.merge(*sys.argv[1:3], (0.5,), output=sys.argv[3], options=MergeOptions(threads=1, resume=True),\n"
        "              progress=lambda phase, done, total, unit: done and (print(flush=True), sys.stdin.readline()))\n"
    )
    words = [sys.executable, "-c", code, *map(str, tiny_pair), str(target)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process, target
        finally:
            process.kill()


def test_doctor_leaves_a_running_merge_and_removes_a_killed_one(
    running_merge: tuple[subprocess.Popen[bytes], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    process, target = running_merge
    folder = target.parent
    before = sorted(p.name for p in folder.iterdir())
    assert before == [".m.gguf.part", ".m.gguf.part.done"]
    main(["doctor", "--clean", "--yes", "--json", str(folder)])
    told = json.loads(capsys.readouterr().out)
    assert (told["removed"], told["leftovers"][0]["in_use"]) == (0, True)
    main(["doctor", "--clean", "--yes", str(folder)])
    assert "in use: kept" in capsys.readouterr().out
    assert sorted(p.name for p in folder.iterdir()) == before
    process.send_signal(signal.SIGKILL)
    process.wait()
    main(["doctor", "--clean", str(folder)])
    assert "nothing was removed: use --yes" in capsys.readouterr().out
    assert sorted(p.name for p in folder.iterdir()) == before
    main(["doctor", "--clean", "--yes", "--json", str(folder)])
    told = json.loads(capsys.readouterr().out)
    assert [(e["path"], e["removed"]) for e in told["leftovers"]] == [(str(folder / before[0]), True)]
    assert told["freed"] > 10000
    assert list(folder.iterdir()) == []
    main(["doctor", "--clean", str(folder)])
    assert capsys.readouterr().out == "No temporary files were left.\n"


@pytest.mark.parametrize("answer", [True, False])
def test_doctor_asks_before_it_removes(
    folder: Path, answer: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def confirm(text: str, **_: object) -> bool:
        asked.append(text)
        return answer

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(click, "confirm", confirm)
    main(["doctor", "--clean", str(folder)])
    out = capsys.readouterr().out
    assert len(asked) == 1
    assert asked[0].startswith(f"Remove {len(OURS)} temporary files, ")
    assert "2 merged tensors; merge --resume would continue from there" in " ".join(out.split())
    assert out.count("not removed: no marker") == len(UNMARKED)
    assert "Files without a marker of pa-lite are kept" in out
    assert (f"removed {len(OURS)} temporary files" in out, "nothing was removed." in out) == (answer, not answer)
    assert (folder / ".m.gguf.part").exists() is not answer


def test_doctor_searches_the_folders_that_pa_lite_writes_to_by_default(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    name = ".pairs.toml.0123456789ab.part"
    for key, below in (("XDG_CONFIG_HOME", "pa-lite"), ("XDG_CACHE_HOME", "pa-lite/probed"), ("HF_HUB_CACHE", "m--x")):
        place = elsewhere / key / below
        place.mkdir(parents=True)
        (place / name).touch()
        (place / f"{name}.own").write_bytes(marker_line(FILE, name))
        monkeypatch.setenv(key, str(elsewhere / key))
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    (elsewhere / "pa-lite-999-0123abcd").mkdir()
    (elsewhere / "pa-lite-999-0123abcd.own").write_bytes(marker_line(FOLDER, "pa-lite-999-0123abcd"))
    monkeypatch.chdir(folder)
    main(["doctor", "--clean", "--yes", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["removed"] == len(OURS) + 3 + 1
    unmarked = [Path(e["path"]).name for e in told["leftovers"] if not e["has_marker"]]
    assert sorted(unmarked) == sorted(UNMARKED)


@pytest.mark.parametrize("words", [["--yes"], ["somewhere"]])
def test_options_of_clean_are_refused_without_it(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *words])
    assert ended.value.code == 2
    assert "FOLDER and --yes require --clean" in capsys.readouterr().err


def test_a_missing_folder_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--clean", str(tmp_path / "none")])
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'none'}: does not exist or is not a folder.\n"


@pytest.mark.parametrize("name", [*MINE, *UNMARKED, *FOREIGN])
def test_doctor_removes_nothing_because_of_its_name(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    main(["doctor", "--clean", "--yes", str(folder)])
    assert f"removed {len(OURS)} temporary files" in capsys.readouterr().out
    assert sorted(p.name for p in folder.iterdir()) == staying()
    if (folder / name).is_dir():
        assert (folder / name / "inner").read_bytes() == bytes(5000)


def test_doctor_follows_no_links(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis").write_text("mine", "utf-8")
    (folder / "pa-lite-999-0123abcd" / "link").symlink_to(outside)
    (folder / "out").symlink_to(outside)
    (outside / ".t.txt.0123456789ab.part").write_text("mine", "utf-8")
    (outside / ".t.txt.0123456789ab.part.own").write_bytes(marker_line(FILE, ".t.txt.0123456789ab.part"))
    (folder / "pa-lite-1-0123abcd").symlink_to(outside)
    (folder / "pa-lite-1-0123abcd.own").write_bytes(marker_line(FOLDER, "pa-lite-1-0123abcd"))
    main(["doctor", "--clean", "--yes", str(folder)])
    assert sorted(p.name for p in outside.iterdir()) == [
        ".t.txt.0123456789ab.part", ".t.txt.0123456789ab.part.own", "thesis",
    ]  # fmt: skip
    assert (folder / "pa-lite-1-0123abcd").is_symlink()
    assert not (folder / "pa-lite-999-0123abcd").exists()


def test_a_merge_starts_from_scratch_after_cleaning(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    (whole,) = pa_lite.merge(*tiny_pair, (0.5,), output=tmp_path / "whole.gguf")
    target = tmp_path / "m.gguf"
    (tmp_path / ".m.gguf.part").write_bytes(b"GGUF")
    start = [4, hashlib.sha256(b"GGUF").hexdigest()]
    head = marker_line(MERGE, ".m.gguf.part", digest="0", start=start)
    (tmp_path / ".m.gguf.part.done").write_bytes(head + b"x\n")
    (found,) = find_leftovers([tmp_path])
    assert remove(found)
    pa_lite.merge(*tiny_pair, (0.5,), output=target, options=MergeOptions(resume=True))
    assert target.read_bytes() == whole.read_bytes()
