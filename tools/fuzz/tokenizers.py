"""Fuzzing targets for vocabularies: tokenizer.json with the files next to it, and SentencePiece models."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from pa_lite.checkpoints.safetensors_file import read_json
from pa_lite.checkpoints.vocabulary import pre_tokenizers, read_vocabulary
from pa_lite.checkpoints.vocabulary.files import read_definition
from pa_lite.checkpoints.vocabulary.large_json import PIECE
from pa_lite.checkpoints.vocabulary.sentencepiece_model import read_sentencepiece
from pa_lite.checkpoints.vocabulary.trained import Merges, TrainedTokens
from pa_lite.errors import CheckpointError
from pa_lite.ggml.container import gguf_header_bytes
from tools.fuzz.binary import BundleMutator, json_bytes, mutate_message, pack, unpack, write_fields
from tools.fuzz.gguf import damage
from tools.fuzz.json import JsonMutator, Words
from tools.fuzz.oracle import Target, whole

_TOKENIZER_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "added_tokens.json",
                    "generation_config.json", "chat_template.jinja", "chat_template.json")  # fmt: skip
_TOKENIZER = Words(
    ("added_tokens", "id", "content", "special", "normalizer", "pre_tokenizer", "post_processor", "model", "type",
     "vocab", "merges", "byte_fallback", "ignore_merges", "unk_token", "pretokenizers", "normalizers", "processors",
     "single", "SpecialToken", "use_regex", "add_prefix_space", "individual_digits", "pattern", "Regex", "String",
     "behavior", "prepend_scheme", "bos_token", "eos_token", "add_bos_token", "chat_template", "added_tokens_decoder",
     "name", "template", "eos_token_id", "a", "b", "<s>", "0", "299", "architectures", "vocab_size"),
    ("BPE", "ByteLevel", "Sequence", "Split", "Digits", "Metaspace", "TemplateProcessing", "Unigram", "NFC",
     ["a", "b"], "a b", 299, 300, {"type": "ByteLevel", "use_regex": False},
     {"type": "Sequence", "pretokenizers": []}, {"Regex": r"\p{N}"}, {"content": "<s>", "id": 5},
     {"id": 7, "content": "x", "special": True}, "tool_use", [{"name": "default", "template": "x"}],
     {"7": {"content": "y"}}, ["LlamaForCausalLM"], ["Phi3ForCausalLM"], ["Gemma2ForCausalLM"]),
)  # fmt: skip
_PIECES = [
    ("<unk>", 2),
    ("<s>", 3),
    ("</s>", 3),
    *((f"<0x{b:02X}>", 6) for b in range(256)),
    ("▁t", 1),
    ("he", 1),
    ("▁", 4),
]


def _sentencepiece_seed() -> bytes:
    pieces = [
        (1, 2, write_fields([(1, 2, text.encode()), (2, 5, struct.pack("<f", -float(i))), (3, 0, kind)]))
        for i, (text, kind) in enumerate(_PIECES[:3] + _PIECES[-20:])
    ]
    trainer, normalizer = write_fields([(1, 2, b"corpus"), (3, 0, 2)]), write_fields([(1, 2, b"identity"), (3, 0, 1)])
    return write_fields([*pieces, (2, 2, trainer), (3, 2, normalizer)])


def _byte_level(**changes: Any) -> dict[str, Any]:
    vocab = {text: i for i, text in enumerate(["<s>", "</s>", "a", "b", "Ġ", "ab", "Ġa"])}
    text, bos = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<s>", "type_id": 0}}
    return {
        "added_tokens": [{"id": 0, "content": "<s>", "special": True}, {"id": 1, "content": "</s>", "special": True}],
        "normalizer": None, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "post_processor": {"type": "TemplateProcessing", "single": [bos, text]},
        "model": {"type": "BPE", "vocab": vocab, "merges": [["a", "b"], ["Ġ", "a"]]}, **changes,
    }  # fmt: skip


def _tokenizer_seeds() -> list[bytes]:
    config = json_bytes({"architectures": ["LlamaForCausalLM"], "vocab_size": 12, "eos_token_id": [1]})
    settings = json_bytes(
        {
            "bos_token": {"content": "<s>"},
            "eos_token": "</s>",
            "add_bos_token": True,
            "chat_template": [{"name": "default", "template": "x"}, {"name": "tool use", "template": "y"}],
        }
    )
    splits = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": next(iter(pre_tokenizers._SPLITS))}, "behavior": "Isolated"},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ],
    }
    steps = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    fallback = _byte_level(
        normalizer={"type": "Sequence", "normalizers": steps}, pre_tokenizer=None,
        model={"type": "BPE", "byte_fallback": True, "unk_token": "<s>", "merges": ["a b"],
               "vocab": {"<s>": 0, "</s>": 1, "<0x00>": 2, "a": 3, "b": 4, "ab": 5}},
    )  # fmt: skip
    model_config = json_bytes({"architectures": ["LlamaForCausalLM"], "vocab_size": 40})
    decoder = json_bytes({"added_tokens_decoder": {"30": {"content": "<|im_end|>", "special": True}}})
    together = [
        {"config.json": config, "tokenizer.json": json_bytes(_byte_level()), "tokenizer_config.json": settings},
        {"config.json": config, "tokenizer.json": json_bytes(_byte_level(pre_tokenizer=splits)),
         "generation_config.json": json_bytes({"eos_token_id": [1, 2, 5]}), "chat_template.jinja": b"{{ x }}"},
        {"config.json": config, "tokenizer.json": json_bytes(fallback),
         "chat_template.json": json_bytes({"chat_template": "z"})},
        {"config.json": model_config, "tokenizer.model": _sentencepiece_seed(), "tokenizer_config.json": decoder},
        {"config.json": model_config, "tokenizer.model": _sentencepiece_seed(),
         "added_tokens.json": json_bytes({"<|user|>": 33})},
    ]  # fmt: skip
    return [pack(files, _TOKENIZER_FILES) for files in together]


def _compare_readers(folder: Path) -> None:
    """Check that reading in pieces refuses what `json` refuses for the whole file, and agrees on the rest."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return
    whole, fault = _read_or_fault(lambda: read_json(path))
    for piece in (1, 7, 64, PIECE):
        found, error = _read_or_fault(lambda n=piece: read_definition(path, n))  # type: ignore[misc]
        if found is None or whole is None:
            assert found is whole, f"in pieces of {piece}: {error or 'read'}; as a whole: {fault or 'read'}"
            continue
        assert list(found) == list(whole)
        ours, theirs = found.get("model"), whole.get("model")
        if not isinstance(ours, dict) or not isinstance(theirs, dict):
            continue
        vocab, merges = ours.get("vocab"), ours.get("merges")
        if isinstance(vocab, TrainedTokens):
            assert vocab.fault == any(type(i) is not int for i in theirs["vocab"].values())
            if not vocab.fault:
                assert dict(vocab) == {text: max(-1, min(i, 1 << 62)) for text, i in theirs["vocab"].items()}
        if isinstance(merges, Merges) and merges.fault is None:
            pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in theirs["merges"]]
            assert list(map(list, merges)) == pairs


