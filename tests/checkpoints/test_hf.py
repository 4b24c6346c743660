from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pa_lite.checkpoints import open_checkpoint
from pa_lite.checkpoints.config import read_config
from pa_lite.checkpoints.families.table import FAMILIES
from pa_lite.checkpoints.hf import open_hf
from pa_lite.checkpoints.hf_to_gguf import Description, describe
from pa_lite.errors import CheckpointError
from tests.support import tiny


def change_config(folder: Path, **changes: Any) -> None:
    config = {**json.loads((folder / "config.json").read_text("utf-8")), **changes}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not ...}), "utf-8")


def description(name: str, config: dict[str, Any]) -> Description:
    family = FAMILIES[name]
    return describe(family, read_config(config, family.defaults, "c"))


def test_names_shapes_and_keys_are_converted(tiny_pair: tuple[Path, Path]) -> None:
    checkpoint = open_checkpoint(tiny_pair[0])
    assert checkpoint.architecture == "llama"
    assert len(checkpoint.tensors) == 2 + 9 * 2
    assert checkpoint.tensors["blk.1.ffn_down.weight"].shape == (64, 96)
    assert checkpoint.tensors["blk.0.attn_q.weight"].heads == 4
    assert checkpoint.tensors["blk.0.attn_k.weight"].heads == 2
    assert checkpoint.tensors["blk.0.attn_v.weight"].heads == 0
    values = {key: entry.value for key, entry in checkpoint.metadata.items()}
    assert values["llama.block_count"] == 2
    assert values["llama.attention.head_count_kv"] == 2
    assert values["llama.rope.dimension_count"] == 16
    assert values["llama.rope.freq_base"] == 10000.0
    assert values["llama.attention.key_length"] == 16


def test_a_single_file_is_read_with_its_config(tiny_pair: tuple[Path, Path]) -> None:
    folder = open_checkpoint(tiny_pair[1])
    one = open_checkpoint(tiny_pair[1] / "model.safetensors")
    assert one.tensors == folder.tensors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architecture 'GPT2LMHeadModel' cannot be read"),
        ({"architectures": ...}, "architecture None"),
        ({"quantization_config": {"bits": 4}}, "weights are quantised"),
        ({"hidden_size": -3}, "hidden_size is -3"),
        ({"num_attention_heads": "4"}, "num_attention_heads is '4'"),
        ({"num_attention_heads": ...}, "num_attention_heads is None"),
        ({"num_key_value_heads": 3}, "key-value heads do not match"),
        ({"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 4}, "config.json requires"),
        ({"rope_scaling": {"rope_type": "mystery", "factor": 2.0}}, "'mystery' is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', but llama.cpp"),
        ({"num_hidden_layers": 3}, r"model.layers.2.input_layernorm.weight is missing"),
    ],
)
def test_invalid_configurations_are_rejected(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = tiny.write_checkpoint(tmp_path / "m", tiny.weights(1))
    change_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


def test_unknown_tensors_are_rejected_and_inverse_frequencies_ignored(tmp_path: Path) -> None:
    arrays = tiny.weights(1)
    folder = tiny.write_checkpoint(
        tmp_path / "m", {**arrays, "model.layers.0.self_attn.x_proj.weight": np.ones(3, np.float32)}
    )
    with pytest.raises(
        CheckpointError, match=r"tensor model.layers.0.self_attn.x_proj.weight is not a tensor of a llama"
    ):
        open_checkpoint(folder)
    folder = tiny.write_checkpoint(
        tmp_path / "n", {**arrays, "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)}
    )
    assert len(open_checkpoint(folder).tensors) == len(arrays)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file or folder"):
        open_checkpoint(tmp_path / "nowhere")
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is an empty file"):
        open_checkpoint(tmp_path / "x.bin")
    folder = tiny.write_checkpoint(tmp_path / "m", tiny.weights(1))
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config.json"):
        open_checkpoint(folder)


def test_old_and_new_rope_forms_give_the_same() -> None:
    old = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}}
    new = {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 4.0}}
    for config in (old, new):
        values = description("LlamaForCausalLM", {**tiny.CONFIG, **config}).metadata
        assert values["llama.rope.freq_base"].value == 5e5
        assert values["llama.rope.scaling.type"].value == "linear"
        assert values["llama.rope.scaling.factor"].value == 4.0


def test_llama3_rope_divisors() -> None:
    """Short waves stay unchanged, long ones are divided by the factor, and in between divisors grow monotonically."""
    scaling = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = {**tiny.CONFIG, "head_dim": 128, "rope_theta": 5e5, "rope_scaling": scaling}
    divisors = description("LlamaForCausalLM", config).constants["rope_freqs.weight"]
    assert divisors.shape == (64,)
    assert divisors[0] == 1.0
    assert divisors[-1] == 8.0
    assert (np.diff(divisors) >= 0).all()
    assert len(set(divisors.tolist())) > 4


@pytest.mark.skipif(sys.platform == "win32", reason="links need developer mode on Windows")
def test_a_text_file_that_links_out_of_the_folder_is_rejected(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Otherwise a malicious folder could have the user's private files copied into an output."""
    folder, secret = tmp_path / "m", tmp_path / "id_rsa"
    shutil.copytree(tiny_pair[1], folder)
    secret.write_text("PRIVATE KEY", "utf-8")
    (folder / "chat_template.jinja").symlink_to(secret)
    with pytest.raises(
        CheckpointError, match=r"chat_template.jinja: is a link that leads out of its folder. If you tr"
    ):
        open_hf(folder)
    (folder / "chat_template.jinja").unlink()
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "x.jinja").symlink_to(secret)
    with pytest.raises(CheckpointError, match="leads out of its folder"):
        open_hf(folder)
    shutil.rmtree(folder / "additional_chat_templates")
    # weights may be elsewhere, and links within the folder are allowed
    (folder / "model.safetensors").rename(tmp_path / "weights")
    (folder / "model.safetensors").symlink_to(tmp_path / "weights")
    (folder / "config.json").rename(folder / "kept.json")
    (folder / "config.json").symlink_to("kept.json")
    assert open_hf(folder).tensors
