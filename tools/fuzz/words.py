"""Fuzzing target for texts: long words, runs and special tokens for each pre-tokenizer of llama.cpp.

Texts that pa-lite accepts must get llama.cpp's ids, within the stack and time given in `pa_lite.engine.pre_tokenizers`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from pa_lite.engine.model_vocabulary import ModelVocabulary
from pa_lite.errors import InputError
from tests.support.bare_vocabularies import PRE_TOKENIZERS, direct_ids, load_vocabulary
from tools.fuzz.gguf import some_text
from tools.fuzz.oracle import Target

_UNITS = (
    "a", "A", "aA", "\u00e9", "\u00c9", "\u01c5", "\u4e16", "\u3042", "\uac00", "\u0e01", "7", "\u0663", "\u00bd",
    " ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u0085", "\x1c", "\x01", "!", ".", "/", "'", "'s", "'LL", "\u3002",
    "(", "$", "\U0001f600", "\u0301", "e\u0301", "\u0301e", "\ue000", "\u200d", "a1", "1,", "a ", " a", "ab cd ",
    "!\n", " \n", "<sentinel:1>", "IMGIMGAZ", "aa", "<dna>", "<|x|>", "<|y|>", "<mask>", "<|x", "  ", "\n\n",
)  # fmt: skip
_LONGEST = 30_000  # characters of a text: 20 MB of stack
_MOST_PARTS = 12
_SECONDS = 10  # of processor time for a text, on a busy machine


def _files(data: bytes) -> Mapping[str, bytes]:
    for pre in PRE_TOKENIZERS:  # loaded before the watch: they use temporary files
        load_vocabulary(pre)
    return {"words.json": data}


def _read(folder: Path) -> None:
    text, model, add_special, parse_special = _parsed(folder / "words.json")
    start = time.process_time()
    fault = model.text_fault(text, parse_special)
    ids = model.tokenize(text, add_special, parse_special)  # raises TextError with the same fault
    assert fault is None, "a text that should be refused was accepted"
    assert time.process_time() - start < _SECONDS, "it takes too long"
    assert ids == direct_ids(model, text, add_special, parse_special), "llama.cpp has other ids"


def _parsed(path: Path) -> tuple[str, ModelVocabulary, bool, bool]:
    """Return the text, the vocabulary and the tokenizer's options. Raises InputError for another kind of document."""
    try:
        found = json.loads(path.read_bytes())
        parts = [(str(unit), min(max(int(n), 0), _LONGEST)) for unit, n in found["parts"][:_MOST_PARTS]]
        text = "".join(unit[:_LONGEST] * (n // max(1, len(unit))) for unit, n in parts)[:_LONGEST]
        text.encode()
        pre = PRE_TOKENIZERS[int(found["pre"]) % len(PRE_TOKENIZERS)]
        return text, load_vocabulary(pre), bool(found["add"]), bool(found["parse"])
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as e:
        raise InputError(f"words.json: is not a text to tokenise ({type(e).__name__}).") from e


def mutate_words(data: bytes, random: Random) -> bytes:
    """Change a unit, a length, the pre-tokenizer or the options; or some bytes."""
    try:
        found: dict[str, Any] = json.loads(data)
        parts: list[list[Any]] = found["parts"]
    except (ValueError, TypeError, LookupError):
        return _document(random.randrange(len(PRE_TOKENIZERS)), [["a", 100]])
    choice = random.randrange(8)
    if choice == 0:
        found["pre"] = random.randrange(len(PRE_TOKENIZERS))
    elif choice == 1:
        found[random.choice(("add", "parse"))] = random.random() < 0.5
    elif choice == 2 and parts:
        del parts[random.randrange(len(parts))]
    elif choice == 3 and parts:
        parts[random.randrange(len(parts))][0] = some_text(random, b"a1 ").decode("utf-8", "replace") or "a"
    elif choice == 4 and parts:
        parts[random.randrange(len(parts))][1] = random.choice((0, 1, 2, 3, 255, 257, 2001, 4001, _LONGEST))
    else:
        length = random.choice((1, 2, 7, 300, 2500, 10_000))
        parts.insert(random.randrange(len(parts) + 1), [random.choice(_UNITS), random.randrange(length) + 1])
    return json.dumps(found).encode()


def _document(pre: int, parts: list[list[Any]], add: bool = True, parse: bool = True) -> bytes:
    return json.dumps({"pre": pre, "parts": parts, "add": add, "parse": parse}).encode()


def _seeds() -> list[bytes]:
    """Return a run of letters for pre-tokenizers of every kind, and a text beyond the limit of one."""
    kinds = ("gpt-2", "llama-bpe", "qwen2", "kimi-k2", "gemma4", "gpt-4o", "tekken", "deepseek-v3", "bloom", "default",
             "exaone-moe", "falcon", "youtu", "whitespace", "tiny_aya", "jais-2")  # fmt: skip
    seeds = [_document(PRE_TOKENIZERS.index(pre), [["a", 9000], ["<|x|>", 5], ["7!", 900]]) for pre in kinds]
    return [
        *seeds,
        _document(PRE_TOKENIZERS.index("superbpe"), [["7", 3000], ["a", 5]]),
        _document(PRE_TOKENIZERS.index("superbpe"), [["7", 9000]]),
        _document(PRE_TOKENIZERS.index("deepseek-llm"), [[" ", 2500], ["7", 5]]),
        _document(PRE_TOKENIZERS.index("deepseek-llm"), [[" ", 9000], ["7", 5]]),
        _document(PRE_TOKENIZERS.index("phi-2"), [["<|x|>", 20_000]]),
        b"{}",
    ]


TARGETS = (
    Target("words", "long words, runs and special tokens for each pre-tokenizer", _files, _read, mutate_words, _seeds,
           longest=1 << 12, bounded=False),
)  # fmt: skip
