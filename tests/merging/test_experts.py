"""Test tensors made of several stored ones (stacked experts), or of stored values and a constant (shifted norms)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pa_lite
from pa_lite.checkpoints import open_checkpoint
from pa_lite.checkpoints.fingerprint import fingerprint
from pa_lite.errors import CheckpointError
from pa_lite.ggml.container import read_gguf_header
from pa_lite.ggml.kernels import FloatArray
from pa_lite.merging import stream
from pa_lite.merging.diff import diff_checkpoints
from pa_lite.merging.plan import PlanOptions, plan_merge
from pa_lite.merging.write import MergeOptions
from tests.merging.test_sources import read
from tests.support import tiny
from tests.support.families import write_checkpoint

MIXTRAL, QWEN = "MixtralForCausalLM", "Qwen3MoeForCausalLM"
EXPERT = "model.layers.{layer}.block_sparse_moe.experts.{expert}.{w}.weight"
PARTS = {"w1": "gate", "w2": "down", "w3": "up"}


def lerp(left: FloatArray, right: FloatArray, lam: float) -> FloatArray:
    out: FloatArray = np.float32(1 - lam) * left + np.float32(lam) * right
    return out


@pytest.mark.parametrize("block", [1500, 5000, 1 << 18])
def test_experts_are_stacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Compare with numpy's stack: from three shards and from one, in blocks smaller and larger than an expert."""
    monkeypatch.setattr(stream, "BLOCK_VALUES", block)
    base, left = write_checkpoint(tmp_path / "base", MIXTRAL, 1, 3, "F32")
    instruct, right = write_checkpoint(tmp_path / "instruct", MIXTRAL, 2, 1, "F32")
    options = MergeOptions(threads=2, verify=True)
    (file,) = pa_lite.merge(base, instruct, (0.3,), plan=PlanOptions(type="F32"), output=tmp_path, options=options)
    found = read(file)
    for layer in range(2):
        for w, part in PARTS.items():
            names = [EXPERT.format(layer=layer, expert=e, w=w) for e in range(8)]
            expected = lerp(np.stack([left[n] for n in names]), np.stack([right[n] for n in names]), 0.3)
            np.testing.assert_array_equal(found[f"blk.{layer}.ffn_{part}_exps.weight"], expected)
        router = f"model.layers.{layer}.block_sparse_moe.gate.weight"
        np.testing.assert_array_equal(found[f"blk.{layer}.ffn_gate_inp.weight"], lerp(left[router], right[router], 0.3))
    assert read_gguf_header(file).metadata["general.size_label"].value.startswith("8x")


def fuse(arrays: tiny.Arrays, experts: int) -> tiny.Arrays:
    """Return the experts of each layer in one tensor, as transformers 5 has them in memory."""
    out = {name: a for name, a in arrays.items() if ".experts." not in name}
    for layer in range(2):
        p = f"model.layers.{layer}.mlp.experts."
        gate, up, down = (
            np.stack([arrays[f"{p}{e}.{x}_proj.weight"] for e in range(experts)]) for x in ("gate", "up", "down")
        )
        out[f"{p}gate_up_proj"], out[f"{p}down_proj"] = np.concatenate([gate, up], 1), down
    return out


def test_fused_experts_give_the_same_merge(tmp_path: Path) -> None:
    base, left = write_checkpoint(tmp_path / "base", QWEN, 1, dtype="F32")
    instruct, _ = write_checkpoint(tmp_path / "instruct", QWEN, 2, dtype="F32")
    plan = PlanOptions(type="Q8_0")
    (expected,) = pa_lite.merge(base, instruct, (0.6,), plan=plan, output=tmp_path / "a.gguf")
    tiny.save_safetensors(base / "model.safetensors", fuse(left, 4), "F32")
    (found,) = pa_lite.merge(base, instruct, (0.6,), plan=plan, output=tmp_path / "b.gguf")
    one, two = read(expected), read(found)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
    both = {**fuse(left, 4), **{n: a for n, a in left.items() if ".experts." in n}}
    tiny.save_safetensors(base / "model.safetensors", both, "F32")
    with pytest.raises(CheckpointError, match="is stored both for each expert and for all of them"):
        open_checkpoint(base)
    odd = fuse(left, 4)
    odd["model.layers.1.mlp.experts.gate_up_proj"] = odd["model.layers.1.mlp.experts.gate_up_proj"][:, 1:]
    tiny.save_safetensors(base / "model.safetensors", odd, "F32")
    with pytest.raises(CheckpointError, match=r"shape \[4, 95, 64\], but config.json requires \[4, 96, 64\]"):
        open_checkpoint(base)


def test_stacked_experts_are_read_from_a_gguf_file(tmp_path: Path) -> None:
    base, _ = write_checkpoint(tmp_path / "base", MIXTRAL, 1)
    instruct, _ = write_checkpoint(tmp_path / "instruct", MIXTRAL, 2)
    (file,) = pa_lite.merge(base, base, (0.0,), plan=PlanOptions(type="BF16"), output=tmp_path / "base.gguf")
    plan = PlanOptions(type="F32")
    (expected,) = pa_lite.merge(base, instruct, (0.4,), plan=plan, output=tmp_path / "a.gguf")
    (found,) = pa_lite.merge(file, instruct, (0.4,), plan=plan, output=tmp_path / "b.gguf")
    for name, values in read(expected).items():
        np.testing.assert_array_equal(read(found)[name], values)


