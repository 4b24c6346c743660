"""Tokenizer files that contradict each other. The behaviour of transformers was measured with version 5.24."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from pa_lite.checkpoints.vocabulary import contradictions, read_vocabulary
from pa_lite.checkpoints.vocabulary.files import Seen
from pa_lite.checkpoints.vocabulary.tokens import CONTROL, NORMAL, UNKNOWN, USER_DEFINED
from pa_lite.errors import CheckpointError
from tests.support import tiny
from tests.support.folders import PIECES, SIZE, byte_level, change_json, definition, sentencepiece, write_json
from tests.support.vocabularies import llama_tokenizer, write_vocab_only

CONFIG = {"architectures": ["LlamaForCausalLM"], "vocab_size": SIZE, "bos_token_id": 1, "eos_token_id": 2}
START, END = "<|im_start|>", "<|im_end|>"
SPECIAL = ("<unk>", "<s>", "</s>")


def remarks(folder: Path, **config: Any) -> tuple[str, ...]:
    return read_vocabulary(folder, {**CONFIG, **config}).remarks


# --- the layout of 2023: tokenizer.model, added_tokens.json, special_tokens_map.json ---


def write_2023(folder: Path, special: dict[str, Any], settings: dict[str, Any], more: dict[str, int]) -> dict[str, Any]:
    """Write such a folder and return what is read; added_tokens.json repeats the special pieces, as in OpenOrca's."""
    write_json(folder / "added_tokens.json", {t: i for i, t in enumerate(SPECIAL)} | more)
    write_json(folder / "special_tokens_map.json", special)
    return sentencepiece(folder, settings, size=SIZE + len(more), bos_token_id=1, eos_token_id=2)


def test_user_text_cannot_spell_special_tokens_of_2023(tmp_path: Path) -> None:
    """In transformers, tokens with a role and additional special tokens are special; pieces keep their type.

    Here <call> is special by special_tokens_map.json, <tool> by tokenizer_config.json, <|im_start|> by its text, and
    <word> is not special but matched literally.
    """
    more = {START: SIZE, END: SIZE + 1, "<call>": SIZE + 2, "<tool>": SIZE + 3, "<word>": SIZE + 4}
    got = write_2023(
        tmp_path,
        {"bos_token": "<s>", "eos_token": {"content": END}, "additional_special_tokens": ["<call>"]},
        {"eos_token": END, "extra_special_tokens": [{"content": "<tool>"}]},
        more,
    )
    assert got["token_type"][:3] == [UNKNOWN, CONTROL, CONTROL]
    assert got["scores"][:3] == [0.0, 0.0, 0.0]
    assert got["token_type"][SIZE:] == [CONTROL, CONTROL, CONTROL, CONTROL, USER_DEFINED]
    assert got["eos_token_id"] == SIZE + 1
    config = {**CONFIG, "vocab_size": SIZE + len(more)}
    write_vocab_only(tmp_path / "v.gguf", read_vocabulary(tmp_path, config), "llama")
    with llama_tokenizer(tmp_path / "v.gguf") as tokenize:
        for i, text in [*enumerate(SPECIAL), *((i, t) for t, i in more.items())]:
            assert (i in tokenize(f"t{text}t", special=False)) == (text == "<word>"), text


def test_added_tokens_decoder_replaces_added_tokens_and_special_tokens_map(tmp_path: Path) -> None:
    """transformers reads neither of the older files if tokenizer_config.json has added_tokens_decoder."""
    decoder = {str(SIZE): {"content": END, "special": True}, "2": {"content": "</s>", "special": False}}
    settings = {"added_tokens_decoder": decoder, "eos_token": "</s>"}
    got = write_2023(tmp_path, {"eos_token": "<s>"}, settings, {"<lost>": SIZE + 1, END: SIZE + 2})
    assert got["tokens"][SIZE:] == [END, f"[PAD{SIZE + 1}]"]
    assert (got["token_type"][2], got["eos_token_id"]) == (CONTROL, 2)
    assert remarks(tmp_path, vocab_size=SIZE + 2) == ()


