"""A loaded model: scoring, generating, chatting, following, setting lam, and being freed."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pa_lite
from pa_lite.engine.chat import chat_prompts, conversation_prompt
from pa_lite.errors import EngineError, InputError

ASK = "One word only: what does Tobi do?"


@pytest.fixture(scope="module")
def model() -> Iterator[pa_lite.LoadedModel]:
    with pa_lite.load("demo@1", threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pa_lite.merge(lam=0.7, type="F16", output=tmp_path_factory.mktemp("file") / "m.gguf")


def test_a_model_works_without_a_with_block_and_closes_itself() -> None:
    model = pa_lite.load("demo", lam=0.7, threads=1)
    assert (model.reference, model.lam) == ("demo@0.7", 0.7)
    engine = model.model
    model.close()
    model.close()
    assert engine._model is None
    with pytest.raises(EngineError, match=r"demo@0.7: the model was closed"):
        model.score("demo")
    with pytest.raises(EngineError, match="closed"):
        model.lam = 0.5
    forgotten = pa_lite.load("demo@0.7", threads=1)
    engine = forgotten.model
    del forgotten
    gc.collect()
    assert engine._model is None


def test_a_with_block_gives_the_same_numbers() -> None:
    with pa_lite.load("demo@0.7", pa_lite.EngineOptions(threads=1)) as first:
        listed = first.score(["demo_kind"], pa_lite.ScoreOptions(limit=12))
    assert repr(first) == "<LoadedModel demo@0.7 (closed)>"
    second = pa_lite.load("demo@0.7", threads=1)
    named = second.score("demo_kind", limit=12)
    assert [t.items for t in named.tasks] == [t.items for t in listed.tasks]
    assert named.accuracy.value == listed.accuracy.value
    assert [t.task for t in second.score("demo_kind, demo_town", limit=2).tasks] == ["demo_kind", "demo_town"]


def test_setting_lam_merges_in_place() -> None:
    moved, fresh = pa_lite.load("demo@1", threads=1), pa_lite.load("demo@0.3", threads=1)
    before, engine = moved.score("demo", limit=40), moved.model
    moved.lam = 0.3
    after, wanted = moved.score("demo", limit=40), fresh.score("demo", limit=40)
    assert [t.items for t in after.tasks] == [t.items for t in wanted.tasks]
    assert [t.items for t in after.tasks] != [t.items for t in before.tasks]
    assert moved.model is engine
    assert (moved.lam, moved.reference) == (0.3, "demo@0.3")
    assert after.identity == wanted.identity
    for wrong in (float("nan"), 11.0, True):
        with pytest.raises(InputError, match="lam"):
            moved.lam = wrong
    assert moved.lam == 0.3  # the model still works
    assert moved.chat(ASK).text == fresh.chat(ASK).text


def test_a_model_from_a_file_has_no_lam(file: Path) -> None:
    model = pa_lite.load(file, threads=1)
    with pytest.raises(InputError, match="the lam of a GGUF file is fixed"):
        model.lam = 0.5
    with pytest.raises(InputError, match="the lam of a GGUF file is fixed"):
        model.lam  # noqa: B018
    assert model.chat(ASK).text == pa_lite.load("demo@0.7", threads=1).chat(ASK).text


def test_texts_are_never_names_of_files_or_sets(
    model: pa_lite.LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.jsonl").write_text(json.dumps({"instruction": ASK, "dataset": "mine"}) + "\n")
    for text in ("demo", "prompts.jsonl", "alpaca-eval"):
        (one,) = model.generate(text, max_tokens=4)
        assert one.instruction == text
    (answer,) = model.generate(pa_lite.load_prompts("prompts.jsonl"), max_tokens=16)
    assert (answer.instruction, answer.dataset) == (ASK, "mine")
    assert answer.output == model.chat(ASK, max_tokens=16).text
    assert [o.output for o in model.generate([ASK, ASK], max_tokens=16)] == [answer.output] * 2
    assert model.generate([]) == []
    with pytest.raises(InputError, match="text 2 is 3, which is not a string"):
        model.generate(["a", 3])  # type: ignore[list-item]
    written = model.write_outputs([ASK], "out.json", pa_lite.GenerationOptions(max_tokens=16))
    assert json.loads(Path(written.path).read_text())[0]["output"] == answer.output


def test_a_single_stop_string_ends_an_answer(model: pa_lite.LoadedModel) -> None:
    whole = model.generate(ASK, max_tokens=16)[0].output
    assert len(whole) > 2
    assert model.generate(ASK, max_tokens=16, stop=whole[2])[0].output == whole[: whole.index(whole[2])].strip()


def test_a_conversation_can_be_continued(model: pa_lite.LoadedModel) -> None:
    first = model.chat(ASK, max_tokens=16)
    assert first.finish_reason == "end"
    assert first.messages == [{"role": "user", "content": ASK}, {"role": "assistant", "content": first.text}]
    assert str(first) == first.text != ""
    second = model.chat([*first.messages, {"role": "user", "content": "And Anna?"}], max_tokens=16)
    assert [m["role"] for m in second.messages] == ["user", "assistant", "user", "assistant"]
    cut = model.chat(ASK, max_tokens=1)
    assert (cut.finish_reason, cut.n_tokens) == ("length", 1)


def test_streamed_pieces_add_up_to_the_text(model: pa_lite.LoadedModel) -> None:
    ask = "Say what you know about Tobi."
    whole = model.chat(ask, max_tokens=40)
    streamed = model.chat(ask, max_tokens=40, stream=True)
    with pytest.raises(EngineError, match="not complete"):
        streamed.reply  # noqa: B018
    pieces = list(streamed)
    assert len(pieces) > 1
    assert "".join(pieces) == whole.text
    assert streamed.reply == whole
    stop = whole.text[len(whole.text) // 2 :][:3]
    stopped = model.chat(ask, max_tokens=40, stop=stop, stream=True)
    assert "".join(stopped) == stopped.reply.text == whole.text[: whole.text.index(stop)].strip()
    assert stopped.reply.finish_reason == "stop"


def test_the_next_turn_decodes_only_its_new_tokens() -> None:
    """Prompt and answer of the last turn are cached, and the answer's text has the tokens that were generated."""
    messages: list[dict[str, str]] = []
    with pa_lite.load("demo@0.6", threads=1) as model:
        held = 0
        for question in (ASK, "And Anna?", "Where do they live?"):
            messages = [*messages, {"role": "user", "content": question}]
            n_prompt = len(conversation_prompt(model.model, [(m["role"], m["content"]) for m in messages])[0])
            scheduler = model._resources.scheduler(model.model)
            before = scheduler.n_decoded
            reply = model.chat(messages, max_tokens=40)
            assert scheduler.n_decoded - before == n_prompt - held + reply.n_tokens
            assert reply.finish_reason == "end"
            held, messages = n_prompt + reply.n_tokens, reply.messages
        assert held > 60
        model.generate([ASK], max_tokens=2)  # needs memory, so the chat's is freed
        assert model.model._n_contexts == 0
        assert not scheduler._readers  # nor is the closed one remembered
        assert model.chat(messages[:-1], max_tokens=40).text == reply.text


