"""Real vocabularies, which llama.cpp's sources hold as GGUF files with texts and ids, read as the tokenizers they were.

Each is written as the tokenizer.json or tokenizer.model that it came from, converted, and run by llama.cpp.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pa_lite.checkpoints.gguf_file import read_gguf_header
from pa_lite.checkpoints.vocabulary import CONTROL, NORMAL, USER_DEFINED, read_vocabulary
from tests.parity.vocabularies import BYTE_LEVEL, FAMILIES, PLAIN, merges_of, split, write_json
from tests.vocabularies import llama_tokenizer, sentencepiece_model, write_vocab_only

pytestmark = pytest.mark.parity
SEPARATOR = "\n__ggml_vocab_test__\n"
_MARKS = PLAIN.replace(r"\p{L}+|@", r"[\p{L}\p{M}]+|@").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
# vocabulary -> (the model's class, its pre-tokenizer's definition, name by fingerprint, name by definition)
BPE: dict[str, tuple[str, Mapping[str, Any] | None, str, str]] = {
    "gpt-2": ("LlamaForCausalLM", {**BYTE_LEVEL, "use_regex": True}, "gpt-2", "gpt-2"),
    "llama-bpe": ("LlamaForCausalLM", FAMILIES["llama-3"].bpe, "llama-bpe", "llama-bpe"),
    "qwen2": ("Qwen2ForCausalLM", FAMILIES["qwen"].bpe, "qwen2", "qwen2"),
    "qwen35": ("Qwen2ForCausalLM", split(_MARKS, r"\p{N}"), "qwen2", "qwen35"),
    "mpt": ("OlmoForCausalLM", FAMILIES["olmo"].bpe, "olmo", "olmo"),
    "refact": ("GraniteForCausalLM", FAMILIES["granite"].bpe, "refact", "refact"),
    "starcoder": ("LlamaForCausalLM", FAMILIES["smollm2"].bpe, "starcoder", "smollm"),
}


def models_folder() -> Path:
    source = os.environ.get("PA_LITE_LLAMA_CPP")
    if not source:
        pytest.skip("PA_LITE_LLAMA_CPP does not name llama.cpp's source folder")
    return Path(source) / "models"


def values(name: str) -> dict[str, Any]:
    """The metadata of a vocabulary, without their common beginning."""
    metadata = read_gguf_header(models_folder() / f"ggml-vocab-{name}.gguf").metadata
    return {key.removeprefix("tokenizer.ggml."): entry.value for key, entry in metadata.items()}


def write_bpe(folder: Path, name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer.json and its fellows as they were before llama.cpp's converter; returns config.json."""
    architecture, definition, *_ = BPE[name]
    texts = list(enumerate(facts["tokens"]))
    types = facts["token_type"]
    added = [
        {"id": i, "content": t, "special": types[i] == CONTROL, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False} for i, t in texts if types[i] != NORMAL and not t.startswith("[PAD")
    ]  # fmt: skip
    post = None
    if name == "llama-bpe":
        text, bos = facts["tokens"][facts["bos_token_id"]], facts["bos_token_id"]
        single = [{"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
        post = {"type": "TemplateProcessing", "single": single, "pair": single,
                "special_tokens": {text: {"id": text, "ids": [bos], "tokens": [text]}}}  # fmt: skip
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": name == "llama-bpe",
        "vocab": {t: i for i, t in texts if types[i] == NORMAL}, "merges": facts["merges"],
    }  # fmt: skip
    write_json(folder / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": definition, "post_processor": post, "decoder": BYTE_LEVEL, "model": model,
    })  # fmt: skip
    config = {"architectures": [architecture], "vocab_size": len(texts)}
    return config | {
        f"{role}_token_id": facts[f"{role}_token_id"] for role in ("bos", "eos") if f"{role}_token_id" in facts
    }


