"""Reasoning is separated from the answer: in whole texts, in pieces of any size, and while a real model generates."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pa_lite.engine.answer_text import AnswerText
from pa_lite.engine.generation import GenerationOptions, generate
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.reasoning import (
    DEFAULT,
    MARKERS,
    Markers,
    ReasoningFormat,
    ReasoningSplitter,
    find_markers,
    opened_by,
    split_reasoning,
)

HARMONY = next(m for m in MARKERS if "analysis" in m.start)
CASES = [
    ("plain", "", "plain", True),
    ("", "", "", True),
    ("  two spaces", "", "  two spaces", True),
    ("<think>a</think>b", "a", "b", True),
    ("\n<think>\n\n</think>\n\nHi", "", "Hi", True),
    (" Hi <think>x</think>", "", " Hi <think>x</think>", True),
    ("<think>a", "a", "", False),
    ("<think>", "", "", False),
    ("<thi", "", "<thi", True),
    ("<think><think>a</think>b", "a", "b", True),
    ("<think>a<think>b</think>c</think>d", "a<think>b</think>c", "d", True),
    ("<think>use the <think> tag</think> answer", "use the <think> tag", "answer", True),
    ("<think>a</think>\n<think>b</think> c", "a\n\nb", "c", True),
    ("a</think>b", "a", "b", True),
    ("use <think> and </think> like so", "", "use <think> and </think> like so", True),
    ("[THINK]a[/THINK]b", "a", "b", True),
    ("<seed:think>a</seed:think>b", "a", "b", True),
    ("<reasoning>a</reasoning>b", "a", "b", True),
    ("<|channel>thought\na<channel|>b", "a", "b", True),
    ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b", "a", "b", True),
    ("Here are my reasoning steps: none.", "", "Here are my reasoning steps: none.", True),
    ("Here are my reasoning steps:\na[BEGIN FINAL RESPONSE]\nb", "a", "b", True),
]


@pytest.mark.parametrize(("text", "reasoning", "answer", "ended"), CASES)
def test_whole_texts_are_split(text: str, reasoning: str, answer: str, ended: bool) -> None:
    assert split_reasoning(text) == (reasoning, answer, ended)


@given(st.lists(st.sampled_from(["<think>", "</think>", "<th", "ink>", "</", "a", " ", "\n", "é"]), max_size=14),
       st.integers(1, 7), st.booleans())  # fmt: skip
def test_pieces_of_any_size_give_the_same_split(parts: list[str], size: int, is_open: bool) -> None:
    """Nothing is lost or repeated: without markers and spaces, input and output are the same."""
    text = "".join(parts)

    def split(pieces: list[str]) -> tuple[str, str, bool]:
        splitter = ReasoningSplitter(opened=DEFAULT if is_open else None)
        out = [splitter.feed(piece) for piece in pieces]
        is_ended = not splitter.in_reasoning
        out.append(splitter.finish())
        return "".join(p.reasoning for p in out).strip(), "".join(p.answer for p in out), is_ended

    whole = split([text])
    assert split([text[i : i + size] for i in range(0, len(text), size)]) == whole
    if not is_open and not text.lstrip().startswith("<think>"):
        assert whole == ("", text, True)

    def bare(value: str) -> str:
        return "".join(value.replace("</think>", "").replace("<think>", "").split())

    assert bare(whole[0]) + bare(whole[1]) == bare(text) or text.count("<th") + text.count("</") > 1


@pytest.mark.parametrize(
    "text",
    [
        "<think>" * 100_000,
        "<think>" + "x<think>" * 50_000 + "</think>" * 60_000,
        "\n" * 1_000_000,
        "<think></think>" * 50_000,
        "<think>a<think>b</think>" + "z" * 1_000_000,
    ],
    ids=["starts", "nested", "lines", "empty", "pending"],
)
def test_long_texts_take_linear_time(text: str) -> None:
    start = time.process_time()
    split_reasoning(text)
    assert time.process_time() - start < 5


def test_the_prompt_may_open_reasoning() -> None:
    assert opened_by("<|im_start|>assistant\n<think>\n", MARKERS) is DEFAULT
    assert opened_by("<|im_start|>assistant\n<think>\n\n</think>\n\n", MARKERS) is None
    assert opened_by("<|im_start|>assistant\n", MARKERS) is None
    assert opened_by("assistant\n</think>", MARKERS) is None


def test_formats_are_found_in_the_template_or_vocabulary() -> None:
    assert find_markers(lambda _word: False) == (DEFAULT,)
    assert find_markers(lambda word: word == "[/THINK]") == (Markers("[THINK]", "[/THINK]"),)
    assert find_markers(lambda word: word == "<|end|>") == (DEFAULT,)  # also ends turns of models without reasoning
    assert find_markers(lambda word: word == HARMONY.start) == (HARMONY,)


def test_stop_strings_do_not_count_in_reasoning() -> None:
    text = AnswerText(["STOP"], ReasoningFormat())
    assert not text.add(b"<think>a STOP b</think>")
    assert not text.add(b"answer ST")
    assert text.add(b"OP more")
    assert text.result(9, "stop") == text.result(9, "stop")
    result = text.result(9, "stop")
    assert (result.reasoning, result.text, result.ended, result.reason) == ("a STOP b", "answer ", False, "stop")


def test_control_tokens_that_are_markers_are_spelled_until_the_answer_starts() -> None:
    form = ReasoningFormat((HARMONY,), None, {7: "<|channel|>", 8: "<|message|>", 9: "<|end|>"})
    text = AnswerText([], form)
    for token, piece in ((7, b""), (1, b"analysis"), (8, b""), (2, b"hm")):
        text.add(text.piece(token) or piece)
    assert text.ends_reasoning(9)
    text.add(text.piece(9) or b"")
    assert not text.ends_reasoning(9)
    text.add(b"Yes")
    assert text.piece(7) is None
    result = text.result(5, "end")
    assert (result.reasoning, result.text, result.ended) == ("hm", "Yes", True)
    text = AnswerText([], form)
    for token, piece in ((7, b""), (1, b"other")):
        text.add(text.piece(token) or piece)
    assert text.result(2, "end").text == "other"  # a control token that is not a marker is not shown


def test_the_reasoning_of_a_model_is_separated(tiny_ggufs: dict[str, Path]) -> None:
    """The end marker is a text that the model generates anyway, so the tokens do not change."""
    with Model(tiny_ggufs["F32"], EngineOptions(threads=1, cache_type="F32")) as model:
        prompt = model.tokenize("the man")
        (free,) = generate(model, [prompt], GenerationOptions(max_tokens=24))
        word = next(free.text[i : i + 2] for i in range(4, 12) if free.text[i : i + 2].strip().isprintable()
                    and "�" not in free.text[i : i + 2])  # fmt: skip
        before, _, after = free.text.partition(word)
        markers = Markers("<think>", word)
        opened = ReasoningFormat((markers,), markers)
        (got,) = generate(model, [prompt], GenerationOptions(max_tokens=24), reasoning=[opened])
        assert (got.reasoning, got.text) == (before.strip(), after.lstrip())
        assert (got.n_tokens, got.reason) == (free.n_tokens, free.reason)
        never = Markers("<think>", "</think>")
        (cut,) = generate(
            model, [prompt], GenerationOptions(max_tokens=24), reasoning=[ReasoningFormat((never,), never)]
        )
        assert (cut.reasoning, cut.text, cut.ended) == (free.text.strip(), "", False)
        (plain,) = generate(model, [prompt], GenerationOptions(max_tokens=24), reasoning=[ReasoningFormat()])
        assert plain == free


def test_a_turn_that_ends_within_its_reasoning_has_not_ended(
    tiny_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Model(tiny_ggufs["F32"], EngineOptions(threads=1, cache_type="F32")) as model:
        prompt = model.tokenize("the man")
        form = ReasoningFormat((DEFAULT,), DEFAULT)
        monkeypatch.setattr(model, "is_end", lambda _token: True)
        (got,) = generate(model, [prompt], GenerationOptions(max_tokens=8), reasoning=[form])
        assert (got.text, got.ended, got.reason) == ("", False, "reasoning")
        (got,) = generate(model, [prompt], GenerationOptions(max_tokens=8), reasoning=[ReasoningFormat()])
        assert (got.ended, got.reason) == (True, "end")
