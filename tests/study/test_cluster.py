"""Tests of sweeps on a real Ray cluster of two nodes on this machine, one of which is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pa_lite
from pa_lite.errors import EngineError
from pa_lite.merging.schedule import parse_schedule
from pa_lite.study import cluster as clusters
from pa_lite.study.plan import StudyOptions, plan_study
from pa_lite.study.store import open_store, read_store
from pa_lite.study.sweep import run_sweep, sweep_pair
from tests.study.test_preferences import OPTIONS as JUDGED
from tests.study.test_sweep import OPTIONS, records


@pytest.fixture
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray", reason="extra `cluster`")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield made
    finally:
        made.shutdown()


def test_sweep_survives_a_killed_node(cluster: Any, tmp_path: Path) -> None:
    import ray

    second = cluster.add_node(num_cpus=1)
    plan = plan_study("demo", OPTIONS)
    with clusters.ray_workers("demo", cluster.address) as workers_for:
        make_worker, n_workers = workers_for(plan)
        assert n_workers == 2
        with open_store(tmp_path / "ray") as store:
            seen = 0

            def kill_one(_phase: str, done: int, _total: int, _unit: str) -> None:
                nonlocal seen
                seen = done
                if done and second in cluster.worker_nodes:
                    threading.Thread(target=cluster.remove_node, args=(second,)).start()
                    while second in cluster.worker_nodes:
                        time.sleep(0.01)

            run_sweep(plan, store, kill_one, make_worker, n_workers)
            assert seen == plan.n_items
    assert not ray.is_initialized()
    sweep_pair("demo", OPTIONS, tmp_path / "local")
    with read_store(tmp_path / "ray") as store, read_store(tmp_path / "local") as local:
        assert records(store) == records(local)


def test_judging_on_a_cluster_equals_local_judging(cluster: Any, tmp_path: Path) -> None:
    for backend, address in (("local", None), ("ray", cluster.address)):
        sweep_pair("demo", JUDGED, tmp_path / backend, backend=backend, address=address)
    with read_store(tmp_path / "ray") as store, read_store(tmp_path / "local") as local:
        assert {c.kind for c in store.cells()} == {"task", "answers", "wins"}
        assert records(store) == records(local)


def test_instructs_answers_reach_the_nodes(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("They say Kani lives in Rome. " * 40, "utf-8")
    options = StudyOptions(
        lams=(0.0, 1.0), text=(tmp_path / "notes.txt",), prompts="demo", prompts_limit=8,
        schedule=parse_schedule("ffn: 0.4"),
    )  # fmt: skip
    for backend, address in (("local", None), ("ray", cluster.address)):
        sweep_pair("demo", options, tmp_path / backend, backend=backend, address=address)
    with read_store(tmp_path / "ray") as store, read_store(tmp_path / "local") as local:
        assert {c.kind for c in store.cells()} == {"agreement", "instruct", "text"}
        assert records(store) == records(local)


def test_missing_ray_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineError, match=r"pip install 'pa-lite\[cluster\]'"):
        sweep_pair("demo", OPTIONS, tmp_path, backend="ray")


def test_unreachable_cluster_is_a_one_line_error(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="extra `cluster`")
    words = ["sweep", "demo", "--tasks", "demo_kind", "--limit", "4", "--lam", "0,1", "--run", str(tmp_path / "r")]
    command = [sys.executable, "-m", "pa_lite", *words, "--engine", "ray", "--address", "127.0.0.1:1"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 1
    assert [line for line in found.stderr.splitlines() if line.startswith("error: Ray cannot reach 127.0.0.1:1")]
    assert "Traceback" not in found.stderr
    assert list(tmp_path.iterdir()) == []  # a study that never started leaves no folder


def test_cluster_without_resources_is_an_error(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(clusters, "_ROOM_PATIENCE", 0.5)
    plan = plan_study("demo", OPTIONS)
    with clusters.ray_workers("demo", cluster.address):
        remote = ray.remote(num_cpus=99)(clusters._RemoteWorker)  # as if the nodes with enough resources were lost
        keys = [p.cell.key for p in plan.cells]
        worker = clusters.RayWorker(ray, lambda: remote.remote("demo", OPTIONS, keys, None, None), lambda: False)
        start = time.monotonic()
        with pytest.raises(
            EngineError, match=r"has had the resources for this model for 0\.5 seconds\. Finished results are kept"
        ):
            worker.run("F16", 0.0, 0, range(2))
        assert time.monotonic() - start < 20
        worker.close()


_HOSTILE = """
with open({log!r}, "a") as file:
    file.write(__name__ + "\\n")
"""
_SWEEP = ["sweep", "demo", "--lam", "0,1", "--tasks", "demo", "--limit", "2", "--threads", "1", "--engine", "ray"]


def test_nothing_is_imported_from_the_current_folder(tmp_path: Path) -> None:
    """Ray puts that folder first on its workers' import path."""
    pytest.importorskip("ray", reason="extra `cluster`")
    log, here = tmp_path / "executed", tmp_path / "here"
    here.mkdir()
    for name in ("pa_lite", "numpy", "pyarrow", "llama_cpp", "psutil", "click", "yaml"):
        (here / name).mkdir()
        (here / name / "__init__.py").write_text(_HOSTILE.format(log=str(log)), "utf-8")
    for name in ("sitecustomize", "usercustomize", "random", "typing"):
        (here / f"{name}.py").write_text(_HOSTILE.format(log=str(log)), "utf-8")
    code = "import sys; from pa_lite.cli import main; sys.exit(main())"
    settings = {"PYTHONPATH": str(Path(pa_lite.__file__).parents[1]), "PYTHONSAFEPATH": "1"}
    words = [sys.executable, "-c", f"import sys; sys.path.remove('') if '' in sys.path else None; {code}", *_SWEEP]
    done = subprocess.run(
        [*words, "--run", "run"], cwd=here, env={**os.environ, **settings}, capture_output=True, text=True, timeout=500,
        check=False,
    )  # fmt: skip
    assert not log.exists(), log.read_text("utf-8")
    assert done.returncode == 0, done.stderr
    with read_store(here / "run") as store:  # relative paths are still relative to the user's folder
        assert {cell.lam for cell in store.cells()} == {0.0, 1.0}


def test_local_cluster_requires_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    clusters._protect()
    assert (os.environ["RAY_AUTH_MODE"], len(os.environ["RAY_AUTH_TOKEN"])) == ("token", 64)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    clusters._protect()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
