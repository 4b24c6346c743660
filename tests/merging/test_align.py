"""Test pairs whose vocabularies, outputs or settings differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import pa_lite
from pa_lite.checkpoints import open_checkpoint
from pa_lite.errors import InputError, MismatchError
from pa_lite.ggml.container import read_gguf_header
from pa_lite.merging.diff import diff_checkpoints
from pa_lite.merging.plan import PlanOptions, plan_merge
from tests.merging.test_sources import read
from tests.support import tiny
from tests.support.families import write_checkpoint

EXTRA = ["<|tool|>", "<|end_tool|>"]


@pytest.fixture
def grown(tmp_path: Path) -> tuple[Path, Path, tiny.Arrays, tiny.Arrays]:
    """A base of 320 rows, and an instruct of 324 whose first two padding ids became new tokens."""
    base = tiny.weights(1)
    config = {**tiny.CONFIG, "vocab_size": 324}
    instruct = tiny.weights(2, config)
    tiny.write_checkpoint(tmp_path / "base", base, "F32")
    folder = tiny.write_checkpoint(tmp_path / "instruct", instruct, "F32", config=config)
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    first = max(tokenizer["model"]["vocab"].values()) + 1
    tokenizer["added_tokens"] += [{"id": first + i, "content": t, "special": True} for i, t in enumerate(EXTRA)]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    return tmp_path / "base", folder, base, instruct


def test_tokens_added_in_instruct(grown: tuple[Path, Path, tiny.Arrays, tiny.Arrays], tmp_path: Path) -> None:
    folder_base, folder_instruct, base, instruct = grown
    left, right = base["model.embed_tokens.weight"], instruct["model.embed_tokens.weight"]
    plan = plan_merge(open_checkpoint(folder_base), open_checkpoint(folder_instruct), PlanOptions(type="F32"))
    assert (
        "vocabularies differ: the output has the 324 tokens of instruct; 267 are in both, 0 rows come from base only"
        in (" ".join(plan.remarks))
    )
    (file,) = pa_lite.merge(folder_base, folder_instruct, (0.4,), plan=PlanOptions(type="F32"), output=tmp_path)
    got = read(file)["token_embd.weight"]
    assert got.shape == (324, 64)
    np.testing.assert_array_equal(got[:267], np.float32(0.6) * left[:267] + np.float32(0.4) * right[:267])
    np.testing.assert_array_equal(got[267:], right[267:])  # new tokens and padding are instruct's at every lam
    metadata = read_gguf_header(file).metadata
    assert metadata["tokenizer.ggml.tokens"].value[267:269] == EXTRA
    assert metadata["llama.vocab_size"].value == 324


def test_vocab_base_keeps_the_vocabulary_of_base(
    grown: tuple[Path, Path, tiny.Arrays, tiny.Arrays], tmp_path: Path
) -> None:
    folder_base, folder_instruct, base, instruct = grown
    options = PlanOptions(type="F32", vocab="base")
    (file,) = pa_lite.merge(folder_base, folder_instruct, (0.4,), plan=options, output=tmp_path)
    got = read(file)["token_embd.weight"]
    left, right = base["model.embed_tokens.weight"], instruct["model.embed_tokens.weight"]
    np.testing.assert_array_equal(got[:267], np.float32(0.6) * left[:267] + np.float32(0.4) * right[:267])
    np.testing.assert_array_equal(got[267:], left[267:])
    metadata = read_gguf_header(file).metadata
    assert metadata["llama.vocab_size"].value == len(metadata["tokenizer.ggml.tokens"].value) == 320
    assert "tokenizer.chat_template" not in metadata
    with pytest.raises(InputError, match="neither base nor instruct"):
        pa_lite.merge(folder_base, folder_instruct, plan=PlanOptions(vocab="mine"), output=tmp_path)


def test_reordered_tokens_are_aligned_by_text(tmp_path: Path) -> None:
    base, instruct = tiny.weights(1), tiny.weights(2)
    tiny.write_checkpoint(tmp_path / "base", base, "F32")
    folder = tiny.write_checkpoint(tmp_path / "instruct", instruct, "F32")
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocab = tokenizer["model"]["vocab"]
    a, b = vocab["A"], vocab["z"]
    vocab["A"], vocab["z"] = b, a
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    (file,) = pa_lite.merge(tmp_path / "base", folder, (0.0,), plan=PlanOptions(type="F32"), output=tmp_path)
    got, left = read(file)["token_embd.weight"], base["model.embed_tokens.weight"]
    np.testing.assert_array_equal(got[[a, b]], left[[b, a]])
    np.testing.assert_array_equal(np.delete(got[:267], [a, b], 0), np.delete(left[:267], [a, b], 0))


@pytest.mark.parametrize("tied", ["base", "instruct"])
def test_a_tied_output_is_merged_with_an_untied_one(tmp_path: Path, tied: str) -> None:
    base, instruct = tiny.weights(1), tiny.weights(2)
    head = np.random.default_rng(9).standard_normal((320, 64), np.float32)
    untied = instruct if tied == "base" else base
    untied["lm_head.weight"] = head
    tiny.write_checkpoint(tmp_path / "base", base, "F32")
    tiny.write_checkpoint(tmp_path / "instruct", instruct, "F32")
    (file,) = pa_lite.merge(
        tmp_path / "base", tmp_path / "instruct", (0.3,), plan=PlanOptions(type="F32"), output=tmp_path
    )
    own = (instruct if tied == "instruct" else base)["model.embed_tokens.weight"]
    left, right = (own, head) if tied == "base" else (head, own)
    np.testing.assert_array_equal(read(file)["output.weight"], np.float32(1 - 0.3) * left + np.float32(0.3) * right)
    plan = plan_merge(open_checkpoint(tmp_path / "base"), open_checkpoint(tmp_path / "instruct"))
    assert f"{tied} ties its output to the embedding" in plan.remarks[0]


def test_embeddings_of_different_size_need_a_tokenizer(tmp_path: Path) -> None:
    config = {**tiny.CONFIG, "vocab_size": 324}
    base = tiny.write_checkpoint(tmp_path / "base", tiny.weights(1), "F32")
    instruct = tiny.write_checkpoint(tmp_path / "instruct", tiny.weights(2, config), "F32", config=config)
    (base / "tokenizer.json").unlink()
    with pytest.raises(Exception, match=r"has neither tokenizer.json nor tokenizer.model"):
        plan_merge(open_checkpoint(base), open_checkpoint(instruct))


def test_a_schedule_sets_the_lam_of_each_tensor(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    from pa_lite.merging.schedule import parse_schedule

    rules = parse_schedule("attention: 0; layers 1: 1; embeddings: 1")
    (file,) = pa_lite.merge(
        *tiny_pair, (0.5,), plan=PlanOptions(type="F32", schedule=rules), output=tmp_path / "s.gguf"
    )
    ends = [
        read(pa_lite.merge(*tiny_pair, (lam,), plan=PlanOptions(type="F32"), output=tmp_path / f"{lam}.gguf")[0])
        for lam in (0.0, 0.5, 1.0)
    ]
    for name, values in read(file).items():
        lam = 0.5
        if name.startswith(("blk.1.", "token_embd")):
            lam = 1.0
        elif name.startswith("blk.0.attn_") and "norm" not in name:
            lam = 0.0
        np.testing.assert_array_equal(values, ends[int(2 * lam)][name], name)
    assert read_gguf_header(file).metadata["pa_lite.schedule"].value == rules.text
    plan = PlanOptions(schedule=parse_schedule("layers 5: 1"))
    with pytest.raises(InputError, match="layers 5-5 do not exist: the model has layers 0-1"):
        pa_lite.merge(*tiny_pair, (0.5,), plan=plan, output=tmp_path)


def test_architectures_must_be_equal(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    (file,) = pa_lite.merge(*tiny_pair, (0.5,), output=tmp_path / "x.gguf")
    raw = file.read_bytes().replace(b"llama", b"lhama")
    (tmp_path / "y.gguf").write_bytes(raw)
    assert gguf.GGUFReader(tmp_path / "y.gguf").fields["general.architecture"].contents() == "lhama"
    with pytest.raises(MismatchError, match=r"y.gguf is lhama, .* is llama"):
        plan_merge(open_checkpoint(tmp_path / "y.gguf"), open_checkpoint(tiny_pair[1]))


Changes = dict[str, Any]
OTHER_ROPE = {"rope_theta": 5e5, "rope_type": "linear", "factor": 4.0}
MAY_DIFFER: list[tuple[str, Changes, str]] = [
    ("LlamaForCausalLM", {"max_position_embeddings": 1024}, "llama.context_length is 512 in base, 1024 in instruct"),
    ("MistralForCausalLM", {"rope_parameters": OTHER_ROPE}, "llama.rope.freq_base is 10000 in base, 500000 in"),
    ("MistralForCausalLM", {"rope_parameters": OTHER_ROPE}, "llama.rope.scaling.type is not set in base, linear in"),
    ("Gemma3ForCausalLM", {"sliding_window": 32}, "gemma3.attention.sliding_window is 16 in base, 32 in instruct"),
]
ALTERS: list[tuple[str, Changes, str]] = [
    ("LlamaForCausalLM", {"rms_norm_eps": 1e-6}, "llama.attention.layer_norm_rms_epsilon is 1e-05 in .* but 1e-06 in"),
    ("Gemma2ForCausalLM", {"final_logit_softcapping": 20.0}, "gemma2.final_logit_softcapping is 30 in .* but 20 in"),
    ("GraniteForCausalLM", {"residual_multiplier": 0.5}, "granite.residual_scale is"),
    ("OlmoForCausalLM", {"clip_qkv": ...}, r"olmo.attention.clamp_kqv is 1.5 in .* but not set in"),
    ("MixtralForCausalLM", {"num_experts_per_tok": 3}, "llama.expert_used_count is 2 in .* but 3"),
    ("LlamaForCausalLM", {"attention_bias": True}, "self_attn.q_proj.bias of shape .* is in .*instruct but not in"),
]


def two_checkpoints(folder: Path, architecture: str, changes: Changes) -> tuple[Path, Path, tiny.Arrays]:
    base, _ = write_checkpoint(folder / "base", architecture, 1)
    instruct, right = write_checkpoint(folder / "instruct", architecture, 2, dtype="F32", **changes)
    return base, instruct, right


@pytest.mark.parametrize(
    ("architecture", "changes", "message"), MAY_DIFFER, ids=[message for *_, message in MAY_DIFFER]
)
def test_context_and_rope_may_differ(tmp_path: Path, architecture: str, changes: Changes, message: str) -> None:
    base, instruct, _ = two_checkpoints(tmp_path, architecture, changes)
    plan = plan_merge(open_checkpoint(base), open_checkpoint(instruct))
    assert any(line.startswith(message) and line.endswith(": instruct's is used") for line in plan.remarks), (
        plan.remarks
    )
    metadata = plan.at(0.5).metadata
    for key, value in open_checkpoint(instruct).metadata.items():
        assert metadata[key] == value


@pytest.mark.parametrize(("architecture", "changes", "message"), ALTERS, ids=[message for *_, message in ALTERS])
def test_settings_that_change_the_computation_need_force(
    tmp_path: Path, architecture: str, changes: Changes, message: str
) -> None:
    base, instruct, right = two_checkpoints(tmp_path, architecture, changes)
    with pytest.raises(MismatchError, match=message) as e:
        plan_merge(open_checkpoint(base), open_checkpoint(instruct))
    assert "The two networks compute differently, so interpolation is not meaningful. --force merges" in str(e.value)
    (file,) = pa_lite.merge(base, instruct, (0.5,), plan=PlanOptions(type="F32", force=True), output=tmp_path)
    wanted = open_checkpoint(instruct).metadata
    assert {key: read_gguf_header(file).metadata[key] for key in wanted} == wanted
    if "attention_bias" in changes:
        own = right["model.layers.0.self_attn.v_proj.bias"]
        np.testing.assert_array_equal(read(file)["blk.0.attn_v.bias"], own)
    assert diff_checkpoints(base, instruct).n_values > 0  # diff needs only equal shapes


def test_force_drops_tensors_that_only_base_has(tmp_path: Path) -> None:
    instruct, base, _ = two_checkpoints(tmp_path, "LlamaForCausalLM", {"attention_bias": True})
    plan = plan_merge(open_checkpoint(base), open_checkpoint(instruct), PlanOptions(force=True))
    assert not any(t.name.endswith(".bias") for t in plan.tensors)
    assert any("q_proj.bias" in line and line.endswith(": instruct is followed") for line in plan.remarks)


def test_force_does_not_merge_different_shapes(tmp_path: Path) -> None:
    base, instruct, _ = two_checkpoints(tmp_path, "LlamaForCausalLM", {"intermediate_size": 128})
    with pytest.raises(MismatchError, match=r"shape \[96, 64\] in .* but \[128, 64\] in"):
        plan_merge(open_checkpoint(base), open_checkpoint(instruct), PlanOptions(force=True))
