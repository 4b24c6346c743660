"""Tests of stale results: measured again with the reason, or kept with --keep-stale, which is reported."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pa_lite.checkpoints.pairs import Pair, find_pair
from pa_lite.engine.options import METHOD, EngineOptions
from pa_lite.study.export import item_rows, lm_eval_document, to_document
from pa_lite.study.plan import StudyOptions, plan_study
from pa_lite.study.report.publish import publish
from pa_lite.study.staleness import UNRECORDED, by_reason, settle_plan
from pa_lite.study.store import Cell, open_store, read_store
from pa_lite.study.summary import StudySummary
from pa_lite.study.sweep import estimate_pair, sweep_pair
from pa_lite.tasks.scoring import ScoreOptions
from tests.cli.test_cli import run

OPTIONS = StudyOptions(
    lams=(0.0, 1.0), tasks=("demo_town",), follow="demo", follow_limit=8, score=ScoreOptions(limit=6)
)
N_ITEMS = 2 * (6 + 8)


def make_pair(folder: Path) -> Pair:
    """Copy the embedded pair to a folder, where it can be changed."""
    for side, source in zip(("base", "instruct"), find_pair("demo").folders, strict=True):
        shutil.copytree(source, folder / side)
    return Pair(name="mine", base=folder / "base", instruct=folder / "instruct")


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    table = json.loads(path.read_text("utf-8"))
    change(table)
    path.write_text(json.dumps(table), "utf-8")


def change_template(pair: Pair) -> None:
    def start_the_answer(table: dict[str, Any]) -> None:
        before = "<|im_start|>assistant\n"
        table["chat_template"] = table["chat_template"].replace(before, f"{before}In fact")

    edit(pair.folders[1] / "tokenizer_config.json", start_the_answer)


def change_ends(pair: Pair) -> None:
    edit(pair.folders[1] / "generation_config.json", lambda table: table.update(eos_token_id=[2, 17]))


def change_rope(pair: Pair) -> None:
    for side in pair.folders:
        edit(side / "config.json", lambda table: table.update(rope_theta=500.0))


def change_tokenizer(pair: Pair) -> None:
    """Swap the ids of two words of instruct."""

    def swap(table: dict[str, Any]) -> None:
        vocabulary = table["model"]["vocab"]
        a, b = [token for token in vocabulary if token.startswith("Ġ") and len(token) > 4][:2]
        vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]

    edit(pair.folders[1] / "tokenizer.json", swap)


def change_epsilon(pair: Pair) -> None:
    for side in pair.folders:
        edit(side / "config.json", lambda table: table.update(rms_norm_eps=1e-3))


def change_context(pair: Pair) -> None:
    for side in pair.folders:
        edit(side / "config.json", lambda table: table.update(max_position_embeddings=256))


def values(study: StudySummary) -> list[list[list[float]]]:
    series = [*study.curves.tasks, *filter(None, (study.curves.follow, study.curves.wins))]
    return [s.values.tolist() for s in series]


@pytest.mark.parametrize(("change", "reason"), [
    (change_template, "another tokenizer.chat_template"),
    (change_ends, "another tokenizer.ggml.eom_token_id"),
    (change_rope, "another llama.rope.freq_base (10000.0 before, 500.0 now)"),
    (change_tokenizer, "another tokenizer.ggml."),
    (change_epsilon, "llama.attention.layer_norm_rms_epsilon"),
    (change_context, "another llama.context_length (512 before, 256 now)"),
])  # fmt: skip
def test_changed_inputs_are_measured_again(
    change: Callable[[Pair], None], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = make_pair(tmp_path)
    sweep_pair(pair, OPTIONS, tmp_path / "run")
    assert estimate_pair(pair, OPTIONS, tmp_path / "run").items_left == 0
    change(pair)
    left = estimate_pair(pair, OPTIONS, tmp_path / "run")
    assert left.items_left == N_ITEMS
    assert any(reason in found for found in left.stale), left.stale
    assert set().union(*left.stale.values()) == {"demo", "demo_town"}
    caplog.clear()
    again = sweep_pair(pair, OPTIONS, tmp_path / "run")
    assert any(line.startswith("measured again: ") and reason in line for line in caplog.messages)
    assert values(again) == values(sweep_pair(pair, OPTIONS, tmp_path / "fresh"))
    assert again.kept == ()


def test_names_and_descriptions_are_not_inputs(tmp_path: Path) -> None:
    """A checkpoint is named after its folder."""
    pair = make_pair(tmp_path / "a")
    sweep_pair(pair, OPTIONS, tmp_path / "run")
    base, instruct = (side.rename(side.with_name(f"my-{side.name}")) for side in pair.folders)
    moved = Pair(name="mine", base=base, instruct=instruct)
    found = estimate_pair(moved, OPTIONS, tmp_path / "run")
    assert (found.items_left, found.stale) == (0, {})


def test_only_settings_that_change_numbers_are_inputs() -> None:
    def key(**settings: Any) -> str:
        return plan_study("demo", replace(OPTIONS, engine=EngineOptions(**settings))).cells[0].cell.key

    one = key()
    assert key(threads=1) == one
    assert key(probe=False) == one
    changes: list[dict[str, Any]] = [
        {"cache_type": "F32"}, {"flash_attention": True}, {"n_batch": 64}, {"gpu_layers": 0}, {"n_ctx": 256},
    ]  # fmt: skip
    assert len({one, *(key(**change) for change in changes)}) == 1 + len(changes)


def as_0_1_0_measured(folder: Path) -> None:
    """Give a folder's cells the inputs that pa-lite 0.1.0 recorded."""
    with open_store(folder) as store:
        renamed = {}
        for cell in store.cells():
            names = ["base", "instruct", "schedule", "engine", "chunk", "llama_cpp_python", "work"]
            if cell.kind == "wins":
                names = ["judge", "prompt", "pairs", "context", "chunk"]
            inputs = {name: cell.inputs[name] for name in names}
            old = Cell(
                lam=cell.lam, type=cell.type, kind=cell.kind, name=cell.name, n_items=cell.n_items, inputs=inputs
            )
            whole = [cell.lam, cell.type, cell.kind, cell.name, cell.n_items, inputs]
            assert (
                old.key == hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
            )  # the format of keys is unchanged
            renamed[cell.key] = old.key
            for query in (
                "UPDATE cells SET inputs = :inputs, key = :new WHERE key = :old",
                "UPDATE items SET cell = :new WHERE cell = :old",
            ):
                store._connection.execute("PRAGMA foreign_keys = OFF")
                store._connection.execute(query, {"inputs": json.dumps(inputs), "new": old.key, "old": cell.key})
        store.note({"cells": [renamed[key] for key in store.facts()["cells"]]})
        store._connection.execute("DELETE FROM facts WHERE name = 'kept'")


