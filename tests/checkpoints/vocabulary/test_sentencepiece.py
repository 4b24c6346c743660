from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pa_lite.checkpoints.vocabulary import read_vocabulary
from pa_lite.checkpoints.vocabulary.tokens import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    name_for_llama_cpp,
)
from pa_lite.errors import CheckpointError
from tests.support.folders import PIECES, SIZE, Change, definition, read, sentencepiece, write_json
from tests.support.vocabularies import llama_tokenizer, write_vocab_only

CONFIG = {"architectures": ["LlamaForCausalLM"], "vocab_size": SIZE, "bos_token_id": 1, "eos_token_id": 2}
T, HE, THE = 259, 260, 261


def test_pieces_types_scores_and_padding(tmp_path: Path) -> None:
    got = sentencepiece(tmp_path, size=SIZE + 2)
    assert (got["model"], got["pre"]) == ("llama", "default")
    assert got["tokens"][:4] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert got["token_type"][:4] == [UNKNOWN, CONTROL, CONTROL, BYTE]
    assert (got["tokens"][THE], got["token_type"][THE], got["scores"][THE]) == ("▁the", NORMAL, -2.0)
    assert got["tokens"][-1] == f"[PAD{SIZE + 1}]"
    assert (got["token_type"][-1], got["scores"][-1]) == (UNUSED, -10000.0)


def test_tokens_of_added_tokens_decoder(tmp_path: Path) -> None:
    decoder = {
        "0": {"content": "<unk>", "special": True},
        str(SIZE + 1): {"content": "<|b|>", "special": False},
        str(SIZE + 2): {"content": "▁c▁", "special": False},
        str(SIZE + 9): {"content": "<beyond>", "special": True},
    }
    got = sentencepiece(tmp_path, {"added_tokens_decoder": decoder}, size=SIZE + 4)
    assert got["tokens"][SIZE:] == [f"[PAD{SIZE}]", "<|b|>", " c ", f"[PAD{SIZE + 3}]"]
    assert got["token_type"][SIZE:] == [UNUSED, CONTROL, USER_DEFINED, UNUSED]
    assert got["scores"][SIZE:] == [-10000.0, -1000.0, -1000.0, -10000.0]
    assert (got["token_type"][0], got["scores"][0]) == (CONTROL, -1000.0)


def added(*entries: tuple[int, str, bool]) -> dict[str, Any]:
    return {"added_tokens": [{"id": i, "content": t, "special": s} for i, t, s in entries]}


def test_added_tokens_of_tokenizer_json_count_without_a_decoder(tmp_path: Path) -> None:
    """transformers 5 does not write added_tokens_decoder; chat tokens must not get lost."""
    write_json(tmp_path / "tokenizer.json", added((SIZE, "<|im_end|>", True)))
    assert sentencepiece(tmp_path, size=SIZE + 1)["tokens"][-1] == "<|im_end|>"
    assert sentencepiece(tmp_path, {"added_tokens_decoder": {}}, size=SIZE + 1)["tokens"][-1] == f"[PAD{SIZE}]"


def test_phi3_uses_both_lists_and_trusts_their_flags(tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer.json", added((SIZE, "<|user|>", False), (SIZE + 1, "<|end|>", True)))
    decoder = {str(SIZE): {"content": "<|old|>", "special": True}}
    got = sentencepiece(tmp_path, {"added_tokens_decoder": decoder}, architecture="Phi3ForCausalLM", size=SIZE + 2)
    assert got["tokens"][SIZE:] == ["<|user|>", "<|end|>"]
    assert got["token_type"][SIZE:] == [USER_DEFINED, CONTROL]


def test_user_defined_pieces_are_matched_literally(tmp_path: Path) -> None:
    pieces = [*PIECES, ("▁▁the", 0.0, USER_DEFINED)]
    got = sentencepiece(tmp_path, pieces=pieces, size=SIZE + 1)
    assert (got["tokens"][-1], got["token_type"][-1]) == ("  the", USER_DEFINED)
    write_vocab_only(tmp_path / "v.gguf", read_vocabulary(tmp_path, {**CONFIG, "vocab_size": SIZE + 1}), "llama")
    with llama_tokenizer(tmp_path / "v.gguf") as tokenize:
        assert tokenize("the  the") == [1, THE, SIZE]


@pytest.mark.parametrize(
    ("architecture", "settings", "expected"),
    [
        ("LlamaForCausalLM", {}, None),
        ("LlamaForCausalLM", {"add_prefix_space": True}, True),
        ("MistralForCausalLM", {"add_prefix_space": False}, False),
        ("Phi3ForCausalLM", {"add_prefix_space": False}, None),
        ("Gemma2ForCausalLM", {"add_prefix_space": True}, False),
        ("Gemma3ForConditionalGeneration", {}, False),
    ],
)
def test_add_space_prefix_by_family_and_settings(
    tmp_path: Path, architecture: str, settings: dict[str, Any], expected: Any
) -> None:
    assert sentencepiece(tmp_path, settings, architecture=architecture).get("add_space_prefix") is expected


def test_add_space_prefix_is_false_for_a_model_without_dummy_prefix(tmp_path: Path) -> None:
    from tests.support.vocabularies import sentencepiece_model

    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(PIECES, dummy_prefix=False))
    assert read(tmp_path, CONFIG)["add_space_prefix"] is False


