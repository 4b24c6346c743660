from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pa_lite.checkpoints.vocabulary.special_tokens import END_IDS_KEY
from pa_lite.errors import CheckpointError
from tests.support import tiny
from tests.support.folders import byte_level, sentencepiece, write_json

BOS, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"


def template(*single: str) -> dict[str, Any]:
    parts = [{"Sequence": {"id": "A", "type_id": 0}} if t == "A" else {"SpecialToken": {"id": t, "type_id": 0}}
             for t in single]  # fmt: skip
    return {"type": "TemplateProcessing", "single": parts, "pair": parts}


def read(folder: Path, post: Any, **settings: Any) -> dict[str, Any]:
    got = byte_level(folder, lambda t: t.update(post_processor=post), lambda s: s.update(settings))
    return {k: v for k, v in got.items() if k.startswith("add_") or k.endswith("_id")}


def test_ids_by_text_then_by_config(tmp_path: Path) -> None:
    got = byte_level(tmp_path, None, lambda s: s.update(pad_token={"content": START}, unk_token="not there"),
                     unk_token_id=7, sep_token_id=8, mask_token_id=-1, cls_token_id=320)  # fmt: skip
    ids = {key: value for key, value in got.items() if key.endswith("_token_id")}
    assert ids == {"bos_token_id": 0, "eos_token_id": 2, "padding_token_id": 1, "unknown_token_id": 7,
                   "seperator_token_id": 8}  # fmt: skip


@pytest.mark.parametrize(
    ("post", "settings", "adds"),
    [
        (None, {"add_bos_token": False}, (False, False)),
        (None, {"add_bos_token": True, "add_eos_token": True}, (True, True)),
        (None, {"add_bos_token": None}, (False, False)),
        (template(BOS, "A"), {"add_bos_token": False}, (True, False)),
        (template(BOS, "A", END), {}, (True, True)),
        (template("A"), {"add_bos_token": True}, (True, False)),
        ({"type": "ByteLevel"}, {"add_bos_token": True}, (False, False)),
        ({"type": "Sequence", "processors": [{"type": "ByteLevel"}, template(BOS, "A")]}, {}, (True, False)),
    ],
)
def test_add_bos_and_add_eos(tmp_path: Path, post: Any, settings: dict[str, Any], adds: tuple[bool, bool]) -> None:
    got = read(tmp_path, post, **settings)
    assert (got["add_bos_token"], got["add_eos_token"]) == adds
    assert (got["bos_token_id"], got["eos_token_id"]) == (0, 2)
    assert "eot_token_id" not in got


def test_the_post_processor_decides_bos_and_eos(tmp_path: Path) -> None:
    """The former EOS still ends an answer, as EOT."""
    got = read(tmp_path, template(START, "A", BOS))
    assert (got["bos_token_id"], got["eos_token_id"], got["eot_token_id"]) == (1, 0, 2)
    assert (got["add_bos_token"], got["add_eos_token"]) == (True, True)


def test_a_token_without_id_is_not_added(tmp_path: Path) -> None:
    def bare(s: dict[str, Any]) -> None:
        s.update(bos_token=None, add_bos_token=True)

    got = byte_level(tmp_path, lambda t: t.update(post_processor=None), bare, bos_token_id=None)
    assert got["add_bos_token"] is False
    assert "bos_token_id" not in got


@pytest.mark.parametrize(
    ("post", "message"),
    [
        ({"type": "BertProcessing"}, "post-processor 'BertProcessing' is unknown"),
        ([3], "post_processor is not a table"),
        ({"type": "Sequence", "processors": [3]}, "post_processor is not a table"),
        ({"type": "TemplateProcessing"}, "TemplateProcessing without `single`"),
        ({"type": "TemplateProcessing", "single": [3, 4]}, "TemplateProcessing without `single`"),
    ],
)
def test_unknown_post_processors_are_refused(tmp_path: Path, post: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, post)


def test_a_list_of_end_tokens(tmp_path: Path) -> None:
    """EOS is the first id of config.json; unknown ids of generation_config.json get the other roles."""
    write_json(tmp_path / "generation_config.json", {"eos_token_id": [2, 0, 5, 6, 7, 5, 9999, None]})
    got = byte_level(tmp_path, None, lambda s: s.pop("eos_token"), eos_token_id=[2, 0])
    assert (got["eos_token_id"], got["eom_token_id"], got["eot_token_id"]) == (2, 5, 6)
    assert got[END_IDS_KEY] == [7]


@pytest.mark.parametrize(
    ("eos", "ends", "expected"),
    [
        (0, [0, 5, 2], {"eot_token_id": 2, "eom_token_id": 5}),  # Phi-3: end of text, <|assistant|>, <|end|>
        (0, [0, 5, 2, 6], {"eot_token_id": 2, "eom_token_id": 5, END_IDS_KEY: [6]}),
        (2, [0, 5, 2], {"eom_token_id": 5}),  # Llama-3.1: EOS is the end of a turn
        (0, [0, 5], {"eot_token_id": 5}),  # an end of turn that llama.cpp does not know
        (0, [0, 2], {}),
        (0, [0], {}),
        (5, [5, 2], {}),  # llama.cpp stops at EOS, whatever its text
    ],
)
def test_the_end_of_a_turn_is_eot(tmp_path: Path, eos: int, ends: list[int], expected: dict[str, Any]) -> None:
    write_json(tmp_path / "generation_config.json", {"eos_token_id": ends})
    got = byte_level(tmp_path, None, lambda s: s.pop("eos_token"), eos_token_id=eos)
    assert {k: v for k, v in got.items() if k in ("eot_token_id", "eom_token_id", END_IDS_KEY)} == expected


