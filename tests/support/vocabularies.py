"""Vocabularies for tests: a writer of SentencePiece models, and llama.cpp's own tokenizer on what pa-lite converts."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.checkpoint import Vocabulary
from pa_lite.checkpoints.vocabulary.tokens import name_for_llama_cpp
from pa_lite.ggml.kernels import TensorType, tensor_type
from pa_lite.ggml.metadata import float32, string, uint32
from tests.support.ggufs import write_gguf_header

PieceFacts = tuple[str | bytes, float, int]


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def message(number: int, content: bytes) -> bytes:
    """Return a protobuf field of bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def sentencepiece_model(
    pieces: Iterable[PieceFacts], kind: int = 2, dummy_prefix: bool = True, is_loaded: bool = False
) -> bytes:
    """Return a tokenizer.model as sentencepiece writes it: pieces (text, score, type), trainer's model type, prefix.

    With `is_loaded` it also has the fields that the package sentencepiece needs to load it: byte fallback, the unknown
    piece's id, and that no spaces are removed.
    """
    pieces = list(pieces)
    out = b""
    for text, score, type_ in pieces:
        raw = text if isinstance(text, bytes) else text.encode()
        inner = message(1, raw) + varint(2 << 3 | 5) + struct.pack("<f", score)
        out += message(1, inner + (varint(3 << 3) + varint(type_) if type_ != 1 else b""))
    trainer = message(1, b"corpus.txt") + varint(3 << 3) + varint(kind)
    normalizer = message(1, b"identity") + varint(3 << 3) + varint(int(dummy_prefix))
    if is_loaded:
        unknown = next(i for i, (*_, type_) in enumerate(pieces) if type_ == 2)
        trainer += varint(35 << 3) + varint(1) + varint(40 << 3) + varint(unknown)
        normalizer += varint(4 << 3) + varint(0)
    return out + message(2, trainer) + message(3, normalizer)


def write_vocab_only(path: Path, vocabulary: Vocabulary, architecture: str, name: str = "test") -> None:
    """Write a GGUF file with a vocabulary and without tensors, which llama.cpp opens with vocab_only."""
    told = name_for_llama_cpp(name, architecture, vocabulary)
    write_gguf_header(path, architecture, {"general.name": string(told), **vocabulary.metadata}, {})


_WIDTH = 32


def write_tiny_model(path: Path, vocabulary: Vocabulary, architecture: str, name: str = "test") -> None:
    """Write a Llama of one layer and width 32, all weights 0, that has a vocabulary of a model of `architecture`."""
    told = name_for_llama_cpp(name, architecture, vocabulary)
    metadata = {
        "general.name": string(told), "llama.block_count": uint32(1), "llama.context_length": uint32(1024),
        "llama.embedding_length": uint32(_WIDTH), "llama.feed_forward_length": uint32(_WIDTH),
        "llama.attention.head_count": uint32(2), "llama.attention.head_count_kv": uint32(2),
        "llama.rope.dimension_count": uint32(_WIDTH // 2), "llama.attention.layer_norm_rms_epsilon": float32(1e-5),
        **vocabulary.metadata,
    }  # fmt: skip
    half, single = tensor_type("F16"), tensor_type("F32")
    square = [
        f"blk.0.{n}.weight" for n in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    ]
    vectors = ["output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"]
    tensors: dict[str, tuple[TensorType, tuple[int, ...]]] = {
        "token_embd.weight": (half, (len(vocabulary.tokens), _WIDTH))
    }
    tensors |= dict.fromkeys(square, (half, (_WIDTH, _WIDTH))) | dict.fromkeys(vectors, (single, (_WIDTH,)))
    write_gguf_header(path, "llama", metadata, tensors)


class LlamaTokenizer:
    """llama.cpp's tokenizer of a GGUF file."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, text: str, special: bool = True) -> list[int]:
        """Return the ids of a text; with `special`, tokens are added and control tokens in the text are parsed."""
        return list(self._model.tokenize(text.encode(), add_bos=special, special=special))


@contextmanager
def llama_tokenizer(path: Path) -> Iterator[LlamaTokenizer]:
    import llama_cpp

    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    try:
        yield LlamaTokenizer(model)
    finally:
        model.close()
