"""Questions as words of a command line: the words themselves, standard input, or files of prompts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from pa_lite.alpaca.outputs import load_prompts
from pa_lite.alpaca.prompts import MOST_TEXT_BYTES, Prompt
from pa_lite.errors import InputError

STDIN = "-"
DATASET = "custom"  # of questions that are not from a file
_FILE = re.compile(r"\S+\.(txt|jsonl?)", re.IGNORECASE)


def read_questions(words: Sequence[str], stdin: BinaryIO) -> list[Prompt]:
    """Return the prompts that words stand for, in their order.

    `-` is the whole of `stdin` as one question, a word such as `questions.txt` a file of prompts (see `load_prompts`),
    anything else a question. Raises InputError for an empty question, input that is not text, a file that is missing,
    and the name of an existing file of another kind.
    """
    if words.count(STDIN) > 1:
        raise InputError("standard input (-) can be read once.")
    return [prompt for word in words for prompt in _of_word(word, stdin)]


def _of_word(word: str, stdin: BinaryIO) -> list[Prompt]:
    if word == STDIN:
        return [Prompt(_read(stdin), DATASET)]
    if _FILE.fullmatch(word):
        if not Path(word).exists():
            raise InputError(
                f"{word}: does not exist. A question that is a file's name can be given on standard input (-)."
            )
        return load_prompts(str(Path(word)))
    if not word.strip():
        raise InputError("a question is empty.")
    if _is_file(word) and word.lower().endswith(".gguf"):
        raise InputError(f"{word}: is a model, not a question. Two checkpoints are named as --pair BASE INSTRUCT.")
    if _is_file(word):
        raise InputError(
            f"{word}: is a file, but only .txt, .json and .jsonl are read as prompts. For its text as one question, "
            f"use standard input: - < {word}"
        )
    try:
        word.encode("utf-8")
    except UnicodeEncodeError as e:
        raise InputError(f"question {word[:40]!r} is not valid text: {e.reason}.") from e
    return [Prompt(word, DATASET)]


def _is_file(word: str) -> bool:
    try:
        return not re.search(r"\s", word) and Path(word).is_file()
    except OSError:  # too long for a name
        return False


def _read(stdin: BinaryIO) -> str:
    data = stdin.read(MOST_TEXT_BYTES + 1)
    if len(data) > MOST_TEXT_BYTES:
        raise InputError(f"standard input has more than {MOST_TEXT_BYTES / 1e6:.0f} MB.")
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as e:
        raise InputError(f"standard input is not text in UTF-8: {e.reason} at byte {e.start}.") from e
    if not text:
        raise InputError("standard input is empty.")
    return text