def test_an_end_token_that_is_also_the_padding(tmp_path: Path) -> None:
    write_json(tmp_path / "generation_config.json", {"eos_token_id": [0, 5]})
    got = byte_level(tmp_path, None, lambda s: s.update(eos_token=BOS), pad_token_id=5, unk_token_id=5)
    assert (got["padding_token_id"], got["eot_token_id"]) == (5, 5)


def test_an_end_token_that_is_only_in_generation_config(tmp_path: Path) -> None:
    write_json(tmp_path / "generation_config.json", {"eos_token_id": 0})
    got = byte_level(tmp_path, None, lambda s: s.pop("eos_token"), eos_token_id=None)
    assert got["eos_token_id"] == 0


def test_ids_in_text_config(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"text_config": {"pad_token_id": 3, "unk_token_id": 4}, "unk_token_id": 5})
    got = byte_level(tmp_path)
    assert (got["padding_token_id"], got["unknown_token_id"]) == (3, 5)


def test_sentencepiece_adds_bos_by_default(tmp_path: Path) -> None:
    """The classes of transformers do, too."""
    assert sentencepiece(tmp_path)["add_bos_token"] is True
    assert sentencepiece(tmp_path, {"add_bos_token": False})["add_bos_token"] is False
    got = sentencepiece(tmp_path, {"bos_token": "<s>"}, bos_token_id=1, eos_token_id=2, pad_token_id=-1)
    assert (got["bos_token_id"], got["eos_token_id"]) == (1, 2)
    assert "padding_token_id" not in got


def test_keys_that_depend_on_vocab_size(tmp_path: Path) -> None:
    def more(t: dict[str, Any]) -> None:
        vocab = t["model"]["vocab"]
        vocab.update({f"word{i}": i for i in range(1000, 6000)})

    assert byte_level(tmp_path, more, vocab_size=49152)["add_bos_token"] is False
    assert byte_level(tmp_path, more, vocab_size=49152, architectures=["Olmo2ForCausalLM"])["add_bos_token"] is True
    got = byte_level(tmp_path, vocab_size=32016)
    ids = [got[f"{name}_token_id"] for name in ("prefix", "suffix", "middle", "eot")]
    assert ids == [32007, 32008, 32009, 32010]


def test_add_space_prefix_is_copied_for_llama(tmp_path: Path) -> None:
    def without_prefix(s: dict[str, Any]) -> None:
        s["add_prefix_space"] = False

    assert byte_level(tmp_path, None, without_prefix)["add_space_prefix"] is False
    assert "add_space_prefix" not in byte_level(tmp_path, None, without_prefix, architectures=["Qwen2ForCausalLM"])
    assert "add_space_prefix" not in byte_level(tmp_path)
    assert tiny.CONFIG["architectures"] == ["LlamaForCausalLM"]


TEMPLATE_KEYS = ("tokenizer.pa_lite.bos_token", "tokenizer.pa_lite.eos_token")


@pytest.mark.parametrize(
    ("settings", "config", "expected"),
    [
        ({}, {}, {}),
        ({"bos_token": None}, {"bos_token_id": 0}, {TEMPLATE_KEYS[0]: ""}),  # Qwen-2.5, SmolLM3
        ({"bos_token": None}, {"bos_token_id": None}, {}),
        ({"bos_token": START}, {"bos_token_id": 0}, {}),
        ({"bos_token": "<none>"}, {"bos_token_id": 0}, {TEMPLATE_KEYS[0]: "<none>"}),
        ({"eos_token": {"content": BOS}}, {}, {}),
        ({"eos_token": None}, {"eos_token_id": 0}, {TEMPLATE_KEYS[1]: ""}),
    ],
)
def test_tokens_of_chat_templates_that_differ_from_the_ids(
    tmp_path: Path, settings: dict[str, Any], config: dict[str, Any], expected: dict[str, str]
) -> None:
    got = byte_level(tmp_path, lambda t: t.update(post_processor=None), lambda s: s.update(settings), **config)
    assert {key: got[key] for key in TEMPLATE_KEYS if key in got} == expected


@pytest.mark.parametrize(
    ("tokenizer_class", "expected"),
    [
        (None, None),
        ("SomeTokenizer", None),
        ("PreTrainedTokenizerFast", ""),
        ("GPT2Tokenizer", None),  # <|endoftext|>, which is token 0
        ("LlamaTokenizerFast", "<s>"),
    ],
)
def test_classes_with_default_tokens(tmp_path: Path, tokenizer_class: str | None, expected: str | None) -> None:
    def without(s: dict[str, Any]) -> None:
        s.pop("bos_token")
        s["tokenizer_class"] = tokenizer_class

    got = byte_level(tmp_path, lambda t: t.update(post_processor=None), without, bos_token_id=0)
    assert got.get(TEMPLATE_KEYS[0]) == expected


def test_special_tokens_map_takes_precedence_without_a_decoder(tmp_path: Path) -> None:
    """So it does in transformers; with added_tokens_decoder it is ignored."""
    write_json(tmp_path / "special_tokens_map.json", {"bos_token": {"content": START}, "eos_token": START})
    got = byte_level(tmp_path, lambda t: t.update(post_processor=None), lambda s: s.pop("added_tokens_decoder", None))
    ids = [got[f"{name}_token_id"] for name in ("bos", "eos")]
    assert [got["tokens"][i] for i in ids] == [START, START]
    assert not any(key in got for key in TEMPLATE_KEYS)  # the ids agree
    got = byte_level(tmp_path, None, lambda s: s.update(added_tokens_decoder={}))
    assert got["tokens"][got["bos_token_id"]] == BOS
