from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import pa_lite
from pa_lite.checkpoints.generation_config import sampling_metadata
from pa_lite.errors import CheckpointError
from pa_lite.ggml.container import read_gguf_header
from pa_lite.ggml.metadata import Field, float32, string


def read(folder: Path, **settings: Any) -> dict[str, Field]:
    (folder / "generation_config.json").write_text(json.dumps(settings), "utf-8")
    return {key.removeprefix("general.sampling."): entry for key, entry in sampling_metadata(folder).items()}


def test_settings_get_the_names_of_llama_cpp(tmp_path: Path) -> None:
    got = read(tmp_path, temperature=0.6, top_p=0.9, top_k=20, min_p=0, repetition_penalty=1.05, do_sample=True,
               max_length=4096, eos_token_id=[1, 2], sequence="kpt", mirostat=2, mirostat_tau=5, mirostat_eta=0.1,
               penalty_last_n=64.0, xtc_probability=0.5, xtc_threshold=0.1)  # fmt: skip
    assert got == {
        "temp": float32(0.6), "top_p": float32(0.9), "top_k": Field("INT32", 20), "min_p": float32(0),
        "penalty_repeat": float32(1.05), "sequence": string("kpt"), "mirostat": Field("INT32", 2),
        "mirostat_tau": float32(5), "mirostat_eta": float32(0.1), "penalty_last_n": Field("INT32", 64),
        "xtc_probability": float32(0.5), "xtc_threshold": float32(0.1),
    }  # fmt: skip


def test_settings_that_are_not_set_are_not_written(tmp_path: Path) -> None:
    assert sampling_metadata(tmp_path) == {}
    assert read(tmp_path, top_k=None, penalty_repeat=None, repetition_penalty=1.2) == {}
    assert read(tmp_path, penalty_repeat=1.3, repetition_penalty=1.2) == {"penalty_repeat": float32(1.3)}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("top_k", 1.5, "must be a 32-bit integer or null"),
        ("top_k", 2**31, "must be a 32-bit integer"),
        ("top_k", float("inf"), "must be a 32-bit integer"),
        ("top_k", True, "must be a 32-bit integer"),
        ("top_k", "20", "top_k is '20', but must be a 32-bit integer"),
        ("temperature", "hot", "temperature is 'hot', but must be a number or null"),
        ("temperature", float("nan"), "temperature is 'nan', but must be a number"),
        ("temperature", 10**400, "must be a number"),
        ("temperature", [0.6], "must be a number"),
        ("repetition_penalty", {}, "repetition_penalty is '{}'"),
        ("sequence", 3, "must be a string"),
    ],
)
def test_values_of_a_wrong_type_are_rejected_by_name(tmp_path: Path, name: str, value: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"generation_config\.json: .*{message}"):
        read(tmp_path, **{name: value})


def test_a_merged_file_has_the_settings_of_instruct(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, instruct = (Path(shutil.copytree(side, tmp_path / side.name)) for side in tiny_pair)
    for side, temperature in zip((base, instruct), (0.1, 0.6), strict=True):
        read(side, temperature=temperature, top_k=20)
    (path,) = pa_lite.merge(base, instruct, (0.5,), output=tmp_path / "m.gguf")
    metadata = read_gguf_header(path).metadata
    assert metadata["general.sampling.temp"] == float32(0.6)
    assert metadata["general.sampling.top_k"] == Field("INT32", 20)
    (again,) = pa_lite.merge(path, path, (0.5,), output=tmp_path / "again.gguf")
    assert read_gguf_header(again).metadata["general.sampling.temp"] == float32(0.6)
