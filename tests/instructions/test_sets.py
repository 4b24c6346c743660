from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pa_lite.errors import InputError
from pa_lite.instructions.checks import followed
from pa_lite.instructions.following import check_answer
from pa_lite.instructions.ifeval import INSTRUCTIONS, constraint_of, load_ifeval
from pa_lite.instructions.sets import find_set

ROW = {
    "key": 1,
    "prompt": "Say nothing. Use no commas.",
    "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
    "kwargs": [{}, {"relation": "less than", "num_words": 3.0, "num_sentences": None}],
}

# instruction id -> (arguments, a response that follows, one that does not)
IFEVAL: dict[str, tuple[dict[str, Any], str, str]] = {
    "keywords:existence": ({"keywords": ["owl", "jay"]}, "Owls and jays.", "owls"),
    "keywords:frequency": ({"keyword": " owl ", "frequency": 2, "relation": "at least"}, "owl, owls", "owl"),
    "keywords:forbidden_words": ({"forbidden_words": ["owl"]}, "owls", "An OWL"),
    "keywords:letter_frequency": ({"letter": "!", "let_frequency": 2, "let_relation": "less than"}, "a!", "a!!"),
    "language:response_language": ({"language": "th"}, "นกฮูก", "owl"),
    "length_constraints:number_sentences": ({"num_sentences": 2, "relation": "at least"}, "A b. C d.", "A b, c d."),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "a\n***\nb", "a\n\nb"),
    "length_constraints:number_words": ({"num_words": 3, "relation": "less than"}, "an owl", "a well-known owl"),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "owl"}, "a\n\nOwl, b", "owl\n\na"),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, "[a] [b] [c]", "[a]"),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, "a\n\np.s. b", "a"),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "So:\n* a\n* b", "* a\n* b\n* c"),
    "detectable_format:constrained_response": ({}, "My answer is maybe.", "Maybe."),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 2}, "*a* *b* *c*", "*a* b"),
    "detectable_format:multiple_sections": ({"section_spliter": "SECTION", "num_sections": 2},
                                            "SECTION 1\na\nSECTION 2\nb", "SECTION 1\na"),
    "detectable_format:json_format": ({}, "```json\n{}\n```", "{"),
    "detectable_format:title": ({}, "<<Owls>>", "# Owls"),
    "combination:two_responses": ({}, "a\n******\nb", "a\n******\na"),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Name it."}, "name it. Owl.", "Owl."),
    "startend:end_checker": ({"end_phrase": "Bye now."}, '"So, bye now."', "Bye now. So"),
    "startend:quotation": ({}, '"An "owl"."', "An owl"),
    "change_case:capital_word_frequency": ({"capital_frequency": 1, "capital_relation": "at most"}, "OWL a", "OWL JAY"),
    "change_case:english_capital": ({}, "THE OWL IS HERE", "The owl is here"),
    "change_case:english_lowercase": ({}, "the owl is here", "die eule ist nicht hier"),
    "punctuation:no_comma": ({}, "a; b", "a, b"),
}  # fmt: skip


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_ifevals_names(name: str) -> None:
    arguments, right, wrong = IFEVAL[name]
    constraint = constraint_of(name, {**arguments, "other": None}, "here")
    assert constraint.name == name
    assert followed(right, constraint.checks)
    assert not followed(wrong, constraint.checks)


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows), "utf-8")
    return path


def test_ifevals_file(tmp_path: Path) -> None:
    chosen = find_set(f"ifeval:{write(tmp_path / 'i.jsonl', ROW, '', ROW)}")
    assert (len(chosen.instructions), chosen.must_end, chosen.max_tokens) == (2, False, 1280)
    (instruction, _) = chosen.instructions
    assert instruction.text == ROW["prompt"]
    assert [c.name for c in instruction.constraints] == ROW["instruction_id_list"]
    answer = check_answer(instruction, "Sure, yes:\nnothing\nat all, no", ended=False, must_end=chosen.must_end)
    assert [(v.strict, v.loose) for v in answer.constraints] == [(False, True), (False, True)]
    assert (answer.followed, answer.loose) == (False, True)


