"""Compare a base with a PEFT adapter with numpy's product, for blocks of any size, and with damaged adapters."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pa_lite
from pa_lite.checkpoints import open_checkpoint, open_pair
from pa_lite.checkpoints.fingerprint import fingerprint
from pa_lite.errors import CheckpointError, PaLiteError
from pa_lite.merging import stream
from tests.merging.test_sources import read
from tests.merging.test_stream import gguf_name, rotary_order, twin
from tests.support import adapters, families, tiny

LINEAR = ("_proj",)
BASE = tiny.weights(1)


def expected(base: tiny.Arrays, instruct: tiny.Arrays, lam: float) -> tiny.Arrays:
    return {gguf_name(name): twin(base[name], instruct[name], lam, name) for name in base}


def close(got: Any, wanted: Any) -> bool:
    return bool(got.shape == wanted.shape and np.abs(got - wanted).max() <= 1e-6 * np.abs(wanted).max())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_checkpoint(tmp_path_factory.mktemp("bases") / "base", BASE, "F32", shards=2)


@pytest.mark.parametrize("block_values", [1, 1000, 1 << 17])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_every_tensor_equals_the_product(
    base: Path, tmp_path: Path, dtype: str, block_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "BLOCK_VALUES", block_values)
    arrays = adapters.factors(BASE, adapters.modules_of(BASE, *LINEAR))
    folder = adapters.write_peft(tmp_path / "lora", arrays, dtype, target_modules="all-linear")
    instruct = adapters.adapted(BASE, tiny.stored(arrays, dtype), 6 / 4)
    lams = (0.0, 0.3, 1.0, 1.5)
    files = pa_lite.merge(base, folder, lams, type="F32", output=tmp_path, threads=3, extrapolate=True, verify=True)
    for lam, file in zip(lams, files, strict=True):
        found = read(file)
        for name, values in expected(BASE, instruct, lam).items():
            assert close(found[name], values), (lam, name)
    untouched = [name for name in BASE if "norm" in name]
    for file in files:  # a tensor that the adapter does not change has the same bits at every lam
        assert all(np.array_equal(read(file)[gguf_name(name)], BASE[name]) for name in untouched)


def test_scale_of_each_module(base: Path, tmp_path: Path) -> None:
    """Ranks and alphas by pattern: the first that matches the end of the name."""
    first, second = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"
    arrays = {**adapters.factors(BASE, [first], 4), **adapters.factors(BASE, [second], 9, seed=8)}
    for stabilised, scales in ((False, (6 / 4, 3 / 9)), (True, (6 / 2, 3 / 3))):
        folder = adapters.write_peft(
            tmp_path / f"lora-{stabilised}", arrays, use_rslora=stabilised,
            rank_pattern={r"1\.self_attn\.[qk]_proj": 9},
            alpha_pattern={"layers.1.self_attn.q_proj": 3, "q_proj": 6, "self_attn.q_proj": 100}, lora_alpha=50,
        )  # fmt: skip
        found = read(pa_lite.merge(base, folder, 1.0, type="F32", output=tmp_path / f"{stabilised}.gguf"))
        for module, scale in zip((first, second), scales, strict=True):
            instruct = adapters.adapted(BASE, {n: a for n, a in arrays.items() if module in n}, scale)
            assert close(found[gguf_name(f"{module}.weight")], rotary_order(instruct[f"{module}.weight"], 4))


def test_embedding_rows_tokens_and_a_larger_vocabulary(base: Path, tmp_path: Path) -> None:
    """The embedding has new rows, factors for all rows, and rows of single tokens; base's other rows are matched."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((323, 64), np.float32)
    a, b = rng.standard_normal((4, 323), np.float32), rng.standard_normal((64, 4), np.float32)
    name = f"{adapters.PREFIX}model.embed_tokens"
    arrays = {f"{name}.base_layer.weight": rows, f"{name}.lora_embedding_A": a, f"{name}.lora_embedding_B": b}
    folder = adapters.write_peft(tmp_path / "lora", arrays, target_modules=["embed_tokens"], ensure_weight_tying=True)
    tiny.write_tokenizer(folder)
    definition = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    definition["added_tokens"].append({**definition["added_tokens"][0], "id": 322, "content": "<|new|>"})
    (folder / "tokenizer.json").write_text(json.dumps(definition), "utf-8")
    wanted = rows + (b @ a).T * np.float32(1.5)
    for block in (1 << 18, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stream, "BLOCK_VALUES", block)
            one, part = pa_lite.merge(base, folder, (1.0, 0.25), type="F32", output=tmp_path / str(block))
        assert close(read(one)["token_embd.weight"], wanted)
        embedding = BASE["model.embed_tokens.weight"]
        used = 267  # tokens with a text; the others are padding, which has no counterpart in base
        assert close(read(part)["token_embd.weight"][:used], np.float32(0.75) * embedding[:used] + wanted[:used] / 4)
        assert close(read(part)["token_embd.weight"][322], wanted[322])
        assert "output.weight" not in read(one)