@pytest.fixture
def old_folder(tmp_path: Path) -> tuple[Path, list[list[list[float]]]]:
    """A run folder as pa-lite 0.1.0 left it, and the measured values."""
    study = sweep_pair("demo", OPTIONS, tmp_path / "old")
    as_0_1_0_measured(tmp_path / "old")
    return tmp_path / "old", values(study)


def test_old_folder_is_read_with_a_remark(old_folder: tuple[Path, list[list[list[float]]]]) -> None:
    folder, measured = old_folder
    written, study = publish(folder)
    assert values(study) == measured
    assert study.remarks == (f"M{UNRECORDED[1:]}: demo_town, demo. A new sweep measures this again.",)
    assert study.remarks[0] in written[0].read_text("utf-8")
    assert dict(study.setting)["identity"] == "not recorded"


def test_old_folder_is_measured_again(
    old_folder: tuple[Path, list[list[list[float]]]], caplog: pytest.LogCaptureFixture
) -> None:
    folder, measured = old_folder
    left = estimate_pair("demo", OPTIONS, folder)
    assert (left.items_left, left.stale, left.kept) == (N_ITEMS, {UNRECORDED: ["demo", "demo_town"]}, {})
    study = sweep_pair("demo", OPTIONS, folder)
    assert caplog.messages == [
        f"measured again: demo, demo_town; reason: {UNRECORDED}", "use --keep-stale to keep these results as they are",
    ]  # fmt: skip
    assert (values(study), study.remarks, study.kept) == (measured, (), ())
    with read_store(folder) as store:
        assert len(store.cells()) == 8  # the old ones stay, but are not shown
    assert estimate_pair("demo", OPTIONS, folder).stale == {}


