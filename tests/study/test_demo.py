from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from pa_lite.checkpoints.pairs import Pair
from pa_lite.errors import OutputError
from pa_lite.follow.instructions import load_instructions
from pa_lite.follow.outputs import demo_instructions_path
from pa_lite.study.chart import tradeoff_svg
from pa_lite.study.demo import run_demo, to_document
from pa_lite.study.tradeoff import TradeOff, measure_tradeoff
from pa_lite.tasks.scoring import ScoreOptions
from pa_lite.tasks.spec import find_tasks


@pytest.fixture(scope="module")
def small(demo_pair: Pair) -> TradeOff:
    instructions = load_instructions(demo_instructions_path())[::24]
    tasks = find_tasks(["demo_kind", "demo_town"])
    return measure_tradeoff(demo_pair.base, demo_pair.instruct, (0.0, 1.0), tasks, instructions, ScoreOptions(limit=8))


def test_the_document_holds_every_number_with_its_origin(small: TradeOff, demo_pair: Pair) -> None:
    document = json.loads(json.dumps(to_document(small, demo_pair)))
    assert len(document["pair"]["base"]) == 2
    assert all(len(digest) == 64 for digest in document["pair"]["base"].values())
    assert document["versions"]["llama-cpp-python"]
    assert document["conclusion"] == small.conclusion()
    first = document["points"][0]
    assert first["few_shot"]["value"] == small.points[0].few_shot.accuracy.value
    assert first["few_shot"]["options"]["seed"] == 0
    task = first["few_shot"]["tasks"][0]
    assert task["n"] == len(task["items"]) == 8
    assert task["accuracy"] == sum(i["right"] for i in task["items"]) / 8
    assert {"stderr", "n", "by_kind", "answers"} <= first["follow"].keys()


def test_the_chart_is_svg_and_the_same_each_time(small: TradeOff) -> None:
    text = tradeoff_svg(small, "a < b & c")
    root = ET.fromstring(text)
    assert root.tag.endswith("svg")
    words = " ".join(root.itertext())
    for expected in ("a < b & c", "few-shot accuracy", "instructions followed", "best few-shot: lam"):
        assert expected in words
    assert text == tradeoff_svg(small, "a < b & c")


def test_a_file_in_the_folders_place(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine", "utf-8")
    with pytest.raises(OutputError, match="is no folder"):
        run_demo(tmp_path / "x")