def test_missing_or_wrong_experts_are_rejected(tmp_path: Path) -> None:
    folder, arrays = write_checkpoint(tmp_path / "m", MIXTRAL)
    name = EXPERT.format(layer=1, expert=7, w="w2")

    def message(changed: tiny.Arrays) -> str:
        tiny.save_safetensors(folder / "model.safetensors", changed, "BF16")
        with pytest.raises(CheckpointError) as e:
            open_checkpoint(folder)
        return str(e.value)

    assert f"tensor {name} is missing: there are 8 experts" in message({n: a for n, a in arrays.items() if n != name})
    ninth = name.replace("experts.7", "experts.8")
    assert f"tensor {ninth} is unexpected: there are 8 experts" in message({**arrays, ninth: arrays[name]})
    assert f"{name} has shape [3, 96]" in message({**arrays, name: arrays[name][:3]})
    (folder / "model.safetensors").unlink()
    tiny.save_safetensors(folder / "model-2.safetensors", {n: a for n, a in arrays.items() if n != name}, "BF16")
    tiny.save_safetensors(folder / "model-1.safetensors", {name: arrays[name]}, "F16")
    with pytest.raises(CheckpointError, match=r"experts.0.w2.weight is BF16, but .*experts.7.w2.weight is F16"):
        open_checkpoint(folder)


def test_every_expert_counts_in_the_fingerprint(tmp_path: Path) -> None:
    folder, arrays = write_checkpoint(tmp_path / "m", MIXTRAL)
    before = fingerprint(open_checkpoint(folder))
    first, second = (EXPERT.format(layer=0, expert=e, w="w1") for e in (3, 4))
    swapped = {n: arrays[{first: second, second: first}.get(n, n)] for n in arrays}
    tiny.save_safetensors(folder / "model.safetensors", swapped, "BF16")
    assert fingerprint(open_checkpoint(folder)) != before


def test_biases_of_q_and_k_are_reordered_like_their_rows(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"attention_bias": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    base, left = write_checkpoint(tmp_path / "base", "LlamaForCausalLM", 1, dtype="F32", **changes)
    instruct, right = write_checkpoint(tmp_path / "instruct", "LlamaForCausalLM", 2, dtype="F32", **changes)
    (file,) = pa_lite.merge(base, instruct, (0.3,), plan=PlanOptions(type="F32"), output=tmp_path)
    for x, heads in (("q", 4), ("k", 2), ("v", 0)):
        name = f"model.layers.1.self_attn.{x}_proj.bias"
        expected = lerp(left[name], right[name], 0.3)
        if heads:
            expected = expected.reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)
        np.testing.assert_array_equal(read(file)[f"blk.1.attn_{x}.bias"], expected)


def test_gemmas_norms_are_shifted_after_interpolating(tmp_path: Path) -> None:
    base, left = write_checkpoint(tmp_path / "base", "Gemma2ForCausalLM", 1, dtype="F32")
    instruct, right = write_checkpoint(tmp_path / "instruct", "Gemma2ForCausalLM", 2, dtype="F32")
    names = {"model.norm.weight": "output_norm.weight"}
    names |= {"model.layers.1.post_feedforward_layernorm.weight": "blk.1.post_ffw_norm.weight"}
    files = pa_lite.merge(base, instruct, (0.0, 0.3, 1.0), plan=PlanOptions(type="F32"), output=tmp_path)
    for file, lam in zip(files, (0.0, 0.3, 1.0), strict=True):
        for stored, name in names.items():
            expected = {0.0: left[stored], 1.0: right[stored]}.get(lam, lerp(left[stored], right[stored], lam))
            np.testing.assert_array_equal(read(file)[name], expected + np.float32(1))
    embedding = "model.embed_tokens.weight"
    np.testing.assert_array_equal(read(files[0])["token_embd.weight"], left[embedding])

    # a GGUF file includes the shift: with one as base, the shift is added only to instruct
    (mixed,) = pa_lite.merge(files[0], instruct, (0.3,), plan=PlanOptions(type="F32"), output=tmp_path / "mixed.gguf")
    for name in names.values():
        np.testing.assert_allclose(read(mixed)[name], read(files[1])[name], rtol=0, atol=1e-6)
    one, two = diff_checkpoints(base, instruct), diff_checkpoints(files[0], instruct)
    for name, distance in one.tensors.items():
        assert distance.relative_norm == pytest.approx(two.tensors[name].relative_norm, rel=1e-5), name


def test_groups_of_the_new_names(tmp_path: Path) -> None:
    for architecture, expected in (
        (MIXTRAL, {"embeddings", "attention", "ffn", "norms"}),
        ("Phi3ForCausalLM", {"embeddings", "attention", "ffn", "norms"}),
        ("Gemma2ForCausalLM", {"embeddings", "attention", "ffn", "norms"}),
        ("Olmo2ForCausalLM", {"embeddings", "attention", "ffn", "norms", "output"}),
    ):
        folder, _ = write_checkpoint(tmp_path / architecture, architecture)
        checkpoint = open_checkpoint(folder)
        assert {group for group, _ in plan_merge(checkpoint, checkpoint).by_group()} == expected
