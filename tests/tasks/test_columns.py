"""Which columns of a user's table are the input and the output."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pa_lite.errors import InputError
from pa_lite.tasks.columns import INPUTS, OUTPUTS, Columns, find_columns

FILE = Path("x.csv")


@pytest.mark.parametrize(
    ("names", "inputs", "output"),
    [
        (["question", "answer"], ("question",), "answer"),
        (["label", "text"], ("text",), "label"),
        (["id", "Sentence", "Label", "notes"], ("Sentence",), "Label"),
        ([" text ", "LABEL"], (" text ",), "LABEL"),
        (["tweet_text", "label"], ("tweet_text",), "label"),
        (["id", "headline", "category", "split"], ("headline",), "category"),
        (["question", "capital"], ("question",), "capital"),
        (["premise", "hypothesis", "label"], ("premise", "hypothesis"), "label"),
        (["label", "sentence2", "sentence1"], ("sentence1", "sentence2"), "label"),
        (["context", "question", "answer"], ("context", "question"), "answer"),
        (["instruction", "input", "output"], ("instruction", "input"), "output"),
        (["input", "answer", "output"], ("input",), "output"),
        (["", "text", "label", ""], ("text",), "label"),
    ],
)
def test_columns_are_found_by_their_usual_names(names: list[str], inputs: tuple[str, ...], output: str) -> None:
    assert find_columns(FILE, names) == Columns(inputs, output)


def test_named_columns_win_and_leave_the_other_side_to_its_name() -> None:
    names = ["text", "label", "title", "topic"]
    assert find_columns(FILE, names, ["title"]) == Columns(("title",), "label")
    assert find_columns(FILE, names, output="topic") == Columns(("text",), "topic")
    assert find_columns(FILE, names, ["title", "text"], "topic") == Columns(("title", "text"), "topic")
    assert find_columns(FILE, ["a", "b"], ["b"]) == Columns(("b",), "a")


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        (["a", "b"], {}, r'has the columns "a", "b"\. Name it with --input-column NAME and --output-column NAME'),
        (["a", "b", "label"], {}, r"no column has a usual name of an input; .* Name it with --input-column NAME\.$"),
        (["text", "a", "b"], {}, r"usual name of an output; .* with --output-column NAME\.$"),
        (["text"], {}, r'has the column "text", but an input and an output are required'),
        ([], {}, "has no columns, but an input and an output"),
        (["text", "label"], {"inputs": ["txt"]}, r"has no column 'txt' \(did you mean 'text'\?\); it has the columns"),
        (["text", "label"], {"output": "x\x1b[31m"}, "has no column"),
        (["text", "label"], {"inputs": ["text"], "output": "text"}, "cannot be both the input and the output"),
        ([f"column {i}" for i in range(500)], {}, r'"column 7" and 492 more\. Name it with'),
    ],
)
def test_unclear_columns_are_an_error_that_names_the_option(
    names: list[str], given: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        find_columns(FILE, names, **given)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 1000


@given(st.lists(st.one_of(st.sampled_from([*INPUTS, *OUTPUTS, "id"]), st.text(max_size=8)), max_size=6, unique=True))
def test_any_names_give_two_different_columns_or_one_error(names: list[str]) -> None:
    try:
        found = find_columns(FILE, names)
    except InputError:
        return
    assert found.output in names
    assert found.inputs
    assert set(found.inputs) <= set(names) - {found.output}
    if {"question", "answer", "output"} & set(names) == {"question", "answer"} and "outputs" not in names:
        assert found.output == "answer"
