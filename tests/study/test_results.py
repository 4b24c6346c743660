"""Tests of reading a study back: prompts without a value, summaries of older versions, what the intervals allow for."""

from __future__ import annotations

from pathlib import Path

from pa_lite.study.cells import Cell
from pa_lite.study.results import load_study
from pa_lite.study.store import open_store, read_store
from pa_lite.study.summary import StudySummary

LAMS = (0.0, 0.5, 1.0)


def read_back(folder: Path, version: int = 2, shots: int = 5) -> StudySummary:
    """Store a task and six prompts at three lams; prompt 1 cannot be checked at lam 0.5, nor prompt 4 anywhere."""
    with open_store(folder) as store:
        keys = []
        for lam in LAMS:
            task = Cell(lam=lam, type="F16", kind="task", name="t", n_items=4, inputs={"work": {"shots": shots}})
            follow = Cell(lam=lam, type="F16", kind="follow", name="f", n_items=6, inputs={})
            store.enter([task, follow], {})
            store.add(task.key, {i: {"metric": "acc", "metrics": {"acc": float(i % 2)}} for i in range(4)}, 0.1)
            followed = [None if i == 4 or (i == 1 and lam == 0.5) else i < 3 for i in range(6)]
            answer = {"output": "", "instruction": "x", "ended": True}
            store.add(follow.key, {i: {**answer, "followed": value} for i, value in enumerate(followed)}, 0.1)
            store.finish(task.key, {"version": 99, "area": "a"})
            store.finish(follow.key, {"version": version})
            keys += [task.key, follow.key]
        store.note({"pair": "x", "cells": keys, "schedule": "", "seed": 0, "limit": None, "parameters": 1})
    with read_store(folder) as store:
        return load_study(store)


def test_prompts_that_no_rule_can_check_are_left_out_at_every_lam(tmp_path: Path) -> None:
    study = read_back(tmp_path / "run")
    assert study.curves.follow is not None
    assert study.curves.follow.values.tolist() == [[1.0, 1.0, 0.0, 0.0]] * 3
    assert "f: 2 of 6 prompts could not be checked at every lam and are left out." in study.remarks


def test_summaries_of_an_older_version_are_remarked_on(tmp_path: Path) -> None:
    words = "Summarised by an older pa-lite: f. A new sweep brings this up to date without measuring again."
    assert words in read_back(tmp_path / "old", version=1).remarks
    assert not [remark for remark in read_back(tmp_path / "new").remarks if "older" in remark]


def test_the_setting_says_what_the_intervals_allow_for(tmp_path: Path) -> None:
    one = dict(read_back(tmp_path / "a").setting)["intervals"]
    assert one.startswith("95%, over items with the tasks fixed; one draw of exemplars; its effect is not in the")
    assert dict(read_back(tmp_path / "b", shots=0).setting)["intervals"] == (
        "95%, over items with the tasks fixed; no exemplars"
    )