def test_tokenizer_json_without_a_model(tmp_path: Path) -> None:
    """llama.cpp merges in the order of `merges`, and uses bytes for characters without a piece."""
    write_json(tmp_path / "tokenizer.json", definition())
    got = read(tmp_path, {**CONFIG, "vocab_size": SIZE + 1})
    assert got["model"] == "llama"
    assert (got["token_type"][0], got["token_type"][3], got["token_type"][SIZE]) == (UNKNOWN, BYTE, UNUSED)
    assert (got["token_type"][1], got["scores"][0]) == (CONTROL, 0.0)
    assert [got["scores"][i] for i in (T, HE, THE, 3)] == [0.0, -1.0, -2.0, 0.0]
    assert got["add_space_prefix"] is True
    write_vocab_only(tmp_path / "v.gguf", read_vocabulary(tmp_path, CONFIG), "llama")
    with llama_tokenizer(tmp_path / "v.gguf") as tokenize:
        assert tokenize("the", special=False) == [THE]
        assert tokenize("thé", special=False) == [T, SIZE - 2, 3 + 0xC3, 3 + 0xA9]


@pytest.mark.parametrize(
    ("change", "prefix"),
    [
        (lambda t: t.update(normalizer=None, pre_tokenizer={"type": "Metaspace", "prepend_scheme": "first"}), True),
        (lambda t: t.update(normalizer=None, pre_tokenizer={"type": "Metaspace", "prepend_scheme": "never"}), False),
        (lambda t: t["normalizer"]["normalizers"].pop(0), False),
    ],
)
def test_add_space_prefix_by_definition(tmp_path: Path, change: Change, prefix: bool) -> None:
    document = definition()
    change(document)
    write_json(tmp_path / "tokenizer.json", document)
    assert read(tmp_path, CONFIG)["add_space_prefix"] is prefix


def test_unsupported_or_incomplete_definitions_are_refused(tmp_path: Path) -> None:
    for change, message in (
        ({"normalizer": {"type": "NFKC"}}, r"does not support its normalizer \(NFKC\)"),
        ({"normalizer": {"type": "Prepend", "prepend": "x"}}, r"does not support its normalizer \(Prepend\)"),
        ({"model": {**definition()["model"], "merges": None}}, "merges are missing"),
    ):
        write_json(tmp_path / "tokenizer.json", {**definition(), **change})
        with pytest.raises(CheckpointError, match=message):
            read(tmp_path, CONFIG)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"added_tokens.json": {"<a>": "7"}}, r"added_tokens.json: is not a table of token ids"),
        ({"added_tokens.json": {"": 7}}, r"added_tokens.json: is not a table"),
        ({"tokenizer_config.json": {"added_tokens_decoder": [1]}}, "added_tokens_decoder is not a table"),
        (
            {"tokenizer_config.json": {"added_tokens_decoder": {"x": {"content": "a"}}}},
            "added_tokens_decoder is not a table",
        ),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"7": {}}}}, "no text or no id"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"7": {"content": "he"}}}}, "same text 'he'"),
    ],
)
def test_broken_added_tokens_are_refused(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    for name, content in files.items():
        write_json(tmp_path / name, content)
    with pytest.raises(CheckpointError, match=message):
        sentencepiece(tmp_path)


def test_more_pieces_than_vocab_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"has token id {SIZE - 1}, but config.json's vocab_size is {SIZE - 1}"):
        sentencepiece(tmp_path, size=SIZE - 1)


PHI3_TOKENS = ["<unk>", "<s>", "</s>", "<|endoftext|>"]


