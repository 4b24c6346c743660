"""Fuzzing targets that are GGUF files: models, split ones, importance matrices, and the checks before llama.cpp."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random

from pa_lite.checkpoints.gguf_model import open_gguf
from pa_lite.checkpoints.inspect import inspect_checkpoint
from pa_lite.engine.refusals import check_loadable
from pa_lite.ggml.container import GgufHeader, gguf_header_bytes, read_gguf_header
from pa_lite.ggml.imatrix import read_imatrix
from pa_lite.ggml.kernels import tensor_type
from pa_lite.ggml.metadata import Metadata, array, boolean, float32, string, uint32
from tools.fuzz.binary import BundleMutator, mutate_legacy_imatrix, pack, unpack
from tools.fuzz.gguf import mutate
from tools.fuzz.oracle import Target, whole


def _vocabulary(model: str = "gpt2") -> Metadata:
    """Return a vocabulary that llama.cpp accepts."""
    special, words = ["<unk>", "<s>", "</s>"], ["the", "th", "e", "t", "h"]
    tokens = special + words
    found: Metadata = {
        "tokenizer.ggml.model": string(model), "tokenizer.ggml.pre": string("default"),
        "tokenizer.ggml.tokens": array("STRING", tokens),
        "tokenizer.ggml.token_type": array("INT32", [3 if t in special else 1 for t in tokens]),
        "tokenizer.ggml.bos_token_id": uint32(1), "tokenizer.ggml.eos_token_id": uint32(2),
        "tokenizer.ggml.add_bos_token": boolean(True),
        "tokenizer.chat_template": string("{% for m in messages %}{{ m['content'] }}{% endfor %}"),
    }  # fmt: skip
    if model == "gpt2":
        return found | {"tokenizer.ggml.merges": array("STRING", ["t h", "th e"])}
    return found | {"tokenizer.ggml.scores": array("FLOAT32", [0.0] * len(tokens))}


def _seed(architecture: str, model: str, extra: Metadata, kind: str) -> bytes:
    """Return a tiny GGUF model that passes all checks."""
    a, vocabulary = architecture, _vocabulary(model)
    counts = {"block_count": 1, "context_length": 64, "embedding_length": 32, "feed_forward_length": 64,
              "attention.head_count": 2, "attention.head_count_kv": 1}  # fmt: skip
    metadata: Metadata = {
        "general.type": string("model"), "general.name": string("seed"),
        **{f"{a}.{key}": uint32(n) for key, n in counts.items()},
        f"{a}.attention.layer_norm_rms_epsilon": float32(1e-5), f"{a}.rope.freq_base": float32(1e4),
        **vocabulary, **extra,
    }  # fmt: skip
    rows = len(vocabulary["tokenizer.ggml.tokens"].value)
    tensors = {
        "token_embd.weight": (tensor_type(kind), (rows, 32)), "output_norm.weight": (tensor_type("F32"), (32,)),
        "blk.0.attn_q.weight": (tensor_type(kind), (2, 32)),
        "blk.0.ffn_up_exps.weight": (tensor_type(kind), (2, 1, 32)),
    }  # fmt: skip
    header, _, size = gguf_header_bytes(a, metadata, tensors)
    return header + bytes(size - len(header))


def _gguf_seeds() -> list[bytes]:
    odd = {"x.a": array("UINT8", [1, 2]), "x.b": array("FLOAT64", [0.5]), "x.c": array("BOOL", [True])}
    experts = {f"llama.expert_{key}": uint32(n) for key, n in {"count": 4, "used_count": 2}.items()}
    groups = {f"x.expert_{key}": uint32(n) for key, n in {"count": 4, "used_count": 2, "group_count": 2,
              "group_used_count": 1}.items()}  # fmt: skip
    scaled = {"qwen2.rope.scaling.type": string("yarn"), "qwen2.rope.dimension_count": uint32(16)}
    return [
        _seed("llama", "gpt2", odd, "Q8_0"), _seed("llama", "gpt2", experts, "BF16"),
        _seed("qwen2", "gpt2", scaled, "F32"),
        _seed("x", "bert", groups, "Q8_0"), _seed("llama", "t5", {}, "Q4_0"),
    ]  # fmt: skip


def _read_gguf(folder: Path) -> None:
    path = folder / "model.gguf"
    header = read_gguf_header(path)
    size = path.stat().st_size
    assert all(t.offset + t.nbytes <= size for t in header.tensors.values())
    assert not any(c in name for name in header.tensors for c in "\n\r\0"), "a tensor's name has control characters"
    _again(header)
    facts = inspect_checkpoint(path)
    json.dumps([facts.settings, facts.path, facts.name, facts.types])
    check_loadable(header)


def _again(header: GgufHeader) -> None:
    """Check that what was read can be written again, tensor by tensor."""
    fields = {key: e for key, e in header.metadata.items() if key not in ("general.architecture", "general.alignment")}
    tensors = {t.name: (t.type, t.shape) for t in header.tensors.values()}
    written, placed, _ = gguf_header_bytes("llama", fields, tensors)
    assert len(written) % 32 == 0
    assert list(placed) == list(header.tensors)


_PARTS = tuple(f"m-{i:05d}-of-00003.gguf" for i in range(1, 4))


def _part(i: int) -> bytes:
    header, _, size = gguf_header_bytes(
        "llama", {"split.no": uint32(i), "split.count": uint32(3), **(_vocabulary() if i == 0 else {})},
        {f"blk.{i}.attn_q.weight": (tensor_type("F32"), (2, 32))},
    )  # fmt: skip
    return header + bytes(size - len(header))


def _read_split(folder: Path) -> None:
    open_gguf(folder / _PARTS[1]).load_vocabulary()


# --- imatrix ---


def _imatrix_seeds() -> list[bytes]:
    entries = b"".join(
        struct.pack("<i", len(name)) + name + struct.pack("<ii", 4, n) + struct.pack(f"<{n}f", *[1.0] * n)
        for name, n in ((b"blk.0.attn_q.weight", 8), (b"output.weight", 4))
    )
    legacy = struct.pack("<i", 2) + entries + struct.pack("<ii", 4, 4) + b"text"
    fields = {
        "general.type": string("imatrix"), "imatrix.datasets": array("STRING", ["text"]),
        "imatrix.chunk_count": uint32(4), "imatrix.chunk_size": uint32(64),
    }  # fmt: skip
    kind = tensor_type("F32")
    tensors = {"blk.0.attn_q.weight.in_sum2": (kind, (2, 8)), "blk.0.attn_q.weight.counts": (kind, (2, 1))}
    header, placed, size = gguf_header_bytes("imatrix", fields, tensors)
    data = header + bytes(size - len(header))
    at = placed["blk.0.attn_q.weight.counts"].offset
    return [legacy, data[:at] + struct.pack("<2f", 3.0, 0.0) + data[at + 8 :]]


def _mutate_imatrix(data: bytes, random: Random) -> bytes:
    return mutate(data, random) if data[:4] == b"GGUF" else mutate_legacy_imatrix(data, random)


TARGETS = (
    Target("gguf", "GGUF headers, their vocabulary, checks before llama.cpp", whole("model.gguf"), _read_gguf, mutate,
           _gguf_seeds, longest=1 << 13),
    Target("split", "split GGUF models", lambda d: unpack(d, _PARTS), _read_split,
           BundleMutator(dict.fromkeys(_PARTS, mutate)),
           lambda: [pack({name: _part(i) for i, name in enumerate(_PARTS)}, _PARTS)]),
    Target("imatrix", "importance matrices, GGUF and legacy", whole("imatrix"),
           lambda folder: read_imatrix(folder / "imatrix"), _mutate_imatrix, _imatrix_seeds),
)  # fmt: skip
