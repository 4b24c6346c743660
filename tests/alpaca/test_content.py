"""Which fields of a row reach the model: none with content is dropped silently."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pa_lite.alpaca.content import Content, content_of, data_set_of
from pa_lite.errors import InputError

ASK = "Which animal is named in this text?"
TEXT = "Kani keeps a hen."


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({}, Content(ASK)),
        ({"input": TEXT}, Content(f"{ASK}\n\n{TEXT}")),
        ({"context": TEXT, "input": ""}, Content(f"{ASK}\n\n{TEXT}")),
        ({"input": None, "context": math.nan, "system": " ", "messages": [], "images": None}, Content(ASK)),
        ({"system": "Be brief.", "input": TEXT}, Content(f"{ASK}\n\n{TEXT}", "Be brief.")),
        # columns that are not part of a prompt
        ({"output": "hen", "id": 3, "category": "qa", "turns": 2, "text": "x", "Source": "y"}, Content(ASK)),
        ({"prompt": f"### Instruction:\n{ASK}\n\n### Response:"}, Content(ASK)),
        ({"input": TEXT, "question": TEXT}, Content(f"{ASK}\n\n{TEXT}")),
    ],
)  # fmt: skip
def test_fields_that_are_used(row: dict[str, Any], expected: Content) -> None:
    assert content_of({"instruction": ASK, **row}, "x.json: entry 1") == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"messages": [{"role": "user", "content": "x"}]},
            "has a conversation under 'messages', which would be ignored",
        ),
        ({"conversations": [{"from": "human", "value": "x"}]}, "has a conversation under 'conversations'"),
        ({"history": [["Hi", "Hello"]]}, "has a conversation under 'history'"),
        ({"images": ["a.png"]}, "has images, audio or video under 'images'"),
        ({"Image": "a.png"}, "has images, audio or video under 'Image'"),
        ({"tools": [{"name": "f"}]}, "has tools under 'tools'"),
        (
            {"contexts": [TEXT]},
            "has a list of documents under 'contexts',.* ignored. Join .* under 'input'",
        ),
        ({"context": [TEXT]}, "'context' must be a string"),
        ({"input": {"text": TEXT}}, "'input' must be a string"),
        ({"system": ["Be brief."]}, "'system' must be a string"),
        ({"system_prompt": "Be brief."}, "has a system prompt under 'system_prompt'.* Name the field 'system'"),
        ({"inputs": TEXT}, "has an input under 'inputs'.* Name the field 'input'"),
        ({"Input": TEXT}, "has the field 'Input'. Rename it 'input'"),
        ({"input": TEXT, "context": "Kesa keeps a goat."}, "has both 'input' and 'context'"),
        ({"question": TEXT}, "has both 'question' and 'instruction'"),
        ({"instruction": "", "messages": [{"role": "user"}]}, "has a conversation"),
        ({"instruction": " "}, "has an empty string under 'instruction'"),
    ],
)
def test_fields_that_are_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"^x.json: entry 1:? {message}"):
        content_of({"instruction": ASK, **row}, "x.json: entry 1")


def test_request_contains_the_system_prompt() -> None:
    assert Content(ASK).request == ASK
    assert Content(ASK, "Be brief.").request == f"Be brief.\n\n{ASK}"


def test_data_set_names() -> None:
    assert data_set_of({}, "w", "mine") == "mine"
    assert data_set_of({"dataset": "koala"}, "w", "mine") == "koala"
    assert data_set_of({"dataset": None}, "w", "mine") is None
    assert data_set_of({"dataset": 3}, "w", "mine") == "3"
    with pytest.raises(InputError, match="'dataset' must be a string or null"):
        data_set_of({"dataset": ["koala"]}, "w", "mine")


@pytest.mark.parametrize("name", ["input", "context", "system"])
@pytest.mark.parametrize("value", [5, 0, 2.5, True, False])
def test_numbers_in_text_fields_are_refused(name: str, value: float) -> None:
    """Dropping the input of {"instruction": "Double it.", "input": 21} would change the question."""
    with pytest.raises(InputError, match=f"row 1: '{name}' must be a string"):
        content_of({"instruction": "Double it.", name: value}, "row 1")
    assert content_of({"instruction": "Double it.", name: None, "id": value}, "row 1").text == "Double it."