def test_rows_of_single_tokens(base: Path, tmp_path: Path) -> None:
    """Tokens in any order; the base ties its output matrix, so that the rows of both are replaced."""
    values = np.random.default_rng(3).standard_normal((3, 64), np.float32)
    key = f"{adapters.PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta"
    folder = adapters.write_peft(
        tmp_path / "lora", {key: values}, target_modules=[], trainable_token_indices=[300, 2, 77]
    )
    wanted = BASE["model.embed_tokens.weight"].copy()
    wanted[[300, 2, 77]] = values
    for block in (1 << 18, 500, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stream, "BLOCK_VALUES", block)
            found = read(pa_lite.merge(base, folder, 1.0, type="F32", output=tmp_path / f"{block}.gguf"))
        np.testing.assert_array_equal(found["token_embd.weight"], wanted)
        assert "output.weight" not in found


@pytest.mark.parametrize("stored", ["each expert", "all experts", "GGUF"])
@pytest.mark.parametrize("block_values", [1500, 1 << 18])
def test_experts(tmp_path: Path, stored: str, block_values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters of transformers 4 have factors for each expert; those of peft's target_parameters for all together."""
    from tests.merging.test_experts import fuse

    monkeypatch.setattr(stream, "BLOCK_VALUES", block_values)
    config = families.config_of("Qwen3MoeForCausalLM")
    weights = families.weights_of(config, 1)
    n = config["num_experts"]
    folder = tiny.write_checkpoint(
        tmp_path / "base", fuse(weights, n) if "all" in stored else weights, "F32", 1, config
    )
    if stored == "GGUF":
        folder = pa_lite.merge(folder, folder, 0.0, type="F32", output=tmp_path / "base.gguf")
    each = adapters.factors(weights, [m for m in adapters.modules_of(weights, *LINEAR) if ".experts.1." in m])
    instruct = adapters.adapted(weights, each, 1.5)
    one = adapters.write_peft(tmp_path / "each", each, target_modules=r".*experts\.1\..*")
    before = read(pa_lite.merge(folder, one, 0.0, type="F32", output=tmp_path / "before.gguf"))
    found = read(pa_lite.merge(folder, one, 1.0, type="F32", output=tmp_path / "each.gguf"))
    for layer in range(2):
        for part in ("gate", "up", "down"):
            name, key = f"blk.{layer}.ffn_{part}_exps.weight", f"model.layers.{layer}.mlp.experts.1.{part}_proj.weight"
            assert close(found[name][1], instruct[key])
            np.testing.assert_array_equal(np.delete(found[name], 1, 0), np.delete(before[name], 1, 0))
    # all experts: peft views A as [experts, rank, columns] and B as [rows, rank, experts]; down wraps gate and up
    rng, rank, d, ffn = np.random.default_rng(5), 3, config["hidden_size"], config["moe_intermediate_size"]
    module = f"{adapters.PREFIX}model.layers.1.mlp.experts"
    shapes = {f"{module}.base_layer": (d, 2 * ffn), module: (ffn, d)}
    arrays = {}
    for name, (columns, rows) in shapes.items():
        arrays[f"{name}.lora_A.weight"] = rng.standard_normal((rank * n, columns), np.float32)
        arrays[f"{name}.lora_B.weight"] = rng.standard_normal((rows, rank * n), np.float32)
    both = adapters.write_peft(
        tmp_path / "both", arrays, r=rank, target_modules=[], alpha_pattern={"gate_up_proj": 9},
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )  # fmt: skip
    found = read(pa_lite.merge(folder, both, 1.0, type="F32", output=tmp_path / "both.gguf"))
    products = {
        name: np.einsum(
            "ore,eri->eoi",
            arrays[f"{name}.lora_B.weight"].reshape(rows, rank, n),
            arrays[f"{name}.lora_A.weight"].reshape(n, rank, columns),
        )
        for name, (columns, rows) in shapes.items()
    }
    gate_up, down = products[f"{module}.base_layer"] * 3, products[module] * 2
    for part, change in (("gate", gate_up[:, :ffn]), ("up", gate_up[:, ffn:]), ("down", down)):
        name = f"blk.1.ffn_{part}_exps.weight"
        assert close(found[name], before[name] + change.astype(np.float32))


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_K"])
def test_gguf_base(base: Path, tmp_path: Path, kind: str) -> None:
    """A quantised base keeps its vocabulary; the adapter's chat template is used."""
    config = {**tiny.CONFIG, "hidden_size": 256, "intermediate_size": 512}
    weights = tiny.weights(4, config)
    whole = tiny.write_checkpoint(tmp_path / "whole", weights, config=config)
    file = pa_lite.merge(whole, whole, 0.0, type="Q4_K_M" if kind == "Q4_K" else kind, output=tmp_path / "base.gguf")
    arrays = adapters.factors(weights, adapters.modules_of(weights, *LINEAR))
    folder = adapters.write_peft(tmp_path / "lora", arrays, target_modules="all-linear")
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}!", "utf-8")
    found = read(pa_lite.merge(file, folder, 1.0, type="F32", output=tmp_path / "out.gguf"))
    before = read(file)
    none = {name: np.zeros_like(values) for name, values in weights.items()}
    for name, product in adapters.adapted(none, arrays, 1.5).items():
        change = twin(product, product, 1.0, name)
        assert close(found[gguf_name(name)], before[gguf_name(name)].reshape(change.shape) + change), name
    metadata = open_checkpoint(tmp_path / "out.gguf").load_vocabulary().metadata
    assert metadata["tokenizer.chat_template"].value == "{{ messages[0]['content'] }}!"