def test_special_tokens_map_overrides_tokenizer_config(tmp_path: Path) -> None:
    """In transformers, special_tokens_map.json overrides tokenizer_config.json if there is no decoder."""
    got = write_2023(tmp_path, {"eos_token": END}, {"eos_token": "</s>"}, {END: SIZE})
    assert got["eos_token_id"] == SIZE
    assert remarks(tmp_path, vocab_size=SIZE + 1) == (
        f"{tmp_path}: eos_token is '</s>' in tokenizer_config.json and '{END}' in special_tokens_map.json; using the "
        "latter, as transformers does",
    )


def test_tokenizer_json_overrides_added_tokens_json(tmp_path: Path) -> None:
    """transformers uses the entry of tokenizer.json for a token that both have, and adds missing tokens."""
    document = definition()
    document["added_tokens"].append({"id": SIZE, "content": "<a>", "special": True})
    write_json(tmp_path / "tokenizer.json", document)
    write_json(tmp_path / "added_tokens.json", {"<a>": SIZE, "<b>": SIZE + 1})
    config = {**CONFIG, "vocab_size": SIZE + 2}
    found = read_vocabulary(tmp_path, config)
    assert (list(found.tokens[SIZE:]), list(found.token_types[SIZE:])) == (["<a>", "<b>"], [CONTROL, USER_DEFINED])
    write_json(tmp_path / "added_tokens.json", {"<a>": SIZE + 1})
    with pytest.raises(
        CheckpointError, match=r"'<a>' has id 267 in tokenizer.json and 268 in added_tokens.json; trans"
    ):
        read_vocabulary(tmp_path, config)


# --- tokenizer.json and tokenizer.model ---


def test_files_that_agree_give_scores_and_no_remark(tmp_path: Path) -> None:
    """The scores of tokenizer.model are written, as by llama.cpp's converter."""
    write_json(tmp_path / "tokenizer.json", definition())
    got = sentencepiece(tmp_path)
    assert got["scores"][259:262] == [-0.0, -1.0, -2.0]
    assert remarks(tmp_path) == ()


def test_tokenizer_json_is_used_if_tokens_differ(tmp_path: Path) -> None:
    """transformers uses tokenizer.json, whatever the class of the tokenizer."""
    pieces = [*PIECES[:-1], ("x", -7.0, 1)]
    write_json(tmp_path / "tokenizer.json", definition(pieces))
    got = sentencepiece(tmp_path)
    assert (got["tokens"][SIZE - 1], got["token_type"][SIZE - 1]) == ("x", NORMAL)
    assert got["add_space_prefix"] is True  # as with only a tokenizer.json
    assert remarks(tmp_path) == (
        f"{tmp_path}: tokenizer.json and tokenizer.model disagree (token 266 is 'e' in tokenizer.model and 'x' in "
        "tokenizer.json); using tokenizer.json, as transformers does",
    )


def test_a_tab_equals_its_byte_piece(tmp_path: Path) -> None:
    """Gemma-2 has the one in tokenizer.json and the other in tokenizer.model."""
    tokenizer = definition(PIECES)
    vocab = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {"\t" if text == "<0x09>" else text: i for text, i in vocab.items()}
    write_json(tmp_path / "tokenizer.json", tokenizer)
    assert "<0x09>" in sentencepiece(tmp_path)["tokens"]
    assert remarks(tmp_path) == ()
    tokenizer["model"]["vocab"] = {"\n" if text == "<0x09>" else text: i for text, i in vocab.items()}
    write_json(tmp_path / "tokenizer.json", tokenizer)
    assert "is '<0x09>' in tokenizer.model and '\\n' in tokenizer.json" in remarks(tmp_path)[0]


