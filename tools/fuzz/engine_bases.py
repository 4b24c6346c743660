"""Small complete models that `engine` starts from: every family of the table, others, and every tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

import pa_lite
from pa_lite.ggml.container import gguf_header_bytes, read_gguf_header
from pa_lite.ggml.kernels import tensor_type
from pa_lite.ggml.metadata import Field, Metadata, array, string, uint32
from pa_lite.merging.plan import PlanOptions
from tests.support import tiny
from tests.support.families import FIRST, write_checkpoint

_VOCAB, _WIDTH, _FF = 320, 64, 96
_BYTES = [f"<0x{b:02X}>" for b in range(256)]
_WORDS = ["▁", "▁the", "th", "e", "▁a", "in", "er", "he", "H", "o", "l"]


def _texts(special: list[str]) -> list[str]:
    texts = special + _BYTES + _WORDS
    return texts + [f"<unused{i}>" for i in range(_VOCAB - len(texts))]


def _vocabulary(model: str) -> Metadata:
    """Return a vocabulary of 320 tokens for one of llama.cpp's tokenizers."""
    if model == "gpt2":
        texts = ["<|endoftext|>", "<|im_end|>", *tiny.byte_letters(), "th", "the", "in"]
        texts += [f"<unused{i}>" for i in range(_VOCAB - len(texts))]
        merges = array("STRING", ["t h", "th e", "i n"])
        more: Metadata = {"tokenizer.ggml.merges": merges, "tokenizer.ggml.pre": string("gpt-2")}
    else:
        texts = _texts(["[PAD]", "[UNK]", "[CLS]", "[SEP]"] if model == "bert" else ["<unk>", "<s>", "</s>"])
        more = {}
    if model == "rwkv":
        texts[3:259] = [f"\\x{b:02x}" for b in range(256)]
    if model == "bert":
        texts = [t.replace("<0x", "[0x") for t in texts]  # it has no byte tokens
    kinds = [6 if t.startswith("<0x") else 3 if t.startswith(("<", "[")) else 1 for t in texts]
    kinds[1 if model == "bert" else 0] = 2
    fields: Metadata = {
        "tokenizer.ggml.model": string(model), "tokenizer.ggml.tokens": array("STRING", texts),
        "tokenizer.ggml.scores": array("FLOAT32", [-float(i) for i in range(_VOCAB)]),
        "tokenizer.ggml.token_type": array("INT32", kinds), "tokenizer.ggml.bos_token_id": uint32(1),
        "tokenizer.ggml.eos_token_id": uint32(2), "tokenizer.ggml.unknown_token_id": uint32(0), **more,
    }  # fmt: skip
    if model == "bert":
        fields |= {"tokenizer.ggml.cls_token_id": uint32(2), "tokenizer.ggml.seperator_token_id": uint32(3)}
    return fields


