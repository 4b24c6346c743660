"""Vocabularies without weights in llama.cpp, one for each of its pre-tokenizers."""

from __future__ import annotations

import ctypes
import functools
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.gguf_model import read_model_header
from pa_lite.engine.llama import llama
from pa_lite.engine.model_vocabulary import ModelVocabulary
from pa_lite.ggml.metadata import Field, Metadata, array, string
from tests.support.ggufs import write_gguf_header
from tests.support.tiny import byte_letters

# the names in llama.cpp's llama_vocab::impl::load; a test fails when a build lacks one
PRE_TOKENIZERS = (
    "a.x-4.0", "afmoe", "bailingmoe", "bailingmoe2", "bloom", "chameleon", "chatglm-bpe", "codeshell", "cohere2moe",
    "command-r", "dbrx", "deepseek-coder", "deepseek-llm", "deepseek-r1-qwen", "deepseek-v3", "default", "exaone",
    "exaone-moe", "exaone4", "f2llmv2", "falcon", "falcon-h1", "falcon3", "gemma4", "gigachat", "glm4", "glm5",
    "gpt-2", "gpt-4o", "gpt3-finnish", "granite-docling", "granite-embed-multi-311m", "granite-embed-multi-97m",
    "grok-2", "hunyuan", "hunyuan-dense", "hy_v4", "jais", "jais-2", "jina-de", "jina-es", "jina-v1-en",
    "jina-v2-code", "jina-v2-de", "jina-v2-es", "jina-v5-nano", "joyai-llm", "kanana2", "kimi-k2", "kormo", "laguna",
    "lfm2", "llada-moe", "llama-bpe", "llama-v3", "llama3", "llama4", "megrez", "mellum", "mellum2", "midm-2.0",
    "minerva-7b", "minicpm5", "minimax-m2", "modern-bert", "mpt", "olmo", "phi-2", "pixtral", "poro-chat", "qwen2",
    "qwen35", "refact", "roberta-bpe", "sarvam-moe", "seed-coder", "smaug-bpe", "smollm", "solar-open", "spark2_5",
    "stablelm2", "starcoder", "superbpe", "talkie", "tekken", "tiny_aya", "trillion", "ufakzeka", "viking",
    "whitespace", "youtu",
)  # fmt: skip
_RAW = ("gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace")  # tokens in UTF-8, bytes as <0xXX>
_BYTE, _NORMAL, _CONTROL, _USER_DEFINED = 6, 1, 3, 4


def _tokens(pre: str, kind: str) -> tuple[list[str], list[int]]:
    if kind == "llama":
        tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "a", "aa", "\u2581", "\u2581a"]
        types = [2, _CONTROL, _CONTROL, *[_BYTE] * 256, *[_NORMAL] * 4]
    elif pre in _RAW:
        tokens = [*(f"<0x{b:02X}>" for b in range(256)), "a", "aa", "\n", "\u2581"]
        types = [*[_BYTE] * 256, *[_NORMAL] * 4]
    else:
        tokens, types = [*byte_letters(), "aa"], [_NORMAL] * 257
    more = dict.fromkeys(("<|x|>", "<|y|>", "<mask>"), _CONTROL) | dict.fromkeys(("  ", "\n\n"), _USER_DEFINED)
    if kind == "strips":  # llama.cpp looks these up
        more |= dict.fromkeys(("<unk>", "<s>", "</s>", "<|endoftext|>"), _CONTROL)
    return [*tokens, *more], [*types, *more.values()]


@functools.lru_cache(maxsize=200)
def load_vocabulary(pre: str, kind: str = "gpt2") -> ModelVocabulary:
    """Return the vocabulary with a pre-tokenizer: bytes, `aa`, three control tokens, two user-defined runs.

    `kind` is gpt2, llama (SentencePiece), or strips: special tokens strip the white space after them. With
    `jina-v2-de`, `<mask>` strips the white space before it.
    """
    tokens, types = _tokens(pre, kind)
    metadata: Metadata = {
        "general.name": string("phi-3" if kind == "strips" else "test"),
        "tokenizer.ggml.model": string("whitespace" if pre == "whitespace" else "llama" if kind == "llama" else "gpt2"),
        "tokenizer.ggml.pre": string(pre),
        "tokenizer.ggml.tokens": array("STRING", tokens),
        "tokenizer.ggml.token_type": array("INT32", types),
        "tokenizer.ggml.scores": array("FLOAT32", [0.0] * len(tokens)),
        "tokenizer.ggml.merges": array("STRING", ["a a"]),
        "tokenizer.ggml.bos_token_id": Field("UINT32", tokens.index("<|x|>")),
        "tokenizer.ggml.eos_token_id": Field("UINT32", tokens.index("<|y|>")),
        "tokenizer.ggml.add_bos_token": Field("BOOL", True),
        "tokenizer.ggml.add_eos_token": Field("BOOL", kind == "strips"),
    }
    lib = llama()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = ModelVocabulary()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.gguf"
        write_gguf_header(path, "llama", metadata, {})
        loaded: Any = lib.llama_model_load_from_file(os.fsencode(path), params)
        assert loaded, f"llama.cpp does not load a vocabulary with the pre-tokenizer {pre}"
        model.lib, model.vocab, model.header = lib, lib.llama_model_get_vocab(loaded), read_model_header(path)
    return model


def direct_ids(model: ModelVocabulary, text: str, add_special: bool, parse_special: bool) -> list[int]:
    """Return llama.cpp's own ids of a text, from a thread with 64 MB of stack."""
    raw, out = text.encode(), list[int]()
    buffer = (ctypes.c_int32 * (4 * len(raw) + 16))()

    def work() -> None:
        n = model.lib.llama_tokenize(model.vocab, raw, len(raw), buffer, len(buffer), add_special, parse_special)
        assert n >= 0
        out.extend(buffer[:n])

    before = threading.stack_size(64 << 20)
    thread = threading.Thread(target=work)
    thread.start()
    threading.stack_size(before)
    thread.join()
    return out