def check_ids(path: Path, name: str) -> None:
    """llama.cpp gives the ids that its sources list for this vocabulary."""
    folder = models_folder()
    texts = (folder / f"ggml-vocab-{name}.gguf.inp").read_bytes().decode().removesuffix(SEPARATOR).split(SEPARATOR)
    lines = (folder / f"ggml-vocab-{name}.gguf.out").read_text().splitlines()
    with llama_tokenizer(path) as tokenize:
        for text, line in zip(texts, lines, strict=True):
            assert tokenize(text, special=False) == [int(i) for i in line.split()], text


@pytest.mark.parametrize("name", BPE)
@pytest.mark.parametrize("with_tokenizers", [True, False])
def test_byte_level_bpe(name: str, with_tokenizers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if with_tokenizers:
        pytest.importorskip("tokenizers")
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    facts = values(name)
    got = read_vocabulary(tmp_path, write_bpe(tmp_path, name, facts))
    assert list(got.tokens) == facts["tokens"]
    assert got.metadata["tokenizer.ggml.merges"].value == facts["merges"]
    assert got.metadata["tokenizer.ggml.pre"].value == BPE[name][2 if with_tokenizers else 3]
    assert got.metadata["tokenizer.ggml.add_bos_token"].value == (name == "llama-bpe")
    write_vocab_only(tmp_path / "ours.gguf", got, "llama")
    if name != "qwen35" or not with_tokenizers:  # made of Qwen2's vocabulary, whose fingerprint it therefore has
        check_ids(tmp_path / "ours.gguf", name)


@pytest.mark.parametrize("name", ["llama-spm", "phi-3"])
def test_sentencepiece(name: str, tmp_path: Path) -> None:
    facts = values(name)
    pieces = list(zip(facts["tokens"], facts["scores"], facts["token_type"], strict=True))
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(pieces[:32000]))
    added = {str(i): {"content": t, "special": k == CONTROL} for i, (t, _, k) in enumerate(pieces)
             if k in (CONTROL, USER_DEFINED)}  # fmt: skip
    write_json(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": added, "bos_token": "<s>"})
    architecture = "Phi3ForCausalLM" if name == "phi-3" else "LlamaForCausalLM"
    config = {"architectures": [architecture], "vocab_size": len(pieces), "bos_token_id": 1, "eos_token_id": 2}
    got = read_vocabulary(tmp_path, config)
    changed = [i for i, (t, k) in enumerate(zip(got.tokens, got.token_types, strict=True)) if (t, k) != pieces[i][::2]]
    assert all(pieces[i][0].startswith(("[PAD", "<|placeholder")) for i in changed)  # other converter, other padding
    scores = got.metadata["tokenizer.ggml.scores"].value
    assert all(scores[i] == pieces[i][1] for i in range(3, 32000) if str(i) not in added)
    write_vocab_only(tmp_path / "ours.gguf", got, "phi3" if name == "phi-3" else "llama")
    check_ids(tmp_path / "ours.gguf", name)


def test_sentencepiece_from_tokenizer_json(tmp_path: Path) -> None:
    """Scores made of merges order llama.cpp's merging as the model's own do."""
    facts = values("llama-spm")
    merges = merges_of(list(zip(facts["tokens"], facts["scores"], strict=True)))
    added = [{"id": i, "content": t, "special": True} for i, t in enumerate(facts["tokens"][:3])]
    model = {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "merges": merges,
             "vocab": {t: i for i, t in enumerate(facts["tokens"])}}  # fmt: skip
    steps = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    normalizer = {"type": "Sequence", "normalizers": steps}
    write_json(tmp_path / "tokenizer.json", {"added_tokens": added, "normalizer": normalizer, "model": model})
    got = read_vocabulary(tmp_path, {"architectures": ["LlamaForCausalLM"], "vocab_size": 32000})
    write_vocab_only(tmp_path / "ours.gguf", got, "llama")
    check_ids(tmp_path / "ours.gguf", "llama-spm")