def _with_biases(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {k: v for name, s in shapes.items() for k, v in ((f"{name}.weight", s), (f"{name}.bias", s[:1]))}


def _attention_layer(i: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a layer of GPT-2, GPT-NeoX and similar models."""
    own = {"attn_norm": (_WIDTH,), "attn_qkv": (3 * _WIDTH, _WIDTH), "attn_output": (_WIDTH, _WIDTH),
           "ffn_norm": (_WIDTH,), "ffn_up": (_FF, _WIDTH), "ffn_down": (_WIDTH, _FF)}  # fmt: skip
    return _with_biases({f"blk.{i}.{name}": shape for name, shape in own.items()})


def _mamba_layer(i: int) -> dict[str, tuple[int, ...]]:
    inner, state, rank = 2 * _WIDTH, 16, 4
    return {f"blk.{i}.{name}": shape for name, shape in {
        "attn_norm.weight": (_WIDTH,), "ssm_in.weight": (2 * inner, _WIDTH), "ssm_conv1d.weight": (inner, 4),
        "ssm_conv1d.bias": (inner,), "ssm_x.weight": (rank + 2 * state, inner), "ssm_dt.weight": (inner, rank),
        "ssm_dt.bias": (inner,), "ssm_a": (inner, state), "ssm_d": (inner,), "ssm_out.weight": (_WIDTH, inner),
    }.items()}  # fmt: skip


def _others() -> Iterator[tuple[str, Metadata, dict[str, tuple[int, ...]]]]:
    """Yield architectures that are not in the families' table: name, metadata, tensors."""
    heads: Metadata = {"attention.head_count": uint32(4), "feed_forward_length": uint32(_FF)}
    norm: Metadata = {"attention.layer_norm_epsilon": Field("FLOAT32", 1e-5)}
    head: dict[str, tuple[int, ...]] = {"token_embd.weight": (_VOCAB, _WIDTH)}
    last: dict[str, tuple[int, ...]] = _with_biases({"output_norm": (_WIDTH,)})
    layers = {k: v for i in range(2) for k, v in _attention_layer(i).items()}
    yield "gpt2", heads | norm, head | {"position_embd.weight": (512, _WIDTH)} | last | layers
    parallel: Metadata = {"use_parallel_residual": Field("BOOL", True), "rope.dimension_count": uint32(16)}
    output: dict[str, tuple[int, ...]] = {"output.weight": (_VOCAB, _WIDTH)}
    yield "gptneox", heads | norm | parallel, head | output | last | layers
    bloom = _with_biases({"token_embd_norm": (_WIDTH,)})
    yield "bloom", heads | norm, head | bloom | last | layers
    yield (
        "mamba",
        {
            "attention.layer_norm_rms_epsilon": Field("FLOAT32", 1e-5), "ssm.conv_kernel": uint32(4),
            "ssm.inner_size": uint32(2 * _WIDTH), "ssm.state_size": uint32(16), "ssm.time_step_rank": uint32(4),
        },
        head | {"output_norm.weight": (_WIDTH,)} | {k: v for i in range(2) for k, v in _mamba_layer(i).items()},
    )  # fmt: skip


def _write(path: Path, architecture: str, metadata: Metadata, shapes: dict[str, tuple[int, ...]]) -> Path:
    """Write a model with random F32 weights."""
    kind, random = tensor_type("F32"), np.random.default_rng(1)
    header, placed, size = gguf_header_bytes(architecture, metadata, {name: (kind, s) for name, s in shapes.items()})
    data = bytearray(size)
    data[: len(header)] = header
    for name, tensor in placed.items():
        values = (1.0 if "norm" in name else 0.0) + 0.1 * random.standard_normal(tensor.shape)
        data[tensor.offset : tensor.offset + tensor.nbytes] = values.astype("<f4").tobytes()
    path.write_bytes(data)
    return path


def _retokenised(source: Path, target: Path, model: str) -> Path:
    """Write a Llama with another tokenizer's vocabulary."""
    header = read_gguf_header(source)
    metadata = {k: v for k, v in header.metadata.items() if not k.startswith(("tokenizer.", "general.architecture"))}
    shapes = {t.name: t.shape for t in header.tensors.values()}
    return _write(target, "llama", metadata | _vocabulary(model), shapes)


def make_bases(folder: Path) -> dict[str, Path]:
    """Write all base models below a folder: name -> file. Every one of them loads in llama.cpp."""
    folder.mkdir(parents=True, exist_ok=True)
    bases: dict[str, Path] = {}
    for cls in FIRST:
        checkpoint, _ = write_checkpoint(folder / cls, cls)
        kinds = ("F32", "F16", "Q8_0", "Q4_0") if cls == "LlamaForCausalLM" else ("F32",)
        for kind in kinds:
            made = folder / f"{cls}-{kind}.gguf"
            made.unlink(missing_ok=True)
            pa_lite.merge(str(checkpoint), str(checkpoint), (1.0,), plan=PlanOptions(type=kind), output=made)
            name = f"{read_gguf_header(made).metadata['general.architecture'].value}-{kind}"
            bases[f"{cls}-{kind}" if name in bases else name] = made
    for name, own, shapes in _others():
        common: Metadata = {"block_count": uint32(2), "context_length": uint32(512), "embedding_length": uint32(_WIDTH)}
        metadata = {f"{name}.{key}": value for key, value in (common | own).items()} | _vocabulary("gpt2")
        bases[name] = _write(folder / f"{name}.gguf", name, metadata, shapes)
    for model in ("llama", "bert", "t5", "rwkv", "plamo2"):
        bases[f"llama-{model}-tokenizer"] = _retokenised(bases["llama-F32"], folder / f"t-{model}.gguf", model)
    return bases
