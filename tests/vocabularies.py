"""Vocabularies for tests: a writer of SentencePiece models, and llama.cpp's own tokenizer on what pa-lite converts."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.source import Vocabulary, string
from pa_lite.checkpoints.vocabulary import name_for_llama_cpp
from tests.ggufs import write_gguf_header

PieceFacts = tuple[str | bytes, float, int]


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def message(number: int, content: bytes) -> bytes:
    """A protobuf field of bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def sentencepiece_model(pieces: Iterable[PieceFacts], kind: int = 2, dummy_prefix: bool = True) -> bytes:
    """A tokenizer.model as sentencepiece writes it: pieces (text, score, type), trainer's model type, prefix."""
    out = b""
    for text, score, type_ in pieces:
        raw = text if isinstance(text, bytes) else text.encode()
        inner = message(1, raw) + varint(2 << 3 | 5) + struct.pack("<f", score)
        out += message(1, inner + (varint(3 << 3) + varint(type_) if type_ != 1 else b""))
    out += message(2, message(1, b"corpus.txt") + varint(3 << 3) + varint(kind))
    return out + message(3, message(1, b"identity") + varint(3 << 3) + varint(int(dummy_prefix)))


def write_vocab_only(path: Path, vocabulary: Vocabulary, architecture: str, name: str = "test") -> None:
    """A GGUF file of a vocabulary and no tensors, which llama.cpp opens with vocab_only."""
    told = name_for_llama_cpp(name, architecture, vocabulary)
    write_gguf_header(path, architecture, {"general.name": string(told), **vocabulary.metadata}, {})


class LlamaTokenizer:
    """llama.cpp's tokenizer of a GGUF file."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, text: str, special: bool = True) -> list[int]:
        """The ids of a text; with `special`, tokens are added and control tokens in the text are read as such."""
        return list(self._model.tokenize(text.encode(), add_bos=special, special=special))


@contextmanager
def llama_tokenizer(path: Path) -> Iterator[LlamaTokenizer]:
    import llama_cpp

    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    try:
        yield LlamaTokenizer(model)
    finally:
        model.close()
