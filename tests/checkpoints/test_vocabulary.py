from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pa_lite.checkpoints.vocabulary import CONTROL, NORMAL, UNUSED, USER_DEFINED, read_vocabulary
from pa_lite.errors import CheckpointError
from tests import tiny

Change = Callable[[dict[str, Any]], None]


def vocabulary_with(folder: Path, tokenizer: Change | None = None, settings: Change | None = None) -> dict[str, Any]:
    tiny.write_tokenizer(folder)
    for name, change in (("tokenizer.json", tokenizer), ("tokenizer_config.json", settings)):
        if change is not None:
            document = json.loads((folder / name).read_text("utf-8"))
            change(document)
            (folder / name).write_text(json.dumps(document), "utf-8")
    found = read_vocabulary(folder, tiny.CONFIG)
    return {key: entry.value for key, entry in found.metadata.items()} | {"types": found.token_types}


def test_byte_level_bpe(tmp_path: Path) -> None:
    got = vocabulary_with(tmp_path)
    assert got["tokenizer.ggml.model"] == "gpt2"
    assert got["tokenizer.ggml.pre"] == "gpt-2"
    assert len(got["tokenizer.ggml.tokens"]) == 320
    assert got["tokenizer.ggml.tokens"][2] == "<|im_end|>"
    assert got["tokenizer.ggml.tokens"][-1] == "[PAD319]"
    assert got["types"][2] == CONTROL
    assert got["types"][3] == NORMAL
    assert got["types"][-1] == UNUSED
    assert got["tokenizer.ggml.merges"][3] == "Ġ the"
    assert got["tokenizer.ggml.bos_token_id"] == 0
    assert got["tokenizer.ggml.eos_token_id"] == 2
    assert got["tokenizer.ggml.add_bos_token"] is True
    assert got["tokenizer.ggml.add_eos_token"] is False
    assert got["tokenizer.chat_template"] == tiny.CHAT_TEMPLATE


def test_old_merges_and_no_template(tmp_path: Path) -> None:
    def old(t: dict[str, Any]) -> None:
        t["model"]["merges"] = [" ".join(m) for m in t["model"]["merges"]]
        t["post_processor"] = None

    def bare(s: dict[str, Any]) -> None:
        del s["chat_template"], s["add_bos_token"]

    got = vocabulary_with(tmp_path, old, bare)
    assert got["tokenizer.ggml.merges"][1] == "th e"
    assert got["tokenizer.ggml.add_bos_token"] is False
    assert "tokenizer.chat_template" not in got


def test_named_templates_and_jinja_file(tmp_path: Path) -> None:
    def several(s: dict[str, Any]) -> None:
        s["chat_template"] = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]

    got = vocabulary_with(tmp_path, None, several)
    assert got["tokenizer.chat_template"] == "D"
    assert got["tokenizer.chat_template.tool_use"] == "T"
    assert got["tokenizer.chat_templates"] == ["tool_use"]
    (tmp_path / "chat_template.jinja").write_text("J", "utf-8")
    got = vocabulary_with(tmp_path, None, lambda s: s.pop("chat_template"))
    assert got["tokenizer.chat_template"] == "J"


def test_added_tokens_that_are_not_special(tmp_path: Path) -> None:
    def add(t: dict[str, Any]) -> None:
        t["added_tokens"] += [
            {"id": 300, "content": "▁▁", "special": False},
            {"id": 301, "content": "<|tool|>", "special": False},
        ]

    got = vocabulary_with(tmp_path, add)
    assert got["tokenizer.ggml.tokens"][300] == "  "
    assert (got["types"][300], got["types"][301]) == (USER_DEFINED, CONTROL)


SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"


@pytest.mark.parametrize(
    ("steps", "ignore_merges", "adds_bos", "name"),
    [
        ([{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel"}], False, True, "smollm"),
        (
            [{"type": "Split", "pattern": {"Regex": SPLIT + "{1,3}| ?x"}}, {"type": "ByteLevel"}],
            True,
            True,
            "llama-bpe",
        ),
        (
            [{"type": "Split", "pattern": {"Regex": SPLIT + "{1,3}| ?x"}}, {"type": "ByteLevel"}],
            True,
            False,
            "smaug-bpe",
        ),
        ([{"type": "Split", "pattern": {"Regex": SPLIT + "{1,3}| ?x"}}, {"type": "ByteLevel"}], False, True, "dbrx"),
        ([{"type": "Split", "pattern": {"Regex": SPLIT + "| ?x"}}, {"type": "ByteLevel"}], False, False, "qwen2"),
    ],
)
def test_pre_tokenizers(tmp_path: Path, steps: list[Any], ignore_merges: bool, adds_bos: bool, name: str) -> None:
    def change(t: dict[str, Any]) -> None:
        t["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
        t["model"]["ignore_merges"] = ignore_merges
        if not adds_bos:
            t["post_processor"] = None

    def settings(s: dict[str, Any]) -> None:
        s["add_bos_token"] = adds_bos

    assert vocabulary_with(tmp_path, change, settings)["tokenizer.ggml.pre"] == name


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.update(pre_tokenizer={"type": "Metaspace"}), r"pre-tokenizer \(Metaspace\) is not known"),
        (lambda t: t.update(model={"type": "Unigram"}), "a Unigram vocabulary"),
        (lambda t: t["model"]["vocab"].update(zzz=320), "has token id 320"),
        (lambda t: t["added_tokens"].append({"id": 310, "content": "!", "special": True}), "same text"),
        (lambda t: t.pop("model"), "broken tokenizer definition"),
        (lambda t: t.update(added_tokens=[3]), "broken tokenizer definition"),
    ],
)
def test_what_cannot_be_converted_is_refused(tmp_path: Path, change: Change, told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        vocabulary_with(tmp_path, change)


def test_sentencepiece_and_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no tokenizer.json"):
        read_vocabulary(tmp_path, tiny.CONFIG)
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(CheckpointError, match="SentencePiece"):
        read_vocabulary(tmp_path, tiny.CONFIG)
