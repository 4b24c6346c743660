"""Each family of the table opens its checkpoints and rejects foreign tensors and settings that GGUF cannot store."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pa_lite.checkpoints import open_checkpoint
from pa_lite.checkpoints.config import read_config
from pa_lite.checkpoints.families.table import FAMILIES
from pa_lite.checkpoints.hf_to_gguf import describe, titles_of
from pa_lite.errors import CheckpointError
from tests.parity import vocabularies
from tests.parity.cases import CASES, SIZES, old_form
from tests.support import tiny
from tests.support.families import FIRST, config_of, write_checkpoint

README = Path(__file__).resolve().parents[1] / "README.md"


def test_every_family_has_a_parity_case() -> None:
    """Only models covered by tests are supported."""
    assert {case.architecture for case in CASES.values()} == FAMILIES.keys()
    assert {tokenizer.architecture for tokenizer in vocabularies.FAMILIES.values()} == FAMILIES.keys()


def test_the_parity_table_lists_every_case() -> None:
    rows = re.findall(r"^\| ([^|]+?) \| `(\w+)` \| ([^|]+?) \|", README.read_text("utf-8"), re.MULTILINE)
    assert [row[:2] for row in rows] == [(family.title, architecture) for architecture, family in FAMILIES.items()]
    for _, architecture, cases in rows:
        assert cases.split(", ") == [name for name, case in CASES.items() if case.architecture == architecture]


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_family_opens(tmp_path: Path, architecture: str) -> None:
    folder, arrays = write_checkpoint(tmp_path / "m", architecture, shards=2)
    checkpoint = open_checkpoint(folder)
    family = FAMILIES[architecture]
    assert checkpoint.architecture == family.architecture
    assert checkpoint.families == (family.title,)
    sizes = sum(t.n_values for t in checkpoint.tensors.values() if t.name != "output.weight")
    assert sizes == sum(a.size for a in arrays.values())
    assert checkpoint.metadata[f"{family.architecture}.embedding_length"].value == 64
    assert {t.shift for t in checkpoint.tensors.values() if t.name.endswith("norm.weight")} <= {family.norm_shift}


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_family_rejects_wrong_tensors(tmp_path: Path, architecture: str) -> None:
    folder, arrays = write_checkpoint(tmp_path / "m", architecture)

    def error(changed: tiny.Arrays) -> str:
        tiny.save_safetensors(folder / "model.safetensors", changed, "F16")
        with pytest.raises(CheckpointError) as e:
            open_checkpoint(folder)
        assert "\n" not in str(e.value)
        return str(e.value)

    for name in list(arrays)[:: max(1, len(arrays) // 8)]:
        lacking = {n: a for n, a in arrays.items() if n != name}
        assert re.search(rf"tensor {re.escape(name)} is missing", error(lacking))
        odd = {**arrays, name: arrays[name][:-1]}
        if not (FAMILIES[architecture].cuts_vocabulary and "embed_tokens" in name):
            assert f"{name} has shape {list(odd[name].shape)}, but config.json requires" in error(odd)
    some = np.ones(4, np.float32)
    assert "model.layers.0.mlp.gate.extra is not a tensor of a" in error(
        {**arrays, "model.layers.0.mlp.gate.extra": some}
    )
    for number in ("9" * 5000, "00", "٣", "-1"):
        name = f"model.layers.{number}.self_attn.o_proj.weight"
        assert "is not a tensor of a" in error({**arrays, name: some})
    beyond = {**arrays, "model.layers.9.self_attn.o_proj.weight": some}
    assert re.search(r"is not in the \d+ layers of config.json", error(beyond))


GEMMA2, GEMMA3, QWEN3_MOE = "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Qwen3MoeForCausalLM"
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("LlamaForCausalLM", {"rope_parameters": {"rope_type": "longrope", "factor": 2.0}}, "rope_type 'longrope' is not"),
    ("LlamaForCausalLM", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5, but"),
    ("LlamaForCausalLM", {"rope_parameters": [1]}, r"rope_parameters is \[1\], but must be a JSON object"),
    ("LlamaForCausalLM", {"rope_parameters": {"rope_type": "linear"}}, "factor is None"),
    ("LlamaForCausalLM", {"rope_parameters": {"rope_theta": float("nan")}}, "rope_theta is nan"),
    ("LlamaForCausalLM", {"rope_parameters": {"rope_theta": 1e39}}, "rope_theta is 1e.39, but must be"),
    ("LlamaForCausalLM", {"rope_parameters": {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 4.0,
                                              "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
     "high_freq_factor is 4.0, but must be larger than low"),
    ("LlamaForCausalLM", {"head_dim": 2**20}, "4 heads of 1048576"),
    ("LlamaForCausalLM", {"text_config": 3}, "text_config is 3"),
    ("LlamaForCausalLM", {"num_hidden_layers": 2**40}, "must be a positive integer"),
    ("LlamaForCausalLM", {"vocab_size": 2.5}, "vocab_size is 2.5"),
    ("MistralForCausalLM", {"rope_parameters": {"rope_type": "llama3"}}, "rope_type 'llama3' is not supported"),
    ("MixtralForCausalLM", {"num_local_experts": ...}, "num_local_experts is None"),
    (GEMMA2, {"query_pre_attn_scalar": 224}, "query_pre_attn_scalar is 224, but llama.cpp .* only with 32"),
    (GEMMA2, {"layer_types": ["full_attention"] * 3}, "the last of 2 layers has full attention"),
    (GEMMA2, {"rope_parameters": {"rope_theta": 5e5}}, "rope_theta is 500000.0, but .* only with 10000"),
    (GEMMA2, {"hidden_activation": "silu"}, "hidden_activation is 'silu', but .* only with 'gelu_pytorch_tanh'"),
    (GEMMA3, {"sliding_window_pattern": 4}, "sliding_window_pattern is 4"),
    (GEMMA3, {"attn_logit_softcapping": 50.0}, "without it"),
    (GEMMA3, {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
    (GEMMA3, {"rope_parameters": {"full_attention": {}, "sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
     "sliding layers have a different rope_type"),
    ("OlmoForCausalLM", {"head_dim": 32}, "head_dim is 32, but .* only with 16"),
    ("Olmo2ForCausalLM", {"sliding_window": 64}, "sliding_window is 64"),
    ("OlmoeForCausalLM", {"head_dim": 32}, "head_dim is 32, but .* only with 16"),
    ("OlmoeForCausalLM", {"num_key_value_heads": 2}, "num_key_value_heads is 2, but .* only with 4"),
    ("OlmoeForCausalLM", {"clip_qkv": 8.0}, "clip_qkv is 8.0, but .* without it"),
    ("OlmoeForCausalLM", {"rms_norm_eps": 1e-6}, "rms_norm_eps is 1e-06"),
    ("OlmoeForCausalLM", {"norm_topk_prob": True}, "norm_topk_prob is True"),
    ("ArceeForCausalLM", {"hidden_act": "silu"}, "hidden_act is 'silu', but .* only with 'relu2'"),
    ("Qwen2ForCausalLM", {"use_sliding_window": True}, "use_sliding_window is True"),
    ("Qwen2ForCausalLM", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale": 1.0,
                                              "original_max_position_embeddings": 64}}, "mscale is 1.0"),
    ("Qwen2ForCausalLM", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "original_max_position_embeddings"),
    ("Qwen2ForCausalLM", {"num_hidden_layers": 400, "layer_types": ["full_attention"]}, "layer_types is"),
    ("Qwen3ForCausalLM", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is"),
    (QWEN3_MOE, {"norm_topk_prob": False}, "norm_topk_prob is False, but"),
    (QWEN3_MOE, {"norm_topk_prob": ...}, "norm_topk_prob is None, but"),
    (QWEN3_MOE, {"decoder_sparse_step": 2}, "decoder_sparse_step is 2"),
    (QWEN3_MOE, {"mlp_only_layers": [0]}, "only with none"),
    ("Phi3ForCausalLM", {"rope_parameters": {"rope_type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}},
     "long_factor must be a list of 8 numbers"),
    ("Phi3ForCausalLM", {"rope_parameters": {"rope_type": "longrope"}, "original_max_position_embeddings": 1},
     "original_max_position_embeddings is 1"),
    ("Phi3ForCausalLM", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_type 'linear' is not"),
    ("SmolLM3ForCausalLM", {"no_rope_layers": [1, 1, 1, 1, 1]}, "every 4th layer"),
    ("SmolLM3ForCausalLM", {"no_rope_layer_interval": 3}, "no_rope_layer_interval is 3"),
    ("GraniteForCausalLM", {"head_dim": 8}, "head_dim is 8"),
    ("GraniteForCausalLM", {"logits_scaling": 0}, "logits_scaling is 0"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "changes", "message"), REFUSED, ids=[f"{a}-{message}" for a, _, message in REFUSED]
)
def test_settings_that_gguf_cannot_store_are_rejected(
    tmp_path: Path, architecture: str, changes: dict[str, Any], message: str
) -> None:
    family = FAMILIES[architecture]
    with pytest.raises(CheckpointError, match=message) as e:
        describe(family, read_config(config_of(architecture, **changes), family.defaults, "config.json"))
    assert str(e.value).startswith("config.json")


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("MistralForCausalLM", {"sliding_window": 64}, "beyond 64 tokens"),
        ("Phi3ForCausalLM", {"sliding_window": 64}, "beyond 64 tokens"),
        ("LlamaForCausalLM", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "beyond 512 tokens"),
    ],
)
def test_settings_that_matter_only_for_long_prompts_give_a_warning(
    tmp_path: Path, architecture: str, changes: dict[str, Any], message: str
) -> None:
    from pa_lite.merging.plan import plan_merge

    folder, _ = write_checkpoint(tmp_path / "m", architecture, **changes)
    checkpoint = open_checkpoint(folder)
    assert len(checkpoint.warnings) == 1
    assert message in checkpoint.warnings[0]
    assert checkpoint.warnings[0] in plan_merge(checkpoint, checkpoint).remarks


def test_a_window_as_long_as_the_context_gives_no_warning(tmp_path: Path) -> None:
    folder, _ = write_checkpoint(tmp_path / "m", "MistralForCausalLM", sliding_window=512)
    assert open_checkpoint(folder).warnings == ()


def test_large_gemmas_scale_attention_by_the_embedding(tmp_path: Path) -> None:
    folder, _ = write_checkpoint(tmp_path / "m", GEMMA2, num_hidden_layers=46, query_pre_attn_scalar=16)
    assert open_checkpoint(folder).metadata["gemma2.block_count"].value == 46


def test_a_gemma3_embedding_is_cut_to_its_vocabulary(tmp_path: Path) -> None:
    folder, arrays = write_checkpoint(tmp_path / "m", GEMMA3, dtype="F32")
    longer = np.concatenate([arrays["model.embed_tokens.weight"], np.ones((4, 64), np.float32)])
    tiny.save_safetensors(folder / "model.safetensors", {**arrays, "model.embed_tokens.weight": longer}, "F32")
    assert open_checkpoint(folder).tensors["token_embd.weight"].shape == (320, 64)
    shorter = {**arrays, "model.embed_tokens.weight": longer[:300]}
    tiny.save_safetensors(folder / "model.safetensors", shorter, "F32")
    with pytest.raises(CheckpointError, match=r"has shape \[300, 64\], but config.json requires \[320, 64\]"):
        open_checkpoint(folder)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_names_of_a_wrapper_are_mapped_and_other_modalities_skipped(tmp_path: Path, prefix: str) -> None:
    folder, arrays = write_checkpoint(tmp_path / "m", "Gemma3ForConditionalGeneration")
    expected = open_checkpoint(folder)
    wrapped = {prefix + name.removeprefix("model."): a for name, a in arrays.items()}
    outer = "model." if prefix.startswith("model.") else ""
    for name in ("vision_tower.vision_model.encoder.weight", "multi_modal_projector.mm_soft_emb_norm.weight"):
        wrapped[outer + name] = np.ones(3, np.float32)
    tiny.save_safetensors(folder / "model.safetensors", wrapped, "BF16")
    found = open_checkpoint(folder)
    assert found.tensors.keys() == expected.tensors.keys()
    assert found.metadata == expected.metadata


def test_an_unknown_architecture_is_rejected_with_the_supported_ones(tmp_path: Path) -> None:
    folder, _ = write_checkpoint(tmp_path / "m", "LlamaForCausalLM")
    text = (folder / "config.json").read_text("utf-8")
    (folder / "config.json").write_text(text.replace("LlamaForCausalLM", "Gemma3nForCausalLM"), "utf-8")
    with pytest.raises(CheckpointError) as e:
        open_checkpoint(folder)
    assert "architecture 'Gemma3nForCausalLM' cannot be read" in str(e.value)
    for name in FAMILIES:
        assert name in str(e.value)
    assert "GGUF files of any architecture can be merged" in str(e.value)


def test_a_stored_output_of_gemma2_is_ignored(tmp_path: Path) -> None:
    """llama.cpp always uses the embedding there."""
    folder, arrays = write_checkpoint(tmp_path / "m", GEMMA2)
    tiny.save_safetensors(
        folder / "model.safetensors", {**arrays, "lm_head.weight": arrays["model.embed_tokens.weight"]}, "BF16"
    )
    assert "output.weight" not in open_checkpoint(folder).tensors


def test_the_early_name_of_longrope() -> None:
    """The numbers of Phi-3's 128k models, as in their first revision."""
    settings = {"type": "su", "long_factor": [2.0] * 8, "short_factor": [1.0] * 8}
    config = config_of(
        "Phi3ForCausalLM", rope_scaling=settings, max_position_embeddings=131_072, original_max_position_embeddings=4096
    )
    family = FAMILIES["Phi3ForCausalLM"]
    found = describe(family, read_config(config, family.defaults, "c"))
    assert found.metadata["phi3.rope.scaling.attn_factor"].value == pytest.approx(1.190238)
    assert found.metadata["phi3.rope.scaling.original_context_length"].value == 4096
    assert "phi3.rope.scaling.type" not in found.metadata
    assert found.constants["rope_factors_long.weight"].tolist() == [2.0] * 8
    assert found.constants["rope_factors_short.weight"].tolist() == [1.0] * 8