def test_ifeval_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pa_lite.checkpoints.hub import repositories

    asked: list[tuple[str, str, str]] = []

    def fetch(repo: str, filename: str, *, repo_type: str, progress: object) -> Path:
        asked.append((repo, filename, repo_type))
        return write(tmp_path / "i.jsonl", ROW)

    monkeypatch.setattr(repositories, "fetch_file", fetch)
    assert len(find_set("ifeval").instructions) == 1
    assert asked == [("google/IFEval", "ifeval_input_data.jsonl", "dataset")]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("{", r"i.jsonl:2: is not JSON"),
        ("[]", r"i.jsonl:2: is not a JSON object"),
        ({**ROW, "prompt": ""}, r"i.jsonl:2 has an empty string under 'prompt'"),
        ({**ROW, "system": "Be brief."}, r"i.jsonl:2 has a system prompt under 'system'"),
        ({**ROW, "messages": [{"role": "user"}]}, r"i.jsonl:2 has a conversation under 'messages'"),
        (
            {**ROW, "kwargs": [{}, {"relation": "at least", "num_words": 3, "num_wrods": 5}]},
            r"i.jsonl:2: length_constraints:number_words has no argument 'num_wrods'. Did you mean num_words",
        ),
        ({**ROW, "kwargs": [{}]}, r"i.jsonl:2: 'instruction_id_list' and 'kwargs' must be lists of the same length"),
        ({**ROW, "kwargs": [{}, 3]}, r"i.jsonl:2: the arguments of length_constraints:number_words are not an object"),
        ({**ROW, "kwargs": [{}, {}]}, r"i.jsonl:2: length_constraints:number_words requires the argument 'num_words'"),
        (
            {**ROW, "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_word"]},
            r"i.jsonl:2: unknown instruction id .* Did you mean length_constraints:number_words",
        ),
        ({**ROW, "kwargs": [{}, {"relation": "about", "num_words": 3}]}, r"i.jsonl:2: .* 'relation' must be one of"),
        (
            {**ROW, "kwargs": [{}, {"relation": ["at least"], "num_words": 3}]},
            r"i.jsonl:2: .* 'relation' must be one of",
        ),
        ({**ROW, "kwargs": [{}, {"relation": "at least", "num_words": 2.5}]}, r"i.jsonl:2: .* 'n' must be an integer"),
    ],
)
def test_bad_ifeval_files(tmp_path: Path, row: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        load_ifeval(write(tmp_path / "i.jsonl", ROW, row))


def test_names_of_sets(tmp_path: Path) -> None:
    assert len(find_set("public").instructions) == len(find_set("public", seed=7).instructions) == 500
    assert find_set("public", seed=0).instructions == find_set("public").instructions
    assert find_set("public", seed=7).instructions != find_set("public").instructions
    assert find_set("demo").must_end
    own = {"instruction": "Say it.", "checks": [{"kind": "uppercase"}, {"kind": "language", "code": "tlh"}]}
    (instruction,) = find_set(str(write(tmp_path / "own.jsonl", own))).instructions
    assert instruction.kind == "2 constraints"
    assert [c.checkable for c in instruction.constraints] == [True, False]
    with pytest.raises(InputError, match=r"unknown set 'publik'.*Did you mean public"):
        find_set("publik")
    with pytest.raises(InputError, match="not of 'demo': leave it out"):
        find_set("demo", seed=1)
    with pytest.raises(InputError, match=r"none.jsonl: cannot be read"):
        find_set("ifeval:none.jsonl")
    with pytest.raises(InputError, match=r"e.jsonl: has no instructions"):
        find_set(f"ifeval:{write(tmp_path / 'e.jsonl')}")


def test_a_limit_takes_evenly_spaced_instructions() -> None:
    chosen = find_set("public")
    assert chosen.limited(None) is chosen.limited(500) is chosen
    some = chosen.limited(4).instructions
    assert some == [chosen.instructions[i] for i in (0, 125, 250, 375)]
    few = chosen.limited(50).instructions  # no period of the set coincides with the step
    assert {len(i.constraints) for i in few} == {1, 2, 3}
    assert len({c.name for i in few for c in i.constraints}) > 25