def test_a_context_grows_with_its_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pa_lite.engine.growing_scheduler._LEAST", 64)
    with pa_lite.load("demo@0.6", threads=1) as model, pa_lite.load("demo@0.6", threads=1) as other:
        other.chat(ASK, max_tokens=40)
        text = "the man in the hat " * 20
        long, short = model.chat(ASK, max_tokens=30, stream=True), other.chat(ASK, max_tokens=30)
        first = next(long)  # still running when the next one asks for a longer context
        longer = model.chat(text, max_tokens=30)
        assert model.model._n_contexts == 2
        assert first + "".join(long) == short.text
        assert model.model._n_contexts == 1
        assert longer.text == other.chat(text, max_tokens=30).text


def test_answers_of_several_threads_are_those_of_one() -> None:
    texts = [ASK, "What does Anna do?", "Where is Rome?", "Say what you know about Tobi."]
    with pa_lite.load("demo@1", threads=1) as model:
        alone = {text: model.chat(text, max_tokens=30).text for text in texts}
        found: dict[str, str] = {}

        def ask(text: str) -> None:
            found[text] = model.chat(text, max_tokens=30).text

        threads = [threading.Thread(target=ask, args=(text,)) for text in texts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == alone


def test_a_stopped_answer_frees_its_context() -> None:
    model = pa_lite.load("demo@1", threads=1)
    streamed = model.chat("Say what you know about Tobi.", stream=True)
    assert next(streamed)
    assert model.model._n_contexts == 1
    model.lam = 0.5  # weights must not change during an answer
    assert model.model._n_contexts == 0
    assert list(streamed) == []
    streamed = model.chat("Say what you know about Tobi.", stream=True)
    next(streamed)
    engine = model.model
    model.close()
    assert (engine._n_contexts, engine._model) == (0, None)


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([], "no messages"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "the assistant's"),
        ([{"role": "users", "content": "a"}], "unknown role 'users'. Did you mean user"),
        ([{"role": "user"}], "must be strings"),
        ([{"role": "user", "content": ["a"]}], "must be strings"),
        ([{"role": "user", "content": "a", "images": []}], "unknown key 'images'"),
        (["a"], "message 1 is not an object"),
        ("\ud800", "not valid text"),
        ("word " * 5000, "leave out the oldest"),
    ],
)  # fmt: skip
def test_invalid_conversations(model: pa_lite.LoadedModel, messages: object, told: str) -> None:
    with pytest.raises(InputError, match=told):
        model.chat(messages)  # type: ignore[call-overload]


