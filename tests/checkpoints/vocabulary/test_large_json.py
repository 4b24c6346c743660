"""Compare the reader of tokenizer.json in pieces with `json` on the whole file."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_lite.checkpoints.safetensors_file import read_json
from pa_lite.checkpoints.vocabulary.files import read_definition, read_settings
from pa_lite.checkpoints.vocabulary.trained import Merges, TrainedTokens
from pa_lite.errors import CheckpointError
from tools.fuzz.json import JsonMutator, Words

PIECES = st.sampled_from([1, 2, 3, 5, 8, 17, 64, 300, 1 << 18])
# characters that make the ends of items hard to find
TEXT = st.text(st.sampled_from('",\\[]{}: aé▁Ġ\n\0\x7f😀0'), max_size=6)
PART = st.text(st.sampled_from('",\\[]{}:aé▁Ġ\0😀0'), min_size=1, max_size=4)


def compact(document: Any) -> Any:
    """Return a document without its Unigram vocabulary, which the reader drops."""
    if not isinstance(document.get("model"), dict):
        return document
    model = dict(document["model"])
    if isinstance(model.get("vocab"), list):
        model["vocab"] = []
    return {**document, "model": model}


def plain(document: Any) -> Any:
    """Convert packed tokens and merges to Python objects, or to "fault" if they have one."""
    model = document.get("model")
    if not isinstance(model, dict):
        return document
    model = dict(model)
    if isinstance(model.get("vocab"), TrainedTokens):
        model["vocab"] = "fault" if model["vocab"].fault else dict(model["vocab"])
    if isinstance(model.get("merges"), Merges):
        model["merges"] = "fault" if model["merges"].fault else [list(pair) for pair in model["merges"]]
    return {**document, "model": model}


def expected(document: Any) -> Any:
    """Return what `plain` must return, from the result of `json`."""
    document = compact(document)
    model = document.get("model")
    if not isinstance(model, dict):
        return document
    vocab, merges = model.get("vocab"), model.get("merges")
    if isinstance(vocab, dict) and not all(type(i) is int for i in vocab.values()):
        model["vocab"] = "fault"
    elif isinstance(vocab, dict):
        model["vocab"] = {text: max(-1, min(i, 1 << 62)) for text, i in vocab.items()}
    if isinstance(merges, list):
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
        right = all(isinstance(p, list) and len(p) == 2 and all(isinstance(s, str) and s for s in p) for p in pairs)
        model["merges"] = pairs if right else "fault"
    return document


def verdict(read: Any) -> tuple[bool, Any]:
    try:
        return True, read()
    except CheckpointError:
        return False, None


def check(folder: Path, text: bytes, piece: int) -> None:
    """Check that both readers refuse a text or return the same."""
    (folder / "tokenizer.json").write_bytes(text)
    is_read, found = verdict(lambda: read_definition(folder / "tokenizer.json", piece))
    is_json, whole = verdict(lambda: read_json(folder / "tokenizer.json"))
    assert is_read == is_json
    if is_read:
        assert repr(plain(found)) == repr(expected(whole))  # NaN does not equal itself


@settings(max_examples=300, deadline=None)
@given(
    vocab=st.dictionaries(TEXT, st.integers(-3, 500), max_size=12),
    merges=st.one_of(
        st.lists(st.lists(PART, min_size=2, max_size=2), max_size=12),
        st.lists(st.tuples(PART, PART).map(" ".join), max_size=12),
    ),
    added=st.lists(st.fixed_dictionaries({"id": st.integers(0, 9), "content": TEXT}), max_size=5),
    indent=st.sampled_from([None, 0, 1, 4]),
    ascii_only=st.booleans(),
    is_first=st.booleans(),
    piece=PIECES,
)
def test_definitions_equal_those_of_json(
    vocab: Any, merges: Any, added: Any, indent: Any, ascii_only: bool, is_first: bool, piece: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    model = {"type": "BPE", "vocab": vocab, "merges": merges}
    if is_first:
        model = dict(reversed(model.items()))
    document = {"version": "1.0", "added_tokens": added, "model": model, "after": {"vocab": {"a": 1}, "merges": [1]}}
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only)
    check(tmp_path_factory.mktemp("t"), text.encode(), piece)


SEED = {
    "version": "1.0",
    "added_tokens": [{"id": 3, "content": "<s>", "special": True}],
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, '"': 2, "\\": 3}, "merges": [["a", "b"], ["a", '"']]},
    "pre_tokenizer": {"type": "ByteLevel"},
}
MUTATE = JsonMutator(Words(("vocab", "merges", "model", "added_tokens"), ({"a": 1}, [["a", "b"]], ["a b"], "a b")))


@settings(max_examples=1000, deadline=None)
@given(seed=st.integers(0, 1 << 40), piece=PIECES)
def test_changed_definitions_are_refused_by_both_or_neither(
    seed: int, piece: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    random = Random(seed)
    text = json.dumps(SEED).encode()
    for _ in range(random.choice((1, 1, 2, 3))):
        text = MUTATE(text, random)
    check(tmp_path_factory.mktemp("t"), text, piece)


@pytest.mark.parametrize("piece", [1, 4, 1 << 18])
@pytest.mark.parametrize(
    "text",
    [
        '{"model": {"vocab": {"a": 1, "b": 2,}}}',
        '{"model": {"vocab": {"a": 1,, "b": 2}}}',
        '{"model": {"vocab": {, "a": 1}}}',
        '{"model": {"vocab": {"a": 1 "b": 2}}}',
        '{"model": {"vocab": {"a" 1}}}',
        '{"model": {"vocab": {"a": 1, "a": 2}}}',
        '{"model": {"vocab": {"a": 01}}}',
        '{"model": {"vocab": {"a": 1}, "vocab": {"b": 2}}}',
        '{"model": {"vocab": {"a": 1}, "v\\u006fcab": {"b": 2}}}',
        '{"model": {"vocab": {"a": 1}, "vocab": 3}}',
        '{"model": {"vocab": {"a": 1}}, "model": {"vocab": {"b": 1}}}',
        '{"model": {"vocab": {"\\ud800": 1}}}',
        '{"model": {"merges": ["a b", "\\udc00 b"]}}',
        '{"model": {"merges": ["a b",]}}',
        '{"model": {"merges": ["a b" "c d"]}}',
        '{"model": {"merges": ["a b"}}',
        '{"model": {"merges": [' + "[" * 62 + "]" * 62 + "]}}",
        '{"model": {"merges": [' + "[" * 5000 + "]" * 5000 + "]}}",
        '{"model": {"vocab": {"a": ' + "9" * 5000 + "}}}",
        '{"model": {"vocab": {"a": 1}',
        '{"model": {"vocab": {"a": 1',
        '{"model": {"vocab": {"a',
        '{"model": {"vocab": {"a": 1}}} x',
        '{"added_tokens": [{"id": 1, "id": 2}]}',
        '{"added_tokens": [' + "[" * 63 + "]" * 63 + "]}",
        '{"a": "unended',
        "[]",
        "",
        "\ufeff{}",
    ],
)
def test_broken_definitions_are_refused_by_both(text: str, piece: int, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text, "utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: "):
        read_definition(tmp_path / "tokenizer.json", piece)
    with pytest.raises(CheckpointError):
        read_json(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("piece", [1, 4, 1 << 18])
@pytest.mark.parametrize(
    "text",
    [
        '{"model": {"vocab": {}, "merges": []}}',
        '{"model": {"vocab": [["a", -1.5], ["b", NaN]]}}',
        '{"mod\\u0065l": {"voc\\u0061b": {"\\u0041\\ud83d\\ude00": 1}}}',
        '{"model": {"vocab": {"a": -Infinity}}}',
        '{"model": {"vocab": {"a": 1e5, "b": true}}}',
        '{"model": {"vocab": {"a": 12345678901234567890123}}}',
        '{"model": {"vocab": null, "merges": {}}}',
        '{"model": [{"vocab": {"a": 1}}], "vocab": {"b": "c"}}',
        '{"model": {"merges": [' + "[" * 61 + "]" * 61 + "]}}",
        '{"model": {"merges": ["a  b", " a", "ab", ["a"], ["a", ""], ["a", 1], 7, null, {}]}}',
        '{"model": {"merges": [["a", "b"], "c d"]}}',
        '{"added_tokens": {}, "model": "vocab"}',
    ],
)
def test_unusual_definitions_equal_those_of_json(text: str, piece: int, tmp_path: Path) -> None:
    check(tmp_path, text.encode(), piece)


@pytest.mark.parametrize("piece", [1, 9, 1 << 18])
def test_added_tokens_decoder_in_pieces(piece: int, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer_config.json"
    document = {"added_tokens_decoder": {str(i): {"content": f"<{i}>"} for i in range(30)}, "chat_template": '{["],'}
    path.write_text(json.dumps(document), "utf-8")
    assert read_settings(path, piece) == document
    path.write_text('{"added_tokens_decoder": {"1": {}, "2": {}, "1": {}}}', "utf-8")
    with pytest.raises(CheckpointError, match="duplicate key '1'"):
        read_settings(path, piece)
    assert read_settings(tmp_path / "none.json") == {}


def test_errors_name_the_byte_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": {"vocab": {"é": 1}, "x": ?}}', "utf-8")
    with pytest.raises(CheckpointError, match=r"Expecting value at byte 36\b"):
        read_definition(path)
    path.write_text('{"model": {"vocab": {"é": 1, "x": ?}}}', "utf-8")
    with pytest.raises(CheckpointError, match=r"Expecting value at byte 35\b"):
        read_definition(path)


def test_lookups_and_order_of_packed_tokens_and_merges(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": {"vocab": {"b": 7, "a": 3, "é": 1}, "merges": ["a b", "Ġ é"]}}', "utf-8")
    model = read_definition(path)["model"]
    assert list(model["vocab"].items()) == [("b", 7), ("a", 3), ("é", 1)]
    assert model["vocab"]["é"] == 1
    assert "c" not in model["vocab"]
    assert "\ud800" not in model["vocab"]
    assert model["merges"][-1] == ("Ġ", "é")
    assert list(model["merges"].spaced) == ["a b", "Ġ é"]
    path.write_text('{"model": {"merges": [["a", "b"], [" ", "c d"]]}}', "utf-8")
    assert list(read_definition(path)["model"]["merges"].spaced) == ["a b", "Ġ cĠd"]
