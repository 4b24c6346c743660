"""Repositories that contradict themselves: fetched or streamed, they are read as the same files in a folder are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pa_lite.checkpoints import open_checkpoint
from pa_lite.checkpoints.fingerprint import fingerprint
from pa_lite.checkpoints.hub.checkpoints import fetch_checkpoint
from pa_lite.checkpoints.hub.references import parse_hub
from pa_lite.checkpoints.inspect import inspect_checkpoint
from pa_lite.checkpoints.pairs import _is_here
from pa_lite.errors import CheckpointError, InputError
from tests.support import tiny
from tests.support.hub_server import HubServer

INDEX = "model.safetensors.index.json"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
ARRAYS = tiny.weights(1)
STREAM = pytest.mark.parametrize("stream", [False, True])


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder by their path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write_checkpoint(tmp_path / "m", ARRAYS)


def write_shards(folder: Path) -> None:
    """Write two shards that both have the last norm, and an index that assigns it to the first."""
    norm = "model.norm.weight"
    names = {ONE: sorted(ARRAYS)[:-3], TWO: sorted(ARRAYS)[-3:]}
    assert norm in names[TWO]
    for file, held in names.items():
        tiny.save_safetensors(folder / file, {n: ARRAYS[n] + (file == ONE) for n in {*held, norm}}, "F32")
    weight_map = {n: file for file, held in names.items() for n in held} | {norm: ONE}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), "utf-8")


def same(hub: HubServer, folder: Path, stream: bool) -> list[str]:
    """Publish a folder, check that it opens as it does on the disk, and return the remarks without the folder."""
    hub.add("org/m", contents(folder))
    here, there = open_checkpoint(folder), open_checkpoint("hub:org/m", stream=stream)
    assert there.name == "m"
    assert there.load_vocabulary().metadata == here.load_vocabulary().metadata
    assert fingerprint(there) == fingerprint(here)
    remarks = [(*c.remarks, *c.load_vocabulary().remarks) for c in (here, there)]
    found = [[remark.partition(": ")[2] for remark in each] for each in remarks]
    assert found[0] == found[1]
    return found[0]


@STREAM
def test_model_safetensors_takes_precedence_over_an_index(hub: HubServer, folder: Path, stream: bool) -> None:
    write_shards(folder)
    hub.add("org/m", contents(folder))
    opened = open_checkpoint("hub:org/m", stream=stream)
    assert fingerprint(opened) == fingerprint(open_checkpoint(folder))
    (remark,) = opened.remarks  # of what is not fetched, it tells no more
    assert remark.endswith(f"model.safetensors is read, as transformers does, and not {INDEX}")
    assert not [r.path for r in hub.requests if ONE in r.path or TWO in r.path]
    if not stream:
        assert _is_here(parse_hub("hub:org/m"))


@STREAM
def test_the_index_decides_between_copies_in_two_shards(hub: HubServer, folder: Path, stream: bool) -> None:
    (folder / "model.safetensors").unlink()
    write_shards(folder)
    (remark,) = same(hub, folder, stream)
    assert remark.startswith("1 tensor is in more than one shard, such as model.norm.weight")
    norm = open_checkpoint("hub:org/m", stream=stream).tensors["output_norm.weight"]
    assert norm.path.name == ONE


@STREAM
def test_templates_in_separate_files_are_downloaded(hub: HubServer, folder: Path, stream: bool) -> None:
    """Additional templates are in a folder, which is also downloaded."""
    (folder / "chat_template.jinja").write_text("NEW", "utf-8")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("TOOLS", "utf-8")
    (remark,) = same(hub, folder, stream)
    assert remark == "using the chat template in chat_template.jinja, not the one in tokenizer_config.json"
    facts = inspect_checkpoint("hub:org/m")
    assert facts.vocabulary is not None
    assert facts.vocabulary.chat_template == "NEW"
    assert [r.partition(": ")[2] for r in facts.remarks] == [remark]
    metadata = open_checkpoint("hub:org/m", stream=stream).load_vocabulary().metadata
    assert metadata["tokenizer.chat_template.tools"].value == "TOOLS"


@STREAM
def test_gguf_files_open_under_any_name(hub: HubServer, tiny_ggufs: dict[str, Path], stream: bool) -> None:
    raw = tiny_ggufs["F16"].read_bytes()
    hub.add("org/g", {"BASE.GGUF": raw, "mmproj-BASE-f16.gguf": b"x", "sub/BASE.imatrix.gguf": b"x", "README.md": b"x"})
    hub.add("org/many", {"a/sha256-4d7a": raw, "b.gguf": b"Entry not found", "page": b"<html>"})
    expected = open_checkpoint(tiny_ggufs["F16"]).tensors.keys()
    for text in ("hub:org/g", "hub:org/g/BASE.GGUF", "hub:org/many/a/sha256-4d7a"):
        opened = open_checkpoint(text, stream=stream)
        assert opened.is_gguf
        assert opened.tensors.keys() == expected
    if not stream:
        assert _is_here(parse_hub("hub:org/g"))
        assert _is_here(parse_hub("hub:org/many/a/sha256-4d7a"))
        assert not _is_here(parse_hub("hub:org/many/page"))
    with pytest.raises(CheckpointError, match=r"b.gguf: is a text that begins with 'Entry not found'"):
        open_checkpoint("hub:org/many/b.gguf", stream=stream)
    with pytest.raises(CheckpointError, match=r"page: is an HTML page of 6 bytes"):
        open_checkpoint("hub:org/many/page", stream=stream)


@STREAM
def test_a_single_safetensors_file_opens(hub: HubServer, folder: Path, stream: bool) -> None:
    files = contents(folder)
    files["other.safetensors"] = files.pop("model.safetensors")
    hub.add("org/o", files)
    with pytest.raises(CheckpointError, match=r"has no model.safetensors .* but other.safetensors. Name that file if"):
        open_checkpoint("hub:org/o", stream=stream)
    opened = open_checkpoint("hub:org/o/other.safetensors", stream=stream)
    assert len(opened.tensors) == len(ARRAYS)
    assert opened.load_vocabulary().tokens


def test_repositories_without_a_model_are_explained(hub: HubServer) -> None:
    hub.add("org/lora", {"adapter_config.json": b"{}", "adapter_model.bin": b"x"})
    hub.add("org/keras", {"config.json": b"{}", "tf_model.h5": b"x"})
    hub.add("org/two", {"a.gguf": b"x", "b.gguf": b"x", "mmproj-a.gguf": b"x"})
    for text, told in (
        ("hub:org/lora", r"hub:org/lora: is a PEFT adapter \(such as LoRA\), not a complete model"),
        ("hub:org/keras", "hub:org/keras: has no weights that pa-lite reads: tf_model.h5 is TensorFlow's weights"),
        ("hub:org/keras/pytorch_model.bin", "its weights are pickles"),
    ):
        with pytest.raises(CheckpointError, match=told):
            fetch_checkpoint(parse_hub(text))
    with pytest.raises(InputError, match=r"has 2 GGUF models. Choose hub:org/two/FILE: a.gguf, b.gguf"):
        fetch_checkpoint(parse_hub("hub:org/two"))
