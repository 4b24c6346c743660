"""The tasks on real data sets, if these are in a folder next to the repository."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pa_lite.tasks.prompts import prepare_task
from pa_lite.tasks.spec import find_tasks
from pa_lite.tasks.transforms import TRANSFORMS

DATA = Path(__file__).parents[2].parent / "shared" / "data"
BBH = sorted((DATA / "bbh").glob("*.json"))

pytestmark = pytest.mark.skipif(not BBH, reason="the data sets are not next to the repository")


@pytest.mark.parametrize("path", BBH, ids=lambda p: p.stem)
def test_bbh(path: Path) -> None:
    (spec,) = find_tasks([f"bbh/{path.stem}"])
    prepared = prepare_task(replace(spec, hub="", folder=path.parent, data={"test": path.name}, config=path.stem))
    assert prepared.shots == 3
    assert len(prepared.items) == prepared.n_rows - 3 - sum(
        item.row["input"] in prepared.items[0].lead for item in prepared.items
    )
    shown = [line.removeprefix("A: ") for line in prepared.items[0].lead.split("\n") if line.startswith("A: ")]
    assert len(set(shown)) == min(3, len({i.target for i in prepared.items}))  # navigate begins with No, No, No
    for item in prepared.items:
        lines = item.prompt.split("\n")
        assert lines[0] == spec.texts[path.stem]
        assert item.prompt.startswith(f"{lines[0]}\n\nQ: ")
        assert item.prompt.endswith(f"\n\nQ: {item.row['input']}\nA:")
        assert item.prompt.count("\nA:") == 4
        assert item.lead == prepared.items[0].lead
        assert item.golds == ((item.row["target"].strip(),),)
        assert "\n" not in item.target


def test_gsm8k() -> None:
    path = DATA / "gsm8k_test.jsonl"
    if not path.is_file():
        pytest.skip("gsm8k is missing")
    (spec,) = find_tasks(["gsm8k"])
    prepared = prepare_task(replace(spec, hub="", folder=path.parent, data={"test": path.name}, shots_split="test"))
    assert prepared.n_rows == spec.rows == 1319
    assert len(prepared.items) == 1311
    golds = [item.target for item in prepared.items]
    for item in prepared.items:
        assert item.prompt.count("The answer is ") >= 8
        assert "<<" not in item.prompt
        assert item.lead == prepared.items[0].lead
    assert sum(g.startswith("-") for g in golds) in (0, 1, 2)
    assert all(g.lstrip("-").isdigit() for g in golds)
    # both patterns find the answers that the exemplars show
    for item in prepared.items[:200]:
        solved = TRANSFORMS["gsm8k"](item.row)
        shown = f" {solved['reasoning']} The answer is {solved['number']}."
        assert {e.find(shown) for e in spec.extract} == {item.target}