def test_model_names_give_llama_cpp_the_right_behaviour(tmp_path: Path) -> None:
    """llama.cpp recognises Phi-3 by name only, and cannot load another tokenizer under that name."""
    decoder = {
        str(SIZE): {"content": "<|endoftext|>", "special": True},
        str(SIZE + 1): {"content": "<|user|>", "special": True},
    }
    sentencepiece(tmp_path, {"added_tokens_decoder": decoder}, size=SIZE + 2)
    phi3 = read_vocabulary(tmp_path, {**CONFIG, "architectures": ["Phi3ForCausalLM"], "vocab_size": SIZE + 2})
    assert name_for_llama_cpp("Phi-3-mini pa 0.7", "phi3", phi3) == "Phi-3-mini pa 0.7"
    assert name_for_llama_cpp("mine", "phi3", phi3) == "mine (phi-3)"
    assert name_for_llama_cpp("Phi-3-mini", "llama", phi3) == "Phi 3-mini"
    (tmp_path / "other").mkdir()
    sentencepiece(tmp_path / "other")
    other = read_vocabulary(tmp_path / "other", CONFIG)
    assert name_for_llama_cpp("my-PHI3.5-like", "phi3", other) == "my-PHI 3.5-like"
    write_vocab_only(tmp_path / "other.gguf", other, "llama", "my-phi3")
    with llama_tokenizer(tmp_path / "other.gguf") as tokenize:
        assert tokenize("the") == [1, THE]
    write_vocab_only(tmp_path / "phi3.gguf", phi3, "phi3", "mine")
    with llama_tokenizer(tmp_path / "phi3.gguf") as tokenize:
        assert tokenize("<|user|>\n the") == [1, SIZE + 1, THE]


KEY = "tokenizer.pa_lite.space_prefix"
METASPACE = {"type": "Metaspace", "replacement": "▁", "split": False}
LLAMA = {"tokenizer_class": "LlamaTokenizerFast"}


@pytest.mark.parametrize(
    ("architecture", "settings", "steps", "has_model", "expected"),
    [
        # transformers builds a new LlamaTokenizer, whatever tokenizer.json says
        ("LlamaForCausalLM", LLAMA, None, True, "first"),
        ("LlamaForCausalLM", {**LLAMA, "legacy": False}, None, False, "first"),
        ("LlamaForCausalLM", {**LLAMA, "legacy": True}, None, True, "always"),
        ("LlamaForCausalLM", {**LLAMA, "add_prefix_space": False}, None, True, None),
        ("LlamaForCausalLM", {**LLAMA, "add_prefix_space": False}, None, False, None),
        # and reads the files of other classes
        ("LlamaForCausalLM", {"tokenizer_class": "PreTrainedTokenizerFast"}, None, True, None),
        ("LlamaForCausalLM", {}, {**METASPACE, "prepend_scheme": "first"}, True, "first"),
        ("MistralForCausalLM", {**LLAMA, "legacy": False}, None, True, None),  # v0.1
        ("MistralForCausalLM", LLAMA, {**METASPACE, "prepend_scheme": "first"}, True, "first"),  # v0.3
        ("MistralForCausalLM", LLAMA, METASPACE, False, "always"),
        ("MistralForCausalLM", LLAMA, {**METASPACE, "prepend_scheme": "never"}, True, None),
        ("Phi3ForCausalLM", {**LLAMA, "legacy": False}, None, True, None),
        ("Gemma2ForCausalLM", LLAMA, {**METASPACE, "prepend_scheme": "first"}, True, None),
    ],
)
def test_space_prefix_scheme_is_that_of_transformers(
    tmp_path: Path, architecture: str, settings: dict[str, Any], steps: Any, has_model: bool, expected: str | None
) -> None:
    document = definition()
    if steps is not None:
        document.update(normalizer=None, pre_tokenizer=steps)
    write_json(tmp_path / "tokenizer.json", document)
    if has_model:
        got = sentencepiece(tmp_path, settings, architecture=architecture)
    else:
        write_json(tmp_path / "tokenizer_config.json", settings)
        got = read(tmp_path, {**CONFIG, "architectures": [architecture]})
    assert got.get(KEY) == expected
    is_never = settings.get("add_prefix_space") is False or (steps or {}).get("prepend_scheme") == "never"
    if is_never or architecture.startswith("Gemma"):
        assert got["add_space_prefix"] is False


def test_legacy_decides_the_scheme_without_tokenizer_json(tmp_path: Path) -> None:
    assert KEY not in sentencepiece(tmp_path, {}, architecture="MistralForCausalLM")
    assert sentencepiece(tmp_path, {"legacy": False}, architecture="MistralForCausalLM")[KEY] == "first"


def test_special_pieces_repeated_in_tokenizer_json_keep_type_and_score(tmp_path: Path) -> None:
    """Llama-2 has no added_tokens_decoder, and `<unk>`, `<s>`, `</s>` are added tokens in tokenizer.json."""
    write_json(tmp_path / "tokenizer.json", definition())
    got = sentencepiece(tmp_path)
    assert got["token_type"][:3] == [UNKNOWN, CONTROL, CONTROL]
    assert got["scores"][:3] == [0.0, 0.0, 0.0]
    write_json(tmp_path / "tokenizer.json", added((HE, "he", True)))  # a normal piece that is made special
    got = sentencepiece(tmp_path)
    assert (got["token_type"][HE], got["scores"][HE]) == (CONTROL, -1000.0)
