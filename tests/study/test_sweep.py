"""Tests of sweeps: finished cells are reused, changed ones run again, kills lose nothing, scores equal scoring's."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pa_lite
from pa_lite.checkpoints.pairs import Pair
from pa_lite.engine import context_memory
from pa_lite.engine.model import EngineOptions
from pa_lite.errors import EngineError, InputError, OutputError
from pa_lite.study import sweep as sweeping
from pa_lite.study.export import lm_eval_document, to_document
from pa_lite.study.plan import StudyOptions, StudyPlan, plan_study
from pa_lite.study.results import load_study
from pa_lite.study.results_file import FILE
from pa_lite.study.staleness import by_reason, settle_plan
from pa_lite.study.store import Store, open_store, read_store
from pa_lite.study.sweep import estimate_pair, run_sweep, sweep_pair
from pa_lite.study.worker import LocalWorker, WorkerLostError
from pa_lite.tasks.scoring import ScoreOptions

KILLS = 30
OPTIONS = StudyOptions(
    lams=(0.0, 0.5, 1.0), tasks=("demo_kind", "demo_town"), follow="demo", follow_limit=12, score=ScoreOptions(limit=24)
)


def records(store: Store) -> dict[tuple[str, float, str], list[Any]]:
    """Return the items of every finished cell."""
    return {(c.name, c.lam, c.type): store.items(c.key) for c in store.cells() if c.summary is not None}


def test_sweep_gives_the_scores_of_scoring(tmp_path: Path) -> None:
    study = sweep_pair("demo", OPTIONS, tmp_path)
    assert study.curves.lams == OPTIONS.lams
    assert [t.name for t in study.curves.tasks] == ["demo_kind", "demo_town"]
    assert study.curves.follow is not None
    assert study.curves.follow.values.shape == (3, 12)
    with pa_lite.load("demo@0.5") as model:
        scored = model.score(["demo_kind", "demo_town"], ScoreOptions(limit=24))
    for series, task in zip(study.curves.tasks, scored.tasks, strict=True):
        assert series.values[1].tolist() == [i.value for i in task.items]
        assert series.majority == pytest.approx(task.majority)
        assert series.chance == pytest.approx(task.chance)
    assert len(study.examples) == 6
    assert all(len(e.outputs) in (2, 3) for e in study.examples)


def stale(plan: StudyPlan, store: Store) -> dict[str, list[str]]:
    return by_reason(settle_plan(plan, store)[1].again)


def test_finished_cells_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep_pair("demo", OPTIONS, tmp_path)
    done: list[tuple[str, float]] = []
    real = LocalWorker.run

    def counting(self: LocalWorker, kind: str, lam: float, workload: int, items: range, **named: Any) -> object:
        done.append((self.plan.workloads[workload].name, lam))
        return real(self, kind, lam, workload, items, **named)

    monkeypatch.setattr(LocalWorker, "run", counting)
    again = sweep_pair("demo", OPTIONS, tmp_path)
    assert done == []
    more = replace(OPTIONS, lams=(0.0, 0.25, 0.5, 1.0))
    assert sweep_pair("demo", more, tmp_path).curves.lams == more.lams
    assert {lam for _, lam in done} == {0.25}
    done.clear()
    changed = replace(OPTIONS, score=ScoreOptions(limit=20))  # another set of items, the same instructions
    with open_store(tmp_path) as store:
        plan = plan_study("demo", changed)
        assert stale(plan, store) == {
            "other items or exemplars (--limit, --shots, --seed, --seeds)": ["demo_kind", "demo_town"]
        }
        run_sweep(plan, store)
        assert load_study(store).curves.tasks[0].n == 20
        assert stale(plan, store) == {}  # nothing finished is measured again
        assert stale(plan_study("demo", OPTIONS), store) == {}
        other = plan_study("demo", replace(OPTIONS, engine=EngineOptions(n_batch=64)))
        assert stale(other, store) == {"other engine settings": ["demo", "demo_kind", "demo_town"]}
    assert {name for name, _ in done} == {"demo_kind", "demo_town"}
    assert again.curves.tasks[0].n == 24


def test_finished_cells_of_an_older_version_get_clusters_and_all_metrics(tmp_path: Path) -> None:
    """Passages and other metrics reach the study from the records of a task that is not measured again."""
    rows = [{"split": "test", "q": f"{i} + 1 =", "gold": str(i + 1), "part": f"passage {i // 2}"} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    (tmp_path / "sums.toml").write_text(
        """[tasks.sums]
