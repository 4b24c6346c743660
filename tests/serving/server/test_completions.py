"""Completions: texts and token ids, continued or scored, with values equal to those of the scoring path."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pa_lite.engine.requests import Request
from pa_lite.engine.scoring import score_requests
from pa_lite.serving.server.descriptions import Completion
from pa_lite.serving.server.run import RunningServer
from tests.support.http_requests import Reply, call
from tests.support.served import Lams

PATH = "/v1/completions"
TEXT = "- gek -> faz\n- pok -> kex\n- tob ->"
TEXTS = [TEXT, "The robin is", "Rome is a town. Oslo is a"]
KEYS = ("tokens", "token_logprobs", "top_logprobs")
ROUNDING = 0.02  # nats: what the shape of batches may change


def ask(url: str, prompt: Any = TEXT, **more: Any) -> Reply:
    return call(url, PATH, {"prompt": prompt, "max_tokens": 8, **more})


def complete(url: str, prompt: Any = TEXT, **more: Any) -> Any:
    reply = ask(url, prompt, **more)
    assert reply.status == 200, reply.body
    Completion.model_validate(reply.json)
    return reply.json


def texts(document: Any) -> list[str]:
    assert [c["index"] for c in document["choices"]] == list(range(len(document["choices"])))
    return [c["text"] for c in document["choices"]]


def streamed(url: str, prompt: Any = TEXT, **more: Any) -> list[Any]:
    return ask(url, prompt, stream=True, **more).events


def parts(events: list[Any], index: int = 0) -> list[Any]:
    return [c for event in events for c in event["choices"] if c["index"] == index]


def joined(logprobs: list[Any], key: str) -> list[Any]:
    return [value for each in logprobs for value in each[key]]


def ids(url: str, text: str) -> list[int]:
    found: list[int] = call(url, "/tokenize", {"prompt": text}).json["tokens"]
    return found


@pytest.mark.parametrize("lam", [0.0, 0.6])
def test_texts_are_continued_as_the_model_alone_does(url: str, lams: Lams, lam: float) -> None:
    document = complete(url, TEXTS, model=f"demo@{lam}")
    model = lams.model(lam)
    for prompt, text in zip(TEXTS, texts(document), strict=True):
        assert lams.check(lam, model.tokenize(prompt, True), 8, text)
    assert (document["model"], document["lam"]) == (f"demo@{lam:g}", lam)
    n = sum(len(model.tokenize(prompt, True)) for prompt in TEXTS)
    usage = document["usage"]
    assert (usage["prompt_tokens"], usage["total_tokens"]) == (n, n + usage["completion_tokens"])


def test_a_string_a_list_ids_and_lists_of_ids_mean_the_same(url: str) -> None:
    (text,) = texts(complete(url, TEXT))
    assert texts(complete(url, [TEXT])) == [text]
    assert texts(complete(url, ids(url, TEXT))) == [text]
    assert texts(complete(url, [ids(url, each) for each in TEXTS])) == texts(complete(url, TEXTS))
    assert len(texts(complete(url))[0]) > 0
    assert complete(url, max_tokens=None)["usage"]["completion_tokens"] <= 16  # as OpenAI's


def test_no_bos_is_added_to_ids(url: str, server: RunningServer) -> None:
    with server.host.models.vocabulary() as model:
        plain, whole = model.tokenize(TEXT, False), model.tokenize(TEXT, True)
    assert len(whole) == len(plain) + 1
    assert complete(url, "")["usage"]["prompt_tokens"] == 1  # the BOS
    assert complete(url, plain)["usage"]["prompt_tokens"] == len(plain)
    assert complete(url, TEXT)["usage"]["prompt_tokens"] == len(whole)
    scored = complete(url, plain, max_tokens=0, echo=True, logprobs=1)
    assert len(scored["choices"][0]["logprobs"]["tokens"]) == len(plain)


@pytest.mark.parametrize("lam", [0.0, 0.6])
def test_echo_with_logprobs_gives_the_values_of_the_scoring_path(url: str, lams: Lams, lam: float) -> None:
    prompts = [ids(url, text) for text in TEXTS]
    document = complete(url, prompts, max_tokens=1, echo=True, logprobs=3, lam=lam)
    model = lams.model(lam)
    for prompt, choice in zip(prompts, document["choices"], strict=True):
        logprobs = choice["logprobs"]
        given = logprobs["token_logprobs"]
        assert len(given) == len(prompt) + 1
        assert given[0] is None
        assert all(value < 0 for value in given[1:])
        (alone,) = score_requests(model, [Request(tuple(prompt), 1)])
        assert sum(given[1:-1]) == pytest.approx(alone.logprob, abs=ROUNDING)
        each = score_requests(model, [Request(tuple(prompt[: i + 1]), i) for i in range(1, len(prompt))])
        assert given[1:-1] == pytest.approx([score.logprob for score in each], abs=ROUNDING)
        greedy = [g == max(top.values()) for g, top in zip(given[1:-1], logprobs["top_logprobs"][1:-1], strict=True)]
        assert greedy == [score.is_greedy for score in each]


def test_the_chosen_token_is_always_among_the_top_ones(url: str) -> None:
    for n_top in (1, 5):
        for n in (0, 1, 4):
            logprobs = complete(url, TEXT, echo=True, logprobs=n_top, max_tokens=n)["choices"][0]["logprobs"]
            assert logprobs["top_logprobs"][0] is None
            for token, value, top in list(zip(*(logprobs[k] for k in KEYS), strict=True))[1:]:
                assert top[token] == value
                assert n_top <= len(top) <= n_top + 1
                assert max(top.values()) >= value
    sampled = complete(url, TEXT, logprobs=1, temperature=5.0, seed=1)["choices"][0]["logprobs"]
    assert all(t in top for t, top in zip(sampled["tokens"], sampled["top_logprobs"], strict=True))
    assert any(len(top) == 2 for top in sampled["top_logprobs"])  # a token that was not the most likely one


def test_logprobs_of_zero_have_no_top_ones(url: str) -> None:
    logprobs = complete(url, TEXT, logprobs=0)["choices"][0]["logprobs"]
    assert logprobs["top_logprobs"] is None
    assert len(logprobs["token_logprobs"]) == len(logprobs["tokens"]) > 0
    assert complete(url, TEXT)["choices"][0]["logprobs"] is None


def test_generated_logprobs_are_those_of_scoring_the_same_text(url: str) -> None:
    """Answers to prompts are scored token by token; echoing prompt and answer scores them at once."""
    (choice,) = complete(url, TEXT, logprobs=2, max_tokens=5, lam=0.6)["choices"]
    found = choice["logprobs"]
    assert "".join(found["tokens"]).startswith(choice["text"])
    whole = complete(url, TEXT, logprobs=2, max_tokens=5, echo=True, lam=0.6)["choices"][0]["logprobs"]
    n = len(ids(url, TEXT))
    assert whole["tokens"][n:] == found["tokens"]
    assert whole["token_logprobs"][n:] == pytest.approx(found["token_logprobs"], abs=ROUNDING)
    again = complete(url, TEXT + choice["text"], logprobs=0, max_tokens=0, echo=True, lam=0.6)["choices"][0]["logprobs"]
    m = min(len(again["tokens"]), n + len(found["tokens"]))
    assert again["tokens"][:m] == whole["tokens"][:m]
    assert again["token_logprobs"][n:m] == pytest.approx(found["token_logprobs"][: m - n], abs=ROUNDING)


def test_offsets_count_characters(url: str) -> None:
    text = "Näh 漢字 🐈 -> kex"
    for n in (0, 3):
        (choice,) = complete(url, text, echo=True, logprobs=0, max_tokens=n)["choices"]
        logprobs = choice["logprobs"]
        offsets = logprobs["text_offset"]
        assert choice["text"].startswith(text)
        assert offsets[0] == 0
        assert offsets == sorted(offsets)
        for token, offset in zip(logprobs["tokens"], offsets, strict=True):
            if not token.startswith(("bytes:", "<")):
                assert choice["text"][offset:].startswith(token.strip("▁")), (token, offset)
    (choice,) = complete(url, TEXT, logprobs=0)["choices"]
    assert choice["logprobs"]["text_offset"][0] == 0
    assert len(choice["logprobs"]["text_offset"]) > 1


def test_echo_puts_the_prompt_in_front(url: str) -> None:
    (text,) = texts(complete(url, TEXT))
    assert texts(complete(url, TEXT, echo=True)) == [TEXT + text]
    assert texts(complete(url, ids(url, TEXT), echo=True)) == [TEXT + text]
    nothing = complete(url, TEXT, echo=True, max_tokens=0)
    assert texts(nothing) == [TEXT]
    assert nothing["choices"][0]["finish_reason"] == "length"
    assert nothing["choices"][0]["logprobs"] is None
    assert nothing["usage"]["completion_tokens"] == 0
    scored = complete(url, TEXT, echo=True, max_tokens=0, logprobs=2)
    assert (texts(scored), scored["usage"]["completion_tokens"]) == ([TEXT], 0)


def test_one_token_after_an_echo_is_that_of_generation(url: str) -> None:
    """lm-eval asks so for loglikelihoods: scoring gives the token without generating."""
    for text in TEXTS:
        scored = complete(url, text, echo=True, max_tokens=1, logprobs=1)
        plain = complete(url, text, max_tokens=1, logprobs=1)
        assert texts(scored) == [text + texts(plain)[0]]
        assert scored["usage"] == {**plain["usage"], "prompt_tokens_details": {"cached_tokens": 0}}
        last, first = scored["choices"][0], plain["choices"][0]
        assert last["finish_reason"] == first["finish_reason"]
        assert last["logprobs"]["tokens"][-1] == first["logprobs"]["tokens"][0]
        value = first["logprobs"]["token_logprobs"][0]
        assert last["logprobs"]["token_logprobs"][-1] == pytest.approx(value, abs=ROUNDING)
        sampled = complete(url, text, echo=True, max_tokens=1, logprobs=1, temperature=1.0, seed=3)
        assert math.isfinite(sampled["choices"][0]["logprobs"]["token_logprobs"][-1])


def test_n_counts_choices_prompt_by_prompt(url: str) -> None:
    greedy = complete(url, TEXTS[:2], n=2)
    once = texts(complete(url, TEXTS[:2]))
    assert texts(greedy) == [once[0], once[0], once[1], once[1]]
    sampled = texts(complete(url, TEXT, n=4, temperature=3.0, seed=1))
    assert len(set(sampled)) > 1
    assert texts(complete(url, TEXT, n=4, temperature=3.0, seed=1)) == sampled
    echoed = complete(url, TEXTS[:2], n=2, echo=True, logprobs=1, max_tokens=0)
    assert texts(echoed) == [TEXTS[0], TEXTS[0], TEXTS[1], TEXTS[1]]
    assert len(echoed["choices"][3]["logprobs"]["tokens"]) == len(ids(url, TEXTS[1]))


def test_stops_end_the_text_before_them(url: str) -> None:
    whole = texts(complete(url, TEXT, max_tokens=12))[0]
    assert len(whole) > 4
    stop = whole[2:4]
    document = complete(url, TEXT, max_tokens=12, stop=["not in the text", stop])
    assert texts(document) == [whole[: whole.index(stop)]]
    assert document["choices"][0]["finish_reason"] == "stop"
    events = streamed(url, TEXT, max_tokens=12, stop=stop)
    assert "".join(c["text"] for c in parts(events)) == whole[: whole.index(stop)]


def test_a_stream_has_the_parts_of_the_whole(url: str) -> None:
    more: dict[str, Any] = {"n": 2, "echo": True, "logprobs": 2, "max_tokens": 6}
    whole = complete(url, TEXTS[:2], **more)
    events = streamed(url, TEXTS[:2], stream_options={"include_usage": True}, **more)
    assert {event["object"] for event in events} == {"text_completion"}
    for index, choice in enumerate(whole["choices"]):
        found = parts(events, index)
        assert "".join(c["text"] for c in found) == choice["text"]
        assert found[0]["text"] == TEXTS[index // 2]
        assert [c["finish_reason"] for c in found] == [None] * (len(found) - 1) + [choice["finish_reason"]]
        logprobs = [c["logprobs"] for c in found if c["logprobs"]]
        assert joined(logprobs, "tokens") == choice["logprobs"]["tokens"]
        assert joined(logprobs, "text_offset") == choice["logprobs"]["text_offset"]
        values = joined(logprobs, "token_logprobs")
        assert values[1:] == pytest.approx(choice["logprobs"]["token_logprobs"][1:], abs=ROUNDING)
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    scored = streamed(url, TEXT, echo=True, logprobs=1, max_tokens=1)
    assert [c["finish_reason"] for c in parts(scored)] == ["length"]


@pytest.mark.parametrize(
    ("more", "param", "words"),
    [
        ({"prompt": None}, "prompt", "must be a string, a list"),
        ({"prompt": []}, "prompt", "must be a string, a list"),
        ({"prompt": [[]]}, "prompt", "no tokens"),
        ({"prompt": ["a", 1]}, "prompt", "only strings, only token ids"),
        ({"prompt": [True]}, "prompt", "only strings, only token ids"),
        ({"prompt": [1.0]}, "prompt", "only strings, only token ids"),
        ({"prompt": [-1]}, "prompt", "-1 is not a token id"),
        ({"prompt": [10**30]}, "prompt", "not a token id"),
        ({"prompt": [1 << 31]}, "prompt", "not a token id; ids are from 0 to"),
        ({"max_tokens": 0}, None, "0 requires echo"),
        ({"logprobs": True}, "logprobs", "must be an integer"),
        ({"logprobs": 21}, "logprobs", "less than or equal to 20"),
        ({"best_of": 2}, "best_of", "not supported"),
        ({"suffix": "x"}, "suffix", "not supported"),
        ({"messages": []}, "messages", "unknown field"),
    ],
)
def test_bad_requests_are_one_plain_line(url: str, more: dict[str, Any], param: str | None, words: str) -> None:
    reply = call(url, PATH, {"prompt": "x", "max_tokens": 1, **more})
    assert reply.status == 400, reply.body
    assert words in reply.error["message"]
    assert param is None or reply.error["param"] == param


def test_prompts_beyond_the_context_are_refused_with_the_numbers(url: str) -> None:
    for prompt, where in (("word " * 600, "prompt"), (["x", "word " * 600], "prompt[1]")):
        error = ask(url, prompt).error
        assert error["code"] == "context_length_exceeded"
        assert (error["param"], "the context of demo has 512" in error["message"]) == (where, True)
    full = [5] * 512
    assert ask(url, full).error["code"] == "context_length_exceeded"
    assert ask(url, full, echo=True, max_tokens=1, logprobs=1).error["code"] == "context_length_exceeded"
    assert ask(url, full, echo=True, max_tokens=0, logprobs=1).status == 200
    almost = complete(url, full[:-2], max_tokens=50, temperature=100.0, seed=1)
    assert almost["usage"]["completion_tokens"] <= 2