def test_old_folder_is_kept_with_keep_stale(
    old_folder: tuple[Path, list[list[list[float]]]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, measured = old_folder
    more = replace(OPTIONS, lams=(0.0, 0.5, 1.0))
    left = estimate_pair("demo", more, folder, keep_stale=True)
    assert (left.items_left, left.stale, left.kept) == (N_ITEMS // 2, {}, {UNRECORDED: ["demo", "demo_town"]})
    study = sweep_pair("demo", more, folder, keep_stale=True)
    assert caplog.messages == [f"kept (--keep-stale): demo, demo_town; reason: {UNRECORDED}"]
    assert [[s[0], s[2]] for s in values(study)] == measured
    remark = (
        f"Kept from an earlier run (--keep-stale): demo_town, demo at lam 0, 1; reason to measure again: {UNRECORDED}."
    )
    assert study.remarks == (remark,)
    assert [(k.kind, k.name, k.lam, k.reasons) for k in study.kept] == [
        (kind, name, lam, (UNRECORDED,))
        for lam in (0.0, 1.0)
        for kind, name in (("task", "demo_town"), ("follow", "demo"))
    ]
    document = to_document(study)
    assert document["remarks"] == [remark]
    assert document["kept_stale"][0] == {"kind": "task", "name": "demo_town", "lam": 0.0, "reasons": [UNRECORDED]}
    with read_store(folder) as store:
        rows = list(item_rows(store))
        assert {r["lam"] for r in rows if r["stale"]} == {0.0, 1.0}
        assert {r["stale"] for r in rows} == {"", UNRECORDED}
        assert lm_eval_document(store, "F16", 0.0)["pa_lite"]["kept_stale"] == {"demo_town": [UNRECORDED]}
        assert lm_eval_document(store, "F16", 0.5)["pa_lite"]["kept_stale"] == {}
    written, again = publish(folder)
    assert again.remarks == (remark,)
    assert remark in written[0].read_text("utf-8").replace("&#39;", "'")
    # without the option no old result is used
    fresh = sweep_pair("demo", more, folder)
    assert (fresh.remarks, fresh.kept) == ((), ())


def test_results_of_other_weights_or_items_are_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pair = make_pair(tmp_path)
    sweep_pair(pair, OPTIONS, tmp_path / "run")
    other_seed = replace(OPTIONS, score=ScoreOptions(limit=6, seed=1))
    found = estimate_pair(pair, other_seed, tmp_path / "run", keep_stale=True)
    assert found.stale == {"other items or exemplars (--limit, --shots, --seed, --seeds)": ["demo_town"]}
    assert (found.kept, found.items_left) == ({}, 12)
    weights = pair.folders[1] / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-2:] = b"\x00\x3c"
    weights.write_bytes(raw)
    found = estimate_pair(pair, OPTIONS, tmp_path / "run", keep_stale=True)
    assert found.stale == {"other checkpoints": ["demo", "demo_town"]}
    assert found.items_left == N_ITEMS
    sweep_pair(pair, OPTIONS, tmp_path / "run", keep_stale=True)
    assert caplog.messages == ["measured again: demo, demo_town; reason: other checkpoints"]


def test_changed_chat_template_may_be_kept(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    before = sweep_pair(pair, OPTIONS, tmp_path / "run")
    change_template(pair)
    study = sweep_pair(pair, OPTIONS, tmp_path / "run", keep_stale=True)
    assert values(study) == values(before)
    assert "another tokenizer.chat_template" in study.remarks[0]


def test_unfinished_cell_is_not_kept(tmp_path: Path) -> None:
    sweep_pair("demo", OPTIONS, tmp_path)
    as_0_1_0_measured(tmp_path)
    with open_store(tmp_path) as store:
        key = next(c.key for c in store.cells() if c.kind == "task" and c.lam == 1)
        store._connection.execute("UPDATE cells SET summary = NULL WHERE key = ?", (key,))
    found = estimate_pair("demo", OPTIONS, tmp_path, keep_stale=True)
    assert (found.items_left, found.stale) == (6, {UNRECORDED: ["demo_town"]})


def test_each_run_decides_whether_to_keep_stale_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that would measure stale results again can be stopped, and run again with --keep-stale."""
    before = values(sweep_pair("demo", OPTIONS, tmp_path))
    as_0_1_0_measured(tmp_path)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pa_lite.study.worker.LocalWorker.run", stopped)
        with pytest.raises(KeyboardInterrupt):
            sweep_pair("demo", OPTIONS, tmp_path)
        found = estimate_pair("demo", OPTIONS, tmp_path, keep_stale=True)
        assert (found.items_left, found.stale) == (0, {})
        assert values(sweep_pair("demo", OPTIONS, tmp_path, keep_stale=True)) == before
    again = estimate_pair("demo", OPTIONS, tmp_path)
    assert (again.items_left, again.stale) == (N_ITEMS, {UNRECORDED: ["demo", "demo_town"]})


def test_changed_method_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep_pair("demo", OPTIONS, tmp_path)
    monkeypatch.setattr("pa_lite.study.plan.METHOD", METHOD + 1)
    with read_store(tmp_path) as store:
        assert by_reason(settle_plan(plan_study("demo", OPTIONS), store)[1].again) == {
            "another version of pa-lite's method of measuring": ["demo", "demo_town"]
        }


def test_preferences_of_an_old_folder_are_kept_or_judged_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = StudyOptions(
        lams=(0.0, 1.0),
        tasks=("demo_kind",),
        score=ScoreOptions(limit=4),
        alpaca="demo",
        alpaca_limit=4,
        judge="demo@1.0",
    )
    before = sweep_pair("demo", options, tmp_path)
    as_0_1_0_measured(tmp_path)
    caplog.clear()
    kept = sweep_pair("demo", options, tmp_path, keep_stale=True)
    assert values(kept) == values(before)
    assert {(k.kind, k.reasons) for k in kept.kept} == {(k, (UNRECORDED,)) for k in ("task", "answers", "wins")}
    assert caplog.messages[1] == f"kept (--keep-stale): demo, judged by demo@1.0; reason: {UNRECORDED}"
    with read_store(tmp_path) as store:
        assert len(store.cells()) == 6
    caplog.clear()
    fresh = sweep_pair("demo", options, tmp_path)
    assert caplog.messages[-2] == f"measured again: demo, judged by demo@1.0; reason: {UNRECORDED}"
    assert fresh.kept == ()
    with read_store(tmp_path) as store:
        assert len(store.cells()) == 12


def test_dry_run_lists_stale_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep_pair("demo", OPTIONS, tmp_path / "run")
    as_0_1_0_measured(tmp_path / "run")
    words = ["sweep", "demo", "--lam", "0,1", "--tasks", "demo_town", "--limit", "6", "--follow", "demo"]
    words += ["--follow-limit", "8", "--run", str(tmp_path / "run"), "--dry-run"]
    _, out, _ = run(capsys, *words)
    assert f"{N_ITEMS} of them to be measured\nto be measured again: demo, demo_town; reason: {UNRECORDED}\n" in out
    _, out, _ = run(capsys, *words, "--keep-stale")
    assert f"0 of them to be measured\nkept (--keep-stale): demo, demo_town; reason: {UNRECORDED}\n" in out


def test_following_in_a_small_context_equals_follow(tmp_path: Path) -> None:
    """The public set allows 512 new tokens, as many as the embedded pair's whole context has."""
    import pa_lite

    study = sweep_pair("demo", replace(OPTIONS, lams=(1.0,), follow="public", follow_limit=4), tmp_path)
    with pa_lite.load("demo@1") as model:
        followed = model.follow("public", limit=4)
    assert followed.max_tokens == 256
    assert study.curves.follow is not None
    assert study.curves.follow.values.tolist() == [[float(bool(a.followed)) for a in followed.answers]]
    with read_store(tmp_path) as store:
        (cell,) = [c for c in store.cells() if c.kind == "follow"]
        assert [r["output"] for r in store.items(cell.key)] == [a.output for a in followed.answers]
