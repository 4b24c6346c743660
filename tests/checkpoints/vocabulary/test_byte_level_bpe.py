from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pa_lite.checkpoints.vocabulary import read_vocabulary
from pa_lite.checkpoints.vocabulary.tokens import CONTROL, NORMAL, UNUSED, USER_DEFINED
from pa_lite.errors import CheckpointError
from tests.support import tiny
from tests.support.folders import Change, byte_level
from tests.support.vocabularies import llama_tokenizer, write_vocab_only


def test_tokens_types_and_merges(tmp_path: Path) -> None:
    got = byte_level(tmp_path)
    assert (got["model"], got["pre"]) == ("gpt2", "gpt-2")
    assert len(got["tokens"]) == len(got["token_type"]) == 320
    assert (got["tokens"][2], got["token_type"][2]) == ("<|im_end|>", CONTROL)
    assert (got["tokens"][3], got["token_type"][3]) == ("Ā", NORMAL)
    assert (got["tokens"][-1], got["token_type"][-1]) == ("[PAD319]", UNUSED)
    assert got["merges"][3] == "Ġ the"
    assert "scores" not in got


def test_merges_as_strings_equal_merges_as_pairs(tmp_path: Path) -> None:
    def old(t: dict[str, Any]) -> None:
        t["model"]["merges"] = [" ".join(m) for m in t["model"]["merges"]]

    assert byte_level(tmp_path, old)["merges"] == byte_level(tmp_path)["merges"]


def test_a_space_in_a_merge_becomes_a_byte_letter(tmp_path: Path) -> None:
    def add_space(t: dict[str, Any]) -> None:
        t["model"]["merges"].append([" a", "b"])

    assert byte_level(tmp_path, add_space)["merges"][-1] == "Ġa b"


def test_texts_and_types_of_added_tokens(tmp_path: Path) -> None:
    def add(t: dict[str, Any]) -> None:
        t["added_tokens"] += [
            {"id": 300, "content": "▁▁", "special": False},
            {"id": 301, "content": "<|tool|>", "special": False},
            {"id": 302, "content": "<pad>", "special": False},
            {"id": 303, "content": "<think>", "special": False},
        ]

    got = byte_level(tmp_path, add)
    assert got["tokens"][300:304] == ["  ", "<|tool|>", "<pad>", "<think>"]
    assert got["token_type"][299:304] == [UNUSED, USER_DEFINED, CONTROL, CONTROL, USER_DEFINED]


def test_llama_cpp_encodes_with_the_vocabulary(tmp_path: Path) -> None:
    byte_level(tmp_path)
    write_vocab_only(tmp_path / "v.gguf", read_vocabulary(tmp_path, tiny.CONFIG), "llama")
    letters = tiny.byte_letters()
    with llama_tokenizer(tmp_path / "v.gguf") as tokenize:
        assert tokenize("the<|im_end|>") == [0, 3 + 256 + 1, 2]
        assert tokenize("é", special=False) == [3 + letters.index("Ã"), 3 + letters.index("©")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(model={"type": "Unigram"}, pre_tokenizer=None), "a Unigram vocabulary"),
        (lambda t: t.update(pre_tokenizer={"type": "Metaspace"}), "a BPE vocabulary, neither byte-level"),
        (lambda t: t["model"]["vocab"].update(zzz=320), r"has token id 320, but config.json's vocab_size is 320"),
        (lambda t: t["model"]["vocab"].update(zzz=-1), "has token id -1"),
        (lambda t: t["model"]["vocab"].update(zzz=5), "two tokens have the same id"),
        (lambda t: t["model"]["vocab"].update(zzz="5"), "vocab is not a table"),
        (lambda t: t["model"].update(vocab=["a"]), "vocab is not a table"),
        (lambda t: t["added_tokens"].append({"id": 400, "content": "<x>", "special": True}), "has token id 400"),
        (lambda t: t["added_tokens"].append({"id": 310, "content": "!", "special": True}), "same text '!'"),
        (lambda t: t["added_tokens"].append({"id": 310, "content": "[PAD311]", "special": True}), "same text"),
        (lambda t: t["added_tokens"].append({"id": 310, "content": "!\0x", "special": True}), "same text '!'"),
        (
            lambda t: t["added_tokens"].append({"id": 310, "content": "\ud800", "special": True}),
            "lone surrogate",
        ),
        (lambda t: t["added_tokens"].append({"id": "a", "content": "x", "special": True}), "no text or no id"),
        (lambda t: t["added_tokens"].append({"id": 310, "special": True}), "no text or no id"),
        (lambda t: t.pop("model"), "merges are missing|vocab is not a table"),
        (lambda t: t.update(model=[3]), "broken tokenizer definition"),
        (lambda t: t.update(added_tokens=[3]), "added_tokens is not a list of tables"),
        (lambda t: t["model"].pop("merges"), "merges are missing"),
        (lambda t: t["model"]["merges"].append("a b c"), "'a b c' is not a merge"),
        (lambda t: t["model"]["merges"].append(["a", 3]), "is not a merge"),
        (lambda t: t["model"]["merges"].append("ab"), "'ab' is not a merge"),
    ],
)
def test_broken_definitions_are_refused(tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        byte_level(tmp_path, change)


@pytest.mark.parametrize("size", [None, 0, -5, "320", 320.0, True, 1 << 40])
def test_invalid_vocab_sizes_are_refused(tmp_path: Path, size: Any) -> None:
    with pytest.raises(CheckpointError, match="vocab_size is"):
        byte_level(tmp_path, vocab_size=size)
    with pytest.raises(CheckpointError, match=r"has token id 319|has token id 269|has token id 26\d|has token id 100"):
        byte_level(tmp_path, vocab_size=100)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe{}", b"[]", b"", b"[" * 100_000])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"])
def test_errors_name_the_broken_file(tmp_path: Path, name: str, content: bytes) -> None:
    tiny.write_tokenizer(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        read_vocabulary(tmp_path, tiny.CONFIG)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has neither tokenizer.json nor tokenizer.model"):
        read_vocabulary(tmp_path, tiny.CONFIG)


@pytest.mark.parametrize("key", ["merges", "chat_template"])
def test_lone_surrogates_are_refused(tmp_path: Path, key: str) -> None:
    def add_surrogate(t: dict[str, Any]) -> None:
        t["model"]["merges"].append([chr(0xD800), "b"])

    byte_level(tmp_path)
    if key == "merges":
        with pytest.raises(CheckpointError, match="lone surrogate"):
            byte_level(tmp_path, add_surrogate)
        return
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "\\ud800"}', "utf-8")
    with pytest.raises(CheckpointError, match="lone surrogate"):
        read_vocabulary(tmp_path, tiny.CONFIG)


def test_vocab_size_far_above_the_number_of_tokens_is_refused(tmp_path: Path) -> None:
    """Padding to the four million tokens that config.json claims would take half a gigabyte."""
    with pytest.raises(CheckpointError, match=r"has 270 tokens, but config\.json's vocab_size is 4000000"):
        byte_level(tmp_path, vocab_size=4_000_000)
    assert len(byte_level(tmp_path, vocab_size=30_000)["tokens"]) == 30_000
