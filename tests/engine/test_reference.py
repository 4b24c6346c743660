from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

import pa_lite
from pa_lite.engine.generation import GenerationOptions
from pa_lite.engine.model import EngineOptions
from pa_lite.engine.reference import open_model, parse_reference
from pa_lite.errors import InputError
from pa_lite.merge.plan import PlanOptions


def test_notation(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    assert parse_reference("demo@0.7").lam == 0.7
    assert str(parse_reference("demo@0.7")) == "demo@0.70"
    assert parse_reference(str(tiny_ggufs["F32"])).file == tiny_ggufs["F32"]
    odd = tmp_path / "a@0.5"
    odd.write_bytes(b"GGUF" + bytes(20))
    assert parse_reference(str(odd)).file == odd


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nothing.gguf", "neither a file that exists nor PAIR@LAM"),
        ("dmeo@0.5", "unknown pair 'dmeo'. Did you mean demo"),
        ("demo@x", "'x' is no number"),
        ("demo@0,1", "names 2 lams"),
    ],
)
def test_bad_references(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        parse_reference(text)


def test_a_pair_equals_its_merged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (file,) = pa_lite.merge(pair="demo", lams=(0.7,), plan=PlanOptions("F16"), output=tmp_path / "x.gguf")
    prompts = ["What is this?"]
    options = EngineOptions(threads=1)
    with open_model("demo@0.7", options) as merged, open_model(str(file), options) as loaded:
        assert merged.header.metadata == loaded.header.metadata
        with pa_lite.load("demo@0.7", options) as a, pa_lite.load(str(file), options) as b:
            left, right = (m.generate(prompts, GenerationOptions(8)) for m in (a, b))
    assert [o.output for o in left] == [o.output for o in right]
    assert left[0].generator == "demo@0.7"
    assert list(tmp_path.iterdir()) == [file]  # what was merged on the way is gone
