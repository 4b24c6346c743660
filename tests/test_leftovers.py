"""What killed runs leave: found by name and content, told with what it holds, removed unless a process has it."""

from __future__ import annotations

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
from pa_lite.cli import main
from pa_lite.errors import InputError
from pa_lite.files import open_locked
from pa_lite.follow.journal import Journal
from pa_lite.leftovers import Leftover, find_downloads, find_leftovers, remove
from pa_lite.merge.write import MergeOptions

pytestmark = pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
FOREIGN = (".x.part", "x.gguf.part", ".y.0123456789AB.part", "pa-lite-notes", "blob.incomplete", ".z.json.part")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One of each that we leave, and names like ours that others gave."""
    tmp_path = tmp_path / "folder"
    tmp_path.mkdir()
    merge, run = tmp_path / ".m.gguf.part", tmp_path / ".a.json.part"
    merge.write_bytes(b"GGUF" + bytes(9996))
    (tmp_path / ".m.gguf.part.done").write_text("0" * 64 + "\nblk.0.attn_q.weight\nblk.0.attn_k.weight\n", "utf-8")
    lines = [{"facts": {"model": "x"}, "n": 9}, {"place": 3, "result": "a"}, {"place": 0, "result": "b"}]
    run.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"place": 5, "res', "utf-8")
    (tmp_path / ".n.gguf.part.done").write_text("0" * 64 + "\n", "utf-8")
    (tmp_path / ".report.html.0123456789ab.part").write_text("<html", "utf-8")
    (tmp_path / ".begun.gguf.part").touch()
    for name in ("pa-lite-999999999-abc", ".harness.0123456789ab.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "inner").write_bytes(bytes(5000))
    for name in FOREIGN:
        (tmp_path / name).write_text("mine", "utf-8")
    (tmp_path / ".link.0123456789ab.part").symlink_to(run)
    return tmp_path


def by_name(found: list[Leftover]) -> dict[str, Leftover]:
    return {each.path.name: each for each in found}


def test_what_is_ours_is_found_and_what_is_not_is_left(folder: Path) -> None:
    found = by_name(find_leftovers([folder, folder]))
    assert {name: (each.what, each.loses) for name, each in found.items()} == {
        ".m.gguf.part": ("merge of m.gguf", "2 tensors that are merged; merge --resume would go on from there"),
        ".a.json.part": ("run of a.json", "2 of 9 results; --resume would go on from there"),
        ".n.gguf.part.done": ("list of a merge that is gone", ""),
        ".report.html.0123456789ab.part": ("file that was being written", ""),
        ".begun.gguf.part": ("file begun.gguf that was begun", ""),
        "pa-lite-999999999-abc": ("temporary folder", ""),
        ".harness.0123456789ab.part": ("temporary folder", ""),
    }
    assert not any(each.in_use for each in found.values())
    assert found[".m.gguf.part"].nbytes >= 10000
    assert 5000 <= found["pa-lite-999999999-abc"].nbytes < 10000
    assert all(0 <= each.age < 60 for each in found.values())
    for each in found.values():
        assert remove(each)
    assert sorted(p.name for p in folder.iterdir()) == sorted([*FOREIGN, ".link.0123456789ab.part"])
    assert find_leftovers([folder]) == []


def test_folders_below_are_searched_when_asked_for(folder: Path) -> None:
    assert find_leftovers([folder.parent]) == []
    deep = find_leftovers([folder.parent], deep=True)
    assert len(deep) == 7
    with pytest.raises(InputError, match=r"nowhere: there is no such folder"):
        find_leftovers([folder / "nowhere"])


def test_files_of_the_future_have_no_age(folder: Path) -> None:
    for path in folder.iterdir():
        os.utime(path, (time.time() + 1e6, time.time() + 1e6), follow_symlinks=False)
    assert {each.age for each in find_leftovers([folder])} == {0.0}


def test_downloads_of_the_hubs_cache(tmp_path: Path) -> None:
    blobs = tmp_path / "models--org--name" / "blobs"
    blobs.mkdir(parents=True)
    broken = blobs / f"{'a' * 64}.pa-lite.incomplete"
    broken.write_bytes(bytes(3_000_000))
    (blobs / f"{'b' * 64}.incomplete").touch()  # another program's
    (found,) = find_downloads(tmp_path)
    assert (found.path, found.what, found.loses) == (broken, "download that broke off", "3.0 MB fetched")
    with open_locked(broken):
        (found,) = find_downloads(tmp_path)
        assert found.in_use
        assert not remove(found)
    assert remove(found)
    assert find_downloads(tmp_path / "none") == []


def test_what_a_process_holds_stays(tmp_path: Path) -> None:
    with Journal(tmp_path / "a.json", {"model": "x"}, 2) as journal:
        journal.add(0, "answer")
        (found,) = find_leftovers([tmp_path])
        assert found.in_use
        assert not remove(found)
        journal.add(1, "answer")
    assert len((tmp_path / ".a.json.part").read_text("utf-8").splitlines()) == 3


@pytest.fixture
def running_merge(tiny_pair: tuple[Path, Path], tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A merge that stands still in the middle, and its target."""
    target = tmp_path / "m.gguf"
    code = (
        "import pathlib, sys, time, pa_lite\nfrom pa_lite.merge.write import MergeOptions\n"
        "pa_lite.merge(*sys.argv[1:3], (0.5,), output=sys.argv[3], options=MergeOptions(threads=1, resume=True),\n"
        "              progress=lambda done, total: done and (print(flush=True), sys.stdin.readline()))\n"
    )
    words = [sys.executable, "-c", code, *map(str, tiny_pair), str(target)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process, target
        finally:
            process.kill()


def test_the_doctor_leaves_a_running_merge_alone_and_removes_a_killed_one(
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
    assert "in use: stays" in capsys.readouterr().out
    assert sorted(p.name for p in folder.iterdir()) == before
    process.send_signal(signal.SIGKILL)
    process.wait()
    main(["doctor", "--clean", str(folder)])
    assert "nothing was removed: say --yes" in capsys.readouterr().out
    assert sorted(p.name for p in folder.iterdir()) == before
    main(["doctor", "--clean", "--yes", "--json", str(folder)])
    told = json.loads(capsys.readouterr().out)
    assert [(e["path"], e["removed"]) for e in told["leftovers"]] == [(str(folder / before[0]), True)]
    assert told["freed"] > 10000
    assert list(folder.iterdir()) == []
    main(["doctor", "--clean", str(folder)])
    assert capsys.readouterr().out == "No temporary files were left.\n"


@pytest.mark.parametrize("answer", [True, False])
def test_the_doctor_asks(
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
    assert asked[0].startswith("Remove 7 temporary files, ")
    assert "2 tensors that are merged; merge --resume would go on from there" in " ".join(out.split())
    assert ("removed 7 temporary files" in out, "nothing was removed." in out) == (answer, not answer)
    assert (folder / ".m.gguf.part").exists() is not answer


def test_by_default_the_folders_that_we_write_to_are_searched(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    name = ".pairs.toml.0123456789ab.part"
    for key, below in (("XDG_CONFIG_HOME", "pa-lite"), ("XDG_CACHE_HOME", "pa-lite/probed"), ("HF_HUB_CACHE", "m--x")):
        place = elsewhere / key / below
        place.mkdir(parents=True)
        (place / name).touch()
        monkeypatch.setenv(key, str(elsewhere / key))
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    (elsewhere / "pa-lite-999999999-x").mkdir()
    monkeypatch.chdir(folder)
    main(["doctor", "--clean", "--yes", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["removed"] == 7 + 3 + 1


@pytest.mark.parametrize("words", [["--yes"], ["somewhere"]])
def test_what_belongs_to_clean_is_refused_without_it(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *words])
    assert ended.value.code == 2
    assert "FOLDER and --yes belong to --clean" in capsys.readouterr().err


def test_a_folder_that_is_none_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--clean", str(tmp_path / "none")])
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'none'}: there is no such folder.\n"


def test_a_cleaned_merge_begins_anew(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    (whole,) = pa_lite.merge(*tiny_pair, (0.5,), output=tmp_path / "whole.gguf")
    target = tmp_path / "m.gguf"
    (tmp_path / ".m.gguf.part").write_bytes(b"GGUF")
    (tmp_path / ".m.gguf.part.done").write_text("0" * 64 + "\nx\n", "utf-8")
    (found,) = find_leftovers([tmp_path])
    assert remove(found)
    pa_lite.merge(*tiny_pair, (0.5,), output=target, options=MergeOptions(resume=True))
    assert target.read_bytes() == whole.read_bytes()
