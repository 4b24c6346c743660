"""The weight files of a folder are chosen as by transformers, whose behaviour was measured with version 5.24."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pa_lite.checkpoints import open_checkpoint
from pa_lite.checkpoints.checkpoint import Checkpoint
from pa_lite.checkpoints.weight_files import read_folder
from pa_lite.errors import CheckpointError
from tests.support import tiny

NORM, FIRST = "model.norm.weight", "model.embed_tokens.weight"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
ARRAYS = tiny.weights(1)
Names = set[str]


def save(folder: Path, name: str, norm: float, names: Names | None = None) -> None:
    """Write a file of the tiny model's tensors, or some of them, whose last norm has one value throughout."""
    arrays = {n: a for n, a in ARRAYS.items() if names is None or n in names}
    if NORM in arrays:
        arrays[NORM] = np.full_like(arrays[NORM], norm)
    tiny.save_safetensors(folder / name, arrays, "F32")


def write_index(folder: Path, weight_map: dict[str, str]) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}), "utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with everything except weights."""
    folder = tiny.write_checkpoint(tmp_path / "m", {})
    (folder / "model.safetensors").unlink()
    return folder


def norm_of(checkpoint: Checkpoint) -> float:
    """Return the first value of the last norm, read at the checkpoint's file and offset."""
    (piece,) = checkpoint.tensors["output_norm.weight"].pieces
    with piece.path.open("rb") as f:
        f.seek(piece.offset)
        return float(np.frombuffer(f.read(4), np.float32)[0])


def test_a_folder_without_weights_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no weights"):
        read_folder(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    base, _ = tiny.write_pair(tmp_path)
    (base / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"shard model-00002-of-00002.safetensors is missing"):
        read_folder(base)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../x.safetensors", "is not a plain file name"),
        ("/etc/x.safetensors", "is not a plain file name"),
        ("a/x.safetensors", "is not a plain file name"),
        ("a\\b.safetensors", "leads out of its folder"),
        ("C:x.safetensors", "leads out of its folder"),
        ("a\0.safetensors", "leads out of its folder"),
        ("nul.safetensors", "is a device on Windows"),
        ("a\u202e.safetensors", "contains characters"),
        ("a" * 300 + ".safetensors", "is longer than 255 bytes"),
        ("x.safetensors ", "ends with a dot or space"),
        ("x.bin", "is not a .safetensors file"),
        (".x.safetensors", "is not a .safetensors file"),
    ],
)
def test_shard_names_cannot_leave_the_folder(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}), "utf-8")
    with pytest.raises(CheckpointError, match=f"names the shard .*, which {message}"):
        read_folder(tmp_path)


