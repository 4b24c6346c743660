from __future__ import annotations

import json
from pathlib import Path

import pytest

import pa_lite
from pa_lite.engine.generation import GenerationOptions
from pa_lite.engine.model import EngineOptions
from pa_lite.errors import InputError
from pa_lite.follow.outputs import Output, Prompt, load_prompts, to_json


def test_prompt_files(tmp_path: Path) -> None:
    rows = [{"instruction": "Say it.", "dataset": "helpful_base"}, {"instruction": "Again.", "other": 1}]
    path = tmp_path / "mine.json"
    expected = [Prompt("Say it.", "helpful_base"), Prompt("Again.", "mine")]
    path.write_text(json.dumps(rows), "utf-8")
    assert load_prompts(str(path)) == expected
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n", "utf-8")
    assert load_prompts(str(path)) == expected
    assert len(load_prompts("demo")) >= 300


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nonsense", "neither a JSON list nor JSONL"),
        ("[]", "has no prompts"),
        ('[{"instruction": ""}]', "entry 1 has no text under 'instruction'"),
        ('{"instruction": "x"}\n3', "entry 2 has no text"),
    ],
)
def test_bad_prompt_files(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=told):
        load_prompts(str(path))
    with pytest.raises(InputError, match="unknown prompts 'alpaca'"):
        load_prompts("alpaca")


def test_alpaca_evals_form() -> None:
    with pa_lite.load("demo@1", EngineOptions(threads=1)) as model:
        outputs = model.generate(["What is the job of Kani?", "Greet me."], GenerationOptions(16))
    document = json.loads(to_json(outputs))
    assert [d["instruction"] for d in document] == ["What is the job of Kani?", "Greet me."]
    assert all(set(d) == {"instruction", "output", "generator", "dataset"} for d in document)
    assert {d["generator"] for d in document} == {"demo@1"}
    assert all(isinstance(o, Output) for o in outputs)
