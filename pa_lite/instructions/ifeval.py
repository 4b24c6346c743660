"""IFEval's prompts (Zhou et al. 2023, arXiv 2311.07911), with its instruction ids and arguments mapped to checks.

The file is Google's JSONL: objects with `prompt`, `instruction_id_list` and, for each id, its arguments in `kwargs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pa_lite.alpaca.content import content_of
from pa_lite.errors import InputError, nearest
from pa_lite.instructions.checks import validate
from pa_lite.instructions.following import Constraint, Instruction, kind_by_number
from pa_lite.untrusted.rows import read_objects

REPO, FILE = "google/IFEval", "ifeval_input_data.jsonl"
_RELATIONS = {"less than": "less_than", "at least": "at_least", "at most": "at_most"}
_CHOICES = ["My answer is yes.", "My answer is no.", "My answer is maybe."]
_AT_LEAST = {"relation": "at_least"}
Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class _Maker:
    """Makes a check from a type, fixed fields, and fields that take arguments (field -> argument name)."""

    check_type: str
    fixed: Mapping[str, Any]
    fields: Mapping[str, str]

    def make(self, given: Arguments) -> dict[str, Any]:
        """Return the check. Raises KeyError for a missing argument."""
        return {"kind": self.check_type, **self.fixed, **{f: _value(f, given[a]) for f, a in self.fields.items()}}


def _check(check_type: str, fixed: Mapping[str, Any] | None = None, **fields: str) -> _Maker:
    return _Maker(check_type, fixed or {}, fields)


def _value(field: str, value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)  # data frames store 3 as 3.0 in columns with missing values
    if not isinstance(value, str):
        return value
    return _RELATIONS.get(value, value) if field == "relation" else value.strip()


# instruction id -> makers of its checks
INSTRUCTIONS: dict[str, tuple[_Maker, ...]] = {
    "keywords:existence": (_check("contains", texts="keywords"),),
    "keywords:frequency": (_check("text_count", text="keyword", n="frequency", relation="relation"),),
    "keywords:forbidden_words": (_check("lacks", texts="forbidden_words"),),
    "keywords:letter_frequency": (_check("letter_count", letter="letter", n="let_frequency", relation="let_relation"),),
    "language:response_language": (_check("language", code="language"),),
    "length_constraints:number_sentences": (_check("sentence_count", n="num_sentences", relation="relation"),),
    "length_constraints:number_paragraphs": (_check("divided", {"divider": "***"}, n="num_paragraphs"),),
    "length_constraints:number_words": (_check("word_count", {"joined": False}, n="num_words", relation="relation"),),
    "length_constraints:nth_paragraph_first_word": (
        _check("paragraph_start", n="num_paragraphs", nth="nth_paragraph", word="first_word"),
    ),
    "detectable_content:number_placeholders": (_check("placeholder_count", _AT_LEAST, n="num_placeholders"),),
    "detectable_content:postscript": (_check("postscript", marker="postscript_marker"),),
    "detectable_format:number_bullet_lists": (_check("bullet_count", n="num_bullets"),),
    "detectable_format:constrained_response": (_check("contains", {"texts": _CHOICES, "any": True}),),
    "detectable_format:number_highlighted_sections": (_check("highlight_count", _AT_LEAST, n="num_highlights"),),
    "detectable_format:multiple_sections": (
        _check(
            "section_count", {**_AT_LEAST, "same_case": True}, n="num_sections", header="section_spliter"
        ),  # IFEval's spelling
    ),
    "detectable_format:json_format": (_check("json"),),
    "detectable_format:title": (_check("title"),),
    "combination:two_responses": (_check("divided", {"n": 2, "divider": "******", "distinct": True}),),
    "combination:repeat_prompt": (_check("echoes", text="prompt_to_repeat"),),
    "startend:end_checker": (_check("closes_with", text="end_phrase"),),
    "startend:quotation": (_check("wrapped", {"left": '"', "right": '"'}),),
    "change_case:capital_word_frequency": (
        _check("capital_words", n="capital_frequency", relation="capital_relation"),
    ),
    "change_case:english_capital": (_check("uppercase"), _check("language", {"code": "en"})),
    "change_case:english_lowercase": (_check("lowercase"), _check("language", {"code": "en"})),
    "punctuation:no_comma": (_check("lacks_characters", {"characters": ","}),),
}


def load_ifeval(path: Path) -> list[Instruction]:
    """Read IFEval's file. Raises InputError, naming file and line, for an unknown id or invalid arguments."""
    rows = read_objects(path)
    out = [_instruction(row, rows.where(i)) for i, row in enumerate(rows.rows)]
    if not out:
        raise InputError(f"{path}: has no instructions.")
    return out


def _instruction(row: Mapping[str, Any], where: str) -> Instruction:
    content, ids, arguments = content_of(dict(row), where, "prompt"), row.get("instruction_id_list"), row.get("kwargs")
    if content.system:
        raise InputError(f"{where} has a system prompt under 'system', but IFEval's prompts have none: remove it.")
    if not isinstance(ids, list) or not ids or not isinstance(arguments, list) or len(ids) != len(arguments):
        raise InputError(f"{where}: 'instruction_id_list' and 'kwargs' must be lists of the same length.")
    constraints = tuple(constraint_of(i, a, where) for i, a in zip(ids, arguments, strict=True))
    return Instruction(kind_by_number(len(ids)), content.text, constraints)


def constraint_of(name: Any, arguments: Any, where: str) -> Constraint:
    """Return the constraint of an instruction id. Null arguments are treated as missing.

    Raises InputError, starting with `where`, for an unknown id and for missing or unknown arguments.
    """
    if not isinstance(name, str) or name not in INSTRUCTIONS:
        raise InputError(f"{where}: unknown instruction id {name!r}.{nearest(str(name), INSTRUCTIONS)}")
    if not isinstance(arguments, dict):
        raise InputError(f"{where}: the arguments of {name} are not an object.")
    given = {k: v for k, v in arguments.items() if v is not None}
    try:
        checks = tuple(maker.make(given) for maker in INSTRUCTIONS[name])
    except KeyError as e:
        raise InputError(f"{where}: {name} requires the argument {e.args[0]!r}.") from None
    known = {argument for maker in INSTRUCTIONS[name] for argument in maker.fields.values()}
    for argument, value in given.items():
        if argument not in known and value not in ("", [], {}):
            raise InputError(f"{where}: {name} has no argument {argument!r}.{nearest(argument, known)}")
    for check in checks:
        validate(check, f"{where}: {name}")
    return Constraint(name, checks)
