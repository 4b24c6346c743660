"""IFEval's prompts (Zhou et al. 2023, arXiv 2311.07911): its instruction ids and arguments as checks of ours.

The file is Google's JSONL: objects with `prompt`, `instruction_id_list` and, for each id, its arguments in `kwargs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pa_lite.errors import InputError, nearest
from pa_lite.follow.checks import validate
from pa_lite.follow.instructions import Constraint, Instruction, kind_by_number, read_jsonl, text_of

REPO, FILE = "google/IFEval", "ifeval_input_data.jsonl"
_RELATIONS = {"less than": "less_than", "at least": "at_least", "at most": "at_most"}
_CHOICES = ["My answer is yes.", "My answer is no.", "My answer is maybe."]
Arguments = Mapping[str, Any]
Checks = list[dict[str, Any]]


def _counted(kind: str, n: str, relation: str, **fields: Any) -> Callable[[Arguments], Checks]:
    """A check that counts; `n` and `relation` name the arguments, or `relation` is one of ours."""

    def make(given: Arguments) -> Checks:
        told = given[relation] if relation.endswith("relation") else relation
        return [{"kind": kind, "n": given[n], "relation": _RELATIONS.get(told, told), **fields}]

    return make


def _plain(*checks: dict[str, Any]) -> Callable[[Arguments], Checks]:
    return lambda given: [dict(check) for check in checks]


def _with(kind: str, **fields: str) -> Callable[[Arguments], Checks]:
    """A check whose fields are arguments: field = name of the argument."""
    return lambda given: [{"kind": kind, **{f: _stripped(given[a]) for f, a in fields.items()}}]


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _keyword_frequency(given: Arguments) -> Checks:
    return [{**_counted("text_count", "frequency", "relation")(given)[0], "text": _stripped(given["keyword"])}]


def _letter_frequency(given: Arguments) -> Checks:
    return [{**_counted("letter_count", "let_frequency", "let_relation")(given)[0], "letter": given["letter"]}]


def _paragraphs(given: Arguments) -> Checks:
    return [{"kind": "divided", "n": given["num_paragraphs"], "divider": "***"}]


def _sections(given: Arguments) -> Checks:
    header = _stripped(given["section_spliter"])  # the argument's own spelling
    return [{"kind": "section_count", "n": given["num_sections"], "header": header, "relation": "at_least"}]


# instruction id -> its checks from its arguments; KeyError for one that is not given
INSTRUCTIONS: dict[str, Callable[[Arguments], Checks]] = {
    "keywords:existence": _with("contains", texts="keywords"),
    "keywords:frequency": _keyword_frequency,
    "keywords:forbidden_words": _with("lacks", texts="forbidden_words"),
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _with("language", code="language"),
    "length_constraints:number_sentences": _counted("sentence_count", "num_sentences", "relation"),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": _counted("word_count", "num_words", "relation", joined=False),
    "length_constraints:nth_paragraph_first_word": _with(
        "paragraph_start", n="num_paragraphs", nth="nth_paragraph", word="first_word"
    ),
    "detectable_content:number_placeholders": _counted("placeholder_count", "num_placeholders", "at_least"),
    "detectable_content:postscript": _with("postscript", marker="postscript_marker"),
    "detectable_format:number_bullet_lists": _counted("bullet_count", "num_bullets", "exactly"),
    "detectable_format:constrained_response": _plain({"kind": "contains", "texts": _CHOICES, "any": True}),
    "detectable_format:number_highlighted_sections": _counted("highlight_count", "num_highlights", "at_least"),
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _plain({"kind": "json"}),
    "detectable_format:title": _plain({"kind": "title"}),
    "combination:two_responses": _plain({"kind": "divided", "n": 2, "divider": "******", "distinct": True}),
    "combination:repeat_prompt": _with("echoes", text="prompt_to_repeat"),
    "startend:end_checker": _with("closes_with", text="end_phrase"),
    "startend:quotation": _plain({"kind": "wrapped", "left": '"', "right": '"'}),
    "change_case:capital_word_frequency": _counted("capital_words", "capital_frequency", "capital_relation"),
    "change_case:english_capital": _plain({"kind": "uppercase"}, {"kind": "language", "code": "en"}),
    "change_case:english_lowercase": _plain({"kind": "lowercase"}, {"kind": "language", "code": "en"}),
    "punctuation:no_comma": _plain({"kind": "lacks_characters", "characters": ","}),
}


def load_ifeval(path: Path) -> list[Instruction]:
    """Read IFEval's file. Raises InputError, naming file and line, for an unknown id or arguments that are wrong."""
    out = [_instruction(row, where) for where, row in read_jsonl(path)]
    if not out:
        raise InputError(f"{path}: has no instructions.")
    return out


def _instruction(row: Mapping[str, Any], where: str) -> Instruction:
    prompt, ids, arguments = text_of(row, "prompt", where), row.get("instruction_id_list"), row.get("kwargs")
    if not isinstance(ids, list) or not ids or not isinstance(arguments, list) or len(ids) != len(arguments):
        raise InputError(f"{where}: needs 'instruction_id_list' and 'kwargs', two lists of one length.")
    constraints = tuple(constraint_of(i, a, where) for i, a in zip(ids, arguments, strict=True))
    return Instruction(kind_by_number(len(ids)), prompt, constraints)


def constraint_of(name: Any, arguments: Any, where: str) -> Constraint:
    """The checks of an instruction id; arguments that are null count as not given. Raises InputError."""
    if not isinstance(name, str) or name not in INSTRUCTIONS:
        raise InputError(f"{where}: unknown instruction id {name!r}.{nearest(str(name), INSTRUCTIONS)}")
    if not isinstance(arguments, dict):
        raise InputError(f"{where}: the arguments of {name} are no object.")
    given = {k: _whole(v) for k, v in arguments.items() if v is not None}
    try:
        checks = INSTRUCTIONS[name](given)
    except KeyError as e:
        raise InputError(f"{where}: {name} needs the argument {e.args[0]!r}.") from None
    for check in checks:
        validate(check, f"{where}: {name}")
    return Constraint(name, tuple(checks))


def _whole(value: Any) -> Any:
    """A number that a data frame made 3.0 of is 3."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
