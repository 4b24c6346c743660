"""Completions: texts and ids, continued as by the model alone, and scored as by the engine."""

from __future__ import annotations

from typing import Any

import pytest

from pa_lite.engine.requests import Request
from pa_lite.engine.scoring import score_requests
from tests.support.http_requests import Reply, call
from tests.support.served import Lams

PATH = "/v1/completions"
TEXT = "- gek -> faz\n- pok -> kex\n- tob -> vob\n- pok ->"
CLOSE = 0.02  # nats, as F16 weights allow


def ask(url: str, prompt: Any, **more: Any) -> Reply:
    return call(url, PATH, {"prompt": prompt, "max_tokens": 4, **more})


def choices(url: str, prompt: Any, **more: Any) -> list[Any]:
    reply = ask(url, prompt, **more)
    assert reply.status == 200, reply.body
    return list(reply.json["choices"])


def test_all_forms_of_a_prompt_give_the_same_text(url: str, lams: Lams) -> None:
    ids = lams.model(0.6).tokenize(TEXT)
    forms = [TEXT, [TEXT], ids, [ids]]
    texts = [[c["text"] for c in choices(url, form)] for form in forms]
    assert texts == [texts[0]] * 4
    assert lams.check(0.6, ids, 4, texts[0][0])
    both = choices(url, [TEXT, "Rome"], n=2)
    assert [c["index"] for c in both] == [0, 1, 2, 3]
    assert both[0]["text"] == both[1]["text"] == texts[0][0]


def test_no_bos_is_added_to_ids(url: str, lams: Lams) -> None:
    model = lams.model(0.6)
    ids = model.tokenize(TEXT, add_special=False)
    usage = ask(url, ids).json["usage"]
    assert usage["prompt_tokens"] == len(ids)
    assert ask(url, TEXT).json["usage"]["prompt_tokens"] == len(model.tokenize(TEXT))
    assert ask(url, [10**6]).status == 400
    assert ask(url, [-1]).status == 400


@pytest.mark.parametrize("lam", [0.0, 0.6, 0.85])
@pytest.mark.parametrize("max_tokens", [0, 1, 3])
def test_echo_has_the_logprobs_of_the_scoring_path(url: str, lams: Lams, lam: float, max_tokens: int) -> None:
    model = lams.model(lam)
    ids = model.tokenize(TEXT)
    (choice,) = choices(url, ids, echo=True, logprobs=1, max_tokens=max_tokens, model=f"demo@{lam:g}")
    found = choice["logprobs"]
    n = len(ids)
    assert len(found["tokens"]) in (n + max_tokens, n + max_tokens - 1)  # the model may end its turn
    assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
    requests = [Request(tuple(ids[: i + 1]), i) for i in range(1, n)]
    for i, score in enumerate(score_requests(model, requests), 1):
        assert found["token_logprobs"][i] == pytest.approx(score.logprob, abs=CLOSE)
        top = found["top_logprobs"][i]
        assert found["tokens"][i] in top  # the chosen one is always among them
        assert max(top.values()) >= found["token_logprobs"][i] - 1e-6
        if score.is_greedy:
            assert max(top, key=top.get) == found["tokens"][i]
    assert choice["text"].startswith(model.text(ids[1:]) if model.is_control(ids[0]) else model.text(ids))
    assert found["text_offset"] == sorted(found["text_offset"])


def test_echo_without_logprobs_repeats_the_text(url: str) -> None:
    (choice,) = choices(url, TEXT, echo=True, max_tokens=0)
    assert (choice["text"], choice["logprobs"], choice["finish_reason"]) == (TEXT, None, "length")
    (longer,) = choices(url, TEXT, echo=True)
    assert longer["text"] == TEXT + choices(url, TEXT)[0]["text"]


def test_generated_logprobs_are_those_of_the_tokens(url: str) -> None:
    (choice,) = choices(url, TEXT, logprobs=2)
    found = choice["logprobs"]
    assert "".join(found["tokens"]) == choice["text"]
    for token, value, top in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True):
        assert top[token] == value == max(top.values())  # greedy
        assert len(top) == 2


def test_streams_add_up_to_the_whole(url: str) -> None:
    whole = choices(url, [TEXT, "Rome is"], logprobs=1)
    events = ask(url, [TEXT, "Rome is"], logprobs=1, stream=True).events
    for index, expected in enumerate(whole):
        parts = [c for e in events for c in e["choices"] if c["index"] == index]
        assert "".join(c["text"] for c in parts) == expected["text"]
        assert parts[-1]["finish_reason"] == expected["finish_reason"]
        tokens = [t for c in parts if c["logprobs"] for t in c["logprobs"]["tokens"]]
        assert tokens == expected["logprobs"]["tokens"]


def test_stop_strings_end_the_text(url: str) -> None:
    text = choices(url, TEXT, max_tokens=12)[0]["text"]
    (cut,) = choices(url, TEXT, max_tokens=12, stop=[text[2:4]])
    assert cut["text"] == text[: text.index(text[2:4])]
    assert cut["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": ["x"] * 257}, "256"),
        ({"prompt": "Rome " * 600}, "the context of demo has 512"),
        ({"prompt": "x", "logprobs": 21}, "20"),
    ],
)
def test_bad_prompts_are_one_plain_line(url: str, body: dict[str, Any], words: str) -> None:
    reply = call(url, PATH, body)
    assert reply.status == 400
    assert words in reply.error["message"]
