"""The environment of a command: settings in the current folder, file names that are not UTF-8, system limits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pa_lite
from pa_lite.sanitize import name_text

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="file names are any bytes, and limits can be set, on Linux")
NAME = b"caf\xe9"  # Latin-1


def run(*words: str | bytes, cwd: Path, limit: int = 0, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command line in a folder; files are limited to `limit` bytes."""
    code = "import sys; from pa_lite.cli import main; sys.exit(main())"
    if limit:
        code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); {code}"
    settings = {
        "XDG_CONFIG_HOME": str(cwd / "config"),
        "PYTHONPATH": str(Path(pa_lite.__file__).parents[1]),
        **variables,
    }
    return subprocess.run(
        [sys.executable, "-c", code, *words], cwd=cwd, env={**os.environ, **settings}, capture_output=True, timeout=300,
        check=False,
    )  # fmt: skip


def last_line(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stderr.decode("utf-8", "replace").strip().splitlines()[-1]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    done = run("sweep", "demo", "--lam", "0,1", "--tasks", "demo", "--limit", "2", "--run", str(folder), cwd=tmp_path)
    assert done.returncode == 0, last_line(done)
    return folder


@pytest.mark.parametrize("content", ["text.usetex: True\naxes.facecolor: red\n", None])
def test_matplotlibs_settings_in_the_current_folder_are_not_read(
    content: str | None, study: Path, tmp_path: Path
) -> None:
    """`text.usetex` would start latex, and reading a named pipe (None) would block."""
    pages = []
    for name in ("plain", "set"):
        here = tmp_path / name
        here.mkdir()
        if name == "set" and content is not None:
            (here / "matplotlibrc").write_text(content, "utf-8")
        elif name == "set":
            if not hasattr(os, "mkfifo"):
                pytest.skip("no named pipes")
            os.mkfifo(here / "matplotlibrc")
        done = run("report", str(study), "-o", "page.html", cwd=here)
        assert done.returncode == 0, last_line(done)
        pages.append((here / "page.html").read_text("utf-8"))
    assert pages[0] == pages[1]


@LINUX
def test_links_in_the_matplotlib_cache_are_not_followed(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """matplotlib itself writes through links, blocks on pipes, and fails if the folder links to itself."""
    cache, mine, pages = tmp_path / "cache", tmp_path / "mine", []
    monkeypatch.setenv("MPLCONFIGDIR", str(cache))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    mine.write_text("mine", "utf-8")
    for kind in ("none", "link", "hard link", "pipe", "folder", "loop"):
        if kind == "loop":
            shutil.rmtree(cache)
            cache.symlink_to(cache.name)
        elif kind != "none":
            (fonts,) = cache.glob("fontlist-*.json")
            shutil.rmtree(fonts) if fonts.is_dir() else fonts.unlink()
            {"link": fonts.symlink_to, "hard link": fonts.hardlink_to}.get(kind, lambda _: None)(mine)
            if kind == "pipe":
                os.mkfifo(fonts)
            elif kind == "folder":
                fonts.mkdir()
        done = run("report", str(study), "-o", f"{kind}.html", cwd=tmp_path)
        assert done.returncode == 0, (kind, last_line(done))
        pages.append((tmp_path / f"{kind}.html").read_text("utf-8"))
        assert mine.read_text("utf-8") == "mine"
        assert list((tmp_path / "tmp").iterdir()) == []
    assert len(set(pages)) == 1


@LINUX
def test_file_names_that_are_not_utf_8(tmp_path: Path) -> None:
    model, prompts, out = (NAME + end for end in (b".gguf", b".jsonl", b".json"))
    folder = os.fsencode(tmp_path)
    Path(os.fsdecode(os.path.join(folder, prompts))).write_text('{"instruction": "Say hen."}\n', "utf-8")
    commands: list[list[str | bytes]] = [
        ["merge", "--lam", "0.5", "-o", model],
        ["merge", "--lam", "0.6", "-o", b"other-" + model],
        ["inspect", model],
        ["score", model, "--tasks", "demo", "--limit", "2", "-o", b"s" + out],
        ["generate", model, "--prompts", prompts, "--max-tokens", "4", "-o", out],
        ["generate", "demo@0.5", "--prompts", prompts, "--max-tokens", "4", "-o", b"other-" + out],
        ["follow", model, "--limit", "2", "-o", b"f" + out],
        ["judge", out, "--reference", b"other-" + out, "--judge", model, "-o", b"j" + out],
        ["winrate", b"j" + out],
        ["pairs", "add", "mine", model, b"other-" + model],
        ["pairs", "show", "mine"],
        ["score", "mine@0.3", "--tasks", "demo", "--limit", "2"],
        ["sweep", "mine", "--lam", "0,1", "--tasks", "demo", "--limit", "2", "--run", NAME],
        ["report", NAME, "--csv", NAME + b".csv"],
    ]
    for words in commands:
        done = run(*words, cwd=tmp_path)
        assert done.returncode == 0, (words, last_line(done))
    rows = json.loads(Path(os.fsdecode(os.path.join(folder, out))).read_bytes())
    assert (rows[0]["generator"], rows[0]["dataset"]) == ("caf\\xe9", "caf\\xe9")


def test_names_are_shown_as_valid_text() -> None:
    assert name_text("café") == "café"
    assert name_text(os.fsdecode(b"caf\xe9-\xc3\xa9")) == "caf\\xe9-é"


@LINUX
@pytest.mark.parametrize("words", [["score", "demo@0.5"], ["sweep", "demo", "--lam", "0.5", "--run", "run"]])
def test_errors_name_a_limit_of_file_sizes(words: list[str], tmp_path: Path) -> None:
    done = run(*words, "--tasks", "demo", "--limit", "2", cwd=tmp_path, limit=100_000)
    assert done.returncode == 1
    assert last_line(done).startswith("error: demo: cannot reserve ")
    assert "ulimit -f" in last_line(done)


def test_errors_name_a_model_in_memory_by_its_reference(tmp_path: Path) -> None:
    with pa_lite.load("demo@0.5") as loaded:
        assert loaded.model.label == "demo@0.50"
        assert "demo@0.50: computes" in str(next(_contexts(loaded.model)).broken())


def _contexts(model: object):  # type: ignore[no-untyped-def]
    with model.context(64) as context:  # type: ignore[attr-defined]
        yield context