def test_both_forms_of_a_configuration_give_the_same() -> None:
    """Every case as transformers 5 and as earlier versions write it; nulls count as not given."""
    for name, case in CASES.items():
        family = FAMILIES[case.architecture]
        new = {"model_type": case.model_type, **SIZES, **case.settings}
        if "rope_parameters" not in new:
            new["rope_parameters"] = {"rope_type": "default", "rope_theta": family.rope_theta}
        nulls = dict.fromkeys(("sliding_window_pattern", "layer_types", "rope_parameters", "text_config"))
        old = {**nulls, **old_form(new)}
        one, two = (describe(family, read_config(config, family.defaults, name)) for config in (new, old))
        assert one.metadata == two.metadata, name
        assert one.constants.keys() == two.constants.keys()
        for key, values in one.constants.items():
            np.testing.assert_array_equal(values, two.constants[key])


def test_titles_of_an_architecture() -> None:
    assert titles_of("llama") == ["Llama 2, 3, 3.1, 3.2, SmolLM2", "Mistral", "Mixtral"]
    assert titles_of("gemma3") == ["Gemma-3 (text)"]
    assert titles_of("stablelm") == []
    assert len(FIRST) == len(FAMILIES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 513}, "num_hidden_layers is 513, but llama.cpp supports at most 512"),
        ({"num_local_experts": 2**30}, "num_local_experts is 1073741824, but llama.cpp supports at most 1024"),
        ({"rms_norm_eps": 1e-50}, "rms_norm_eps is 1e-50, but must be a positive number"),
        ({"rope_theta": 1e-45}, "rope_theta is 1e-45, but must be a positive number"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps is nan, but must be"),
        ({"rope_theta": math.inf}, "rope_theta is inf, but must be"),
    ],
)
def test_numbers_that_llama_cpp_does_not_support_are_rejected(changes: dict[str, Any], message: str) -> None:
    """Counts that are too large, and numbers that are zero, infinite or NaN in float32."""
    family = FAMILIES["MixtralForCausalLM"]
    config = {**config_of("MixtralForCausalLM", rope_parameters=...), **changes}
    with pytest.raises(CheckpointError, match=message):
        describe(family, read_config(config, family.defaults, "config"))