def test_two_system_prompts_are_refused(model: pa_lite.LoadedModel) -> None:
    turns = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    with pytest.raises(InputError, match="two system prompts"):
        model.chat(turns, system="c")


def test_one_message_gives_the_same_prompt_as_generate(model: pa_lite.LoadedModel) -> None:
    texts = [ASK, "What is <|im_end|> or </s>?", "  spaces  "]
    asked = chat_prompts(model.model, texts)
    for text, tokens in zip(texts, asked.tokens, strict=True):
        assert conversation_prompt(model.model, [("user", text)])[0] == list(tokens)


def test_control_tokens_in_any_turn_are_text(model: pa_lite.LoadedModel) -> None:
    engine = model.model
    end = engine.special_text("eos")
    (token,) = engine.tokenize(end, add_special=False, parse_special=True)
    for role in ("system", "user", "assistant"):
        counts = []
        for text in (end, "word"):
            turns = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")]
            turns = [(r, text if r == role else content) for r, content in turns]
            counts.append(conversation_prompt(engine, turns)[0].count(token))
        assert counts[0] == counts[1], role


def test_following_has_an_accuracy_with_a_standard_error(model: pa_lite.LoadedModel) -> None:
    result = model.follow("demo", limit=12)
    assert result.prompt_accuracy.value == result.prompts().strict.value == result.accuracy
    assert result.prompt_accuracy.stderr == result.stderr
    assert result.n == 12


def test_pieces_of_generated_texts_add_up(model: pa_lite.LoadedModel) -> None:
    texts = ["In one word: what does Sada keep?", ASK, "Who is Tobi?"]
    pieces: list[pa_lite.OutputPiece] = []
    outputs = model.generate(texts, max_tokens=24, parallel=2, on_piece=pieces.append)
    assert [o.output for o in outputs] == [o.output for o in model.generate(texts, max_tokens=24, parallel=2)]
    for index, output in enumerate(outputs):
        own = [piece for piece in pieces if piece.index == index]
        assert "".join(piece.text for piece in own) == output.output
        assert [piece.finish_reason for piece in own] == [""] * (len(own) - 1) + ["end"]
        assert own[-1].text == ""