def test_shard_names_that_differ_only_by_case_are_rejected(tmp_path: Path) -> None:
    names = {"a": "model-1.safetensors", "b": "Model-1.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}), "utf-8")
    with pytest.raises(CheckpointError, match="which are the same file on some systems"):
        read_folder(tmp_path)


def test_only_indexed_files_are_read(tmp_path: Path) -> None:
    base, _ = tiny.write_pair(tmp_path)
    tiny.save_safetensors(base / "consolidated.safetensors", {"other": np.ones(3, np.float32)}, "F32")
    assert "other" not in read_folder(base).tensors


def test_a_duplicate_tensor_is_rejected(tmp_path: Path) -> None:
    for name in ("model-a.safetensors", "model-b.safetensors"):
        tiny.save_safetensors(tmp_path / name, {"w": np.ones(3, np.float32)}, "F32")
    with pytest.raises(CheckpointError, match=r"w is in model-a.safetensors and in model-b.safetensors"):
        read_folder(tmp_path)


def test_a_single_file_takes_precedence_over_an_index(folder: Path) -> None:
    """transformers reads model.safetensors and ignores an index in the same folder."""
    save(folder, "model.safetensors", 1)
    save(folder, TWO, 2)
    write_index(folder, dict.fromkeys(ARRAYS, TWO))
    opened = open_checkpoint(folder)
    assert norm_of(opened) == 1
    (remark,) = opened.remarks
    assert remark == (f"{folder}: model.safetensors is read, as transformers does, and not {TWO}, {INDEX}")
    (folder / INDEX).write_text("{", "utf-8")  # a broken one does not matter
    assert norm_of(open_checkpoint(folder)) == 1


def test_an_index_of_the_single_file_gives_no_remark(folder: Path) -> None:
    save(folder, "model.safetensors", 1)
    write_index(folder, dict.fromkeys(ARRAYS, "model.safetensors"))
    assert open_checkpoint(folder).remarks == ()


def test_a_single_file_of_a_larger_index_lacks_tensors(folder: Path) -> None:
    """transformers reads only model.safetensors here too, and fills missing tensors with random values."""
    save(folder, "model.safetensors", 1, ARRAYS.keys() - {NORM})
    save(folder, TWO, 2, {NORM})
    write_index(folder, {**dict.fromkeys(ARRAYS, "model.safetensors"), NORM: TWO})
    with pytest.raises(CheckpointError, match=r"tensor model\.norm\.weight is missing"):
        open_checkpoint(folder)


@pytest.mark.parametrize(("assigned", "expected"), [(ONE, 1), (TWO, 2)])
def test_the_index_decides_between_copies(folder: Path, assigned: str, expected: float) -> None:
    """transformers uses the copy in the last file, or the index's if weights are offloaded to the disk."""
    save(folder, ONE, 1, ARRAYS.keys() - {FIRST})
    save(folder, TWO, 2, {NORM, FIRST})
    write_index(folder, {**dict.fromkeys(ARRAYS, ONE), FIRST: TWO, NORM: assigned})
    opened = open_checkpoint(folder)
    assert norm_of(opened) == expected
    assert opened.remarks == (
        f"{folder}: 1 tensor is in more than one shard, such as {NORM} in {ONE} and in {TWO}: {INDEX} decides, for "
        f"{assigned}",
    )


def test_copies_that_the_index_does_not_name_are_rejected(folder: Path) -> None:
    save(folder, ONE, 1, ARRAYS.keys() - {FIRST})
    save(folder, TWO, 2, {NORM, FIRST})
    write_index(folder, {name: TWO if name == FIRST else ONE for name in ARRAYS if name != NORM})
    with pytest.raises(CheckpointError, match=rf"tensor {NORM} is in {ONE} and in {TWO}. Remove the file"):
        open_checkpoint(folder)


def test_a_stale_index_whose_shards_have_all_tensors(folder: Path) -> None:
    """transformers reads every shard that the index names, so it finds tensors in the wrong shard."""
    save(folder, ONE, 1, ARRAYS.keys() - {NORM, FIRST})
    save(folder, TWO, 2, {NORM, FIRST})
    write_index(folder, {**dict.fromkeys(ARRAYS, ONE), FIRST: TWO})
    opened = open_checkpoint(folder)
    assert norm_of(opened) == 2
    assert opened.remarks == (
        f"{folder}: {INDEX} is out of date: 1 tensor is in another shard than it says, such as {NORM} in {TWO} and not "
        f"in {ONE}",
    )


def test_tensors_that_the_index_does_not_list_are_read(folder: Path) -> None:
    """transformers reads all tensors of the shards that the index names."""
    save(folder, ONE, 1)
    write_index(folder, {FIRST: ONE})
    assert norm_of(open_checkpoint(folder)) == 1


def test_shards_that_the_index_does_not_name_are_not_read(folder: Path) -> None:
    """transformers ignores them."""
    save(folder, ONE, 1)
    save(folder, TWO, 2)
    write_index(folder, dict.fromkeys(ARRAYS, ONE))
    opened = open_checkpoint(folder)
    assert norm_of(opened) == 1
    assert opened.remarks == (f"{folder}: {ONE} is read, as transformers does, and not {TWO}",)


def test_a_tensor_that_only_the_index_has(folder: Path) -> None:
    """transformers ignores unknown tensors, and fills missing ones with random values."""
    save(folder, ONE, 1)
    unneeded = ("ghost", "lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq")
    write_index(folder, dict.fromkeys([*ARRAYS, *unneeded], ONE))
    assert open_checkpoint(folder).remarks == (
        f"{folder}: {INDEX} is out of date: no shard contains {', '.join(sorted(unneeded))}, which is not needed",
    )
    for needed in ("model.layers.0.self_attn.q_proj.bias", "model.layers.1.mlp.down_proj.weight"):
        save(folder, ONE, 1, ARRAYS.keys() - {needed})
        write_index(folder, dict.fromkeys([*ARRAYS, needed], ONE))
        with pytest.raises(CheckpointError, match=f"{INDEX} names the tensor {needed}, which no shard contains"):
            open_checkpoint(folder)


def test_a_file_of_another_precision_is_ignored(folder: Path) -> None:
    """transformers reads model.fp16.safetensors only where `variant` asks for it."""
    save(folder, "model.safetensors", 1)
    save(folder, "model.fp16.safetensors", 2)
    opened = open_checkpoint(folder)
    assert norm_of(opened) == 1
    assert "and not model.fp16.safetensors" in opened.remarks[0]


def test_the_file_that_the_configuration_names_takes_precedence(folder: Path) -> None:
    """transformers prefers the file that `transformers_weights` in config.json names."""
    save(folder, "model.safetensors", 1)
    save(folder, "other.safetensors", 2)

    def name(value: Any) -> None:
        (folder / "config.json").write_text(json.dumps({**tiny.CONFIG, "transformers_weights": value}), "utf-8")

    name("other.safetensors")
    assert norm_of(open_checkpoint(folder)) == 2
    for value, message in (
        ("gone.safetensors", "shard gone.safetensors is missing, which config.json names"),
        ("../m/other.safetensors", "transformers_weights names .* is not a plain file name"),
        ("pytorch_model.bin", "is not a .safetensors file"),
        (3, "transformers_weights is 3, but must be a file name"),
    ):
        name(value)
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    name("other.safetensors")
    assert norm_of(open_checkpoint(folder)) == 2


@pytest.mark.parametrize("untied", [False, True])
def test_an_untied_output_matrix_is_required(folder: Path, untied: bool) -> None:
    """transformers fills a missing untied output matrix with random values; a tied one is not needed.

    A stored one that differs from the embedding is used in both cases.
    """
    save(folder, "model.safetensors", 1)
    (folder / "config.json").write_text(json.dumps({**tiny.CONFIG, "tie_word_embeddings": not untied}), "utf-8")
    if untied:
        with pytest.raises(CheckpointError, match=r"tensor lm_head.weight is missing, and .* does not tie it"):
            open_checkpoint(folder)
    else:
        assert "output.weight" not in open_checkpoint(folder).tensors
    head = {"lm_head.weight": np.full_like(ARRAYS[FIRST], 3)}
    tiny.save_safetensors(folder / "model.safetensors", {**ARRAYS, **head}, "F32")
    assert open_checkpoint(folder).tensors["output.weight"].stored_name == "lm_head.weight"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_instead_of_weights_is_rejected(folder: Path) -> None:
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="is not a regular file"):
        read_folder(folder)