data = "rows.jsonl"
template = "{{ q }}"
kind = "G"
answers = "gold"
cluster = "part"
max_tokens = 4
extract = [{ name = "strict", pattern = "= (.*)" }, { name = "flexible", pattern = "{number}", pick = "last" }]
""",
        "utf-8",
    )
    options = StudyOptions(lams=(0.0, 1.0), tasks=(str(tmp_path / "sums.toml"),))
    (series,) = sweep_pair("demo", options, tmp_path / "run").curves.tasks
    assert series.clusters == (0, 0, 1, 1, 2, 2)
    assert [len(each) for each in series.metrics.values()] == [2]
    with open_store(tmp_path / "run") as store:
        assert all("cluster" not in item for c in store.cells() for item in store.items(c.key))
        numbers = lm_eval_document(store, "F16", 0.0)["results"]["sums"]
        assert numbers["exact_match,flexible"] == series.metrics["exact_match,flexible"][0].value
        store._connection.execute(
            "UPDATE cells SET summary = json_remove(summary, '$.clusters', '$.metrics', '$.version')"
        )
        (old,) = load_study(store).curves.tasks
        assert (old.clusters, old.metrics) == (None, {})
    study = sweep_pair("demo", options, tmp_path / "run")
    (again,) = study.curves.tasks
    assert (again.clusters, again.metrics) == (series.clusters, series.metrics)
    assert to_document(study)["tasks"][0]["clusters"] == 3
    averages = [r for r in to_document(study)["averages"] if r["group"] == "sums: exact_match,flexible"]
    assert [r["lam"] for r in averages] == [0.0, 1.0]
    task = tmp_path / "sums.toml"
    task.write_text(task.read_text("utf-8").replace('cluster = "part"\n', ""), "utf-8")  # decides no answer
    with open_store(tmp_path / "run") as store:
        before = [c.started for c in store.cells()]
    (free,) = sweep_pair("demo", options, tmp_path / "run").curves.tasks
    assert free.clusters is None
    with open_store(tmp_path / "run") as store:
        assert [c.started for c in store.cells()] == before


def test_folder_of_another_pair_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sweep_pair("demo", replace(OPTIONS, follow="", score=ScoreOptions(limit=4)), tmp_path)
    with open_store(tmp_path) as store:
        store.note({"pair": "llama"})
    with pytest.raises(InputError, match="contains a study of llama, not of demo"):
        sweep_pair("demo", OPTIONS, tmp_path)
    assert caplog.messages == []  # refused before stale results are reported


def test_reduced_memory_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = StudyOptions(lams=(0.0, 1.0), tasks=("demo_kind",), score=ScoreOptions(limit=4))
    assert sweep_pair("demo", options, tmp_path / "ample").remarks == ()
    monkeypatch.setattr(context_memory, "available_memory", lambda: 4_000_000)
    study = sweep_pair("demo", options, tmp_path / "short")
    assert len(study.remarks) == 1
    assert study.remarks[0].startswith("For lack of memory at some lam: memory is enough for ")
    assert "(cache F16, batches of " in study.remarks[0]


@pytest.mark.parametrize(("change", "message"), [
    ({"lams": (0.5, 0.0)}, "lams must increase, without duplicates: 0,0.5,1 or 0:1:0.1. Given: 0.5, 0."),
    ({"lams": (0.5, 0.5)}, "lams must increase"),
    ({"lams": ()}, "Given: none."),
    ({"tasks": ("dmo",)}, "unknown task or suite 'dmo'"),
    ({"follow": "nothing"}, "unknown set 'nothing'"),
    ({"types": ("F16", "F16")}, "duplicate type"),
    ({"types": ("F17",)}, "unknown output type 'F17'"),
])  # fmt: skip
def test_invalid_options_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as failed:
        sweep_pair("demo", replace(OPTIONS, **change), tmp_path / "run")
    assert message in str(failed.value)
    assert not (tmp_path / "run").exists()


def test_estimate_counts_the_remaining_items(tmp_path: Path) -> None:
    before = estimate_pair("demo", OPTIONS, tmp_path)
    assert (before.cells, before.items, before.items_left) == (9, 180, 180)
    assert before.seconds is not None
    assert 0 < before.seconds < 300
    sweep_pair("demo", OPTIONS, tmp_path)
    after = estimate_pair("demo", replace(OPTIONS, lams=(0.0, 0.7, 1.0)), tmp_path)
    assert (after.items, after.items_left) == (180, 60)
    assert estimate_pair("demo", OPTIONS, tmp_path).seconds is None


def test_lost_workers_are_replaced(tmp_path: Path) -> None:
    plan = replace(plan_study("demo", OPTIONS), chunk=8)
    rng, losses = random.Random(1), 0

    class Fragile(LocalWorker):
        def run(self, *words: object, **named: object) -> object:  # type: ignore[override]
            nonlocal losses
            if rng.random() < 0.3 and losses < 10:
                losses += 1
                raise WorkerLostError("gone")
            return super().run(*words, **named)  # type: ignore[arg-type]

    with open_store(tmp_path / "a") as store:
        run_sweep(plan, store, make_worker=lambda: Fragile(plan))  # type: ignore[arg-type,return-value]
        shaky = records(store)
    assert losses == 10
    with open_store(tmp_path / "b") as store:
        run_sweep(plan, store)
        assert records(store) == shaky


def test_too_many_lost_workers_stop_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dead(LocalWorker):
        def run(self, *words: object, **named: object) -> object:  # type: ignore[override]
            raise WorkerLostError("gone")

    monkeypatch.setattr(sweeping, "MOST_LOSSES", 3)
    plan = plan_study("demo", OPTIONS)
    with (
        open_store(tmp_path) as store,
        pytest.raises(EngineError, match="4 workers were lost, the last one with: gone"),
    ):
        run_sweep(plan, store, make_worker=lambda: Dead(plan))  # type: ignore[arg-type,return-value]


SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
from pa_lite.study import plan as planning
from tests.study.test_sweep import OPTIONS
from pa_lite.study.sweep import sweep_pair
planning._CHUNKS = ((10**12, 4),)
sweep_pair("demo", OPTIONS, Path(sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    rng, kills, finished = random.Random(0), 0, 0
    while kills < KILLS:
        folder = tmp_path / f"run{finished}"
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], cwd=root, stderr=subprocess.PIPE)
        while not (folder / FILE).exists() and process.poll() is None:
            time.sleep(0.005)
        try:
            _, err = process.communicate(timeout=rng.uniform(0.0, 0.5))
            assert process.returncode == 0, err
            finished += 1
        except subprocess.TimeoutExpired:
            before = _count(folder)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            assert _count(folder) >= before
    subprocess.run([sys.executable, "-c", SCRIPT, str(folder)], cwd=root, check=True)
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / "whole")], cwd=root, check=True)
    with read_store(folder) as store, read_store(tmp_path / "whole") as whole:
        assert json.dumps(_sorted(store)) == json.dumps(_sorted(whole))


def _count(folder: Path) -> int:
    try:
        with read_store(folder) as store:
            return sum(c.n_done for c in store.cells())
    except (InputError, OutputError):  # killed before the tables were created
        return 0


def _sorted(store: Store) -> list[object]:
    return [[*key, found] for key, found in sorted(records(store).items())]


def test_plan_is_cheap_to_send(demo_pair: Pair) -> None:
    import pickle

    options = pickle.loads(pickle.dumps(OPTIONS))
    plan: StudyPlan = plan_study(demo_pair, options)
    assert [p.cell.key for p in plan.cells] == [p.cell.key for p in plan_study("demo", OPTIONS).cells]


def test_error_in_one_worker_interrupts_the_others(tmp_path: Path) -> None:
    """Ctrl-C, which only the main thread receives, has the same effect."""
    plan = plan_study("demo", replace(OPTIONS, score=ScoreOptions(limit=400), workers=2))
    working, ended = threading.Event(), []

    class Endless(LocalWorker):
        def run(self, kind: str, lam: float, *rest: object, **named: object) -> object:  # type: ignore[override]
            if lam == 0:
                assert working.wait(20)
                raise OutputError("the disk is full")
            self.model_at(kind, lam)
            working.set()
            try:
                while True:  # only an interrupt ends this
                    super().run(kind, lam, *rest, **named)  # type: ignore[arg-type]
            except EngineError as e:
                ended.append(str(e))
                raise

    with open_store(tmp_path) as store, pytest.raises(OutputError, match="the disk is full"):
        run_sweep(plan, store, make_worker=lambda: Endless(plan), n_workers=2)  # type: ignore[arg-type,return-value]
    assert len(ended) == 1
    assert "code 2" in ended[0] or "the batch was stopped" in ended[0]


def test_estimate_refuses_the_folder_of_another_pair(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.note({"pair": "llama"})
    with pytest.raises(InputError, match="contains a study of llama"):
        estimate_pair("demo", OPTIONS, tmp_path)