def _read_or_fault(read: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any] | None, str]:
    try:
        return read(), ""
    except CheckpointError as e:
        return None, str(e)


def _read_sentencepiece(folder: Path) -> None:
    path = folder / "tokenizer.model"
    found = read_sentencepiece(path)
    slow = read_sentencepiece(path, plain=False)
    assert found.texts == slow.texts
    assert np.array_equal(found.scores, slow.scores)
    assert np.array_equal(found.types, slow.types)


def _read_tokenizer(folder: Path) -> None:
    config = read_json(folder / "config.json")
    _compare_readers(folder)
    # the package tokenizers is optional, and has a separate target
    with mock.patch.object(pre_tokenizers, "_by_fingerprint", return_value=None):
        found = read_vocabulary(folder, config)
    assert len(found.tokens) == len(found.token_types) == config["vocab_size"]
    gguf_header_bytes("llama", found.metadata, {})


_TOKENIZERS = BundleMutator({
    **dict.fromkeys(_TOKENIZER_FILES, JsonMutator(_TOKENIZER)), "tokenizer.model": mutate_message,
    "chat_template.jinja": damage,
})  # fmt: skip

TARGETS = (
    Target("tokenizer", "tokenizer.json and the files next to it", lambda d: unpack(d, _TOKENIZER_FILES),
    _read_tokenizer,
           _TOKENIZERS, _tokenizer_seeds, longest=1 << 12),
    Target("sentencepiece", "tokenizer.model", whole("tokenizer.model"),
           _read_sentencepiece, mutate_message,
           lambda: [_sentencepiece_seed()]),
)  # fmt: skip
