"""The state of a chat, with the embedded pair: turns, undo, retry, the full context, moves, comparisons."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import pa_lite
from pa_lite.api.serving import open_chat
from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.generation_options import GenerationOptions
from pa_lite.errors import EngineError, InputError
from pa_lite.serving.conversation_session import ChatSession, ContextFullError, LiveTurn
from tests.support.parrots import write_parrot

ASK = "In one word: what does Sada keep?"
WORDS = ["one ", "two ", "three ", "four ", "five ", "six "]
ONE = pa_lite.EngineOptions(threads=1)


@pytest.fixture(scope="module")
def opened() -> Iterator[ChatSession]:
    with open_chat("demo", GenerationOptions(max_tokens=24), engine=ONE, max_memory="60M") as session:
        yield session


@pytest.fixture
def session(opened: ChatSession) -> Iterator[ChatSession]:
    """An empty conversation at lam 0.6, on the same models."""
    opened.clear()
    opened.set_system("")
    opened.options = GenerationOptions(max_tokens=24)
    opened.move(0.6)
    yield opened
    opened.clear()


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that repeats some words up to the limit of tokens."""
    folder = tmp_path_factory.mktemp("endless")
    base = write_parrot(folder / "model", WORDS, loops=True, context=4096)
    return pa_lite.merge(base, base, lam=0, type="f16", output=folder / "m.gguf")


def text_of(live: LiveTurn) -> str:
    return "".join(piece.text for piece in live.pieces())


def alone(lam: float, messages: list[dict[str, str]], system: str = "") -> str:
    """Return the answer of the model merged at that lam, without a chat."""
    with pa_lite.load("demo", ONE, lam=lam) as model:
        return model.chat(messages, max_tokens=24, system=system or None).text


def test_answers_are_those_of_the_model_at_the_lam(session: ChatSession) -> None:
    asked = {"role": "user", "content": ASK}
    first = text_of(session.ask(ASK))
    assert first == alone(0.6, [asked])
    assert session.move("1") is not None
    assert session.lam == 1.0
    second = text_of(session.ask(ASK))
    assert second == alone(1.0, [asked, {"role": "assistant", "content": first}, asked])
    assert [turn.answer.lam for turn in session.turns] == [0.6, 1.0]
    assert [turn.answer.text for turn in session.turns] == [first, second] != [first, first]
    assert session.n_used == session.turns[-1].answer.n_prompt + session.turns[-1].answer.n_tokens


def test_a_turn_decodes_only_what_is_new(session: ChatSession) -> None:
    text_of(session.ask(ASK))
    text_of(session.ask("And what does Mili wear?"))
    second = session.turns[1].answer
    assert second.n_reused >= session.turns[0].answer.n_prompt - 1
    assert second.n_prompt - second.n_reused < 25


def test_a_lam_in_memory_is_not_moved_again(session: ChatSession) -> None:
    session.move(0.25)
    assert session.move(0.6) is None
    assert session.move(0.254) is None  # two decimals
    assert session.lam == 0.25
    with pytest.raises(InputError, match=r"lam 1.5 is outside \[0, 1\]"):
        session.move(1.5)
    with pytest.raises(InputError, match="'x' is not a number"):
        session.move("x")
    assert session.lam == 0.25


def test_undo_and_clear(session: ChatSession) -> None:
    text_of(session.ask("One"))
    text_of(session.ask("Two"))
    assert session.undo().question == "Two"
    assert [turn.question for turn in session.turns] == ["One"]
    assert session.clear() == 1
    for call in (session.undo, session.retry, session.forget, lambda: session.compare([0])):
        with pytest.raises(InputError, match="the conversation is empty"):
            call()
    with pytest.raises(InputError, match="the message is empty"):
        session.ask(" \n")


def test_retry_replaces_the_answer_with_other_random_numbers(session: ChatSession) -> None:
    session.options = GenerationOptions(max_tokens=24, temperature=3)
    first = text_of(session.ask(ASK))
    retried = [text_of(session.retry()) for _ in range(3)]
    assert len({first, *retried}) > 1
    assert [turn.answer.text for turn in session.turns] == retried[-1:]
    assert session.turns[0].attempt == 3
    before = session.turns[0]
    with session.retry() as live:
        pass  # stopped, most likely before its text starts
    assert session.turns == [live.turn or before]
    session.options = GenerationOptions(max_tokens=24, temperature=3)
    session.clear()
    assert text_of(session.ask(ASK)) == first  # the same seed gives the same answer