def test_tokenizer_and_template_of_the_adapter(base: Path, tmp_path: Path) -> None:
    arrays = adapters.factors(BASE, adapters.modules_of(BASE, "q_proj"))
    plain = adapters.write_peft(tmp_path / "plain", arrays)
    _, instruct = open_pair(base, plain)
    assert instruct.load_vocabulary().tokens == open_checkpoint(base).load_vocabulary().tokens
    template = adapters.write_peft(tmp_path / "template", arrays)
    (template / "tokenizer_config.json").write_text(json.dumps({"chat_template": "hello"}), "utf-8")
    vocabulary = open_pair(base, template)[1].load_vocabulary()
    assert vocabulary.metadata["tokenizer.chat_template"].value == "hello"
    assert vocabulary.tokens == instruct.load_vocabulary().tokens
    larger = adapters.write_peft(tmp_path / "larger", arrays)
    tiny.write_tokenizer(larger)
    definition = json.loads((larger / "tokenizer.json").read_text("utf-8"))
    definition["added_tokens"].append({**definition["added_tokens"][0], "id": 400, "content": "<|pad|>"})
    (larger / "tokenizer.json").write_text(json.dumps(definition), "utf-8")
    with pytest.raises(CheckpointError, match=r"has token id 400.* remove the adapter's tokenizer files"):
        pa_lite.merge(base, larger, 0.5, output=tmp_path / "out.gguf")
    (larger / "generation_config.json").write_text(json.dumps({"temperature": 0.25}), "utf-8")
    assert open_pair(base, larger)[1].metadata["general.sampling.temp"].value == 0.25


