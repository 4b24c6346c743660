from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

import pa_lite
from pa_lite.alpaca.outputs import generator_name
from pa_lite.engine.generation import GenerationOptions
from pa_lite.engine.model import EngineOptions
from pa_lite.engine.model_reference import open_model, parse_reference
from pa_lite.errors import CheckpointError, InputError
from pa_lite.merging.plan import PlanOptions


def test_references_are_parsed(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    assert parse_reference("demo@0.7").lam == 0.7
    assert str(parse_reference("demo@0.7")) == "demo@0.7"
    assert parse_reference(str(tiny_ggufs["F32"])).file == tiny_ggufs["F32"]
    odd = tmp_path / "a@0.5"
    odd.write_bytes(b"GGUF" + bytes(20))
    assert parse_reference(str(odd)).file == odd


def test_a_file_named_like_a_pair_is_found_by_its_path(
    tiny_ggufs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file in the current folder does not hide a pair of that name; a path with a folder finds the file."""
    monkeypatch.chdir(tmp_path)
    for name in ("demo@0.7", "demo@old.gguf", "mine@0.7"):
        shutil.copy(tiny_ggufs["F16"], name)
    found = parse_reference("demo@0.7")
    assert (found.file, str(found)) == (None, "demo@0.7")
    assert [r.message for r in caplog.records] == [
        "demo@0.7 means the pair demo at lam 0.7; for the file of that name, write ./demo@0.7."
    ]
    for text in ("./demo@0.7", str(tmp_path / "demo@0.7"), "demo@old.gguf", "mine@0.7"):
        assert parse_reference(text).file == Path(text)
    assert len(caplog.records) == 1


def test_gguf_files_are_recognised_by_content(
    tiny_ggufs: dict[str, Path], tiny_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """A GGUF file may have any name, a folder may have one model, and errors say what other files are."""
    path = tmp_path / "sha256-4d7a"
    shutil.copy(tiny_ggufs["F16"], path)
    for place in (path, tmp_path):
        assert parse_reference(str(place)).file == path
        with open_model(str(place), EngineOptions(threads=1)) as model:
            assert model.path == path
    assert (generator_name(str(path)), generator_name("demo@0.7"), generator_name("a/m.GGUF")) == (
        "sha256-4d7a", "demo@0.7", "m",
    )  # fmt: skip
    shutil.copy(tiny_ggufs["Q8_0"], tmp_path / "m.gguf")
    (tmp_path / "page.gguf").write_text("<html>", "utf-8")
    for name, error, told in (
        (tmp_path, InputError, "contains 2 GGUF models"),
        (tiny_pair[1], InputError, "has safetensors, but only GGUF can be run. Merge it into a file"),
        (tiny_pair[1] / "model.safetensors", InputError, "is a safetensors file, but only GGUF can be run"),
        (tmp_path / "page.gguf", CheckpointError, "is an HTML page"),
    ):
        with pytest.raises(error, match=told):
            parse_reference(str(name))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no/dir@x/nothing.gguf", "neither a file that exists"),
        ("nothing.gguf", "neither a file that exists nor PAIR@LAM"),
        ("dmeo@0.5", "unknown pair 'dmeo'. Did you mean demo"),
        ("demo@x", "'x' is not a number"),
        ("demo@0,1", "has 2 lams"),
    ],
)
def test_invalid_references_are_refused(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        parse_reference(text)


def test_a_pair_in_memory_equals_its_merged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (file,) = pa_lite.merge(pair="demo", lam=(0.7,), plan=PlanOptions(type="F16"), output=tmp_path / "x.gguf")
    prompts = ["What is this?"]
    options = EngineOptions(threads=1)
    with open_model("demo@0.7", options) as merged, open_model(str(file), options) as loaded:
        assert merged.header.metadata == loaded.header.metadata
        with pa_lite.load("demo@0.7", options) as a, pa_lite.load(str(file), options) as b:
            left, right = (m.generate(prompts, GenerationOptions(max_tokens=8)) for m in (a, b))
    assert [o.output for o in left] == [o.output for o in right]
    assert left[0].generator == "demo@0.7"
    assert list(tmp_path.iterdir()) == [file]  # temporary files of the merge are removed
