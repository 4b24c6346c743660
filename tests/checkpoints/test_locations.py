"""Find the model at a path: folders with one GGUF model, the Hub's cache, adapters, pickles, links."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from pa_lite.checkpoints import open_checkpoint
from pa_lite.errors import CheckpointError, InputError
from pa_lite.ggml.metadata import string
from tests.support import tiny
from tests.support.ggufs import split_gguf, write_gguf_header

SHA = "4d" * 32
COMMIT, OTHER = "a" * 40, "b" * 40
LINKS = pytest.mark.skipif(sys.platform == "win32", reason="links need developer mode on Windows")


@pytest.mark.parametrize("name", ["model.gguf", f"sha256-{SHA}", "BASE.GGUF", "model", "model.bin"])
def test_a_folder_with_one_gguf_file_opens(tmp_path: Path, tiny_ggufs: dict[str, Path], name: str) -> None:
    shutil.copy(tiny_ggufs["F16"], tmp_path / name)
    (tmp_path / "README.md").write_text("# a model", "utf-8")
    (tmp_path / "params").write_text("{}", "utf-8")
    for path in (tmp_path, tmp_path / name):
        opened = open_checkpoint(path)
        assert (opened.path, len(opened.tensors)) == (tmp_path / name, len(open_checkpoint(tiny_ggufs["F16"]).tensors))


def test_a_folder_with_several_gguf_files_is_ambiguous(tmp_path: Path, tiny_ggufs: dict[str, Path]) -> None:
    for kind in ("F16", "Q8_0"):
        shutil.copy(tiny_ggufs[kind], tmp_path / f"{kind}.gguf")
    with pytest.raises(InputError, match=r"contains 2 GGUF models. Name one of the files: F16.gguf, Q8_0.gguf"):
        open_checkpoint(tmp_path)


def test_other_gguf_files_next_to_a_model_are_ignored(tmp_path: Path, tiny_ggufs: dict[str, Path]) -> None:
    """A projector, an importance matrix and an adapter are recognised by content; hidden files are ignored."""
    shutil.copy(tiny_ggufs["F16"], tmp_path / "z.gguf")
    others = (("clip", "mmproj"), ("clip", None), ("llama", "imatrix"), ("llama", "adapter"))
    for i, (architecture, kind) in enumerate(others):
        metadata = {} if kind is None else {"general.type": string(kind)}
        write_gguf_header(tmp_path / f"a{i}.gguf", architecture, metadata, {})
        with pytest.raises(CheckpointError, match=r"contains (a multi|an importance|a LoRA).*, not a language model"):
            open_checkpoint(tmp_path / f"a{i}.gguf")
    shutil.copy(tiny_ggufs["Q8_0"], tmp_path / ".q.gguf.0123456789ab.part")
    assert open_checkpoint(tmp_path).path.name == "z.gguf"


def test_a_split_model_counts_as_one(tmp_path: Path, tiny_ggufs: dict[str, Path]) -> None:
    """It opens by its folder or any part, but not under a name that does not number the parts."""
    (tmp_path / "parts").mkdir()
    parts = split_gguf(tiny_ggufs["F16"], tmp_path / "parts", 2)
    complete = open_checkpoint(tiny_ggufs["F16"])
    for path in (tmp_path / "parts", *parts):
        assert open_checkpoint(path).tensors.keys() == complete.tensors.keys()
    shutil.copy(parts[0], tmp_path / "first.gguf")
    with pytest.raises(CheckpointError, match="is one of 2 parts of a split model, but its name does not say so"):
        open_checkpoint(tmp_path / "first.gguf")


def test_safetensors_take_precedence_over_gguf(tmp_path: Path, tiny_ggufs: dict[str, Path]) -> None:
    folder = tiny.write_checkpoint(tmp_path / "m", tiny.weights(1))
    shutil.copy(tiny_ggufs["Q8_0"], folder)
    assert not open_checkpoint(folder).is_gguf


def cached(root: Path, commits: dict[str, Path], ref: str | None = COMMIT) -> Path:
    """Write a repository's folder in a Hub cache as the Hub's client does: snapshots are links to blobs."""
    folder = root / "models--org--na--me"
    (folder / "blobs").mkdir(parents=True)
    for commit, source in commits.items():
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for i, path in enumerate(sorted(source.iterdir())):
            blob = folder / "blobs" / f"{i:02x}{commit[2:]}"
            shutil.copy(path, blob)
            (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    if ref is not None:
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(ref, "utf-8")
    return folder


@LINKS
def test_a_repository_in_the_cache_opens(tmp_path: Path, tiny_pair: tuple[Path, Path]) -> None:
    folder = cached(tmp_path, {COMMIT: tiny_pair[0], OTHER: tiny_pair[1]})
    for path in (folder, folder / "snapshots", folder / "snapshots" / COMMIT):
        opened = open_checkpoint(path)
        assert (opened.path, opened.name) == (folder / "snapshots" / COMMIT, "na--me")
        assert opened.load_vocabulary().tokens
    (folder / "refs" / "main").write_text(OTHER, "utf-8")
    assert open_checkpoint(folder).path.name == OTHER
    with pytest.raises(
        CheckpointError, match=r"is a cache of the Hub. Name one of the repositories in it: models--org--na"
    ):
        open_checkpoint(tmp_path)


@LINKS
@pytest.mark.parametrize("ref", ["c" * 40, "../../../../etc", ""])
def test_a_repository_whose_main_is_missing_is_rejected(tmp_path: Path, tiny_pair: tuple[Path, Path], ref: str) -> None:
    folder = cached(tmp_path, {COMMIT: tiny_pair[0]}, ref)
    with pytest.raises(CheckpointError, match=f"its refs/main names the snapshot .* does not exist.* {COMMIT}"):
        open_checkpoint(folder)


@LINKS
def test_a_repository_without_main_opens_its_only_snapshot(tmp_path: Path, tiny_pair: tuple[Path, Path]) -> None:
    """A download of one revision leaves no refs/main."""
    folder = cached(tmp_path / "one", {OTHER: tiny_pair[0]}, None)
    assert open_checkpoint(folder).path.name == OTHER
    folder = cached(tmp_path / "two", {COMMIT: tiny_pair[0], OTHER: tiny_pair[1]}, None)
    with pytest.raises(CheckpointError, match=f"without refs/main. Use one of its snapshots: {COMMIT}, {OTHER}"):
        open_checkpoint(folder)


@LINKS
def test_a_repository_with_a_gguf_file_opens(tmp_path: Path, tiny_ggufs: dict[str, Path]) -> None:
    (tmp_path / "files").mkdir()
    shutil.copy(tiny_ggufs["F16"], tmp_path / "files" / "m.gguf")
    folder = cached(tmp_path, {COMMIT: tmp_path / "files"})
    assert open_checkpoint(folder).path == folder / "snapshots" / COMMIT / "m.gguf"


@LINKS
def test_a_folder_of_links_into_the_cache_opens(tmp_path: Path, tiny_pair: tuple[Path, Path]) -> None:
    """Hub clients before 0.23 created such folders (--local-dir): each file is a link to a blob by its full path."""
    folder = cached(tmp_path / "cache", {COMMIT: tiny_pair[1]})
    copy = tmp_path / "local"
    copy.mkdir()
    for path in (folder / "snapshots" / COMMIT).iterdir():
        (copy / path.name).symlink_to(path.resolve())
    opened = open_checkpoint(copy)
    assert opened.load_vocabulary().metadata == open_checkpoint(tiny_pair[1]).load_vocabulary().metadata
    assert opened.name == "local"
    # similar links are still rejected
    for target in ("elsewhere", "models--x/blobs/secret.json", "models--x/other/" + "a" * 40, f"blobs/{'a' * 40}"):
        secret = tmp_path / target
        secret.parent.mkdir(parents=True, exist_ok=True)
        secret.write_text("{}", "utf-8")
        (copy / "generation_config.json").unlink(missing_ok=True)
        (copy / "generation_config.json").symlink_to(secret)
        with pytest.raises(CheckpointError, match="is a link that leads out of its folder"):
            open_checkpoint(copy)


@LINKS
def test_a_link_to_a_missing_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").symlink_to("blobs/gone")
    with pytest.raises(CheckpointError, match=r"m.gguf: is a link to blobs.gone, which does not exist. Fetch it again"):
        open_checkpoint(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no weights"),
        ({"adapter_config.json": '{"base_model_name_or_path": "org/Base"}', "adapter_model.safetensors": "x",
          "optimizer.pt": "x"}, r"is a PEFT adapter \(such as LoRA\) for org/Base, not a complete mod"),
        ({"adapter_model.bin": "x"}, r"is a PEFT adapter \(such as LoRA\), not a complete model"),
        ({"adapter_config.json": "{", "adapter_model.bin": "x"}, "is a PEFT adapter"),
        ({"config.json": "{}", "pytorch_model.bin": "x"},
         r"its weights are pickles \(pytorch_model.bin\), which can run code.* Use .*save_pretr"),
        ({"consolidated.00.pth": "x", "consolidated.01.pth": "x"}, r"its weights are pickles \(consolidated.00.pth,"),
        ({"consolidated.safetensors": "x", "params.json": "{}"}, "no model.safetensors.index.json, but consolid"),
        ({"tf_model.h5": "x"}, "tf_model.h5 is TensorFlow's weights. Use safetensors"),
        ({"model.onnx": "x"}, "model.onnx is an ONNX model"),
        ({"m.gguf": "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"}, "m.gguf is a git-lfs"),
        ({"m.gguf": "Entry not found"}, "m.gguf is a text that begins with 'Entry not found'"),
    ],
)  # fmt: skip
def test_folders_without_weights_say_what_they_contain(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


def test_a_model_with_an_adapter_in_its_folder_is_rejected(tmp_path: Path) -> None:
    """transformers applies the adapter only if the package peft is installed."""
    folder = tiny.write_checkpoint(tmp_path / "m", tiny.weights(1))
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "x"}), "utf-8")
    assert open_checkpoint(folder).tensors
    (folder / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=r"contains model.safetensors and the adapter adapter_model.safetensors, which"
    ):
        open_checkpoint(folder)


def test_one_shard_of_several_is_rejected(tmp_path: Path, tiny_pair: tuple[Path, Path]) -> None:
    with pytest.raises(CheckpointError, match=r"is missing.* If the file is one of several shards, name their folder"):
        open_checkpoint(tiny_pair[0] / "model-00001-of-00002.safetensors")


def test_a_settings_file_is_rejected(tmp_path: Path, tiny_pair: tuple[Path, Path]) -> None:
    for name in ("config.json", "model.safetensors.index.json"):
        with pytest.raises(CheckpointError, match=r"is a JSON file. Name the checkpoint's folder"):
            open_checkpoint(tiny_pair[0] / name)
