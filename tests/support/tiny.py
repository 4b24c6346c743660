"""Tiny real checkpoints, generated from a seed: a Llama with byte-level BPE in safetensors files of any float dtype."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[np.float32]]

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_letters() -> list[str]:
    """Return GPT-2's printable letters for the 256 bytes, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


def weights(seed: int, config: dict[str, Any] = CONFIG, near: Arrays | None = None) -> Arrays:
    """Return random float32 weights; with `near`, those plus a small change, like a fine-tune."""
    rng = np.random.default_rng(seed)
    d, ff, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head = config.get("head_dim") or d // config["num_attention_heads"]
    q, kv = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, d), "model.norm.weight": (d,)}
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        shapes |= {p + "input_layernorm.weight": (d,), p + "post_attention_layernorm.weight": (d,)}
        shapes |= {p + "self_attn.q_proj.weight": (q, d), p + "self_attn.k_proj.weight": (kv, d)}
        shapes |= {p + "self_attn.v_proj.weight": (kv, d), p + "self_attn.o_proj.weight": (d, q)}
        shapes |= {p + "mlp.gate_proj.weight": (ff, d), p + "mlp.up_proj.weight": (ff, d)}
        shapes |= {p + "mlp.down_proj.weight": (d, ff)}
    out = {}
    for name, shape in shapes.items():
        noise = rng.standard_normal(shape, np.float32)
        if near is not None:
            out[name] = (near[name] + 0.05 * noise).astype(np.float32)
        else:
            out[name] = (1 + 0.1 * noise if len(shape) == 1 else 0.2 * noise).astype(np.float32)
    return out


def to_bytes(values: npt.NDArray[np.float32], dtype: str) -> bytes:
    """Return the values in a safetensors dtype; bfloat16 by rounding to nearest even."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(values).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()
    return values.astype({"F32": np.float32, "F16": np.float16, "F64": np.float64}[dtype]).tobytes()


def save_safetensors(path: Path, arrays: Arrays, dtype: str) -> None:
    """Write a file without the safetensors package, because numpy has no bfloat16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts = [to_bytes(a, dtype) for a in arrays.values()]
    position = 0
    for (name, values), part in zip(arrays.items(), parts, strict=True):
        offsets = [position, position + len(part)]
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": offsets}
        position += len(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def write_tokenizer(folder: Path) -> None:
    """Write 256 bytes, three special tokens, and merges for a few English pairs; 271 of 320 ids are used."""
    letters = byte_letters()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    merges = [("t", "h"), ("th", "e"), ("a", "n"), ("Ġ", "the"), ("i", "n"), ("e", "r"), ("Ġ", "a"), ("o", "n")]
    texts = specials + letters + ["".join(m) for m in merges]
    added = [
        {"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True} for i, s in enumerate(specials)
    ]  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    bos = {"SpecialToken": {"id": specials[0], "type_id": 0}}
    text, second = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "post_processor": {
            "type": "TemplateProcessing", "single": [bos, text], "pair": [bos, text, second],
            "special_tokens": {specials[0]: {"id": specials[0], "ids": [0], "tokens": [specials[0]]}},
        },
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {t: i for i, t in enumerate(texts)}, "merges": [list(m) for m in merges],
        },
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": specials[0], "eos_token": specials[2],
        "add_bos_token": True, "chat_template": CHAT_TEMPLATE, "model_max_length": 512,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


def write_checkpoint(
    folder: Path, arrays: Arrays, dtype: str = "BF16", shards: int = 1, config: dict[str, Any] = CONFIG
) -> Path:
    """Write a complete checkpoint folder; with shards > 1 also an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    write_tokenizer(folder)
    if shards == 1:
        save_safetensors(folder / "model.safetensors", arrays, dtype)
        return folder
    weight_map: dict[str, str] = {}
    names = sorted(arrays)
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = names[i::shards]
        save_safetensors(folder / file, {n: arrays[n] for n in part}, dtype)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    return folder


def write_pair(folder: Path, dtype: str = "BF16", shards: int = 2) -> tuple[Path, Path]:
    """Write a base in shards, and an instruct with similar weights in one file."""
    base = weights(1)
    write_checkpoint(folder / "base", base, dtype, shards)
    write_checkpoint(folder / "instruct", weights(2, near=base), dtype)
    return folder / "base", folder / "instruct"


def stored(arrays: Arrays, dtype: str) -> Arrays:
    """Return the values that a reader of the checkpoint gets, rounded to the dtype."""
    out = {}
    for name, values in arrays.items():
        raw = to_bytes(values, dtype)
        if dtype == "BF16":
            out[name] = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(values.shape)
        else:
            kind = {"F32": np.float32, "F16": np.float16, "F64": np.float64}[dtype]
            out[name] = np.frombuffer(raw, kind).astype(np.float32).reshape(values.shape)
    return out
