from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pa_lite.checkpoints.vocabulary import pre_tokenizers, read_vocabulary
from pa_lite.checkpoints.vocabulary.files import Seen, read_files
from pa_lite.errors import CheckpointError, EngineError
from pa_lite.untrusted import sandbox
from tests.parity.vocabularies import build, read_config
from tests.support import tiny
from tests.support.folders import byte_level, change_json

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL
QWEN = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + TAIL
)
GPT4O = (
    TEKKEN.replace(r"\p{M}]+|", r"\p{M}]+" + CONTRACTIONS + "?|")
    .replace(r"\p{M}]*|", r"\p{M}]*" + CONTRACTIONS + "?|")
    .replace(r"|\p{N}|", r"|\p{N}{1,3}|")
)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
PLAIN_BYTES = {**BYTE_LEVEL, "use_regex": False}
DIGITS = {"type": "Digits", "individual_digits": True}


def cut(expression: str, **more: Any) -> list[dict[str, Any]]:
    return [
        {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False} | more,
        PLAIN_BYTES,
    ]


def read(folder: Path, steps: list[Any], ignore_merges: bool = False, architecture: str = "LlamaForCausalLM") -> str:
    def change(t: dict[str, Any]) -> None:
        t["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
        t["model"]["ignore_merges"] = ignore_merges

    return str(byte_level(folder, change, architectures=[architecture])["pre"])


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ([BYTE_LEVEL], "gpt-2"),
        ([DIGITS, BYTE_LEVEL], "smollm"),
        (cut(LLAMA3), "dbrx"),
        (cut(LLAMA3, behavior="Removed", invert=True), "dbrx"),
        ([{"type": "Sequence", "pretokenizers": cut(LLAMA3)}], "dbrx"),
        (cut(QWEN), "qwen2"),
        (cut(QWEN.replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")), "qwen35"),
        (cut(GPT4O), "gpt-4o"),
        (cut(TEKKEN), "tekken"),
    ],
)
def test_names_by_definition(tmp_path: Path, steps: list[Any], name: str) -> None:
    assert read(tmp_path, steps) == name


def test_llama3_with_ignored_merges_is_llama_bpe(tmp_path: Path) -> None:
    assert read(tmp_path, cut(LLAMA3), ignore_merges=True) == "llama-bpe"


def test_families_with_another_name_for_the_same_rule(tmp_path: Path) -> None:
    assert read(tmp_path, [BYTE_LEVEL], architecture="OlmoForCausalLM") == "olmo"
    assert read(tmp_path, [DIGITS, BYTE_LEVEL], architecture="GraniteForCausalLM") == "refact"


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{**BYTE_LEVEL, "add_prefix_space": True}], r"\(ByteLevel\) is unknown"),
        ([PLAIN_BYTES], r"\(ByteLevel\) is unknown"),
        ([{"type": "Digits", "individual_digits": False}, BYTE_LEVEL], r"\(Digits, ByteLevel\) is unknown"),
        ([DIGITS, PLAIN_BYTES], "is unknown"),
        (cut(LLAMA3.replace("{1,3}", "{1,2}")), r"\(Split, ByteLevel\) is unknown"),
        (cut(LLAMA3, behavior="Removed"), "is unknown"),
        (cut(LLAMA3, pattern={"String": " "}), "is unknown"),
        (cut(LLAMA3, pattern=3), "is unknown"),
        ([cut(LLAMA3)[0], BYTE_LEVEL], "is unknown"),
        ([cut(LLAMA3)[0], DIGITS, PLAIN_BYTES], r"\(Split, Digits, ByteLevel\) is unknown"),
    ],
)
def test_unknown_definitions_are_refused(tmp_path: Path, steps: list[Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, steps)


def test_nfc_is_the_only_supported_normalizer(tmp_path: Path) -> None:
    composed = {"type": "Sequence", "normalizers": [{"type": "NFC"}]}
    assert byte_level(tmp_path, lambda t: t.update(normalizer=composed))["pre"] == "gpt-2"
    with pytest.raises(CheckpointError, match=r"does not support its normalizer \(Lowercase\)"):
        byte_level(tmp_path, lambda t: t.update(normalizer={"type": "Lowercase"}))


def test_check_text_and_fingerprints() -> None:
    text = pre_tokenizers.CHECK_TEXT
    assert len(text) == 350
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "a36179c1e2b1cfcfbfad1dc779addad2ffc778201e4cf0d538bddeafa2c526da"
    )
    assert all(len(key) == 64 and int(key, 16) for key in pre_tokenizers.FINGERPRINTS)
    known = {"gpt-2", "olmo", "llama-bpe", "smaug-bpe", "qwen2", "smollm", "dbrx", "refact", "gpt-4o", "tekken"}
    assert known <= set(pre_tokenizers.FINGERPRINTS.values())


