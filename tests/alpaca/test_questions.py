"""Questions from words: themselves, standard input, files; what is refused is in tests/cli/test_generate.py."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from pa_lite.alpaca import prompts
from pa_lite.alpaca.prompts import Prompt
from pa_lite.alpaca.questions import read_questions
from pa_lite.errors import InputError


def test_words_keep_their_order_and_standard_input_is_one_question(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("one\n\ntwo \u2028 three\r\n", "utf-8")
    found = read_questions(["a b", str(tmp_path / "q.txt"), "-", "what is foo.txt?"], io.BytesIO(b"\xef\xbb\xbfx\ny\n"))
    assert found == [
        Prompt("a b", "custom"), Prompt("one", "q"), Prompt("two \u2028 three", "q"), Prompt("x\ny", "custom"),
        Prompt("what is foo.txt?", "custom"),
    ]  # fmt: skip


def test_standard_input_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pa_lite.alpaca.questions.MOST_TEXT_BYTES", 10)
    assert read_questions(["-"], io.BytesIO(b"x" * 10))[0].instruction == "x" * 10
    with pytest.raises(InputError, match="standard input has more than"):
        read_questions(["-"], io.BytesIO(b"x" * 11))


def test_text_files_are_bounded_and_must_be_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "MOST_TEXT_BYTES", 10)
    (tmp_path / "long.txt").write_text("x" * 11)
    (tmp_path / "folder.txt").mkdir()
    for name, said in (("long.txt", "the limit is"), ("folder.txt", "it is a folder")):
        with pytest.raises(InputError, match=said):
            read_questions([str(tmp_path / name)], io.BytesIO())


@pytest.mark.skipif(os.name != "posix", reason="bytes that are not UTF-8 in arguments")
def test_words_that_are_not_text_are_refused() -> None:
    with pytest.raises(InputError, match="is not valid text"):
        read_questions([os.fsdecode(b"a \xff")], io.BytesIO())