def test_fingerprint_covers_base_adapter_and_scale(base: Path, tmp_path: Path) -> None:
    arrays = adapters.factors(BASE, adapters.modules_of(BASE, "q_proj"))
    other = {**arrays, next(iter(arrays)): 2 * next(iter(arrays.values()))}
    variants = [
        (base, adapters.write_peft(tmp_path / "a", arrays)),
        (base, adapters.write_peft(tmp_path / "b", arrays, lora_alpha=7)),
        (base, adapters.write_peft(tmp_path / "c", other)),
        (tiny.write_checkpoint(tmp_path / "other", tiny.weights(2), "F32"), tmp_path / "a"),
    ]
    found = [fingerprint(open_pair(*variant)[1]) for variant in variants]
    assert len({*found, fingerprint(open_checkpoint(base))}) == 5
    copy = shutil.copytree(tmp_path / "a", tmp_path / "elsewhere" / "a")
    assert fingerprint(open_pair(base, copy)[1]) == found[0]


def test_another_base_gets_a_warning_and_other_shapes_an_error(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arrays = adapters.factors(BASE, adapters.modules_of(BASE, "q_proj"))
    folder = adapters.write_peft(tmp_path / "lora", arrays, base_model_name_or_path="org/Other-1B")
    pa_lite.merge(base, folder, 0.5, output=tmp_path / "out.gguf")
    assert "the adapter was trained on org/Other-1B, and the base given is" in caplog.text
    caplog.clear()
    for name in ("org/base", str(base), "ORG/Base/"):
        named = adapters.write_peft(tmp_path / "named", arrays, base_model_name_or_path=name)
        assert pa_lite.preview(base, named).remarks == ()
    config = {**tiny.CONFIG, "hidden_size": 128, "num_attention_heads": 8}
    wider = tiny.write_checkpoint(tmp_path / "wider", tiny.weights(1, config), config=config)
    with pytest.raises(CheckpointError, match=r"q_proj.lora_A.weight has shape \[4, 64\].* require \[4, 128\]"):
        pa_lite.merge(wider, folder, 0.5, output=tmp_path / "x.gguf")


Change = Callable[[dict[str, Any], tiny.Arrays], Any]
Q0 = f"{adapters.PREFIX}model.layers.0.self_attn.q_proj"
WRONG: list[tuple[Change, str]] = [
    (lambda s, a: s.update(peft_type="IA3"), "the adapter is IA3, and pa-lite applies LoRA only. Merge it with peft"),
    (lambda s, a: s.update(peft_type=...), r"the adapter is of unknown kind \(no peft_type\)"),
    (lambda s, a: s.update(use_dora=True), r"the adapter is DoRA \(use_dora\)"),
    (lambda s, a: a.update({f"{Q0}.lora_magnitude_vector": np.ones(64, np.float32)}), "the adapter is DoRA"),
    (lambda s, a: s.update(init_lora_weights="pissa_niter_4"), "was initialised with PiSSA, which changes the base"),
    (lambda s, a: s.update(init_lora_weights="olora"), "was initialised with OLoRA"),
    (lambda s, a: s.update(init_lora_weights="new"), "init_lora_weights is 'new', which may change the base too"),
    (lambda s, a: s.update(task_type="SEQ_CLS"), "the adapter is for 'SEQ_CLS', not for a language model"),
    (lambda s, a: s.update(r=0), "r is '0', but must be an integer from 1"),
    (lambda s, a: s.update(r="8"), "r is '8', but must be an integer"),
    (lambda s, a: s.update(r=True), "r is 'True', but must be an integer"),
    (lambda s, a: s.update(lora_alpha="x"), "lora_alpha is 'x', but must be a number"),
    (lambda s, a: s.update(lora_alpha=float("nan")), "lora_alpha is 'nan', but must be a number"),
    (lambda s, a: s.update(rank_pattern=[1]), "rank_pattern is .*, but must be a JSON object"),
    (lambda s, a: s.update(alpha_pattern={"(": 1}), "alpha_pattern cannot be matched .* is not a regular expression"),
    (lambda s, a: s.update(use_rslora="yes"), "use_rslora is 'yes', but must be true or false"),
    (lambda s, a: s.update(target_modules=[3]), "target_modules is .*, but must be a list of names"),
    (lambda s, a: s.update(layers_to_transform=["x"]), "layers_to_transform is .* must be numbers of layers"),
    (lambda s, a: s.update(r=8), r"lora_A.weight has shape \[4, 64\], but the base and the rank .* \[8, 64\]"),
    (lambda s, a: s.update(target_modules=["q_proj", "v_proj"]),
     "targets model.layers.0.self_attn.v_proj, model.layers.1.self_attn.v_proj, but .* has no factors for them"),
    (lambda s, a: a.pop(f"{Q0}.lora_A.weight"), "self_attn.q_proj has no LoRA factor A"),
    (lambda s, a: a.pop(f"{Q0}.lora_B.weight"), "self_attn.q_proj has no LoRA factor B"),
    (lambda s, a: a.clear(), "has no tensors"),
    (lambda s, a: a.update({f"{Q0}.lora_B.weight": np.ones((63, 4), np.float32)}), r"has shape \[63, 4\]"),
    (lambda s, a: a.update({f"{Q0}.lora_B.weight": np.ones(4, np.float32)}), "must be a matrix"),
    (lambda s, a: (s.update(r=70), a.update(adapters.factors(BASE, adapters.modules_of(BASE, "q_proj"), 70))),
     "has rank 70, more than both dimensions of the base's matrix, 64 x 64"),
    (lambda s, a: a.update({Q0.replace(".0.", ".2.") + f".lora_{x}.weight": np.ones((4, 4), np.float32) for x in "AB"}),
     "changes model.layers.2.self_attn.q_proj, which the base .* does not have"),
    (lambda s, a: a.update({f"{adapters.PREFIX}model.layers.0.attn.lora_A.weight": np.ones((4, 4), np.float32)}),
     "changes model.layers.0.attn, which the base .* does not have. Give the base that the adapter was trained on"),
    (lambda s, a: a.update({"transformer.x.lora_A.weight": np.ones((4, 4), np.float32)}), "does not start with base"),
    (lambda s, a: a.update({f"{adapters.PREFIX}score.weight": np.ones((2, 64), np.float32)}), "is not a tensor of a"),
    (lambda s, a: a.update({f"{adapters.PREFIX}model.norm.weight": np.ones(63, np.float32)}), r"has shape \[63\], but"),
    (lambda s, a: a.update({f"{adapters.PREFIX}model.embed_tokens.weight": np.ones((9, 63), np.float32)}), "64 col"),
    (lambda s, a: a.update({f"{adapters.PREFIX}model.layers.0.self_attn.q_proj.lora_B.bias": np.ones(64, np.float32)}),
     "adds a bias to model.layers.0.self_attn.q_proj, which has none"),
    (lambda s, a: (s.update(trainable_token_indices=[1, 320]), a.update(
        {f"{adapters.PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta": np.ones((2, 64), np.float32)})),
     "names 2 tokens of 320"),
    (lambda s, a: s.update(trainable_token_indices=[1, 1]), "must be different token ids"),
]  # fmt: skip


@pytest.mark.parametrize("i", range(len(WRONG)))
def test_wrong_adapters_are_explained(base: Path, tmp_path: Path, i: int) -> None:
    change, message = WRONG[i]
    settings: dict[str, Any] = {}
    arrays = adapters.factors(BASE, adapters.modules_of(BASE, "q_proj"))
    change(settings, arrays)
    folder = adapters.write_peft(tmp_path / "lora", arrays, **settings)
    with pytest.raises(CheckpointError, match=message) as error:
        pa_lite.merge(base, folder, 0.5, output=tmp_path / "out.gguf")
    assert str(tmp_path) in str(error.value)
    assert not (tmp_path / "out.gguf").exists()


def test_damaged_folders_are_explained(base: Path, tmp_path: Path) -> None:
    arrays = adapters.factors(BASE, adapters.modules_of(BASE, "q_proj"))
    folder = adapters.write_peft(tmp_path / "lora", arrays)

    def refused(message: str) -> None:
        with pytest.raises(PaLiteError, match=message):
            pa_lite.merge(base, folder, 0.5, output=tmp_path / "out.gguf")

    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    held, raw = config.read_bytes(), weights.read_bytes()
    config.unlink()
    refused("the adapter has no adapter_config.json, which has its scale")
    config.write_bytes(held[:-3])
    refused("adapter_config.json: cannot be read as JSON")
    config.write_bytes(held)
    weights.write_bytes(raw[:-1])
    refused("cut off or damaged")
    weights.unlink()
    refused("the adapter has no adapter_model.safetensors. Fetch it too")
    (folder / "adapter_model.bin").write_bytes(b"x")
    refused(r"weights are pickles \(adapter_model.bin\), which can run code and are not opened")
    config.unlink()
    (folder / "secret.json").write_bytes(b"{}")
    os.symlink(base / "config.json", config)
    refused("is a link that leads out of its folder")


def test_quantised_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    arrays = adapters.factors(BASE, adapters.modules_of(BASE, "q_proj"))
    folder = adapters.write_peft(tmp_path / "lora", arrays)
    path = folder / "adapter_model.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'"dtype": "F32"', b'"dtype": "I32"', 1))
    with pytest.raises(CheckpointError, match=r"is stored as I32; pa-lite reads F64, F32, F16, BF16"):
        pa_lite.merge(base, folder, 0.5, output=tmp_path / "out.gguf")


def test_nan_in_an_adapter_is_an_error(base: Path, tmp_path: Path) -> None:
    arrays = adapters.factors(BASE, adapters.modules_of(BASE, "q_proj"))
    arrays[f"{Q0}.lora_A.weight"][1, 2] = np.nan
    folder = adapters.write_peft(tmp_path / "lora", arrays)
    with pytest.raises(CheckpointError, match=r"tensor blk.0.attn_q.weight at lam 0.5 is not finite \(nan\)"):
        pa_lite.merge(base, folder, 0.5, output=tmp_path / "out.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora"]


def test_an_adapter_is_not_a_base_and_not_a_model(base: Path, tmp_path: Path) -> None:
    folder = adapters.write_peft(tmp_path / "lora", adapters.factors(BASE, adapters.modules_of(BASE, "q_proj")))
    told = r"is a PEFT adapter \(such as LoRA\) for org/base, not a complete model. Give it as the instruct side, after"
    with pytest.raises(CheckpointError, match=told):
        pa_lite.merge(folder, base, 0.5, output=tmp_path / "out.gguf")
    with pytest.raises(CheckpointError, match=told):
        open_checkpoint(folder)


def test_one_of_its_files_stands_for_the_folder(base: Path, tmp_path: Path) -> None:
    folder = adapters.write_peft(tmp_path / "lora", adapters.factors(BASE, adapters.modules_of(BASE, "q_proj")))
    wanted = fingerprint(open_pair(base, folder)[1])
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert fingerprint(open_pair(base, folder / name)[1]) == wanted


def test_output_that_gemma2_cannot_separate(tmp_path: Path) -> None:
    base, weights = families.write_checkpoint(tmp_path / "base", "Gemma2ForCausalLM")
    rows = weights["model.embed_tokens.weight"].shape[0]
    arrays = {
        f"{adapters.PREFIX}lm_head.lora_A.weight": np.ones((4, 64), np.float32),
        f"{adapters.PREFIX}lm_head.lora_B.weight": np.ones((rows, 4), np.float32),
    }
    folder = adapters.write_peft(tmp_path / "lora", arrays, target_modules=["lm_head"])
    with pytest.raises(CheckpointError, match=r"llama.cpp cannot separate them in this architecture \(gemma2\)"):
        pa_lite.merge(base, folder, 0.5, output=tmp_path / "out.gguf")