def fingerprint_of(folder: Path, special: bool) -> str:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode(pre_tokenizers.CHECK_TEXT, add_special_tokens=special).ids
    return hashlib.sha256(str(ids).encode()).hexdigest()


@pytest.mark.parametrize("special", [True, False])
def test_the_fingerprint_takes_precedence_over_the_definition(
    tmp_path: Path, special: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Try it with BOS and, for a fine-tune that adds another token, without."""
    monkeypatch.setattr(pre_tokenizers, "_SMALLEST", 0)
    assert byte_level(tmp_path)["pre"] == "gpt-2"
    monkeypatch.setitem(pre_tokenizers.FINGERPRINTS, fingerprint_of(tmp_path, special), "falcon3")
    assert byte_level(tmp_path)["pre"] == "falcon3"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # as if `tokenizers` were not installed
    assert byte_level(tmp_path)["pre"] == "gpt-2"


def test_ignored_merges_override_the_name_of_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    byte_level(tmp_path)
    monkeypatch.setattr(pre_tokenizers, "_SMALLEST", 0)
    monkeypatch.setitem(pre_tokenizers.FINGERPRINTS, fingerprint_of(tmp_path, True), "smaug-bpe")
    assert byte_level(tmp_path)["pre"] == "smaug-bpe"
    assert byte_level(tmp_path, lambda t: t["model"].update(ignore_merges=True))["pre"] == "llama-bpe"


@pytest.mark.parametrize(
    "hostile",
    [
        {"padding": {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                     "pad_type_id": 0, "pad_token": "x"}},
        {"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x" * 1_000_000}},
        {"truncation": {"max_length": 10**15, "strategy": "LongestFirst", "stride": 10**15, "direction": "Right"}},
        {"decoder": {"type": "Sequence", "decoders": 5}},
    ],
)  # fmt: skip
def test_hostile_definitions_are_encoded_in_a_limited_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hostile: dict[str, Any]
) -> None:
    """To pad to 10^12 ids, `tokenizers` allocates terabytes, and Rust aborts."""
    pytest.importorskip("tokenizers")
    monkeypatch.setattr(pre_tokenizers, "_SMALLEST", 0)
    monkeypatch.setattr(pre_tokenizers, "_MEMORY", 1 << 29)
    start = time.perf_counter()
    with contextlib.suppress(CheckpointError):  # for a normalizer that llama.cpp does not support
        assert byte_level(tmp_path, lambda t: t.update(hostile))["pre"] == "gpt-2"
    assert time.perf_counter() - start < 15


def test_the_definition_decides_if_the_encoder_crashes_or_answers_nonsense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tokenizers")
    monkeypatch.setattr(pre_tokenizers, "_SMALLEST", 0)
    monkeypatch.syspath_prepend(tmp_path / "programs")
    (tmp_path / "programs").mkdir()
    for n, code in enumerate(("import os; os.abort()", "print('[')", "print('x')", "raise SystemExit(3)")):
        (tmp_path / "programs" / f"program_{n}.py").write_text(f"def main():\n    {code}\n", "utf-8")
        monkeypatch.setattr(pre_tokenizers, "_WORKER", f"program_{n}")
        assert byte_level(tmp_path)["pre"] == "gpt-2"


def test_both_sides_of_a_pair_are_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tokenizers")
    monkeypatch.setattr(pre_tokenizers, "_SMALLEST", 0)
    started = mock.Mock(wraps=sandbox.LimitedProcess)
    monkeypatch.setattr(sandbox, "LimitedProcess", started)
    seen = Seen()
    for side in ("base", "instruct"):
        (tmp_path / side).mkdir()
        tiny.write_tokenizer(tmp_path / side)
        vocabulary = read_vocabulary(tmp_path / side, tiny.CONFIG, seen)
        assert vocabulary.metadata["tokenizer.ggml.pre"].value == "gpt-2"
    assert started.call_count == 1
    change_json(tmp_path / "base" / "tokenizer.json", lambda t: t["model"].update(ignore_merges=True))
    read_vocabulary(tmp_path / "base", tiny.CONFIG, seen)
    assert started.call_count == 2


def test_errors_name_the_package_that_recognises_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only errors for vocabularies that are large enough for a fingerprint name the package `tokenizers`."""

    def large(t: dict[str, Any]) -> None:
        t["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": cut(LLAMA3.replace("{1,3}", "{1,2}"))}

    size = pre_tokenizers._SMALLEST

    def refusal() -> str:
        with pytest.raises(CheckpointError) as e:
            byte_level(tmp_path, large, vocab_size=size)
        return str(e.value)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert refusal().endswith("The package tokenizers recognises more of them: pip install tokenizers.")
    monkeypatch.undo()
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "dying_encoder.py").write_text("def main():\n    raise SystemExit(3)\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path / "programs")
    monkeypatch.setattr(pre_tokenizers, "_WORKER", "dying_encoder")
    pytest.importorskip("tokenizers")
    assert "The package tokenizers, which recognises more of them, cannot encode with it: " in refusal()
    monkeypatch.setattr(pre_tokenizers, "_SMALLEST", 1 << 20)
    assert refusal().endswith("use the .gguf file.")


@pytest.mark.parametrize("name", ["llama-3", "smollm3", "qwen", "smollm2", "olmo", "olmo-2", "phi-4", "mistral-nemo"])
def test_a_part_of_the_vocabulary_gives_the_same_ids(name: str, tmp_path: Path) -> None:
    """Try trained vocabularies with added tokens, normalizers and ignored merges."""
    tokenizers = pytest.importorskip("tokenizers")
    folder = build(name, tmp_path / name)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    whole = [tokenizer.encode(pre_tokenizers.CHECK_TEXT, add_special_tokens=special).ids for special in (True, False)]
    assert pre_tokenizers.check_ids(read_files(folder, read_config(folder))) == whole
    assert len(whole[1]) < 340  # most of the check text is in tokens of several characters


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["model"].update(dropout=0.5),
        lambda t: t["model"].update(continuing_subword_prefix="##"),
        lambda t: t["added_tokens"].append({"id": 300, "content": "word", "special": False, "single_word": True,
                                            "lstrip": False, "rstrip": False, "normalized": False}),
    ],
)  # fmt: skip
def test_the_definition_decides_for_models_that_merge_in_another_way(
    tmp_path: Path, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tokenizers")
    tiny.write_tokenizer(tmp_path)
    change_json(tmp_path / "tokenizer.json", change)
    with pytest.raises(EngineError):
        pre_tokenizers.check_ids(read_files(tmp_path, tiny.CONFIG))
    monkeypatch.setattr(pre_tokenizers, "_SMALLEST", 0)
    assert byte_level(tmp_path, change)["pre"] == "gpt-2"
