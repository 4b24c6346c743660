"""Completions: texts and ids, echo with scores of every token, and lm-eval's form of loglikelihoods."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pa_lite.engine.model import Model
from pa_lite.serving.server.descriptions import Completion
from tests.support.http_requests import Reply, call
from tests.support.served import Lams

PATH = "/v1/completions"
TEXT = "Tobi is a friend of Anna. They play"


def post(url: str, **body: Any) -> Reply:
    return call(url, PATH, body)


def complete(url: str, **body: Any) -> Any:
    reply = post(url, **body)
    assert reply.status == 200, reply.body
    Completion.model_validate(reply.json)
    return reply.json


def ids(url: str, text: str) -> list[int]:
    found: list[int] = call(url, "/tokenize", {"prompt": text}).json["tokens"]
    return found


def true_logprobs(model: Model, tokens: list[int]) -> np.ndarray:
    """Return ln p of every token at every position, from one decode of all tokens."""
    zeros = [0] * len(tokens)
    with model.context(len(tokens), n_batch=len(tokens), cache_type="F32") as context:
        context.decode(tokens, range(len(tokens)), zeros, zeros, [True] * len(tokens))
        logits = np.array(context.logit_rows(len(tokens)), np.float64)
    largest = logits.max(1, keepdims=True)
    found: np.ndarray = logits - largest - np.log(np.exp(logits - largest).sum(1, keepdims=True))
    return found


@pytest.mark.parametrize("form", ["text", "texts", "ids", "lists of ids"])
def test_every_form_of_prompt_is_continued(url: str, lams: Lams, form: str) -> None:
    tokens = ids(url, TEXT)
    prompt: Any = {"text": TEXT, "texts": [TEXT, "Anna"], "ids": tokens, "lists of ids": [tokens, tokens[:3]]}[form]
    document = complete(url, prompt=prompt, max_tokens=12)
    prompts = [tokens, ids(url, "Anna")] if form == "texts" else [tokens, tokens[:3]]
    for choice, one in zip(document["choices"], prompts, strict=False):
        assert lams.check(0.6, one, 12, choice["text"])
        assert choice["logprobs"] is None
    assert len(document["choices"]) == (2 if form in ("texts", "lists of ids") else 1)
    assert (document["object"], document["model"], document["lam"]) == ("text_completion", "demo@0.6", 0.6)


def test_no_bos_is_added_to_ids(url: str, lams: Lams) -> None:
    tokens = ids(url, TEXT)
    bos = lams.model(0.6).special_token("bos")
    assert tokens[0] == bos
    assert complete(url, prompt=tokens, max_tokens=1)["usage"]["prompt_tokens"] == len(tokens)
    bare = complete(url, prompt=tokens[1:], max_tokens=6)
    assert bare["usage"]["prompt_tokens"] == len(tokens) - 1
    assert lams.check(0.6, tokens[1:], 6, bare["choices"][0]["text"])


def test_the_default_limit_is_16_tokens(url: str) -> None:
    document = complete(url, prompt=TEXT, temperature=100, seed=0)
    assert document["usage"]["completion_tokens"] == 16
    assert document["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("lam", [0.3, 0.6])
@pytest.mark.parametrize("streams", [False, True])
def test_echo_scores_every_token_as_one_decode_does(url: str, lams: Lams, lam: float, streams: bool) -> None:
    tokens = ids(url, TEXT)
    true = true_logprobs(lams.model(lam), tokens)
    body = {"prompt": tokens, "echo": True, "logprobs": 3, "max_tokens": 0, "lam": lam}
    if streams:
        events = post(url, **body, stream=True).events
        (choice,) = [c for e in events for c in e["choices"] if c["logprobs"]]
    else:
        (choice,) = complete(url, **body)["choices"]
    found = choice["logprobs"]
    assert choice["text"] == TEXT
    assert found["token_logprobs"][0] is None
    assert found["top_logprobs"][0] is None
    for i in range(1, len(tokens)):
        assert found["token_logprobs"][i] == pytest.approx(true[i - 1, tokens[i]], abs=0.02)
        top = found["top_logprobs"][i]
        assert top[found["tokens"][i]] == found["token_logprobs"][i]  # the chosen one is always there
        assert max(top.values()) == pytest.approx(true[i - 1].max(), abs=0.02)
        assert 3 <= len(top) <= 4
        at = found["text_offset"][i]
        assert TEXT[at : at + len(found["tokens"][i])] == found["tokens"][i]
    assert "".join(found["tokens"][1:]) == TEXT


def test_lm_evals_form_has_one_more_token_from_the_scores(url: str, lams: Lams) -> None:
    """It sends one token more than it scores, and drops the last logprob: that must not be one of the prompt."""
    tokens = ids(url, TEXT)
    body = {"echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0, "seed": 1234}
    one, two = complete(url, prompt=[tokens, tokens[:4]], **body)["choices"]
    for choice, prompt in ((one, tokens), (two, tokens[:4])):
        assert len(choice["logprobs"]["tokens"]) == len(prompt) + 1
        assert choice["finish_reason"] == "length"
    alone = complete(url, prompt=tokens, max_tokens=1, logprobs=1)["choices"][0]
    assert one["text"] == TEXT + alone["text"]
    assert one["logprobs"]["tokens"][-1] == alone["logprobs"]["tokens"][0]
    assert one["logprobs"]["token_logprobs"][-1] == pytest.approx(alone["logprobs"]["token_logprobs"][0], abs=0.02)
    prompt = lams.prompt("Who is Tobi?")
    ended = [*prompt, *lams.tokens(0.6, prompt, 64)]
    assert len(ended) < len(prompt) + 64
    (last,) = complete(url, prompt=ended, echo=True, logprobs=1, max_tokens=1)["choices"]
    with_end = len(last["logprobs"]["tokens"])
    assert (with_end, last["finish_reason"]) == (len(ended) + 1, "stop")  # the end token counts, too


def test_echo_and_generation_come_together(url: str, lams: Lams) -> None:
    tokens = ids(url, TEXT)
    document = complete(url, prompt=TEXT, echo=True, logprobs=2, max_tokens=6, n=2)
    for choice in document["choices"]:
        assert choice["text"].startswith(TEXT)
        assert lams.check(0.6, tokens, 6, choice["text"][len(TEXT) :])
        found = choice["logprobs"]
        assert len(found["tokens"]) == len(tokens) + 6
        assert "".join(found["tokens"][1:]) == choice["text"]
        assert found["text_offset"][len(tokens)] == len(TEXT)
    usage = document["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len(tokens), 12)
    events = post(url, prompt=TEXT, echo=True, logprobs=2, max_tokens=6, stream=True).events
    parts = [c for e in events for c in e["choices"]]
    assert "".join(c["text"] for c in parts) == document["choices"][0]["text"]
    offsets = [at for c in parts if c["logprobs"] for at in c["logprobs"]["text_offset"]]
    assert offsets == document["choices"][0]["logprobs"]["text_offset"]
    plain = complete(url, prompt=TEXT, echo=True, max_tokens=6)["choices"][0]
    assert plain == {**document["choices"][0], "logprobs": None}
    assert complete(url, prompt=TEXT, echo=True, max_tokens=0)["choices"][0]["text"] == TEXT


def test_logprobs_without_top_ones(url: str) -> None:
    found = complete(url, prompt=TEXT, logprobs=0, max_tokens=3)["choices"][0]["logprobs"]
    assert found["top_logprobs"] is None
    assert len(found["token_logprobs"]) == 3


def test_many_prompts_in_one_request_keep_their_order(url: str, lams: Lams) -> None:
    prompts = [[0, *range(300 + i, 306 + i)] for i in range(40)]
    document = complete(url, prompt=prompts, max_tokens=2, n=2, stream=False)
    assert [c["index"] for c in document["choices"]] == list(range(80))
    same = [lams.check(0.6, prompts[i // 2], 2, c["text"]) for i, c in enumerate(document["choices"])]
    assert sum(same) > 70  # the others differ after near ties
    scored = complete(url, prompt=prompts, max_tokens=0, echo=True, logprobs=0)
    for choice, prompt in zip(scored["choices"], prompts, strict=True):
        assert len(choice["logprobs"]["tokens"]) == len(prompt)
    true = true_logprobs(lams.model(0.6), prompts[7])
    expected = [true[i - 1, prompts[7][i]] for i in range(1, 7)]
    assert scored["choices"][7]["logprobs"]["token_logprobs"][1:] == pytest.approx(expected, abs=0.02)


def test_a_character_of_several_tokens_has_its_bytes_and_one_offset(url: str) -> None:
    (choice,) = complete(url, prompt="a€b", echo=True, logprobs=0, max_tokens=0)["choices"]
    found = choice["logprobs"]
    assert choice["text"] == "a€b"
    pieces = [t for t in found["tokens"] if t.startswith("bytes:")]
    if "€" not in found["tokens"]:
        assert "".join(p.removeprefix("bytes:") for p in pieces) == "\\xe2\\x82\\xac"
    assert found["text_offset"][-1] == 2


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "prompt: it is required"),
        ({"prompt": None}, "must be a string, a list"),
        ({"prompt": []}, "must be a string, a list"),
        ({"prompt": [[]]}, "has no tokens"),
        ({"prompt": ["a", 1]}, "only strings, only token ids"),
        ({"prompt": [1, True]}, "only strings, only token ids"),
        ({"prompt": [1, 2.0]}, "only strings, only token ids"),
        ({"prompt": [-1]}, "-1 is not a token id; ids are from 0 to 2047"),
        ({"prompt": [2048]}, "2048 is not a token id"),
        ({"prompt": [10**4000]}, "more than 63 bits"),
        ({"prompt": ["a"] * 257}, "257 prompts; the limit is 256"),
        ({"prompt": ["a"] * 100, "n": 3}, "are 300 answers; the limit is 256"),
        ({"prompt": "a", "suffix": "b"}, "suffix: 'b' is not supported"),
        ({"prompt": "a", "best_of": 2}, "best_of: 2 is not supported"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "logprobs": True}, "must be an integer"),
        ({"prompt": "a", "max_tokens": 0}, "requires echo"),
        ({"prompt": "a", "max_tokens": -1}, "max_tokens"),
        ({"prompt": [0] * 512}, "prompt has 512 tokens; the context of demo has 512, of which 1 must be left"),
        ({"prompt": [[1], [0] * 513], "echo": True, "max_tokens": 0}, "prompt[1] has 513 tokens"),
        ({"prompt": "a", "messages": []}, "unknown field 'messages'"),
    ],
)
def test_bad_requests_are_one_plain_line(url: str, body: dict[str, Any], words: str) -> None:
    reply = post(url, **{"max_tokens": 1, **body})
    assert reply.status == 400
    assert words in reply.error["message"]


def test_a_prompt_that_fills_the_context_can_be_scored(url: str) -> None:
    (choice,) = complete(url, prompt=[0] * 512, echo=True, logprobs=1, max_tokens=0)["choices"]
    assert len(choice["logprobs"]["tokens"]) == 512
