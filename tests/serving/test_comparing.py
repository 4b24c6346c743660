"""Answers at several lams: those of the models merged at each, whatever fits in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pa_lite
from pa_lite.api.serving import start_comparison
from pa_lite.errors import EngineError, InputError

ASK = ["In one word: what does Sada keep?", "One word only: what does Mili wear?"]
LAMS = (0.0, 0.5, 1.0)
ONE = pa_lite.EngineOptions(threads=1)


@pytest.fixture(scope="module")
def alone() -> list[list[str]]:
    """The answers of each lam's model by itself, by question."""
    found = []
    for lam in LAMS:
        with pa_lite.load("demo", ONE, lam=lam) as model:
            found.append([model.chat(text, max_tokens=24).text for text in ASK])
    return [list(each) for each in zip(*found, strict=True)]


@pytest.mark.parametrize("max_memory", [0, "24M"])
def test_answers_are_those_of_each_lam_alone(alone: list[list[str]], max_memory: int | str) -> None:
    found = pa_lite.compare("demo", ASK, lams="0,0.5,1", max_tokens=24, threads=1, max_memory=max_memory)
    assert (found.pair, found.type, found.lams) == ("demo", "F16", LAMS)
    assert [q.question for q in found.questions] == ASK
    assert [[a.text for a in q.answers] for q in found.questions] == alone
    assert all(a.lam == lam for q in found.questions for a, lam in zip(q.answers, LAMS, strict=True))
    assert len({a.text for q in found.questions for a in q.answers}) > 2
    assert json.loads(json.dumps(found.document()))["questions"][0]["answers"][1]["text"] == alone[0][1]


def test_several_models_are_in_memory_where_they_fit() -> None:
    for limit, n in (("24M", 1), (0, 3)):
        with start_comparison("demo", ASK, lams=LAMS, engine=ONE, max_memory=limit) as live:
            live.result()
            assert live.host.models.n_models == n
            assert len(live.host.models.lams) == n


def test_one_question_prompts_and_sampling(tmp_path: Path) -> None:
    greedy = pa_lite.compare("demo", ASK[0], lams=0.5, max_tokens=24, threads=1)
    sampled = [
        pa_lite.compare("demo", ASK[0], lams=[0.5], max_tokens=24, temperature=3.0, seed=seed, threads=1)
        for seed in (1, 1, 2)
    ]
    texts = [each.questions[0].answers[0].text for each in (greedy, *sampled)]
    assert texts[1] == texts[2] != texts[3]
    assert greedy.questions[0].answers[0].finish_reason == "end"
    (tmp_path / "p.jsonl").write_text('{"instruction": "Name it.", "system": "Be brief."}\n')
    own = pa_lite.compare("demo", pa_lite.load_prompts(str(tmp_path / "p.jsonl")), lams=0.5, max_tokens=4, threads=1)
    option = pa_lite.compare("demo", "Name it.", lams=0.5, max_tokens=4, threads=1, system="Be brief.")
    assert own.questions[0].system == "Be brief."
    assert own.questions[0].answers == option.questions[0].answers


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"lams": "0,2"}, r"lam 2 is outside \[0, 1\]"), ({"lams": "0.5,0.501"}, "lam 0.5 is named twice"),
        ({"lams": []}, "nothing to compare"), ({"questions": []}, "nothing to compare"),
        ({"max_memory": "1M"}, "is not enough for one model"), ({"pair": "demoo"}, "unknown pair 'demoo'"),
        ({"questions": "x " * 2000}, "fill the context of demo"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_one_error(words: dict[str, object], said: str) -> None:
    given: dict[str, object] = {"pair": "demo", "questions": "x", "lams": "0,1", "threads": 1, **words}
    with pytest.raises(InputError, match=said):
        pa_lite.compare(**given)  # type: ignore[arg-type]


def test_an_answer_that_fails_stops_the_others() -> None:
    with start_comparison("demo", ASK, lams=LAMS, engine=ONE) as live:
        live.each[1].answers[2]._answer.fail(EngineError("it broke."))
        with pytest.raises(EngineError, match="it broke"):
            live.result()
        assert all(each.is_done for each in live.each)
