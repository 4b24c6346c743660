"""What is shown while a turn arrives adds up to its result, for any pieces, stop strings and reasoning."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from pa_lite.engine.answer_text import AnswerText, StopText
from pa_lite.engine.reasoning import ReasoningFormat

TEXTS = st.text(st.sampled_from("ab |é🚀\n"), max_size=30)
STOPS = st.lists(st.text(st.sampled_from("ab|é"), min_size=1, max_size=4), max_size=3)


def feed(turn: StopText | AnswerText, text: str, seed: int) -> tuple[str, str, str]:
    """Return the text and the reasoning that were shown, and why the turn ended."""
    raw, rng, at = text.encode(), random.Random(seed), 0
    shown = reasoning = ""
    reason = "end"
    while at < len(raw):
        n = rng.randint(1, 5)
        if turn.add(raw[at : at + n]):
            reason = "stop"
            break
        at += n
        shown += turn.fresh()
        reasoning += turn.fresh_reasoning()
    turn.result(1, reason)
    return shown + turn.fresh(is_done=True), reasoning + turn.fresh_reasoning(), reason


@given(TEXTS, STOPS, st.integers(0, 2**32))
def test_pieces_add_up_to_the_text(text: str, stops: list[str], seed: int) -> None:
    turn = StopText(stops)
    shown, reasoning, reason = feed(turn, text, seed)
    assert shown == turn.result(1, reason).text
    assert reasoning == ""


@given(TEXTS, TEXTS, STOPS, st.integers(0, 2**32))
def test_pieces_of_reasoning_and_answer_add_up(thought: str, text: str, stops: list[str], seed: int) -> None:
    turn = AnswerText(stops, ReasoningFormat())
    shown, reasoning, reason = feed(turn, f"<think>{thought}</think>{text}", seed)
    twin = AnswerText(stops, ReasoningFormat())
    expected = (twin.add(f"<think>{thought}</think>{text}".encode()), twin.result(1, reason))[1]
    assert reasoning == expected.reasoning == thought.strip()
    assert shown == turn.result(1, reason).text
    assert expected.text.startswith(shown.rstrip()) or reason == "stop"


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    turn = StopText(["\n\nUser:", "END"])
    shown = []
    for piece in (b"Hello", b" E", b"N", b"d\n", b"\nUs", b"e it"):
        assert not turn.add(piece)
        shown.append(turn.fresh())
    assert shown == ["Hello", " ", "", "ENd", "", "\n\nUse it"]