def test_the_system_prompt_counts_from_the_next_answer_on(session: ChatSession) -> None:
    asked = {"role": "user", "content": ASK}
    first = text_of(session.ask(ASK))
    session.set_system("Answer in capitals.")
    second = text_of(session.ask(ASK))
    assert second == alone(0.6, [asked, {"role": "assistant", "content": first}, asked], "Answer in capitals.")
    session.set_system("")
    assert session.chat == ChatOptions()


def test_a_comparison_leaves_the_conversation_alone(session: ChatSession) -> None:
    text_of(session.ask("Who is Tobi?"))
    text_of(session.ask(ASK))
    before = list(session.turns)
    live = session.compare([0, 0.5, "1"])
    answers = live.result()
    assert session.turns == before
    assert session.lam == 0.6
    assert (live.question, live.lams) == (ASK, [0.0, 0.5, 1.0])
    messages = [
        {"role": "user", "content": "Who is Tobi?"},
        {"role": "assistant", "content": before[0].answer.text},
        {"role": "user", "content": ASK},
    ]
    assert [a.text for a in answers] == [alone(lam, messages) for lam in live.lams]
    assert len({a.text for a in answers}) > 1
    with pytest.raises(InputError, match=r"lam 0\.5 is named twice"):
        session.compare([0.5, 0.501])


def test_a_full_context_drops_turns_only_when_asked(session: ChatSession) -> None:
    long = "In one word: what does Sada keep, and what does Mili wear, and where does Bana live? " * 3
    n = 0
    with contextlib.suppress(ContextFullError):
        for n in range(20):
            text_of(session.ask(f"{n} {long}"))
    assert len(session.turns) == n > 2
    with pytest.raises(ContextFullError, match="/forget drops the oldest turn and asks again") as caught:
        session.ask(f"{n} {long}")
    assert caught.value.n_oldest == 1
    assert session.refused == f"{n} {long}"
    assert session.forget() == 1
    text_of(session.ask(session.refused))
    assert [turn.question.split()[0] for turn in session.turns] == [str(i) for i in range(1, n + 1)]
    with pytest.raises(ContextFullError, match=r"drops the \d oldest turns") as caught:
        session.ask(f"x {long} {long}")
    assert session.forget() == caught.value.n_oldest > 1
    with pytest.raises(InputError, match=r"exceeds the context of 512\. Shorten it"):
        session.ask(long * 9)
    with pytest.raises(InputError, match="/forget takes a number from 1 to that"):
        session.forget(99)


def test_with_forgets_the_oldest_turns_are_dropped_and_counted(session: ChatSession) -> None:
    session.forgets = True
    try:
        forgotten = []
        for n in range(9):
            live = session.ask(f"{n} In one word: what does Sada keep, and what does Mili wear, and Bana? " * 3)
            text_of(live)
            forgotten.append(live.n_forgotten)
        assert forgotten[0] == 0
        assert sum(forgotten) == 9 - len(session.turns) > 0
    finally:
        session.forgets = False


def test_a_stopped_answer_stays_and_is_marked(endless: Path) -> None:
    with open_chat(str(endless), GenerationOptions(max_tokens=4000), engine=ONE) as session:
        with session.ask("Count.") as live:
            shown = next(live.pieces()).text
        assert live.turn is not None
        answer = live.turn.answer
        assert answer.finish_reason == "stopped"
        assert answer.text.startswith(shown)
        assert answer.text == (shown + live.rest.text).strip()
        assert 0 < len(answer.text) < 4000 * 3
        session.options = GenerationOptions(max_tokens=5)
        assert text_of(session.ask("Count.")) == "one two three four five"
        assert [turn.answer.finish_reason for turn in session.turns] == ["stopped", "length"]
        assert session.lam is None
        with pytest.raises(InputError, match="the lam of a GGUF file is fixed"):
            session.move(0.5)
        with pytest.raises(InputError, match="only a pair can be compared"):
            session.compare([0.5])


def test_a_failed_answer_leaves_the_conversation_as_it_was(session: ChatSession) -> None:
    text_of(session.ask("One"))
    live = session.ask("Two")
    live.answer._answer.fail(EngineError("it broke."))
    with pytest.raises(EngineError, match="it broke"):
        text_of(live)
    assert [turn.question for turn in session.turns] == ["One"]
    again = session.retry()
    again.answer._answer.fail(EngineError("it broke."))
    with pytest.raises(EngineError, match="it broke"):
        text_of(again)
    assert [turn.question for turn in session.turns] == ["One"]
