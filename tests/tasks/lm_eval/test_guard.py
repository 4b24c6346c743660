"""Files in the current folder do not affect an lm-eval run, and its cache of requests must be private."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")
pytest.importorskip("datasets")
pytest.importorskip("evaluate")

import pa_lite
from pa_lite.errors import InputError
from pa_lite.tasks.lm_eval.guard import check_requests_cache, guarded, is_shadowed
from tests.support.lm_eval_tasks import PICK, SAY, metrics, rows, write_task, write_tasks

_MARK = "open({log!r}, 'a').write(__name__ + '\\n')\n"


def run_in(here: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the harness command in a folder from which Python itself imports nothing."""
    code = "import sys; sys.path[:] = [p for p in sys.path if p]; from pa_lite.cli import main; sys.exit(main())"
    root, home = Path(pa_lite.__file__).parents[1], here.parent / "home"
    settings = {"PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-c", code, "harness", "demo@0.7", "--threads", "1", *words],
        cwd=here, env={**os.environ, **settings, **variables}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Return a hostile folder with modules, metrics and a git repository; code in it logs to `executed` next to it."""
    folder, log = tmp_path / "here", tmp_path / "executed"
    for name in (
        "numpy",
        "datasets",
        "evaluate",
        "lm_eval",
        "torch",
        "transformers",
        "exact_match",
        "accuracy",
        "json",
    ):
        (folder / name).mkdir(parents=True)
        for file in ("__init__.py", f"{name}.py"):
            (folder / name / file).write_text(_MARK.format(log=str(log)), "utf-8")
    for name in ("sitecustomize", "utils", "task"):
        (folder / f"{name}.py").write_text(_MARK.format(log=str(log)), "utf-8")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: ../../secret\n", "utf-8")
    (tmp_path / "secret").write_text("a secret of the user's", "utf-8")
    (folder / "pyproject.toml").write_text("text.usetex = true", "utf-8")
    (folder / "matplotlibrc").write_text("text.usetex: True\n", "utf-8")
    return folder


def test_a_hostile_folder_runs_nothing_and_leaks_nothing(here: Path, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    write_tasks(tasks)
    done = run_in(here, "--include_path", str(tasks), "--tasks", f"{PICK},{SAY}", "--limit", "2", "-o", "results")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "executed").exists()
    assert "git" not in done.stderr
    (results,) = (here / "results" / "demo@0.7").glob("results_*.json")
    document = json.loads(results.read_text("utf-8"))
    assert (document["git_hash"], document["upper_git_hash"]) == (None, None)
    assert "a secret" not in results.read_text("utf-8")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_in_place_of_gits_head_is_not_opened(here: Path, tmp_path: Path) -> None:
    (here / ".git" / "HEAD").unlink()
    os.mkfifo(here / ".git" / "HEAD")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    write_tasks(tasks)
    done = run_in(here, "--include_path", str(tasks), "--tasks", PICK, "--limit", "1")
    assert done.returncode == 0, done.stderr


def test_a_metric_in_the_current_folder_is_not_run(here: Path, tmp_path: Path) -> None:
    """lm-eval loads an unknown metric with `evaluate`, which looks in the current folder first."""
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (here / "kindness").mkdir()
    (here / "kindness" / "kindness.py").write_text(_MARK.format(log=str(tmp_path / "executed")), "utf-8")
    task = {"doc_to_text": "{{q}}", "output_type": "generate_until", "doc_to_target": "{{options[gold]}}"}
    write_task(tasks, "pa_test_metric", {**task, "metric_list": metrics(kindness=True)}, rows(2))
    done = run_in(here, "--include_path", str(tasks), "--tasks", "pa_test_metric")
    assert done.returncode == 1
    assert not (tmp_path / "executed").exists()
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: the metric 'kindness' would be run from the current folder")


def test_a_folder_with_a_data_sets_name_is_refused(here: Path) -> None:
    (here / "allenai" / "ai2_arc").mkdir(parents=True)
    (here / "allenai" / "ai2_arc" / "test.jsonl").write_text('{"question": "mine"}\n', "utf-8")
    done = run_in(here, "--tasks", "arc_easy", "--limit", "1")
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: the data set 'allenai/ai2_arc' is on the Hub, but the current folder has an entry")


def test_a_users_task_may_use_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with guarded() as guard, pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        (tmp_path / "data").mkdir()
        guard.is_own = True
        with caplog.at_level(logging.WARNING), guard.watch():
            guard.check_data("data")
        assert "are loaded from the folder 'data' in the current folder" in caplog.text
        guard.is_own = False
        with pytest.raises(InputError, match="the data set 'data' is on the Hub"), guard.watch():
            guard.check_data("data")


def test_a_refusal_that_lm_eval_caught_is_raised_anyway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate

    monkeypatch.chdir(tmp_path)
    (tmp_path / "bleu").mkdir()
    known = evaluate.load

    def caught() -> None:
        with guarded() as guard, guard.watch(), contextlib.suppress(InputError):
            evaluate.load("bleu")

    with pytest.raises(InputError, match="the metric 'bleu' would be run"):
        caught()
    assert evaluate.load is known


def test_names_are_shadowed_and_paths_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("nothing")
    found = {name: is_shadowed(name) for name in ("data", "./data", str(tmp_path), "link", "org/name", "", "hf://data")}
    assert [name for name, shadowed in found.items() if shadowed] == ["data", "link"]
    assert not is_shadowed(None)


@pytest.mark.skipif(os.name != "posix", reason="POSIX owners and modes")
def test_the_cache_of_requests_must_be_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.caching import cache

    folder = tmp_path / "cache"
    monkeypatch.setattr(cache, "PATH", str(folder))
    check_requests_cache()  # it does not exist
    folder.mkdir()
    kept = folder / f"requests{cache.FILE_SUFFIX}"
    kept.write_bytes(b"x")
    check_requests_cache()
    kept.chmod(0o666)
    with pytest.raises(InputError, match="can be written by other users, and reading"):
        check_requests_cache()
    kept.chmod(0o600)
    (folder / "link").symlink_to(kept)
    with pytest.raises(InputError, match="link: is a link"):
        check_requests_cache()
    (folder / "link").unlink()
    folder.chmod(0o777)
    with pytest.raises(InputError, match="cache: can be written by other users"):
        check_requests_cache()
    folder.chmod(0o700)
    if os.geteuid() == 0:
        os.chown(kept, 12345, 12345)
        with pytest.raises(InputError, match="belongs to another user"):
            check_requests_cache()
    monkeypatch.setattr(cache, "PATH", "cache")
    with pytest.raises(InputError, match="depends on the current folder"):
        check_requests_cache()