def test_tokenizer_json_with_more_or_fewer_tokens(tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer.json", definition([*PIECES, ("new", -9.0, 1)]))
    assert sentencepiece(tmp_path, size=SIZE + 1)["tokens"][-1] == "new"
    assert f"(token {SIZE}, 'new', is only in tokenizer.json)" in remarks(tmp_path, vocab_size=SIZE + 1)[0]
    write_json(tmp_path / "tokenizer.json", definition(PIECES[:-1]))
    assert sentencepiece(tmp_path)["tokens"][-1] == f"[PAD{SIZE - 1}]"
    assert "(token 266 is 'e' in tokenizer.model and not in it in tokenizer.json)" in remarks(tmp_path)[0]


def test_the_same_files_on_both_sides_are_compared_once(tmp_path: Path) -> None:
    """A third folder with another tokenizer.model is compared again."""
    sides = [tmp_path / name for name in ("base", "instruct", "other")]
    for side in sides:
        side.mkdir()
        write_json(side / "tokenizer.json", definition([*PIECES[:-1], ("x", -7.0, 1)]))
        sentencepiece(side, pieces=PIECES if side.name != "other" else [*PIECES[:-1], ("x", -7.0, 1)])
    seen = Seen()
    with patch.object(contradictions, "_difference", wraps=contradictions._difference) as compared:
        found = [read_vocabulary(side, CONFIG, seen).remarks for side in sides]
    assert compared.call_count == 2
    assert [len(each) for each in found] == [1, 1, 0]
    assert found[1][0].startswith(f"{sides[1]}: tokenizer.json and tokenizer.model disagree (token 266 ")


def test_tokenizer_json_decides_the_order_of_merges(tmp_path: Path) -> None:
    """Its merges create "he" before "▁t", so "▁the" is not created."""
    write_json(tmp_path / "tokenizer.json", definition(merges=("h e", "▁ t", "▁t he")))
    sentencepiece(tmp_path)
    found = read_vocabulary(tmp_path, CONFIG)
    assert "('▁t' is merged after 'he' in tokenizer.json and before it in tokenizer.model)" in found.remarks[0]
    scores = found.metadata["tokenizer.ggml.scores"].value
    assert list(scores[259:262]) == [-1.0, 0.0, -2.0]


def test_added_tokens_that_replace_pieces_are_not_a_difference(tmp_path: Path) -> None:
    """An added token with the id of a piece replaces it, whichever file is used."""
    document = definition([*PIECES[:-1], ("<a>", 0.0, 1)])
    document["added_tokens"].append({"id": SIZE - 1, "content": "<a>", "special": True})
    write_json(tmp_path / "tokenizer.json", document)
    assert sentencepiece(tmp_path)["tokens"][-1] == "<a>"
    assert remarks(tmp_path) == ()


def test_an_unsupported_tokenizer_json_is_refused_despite_a_tokenizer_model(tmp_path: Path) -> None:
    """transformers would use the tokenizer.json, which llama.cpp does not support."""
    document = definition()
    document["model"] = {"type": "Unigram", "vocab": [["a", 0.0]]}
    write_json(tmp_path / "tokenizer.json", document)
    with pytest.raises(
        CheckpointError, match=r"tokenizer.json, which transformers uses, has a Unigram .* tokenizer.mod"
    ):
        sentencepiece(tmp_path)


def test_tiktokens_file_is_ignored(tmp_path: Path) -> None:
    """Llama 3's repositories have a byte-level tokenizer.json and tiktoken's tokenizer.model."""
    (tmp_path / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")
    assert byte_level(tmp_path)["model"] == "gpt2"


# --- added_tokens_decoder and tokenizer.json ---


def decoder(*tokens: tuple[int, str, bool]) -> Any:
    entries = {str(i): {"content": text, "special": special} for i, text, special in tokens}
    return lambda settings: settings.update(added_tokens_decoder=entries)


def test_the_decoder_decides_which_tokens_are_special(tmp_path: Path) -> None:
    """In transformers, flags of tokenizer_config.json override those of tokenizer.json."""

    def unmark(document: dict[str, Any]) -> None:
        document["added_tokens"].append({"id": 267, "content": "<a>", "special": False})

    got = byte_level(tmp_path, unmark, decoder((267, "<a>", True), (0, "<|endoftext|>", True)))
    assert (got["tokens"][267], got["token_type"][267]) == ("<a>", CONTROL)
    assert remarks(tmp_path, vocab_size=320) == (
        f"{tmp_path}: tokenizer.json and tokenizer_config.json disagree on whether '<a>' is special; "
        "using tokenizer_config.json, as transformers does",
    )


def test_ids_of_tokens_that_are_only_in_the_decoder(tmp_path: Path) -> None:
    """transformers numbers them after those of tokenizer.json, whatever ids the decoder gives."""
    more = ((267, "<a>", False), (268, "<b>", True), (36, "!", False), (900, "<c>", True))
    got = byte_level(tmp_path, None, decoder(*more))
    assert got["tokens"][267:270] == ["<a>", "<b>", "[PAD269]"]
    assert got["token_type"][267:269] == [USER_DEFINED, CONTROL]
    tiny.write_tokenizer(tmp_path)
    change_json(tmp_path / "tokenizer_config.json", decoder((269, "<a>", False)))
    with pytest.raises(
        CheckpointError, match=r"tokenizer_config.json gives the token '<a>' the id 269, but tokenizer.json"
    ):
        read_vocabulary(tmp_path, tiny.CONFIG)


def test_a_token_with_two_ids_is_refused(tmp_path: Path) -> None:
    """LlamaTokenizer of transformers uses the id in the decoder, other classes the one in tokenizer.json."""
    message = (
        r"'<\|im_end\|>' has id 2 in tokenizer.json and 1 in tokenizer_config.json; transformers' tokenizer classes dif"
    )
    with pytest.raises(CheckpointError, match=message):
        byte_level(tmp_path, None, decoder((1, END, True), (2, START, True)))


# --- eos_token_id in config.json and generation_config.json ---


def ends(folder: Path, config: Any, generation: Any) -> tuple[list[int], tuple[str, ...]]:
    """Return the ids at which llama.cpp stops, and the remarks, for a tokenizer without an end token."""
    (folder / "generation_config.json").unlink(missing_ok=True)
    if generation is not None:
        write_json(folder / "generation_config.json", generation)
    got = byte_level(folder, None, lambda s: s.pop("eos_token"), eos_token_id=config)
    found = [got.get(f"{role}_token_id") for role in ("eos", "eot", "eom")]
    return [i for i in found if i is not None], remarks(folder, vocab_size=320, eos_token_id=config)


def test_generation_config_decides_the_end_tokens(tmp_path: Path) -> None:
    """transformers stops at the ids of generation_config.json, or at those of config.json if that file is missing.

    If it names none, transformers never stops; here the ids of config.json count, as an endless answer is useless.
    """
    assert ends(tmp_path, [10, 11], None) == ([10, 11], ())
    assert ends(tmp_path, [10, 11], {"temperature": 0.6}) == ([10, 11], ())
    assert ends(tmp_path, [10, 11], {"eos_token_id": None}) == ([10, 11], ())
    assert ends(tmp_path, [10, 11], {"eos_token_id": [11, 10]}) == ([10, 11], ())
    assert ends(tmp_path, 10, {"eos_token_id": [10]}) == ([10], ())
    assert ends(tmp_path, None, {"eos_token_id": [10]}) == ([10], ())
    found, (remark,) = ends(tmp_path, [10, 11], {"eos_token_id": [12, 13, 9999]})
    assert found == [12, 13]
    assert remark == (
        f"{tmp_path}: eos_token_id is [10, 11] in config.json and [12, 13] in generation_config.json; using the "
        "latter, as transformers does"
    )
    found, (remark,) = ends(tmp_path, 10, {"eos_token_id": [11, 10]})
    assert found == [10, 11]
    assert re.search(r"eos_token_id is 10 in config.json and \[11, 10\] in generation_config.json", remark)
