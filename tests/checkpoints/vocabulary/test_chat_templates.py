from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pa_lite.checkpoints.vocabulary.chat_templates import chat_templates
from pa_lite.errors import CheckpointError


def values(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("tokenizer."): entry.value for key, entry in chat_templates(folder, settings)[0].items()}


def remark(folder: Path, settings: dict[str, Any]) -> str:
    """What is remarked on the choice, without the folder; empty for nothing."""
    return "; ".join(chat_templates(folder, settings)[1]).removeprefix(f"{folder}: ")


def test_a_text(tmp_path: Path) -> None:
    assert values(tmp_path, {"chat_template": "C"}) == {"chat_template": "C"}
    assert values(tmp_path, {}) == {}


def test_named_templates(tmp_path: Path) -> None:
    named = [
        {"name": "default", "template": "D"},
        {"name": "tool-use", "template": "T"},
        {"name": "rag", "template": "R"},
    ]
    assert values(tmp_path, {"chat_template": named}) == {
        "chat_template": "D", "chat_template.tool_use": "T", "chat_template.rag": "R",
        "chat_templates": ["tool_use", "rag"],
    }  # fmt: skip
    assert values(tmp_path, {"chat_template": named[1:2]}) == {
        "chat_template.tool_use": "T",
        "chat_templates": ["tool_use"],
    }


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text, "utf-8", newline="")


def test_a_table_of_templates(tmp_path: Path) -> None:
    """transformers takes a table by name as well as a list."""
    named = {"default": "D", "tool_use": "T"}
    assert values(tmp_path, {"chat_template": named})["chat_template.tool_use"] == "T"


def test_the_file_goes_before_the_settings(tmp_path: Path) -> None:
    """As in transformers, with its line ends as Python reads them; llama.cpp's converter takes the settings'."""
    write(tmp_path, "chat_template.jinja", "ж\r\n")
    assert values(tmp_path, {}) == {"chat_template": "ж\n"}
    assert remark(tmp_path, {}) == ""
    named = [{"name": "default", "template": "C"}, {"name": "tool_use", "template": "T"}]
    for other in ("C", named):
        assert values(tmp_path, {"chat_template": other}) == {"chat_template": "ж\n"}
        assert remark(tmp_path, {"chat_template": other}) == (
            "the chat template in chat_template.jinja is used, and not that in tokenizer_config.json"
        )
    assert remark(tmp_path, {"chat_template": "ж\n"}) == ""  # the same: there was no choice


def test_a_processors_template_stands_in(tmp_path: Path) -> None:
    """transformers' tokenizer does not read chat_template.json, its processor does: it counts where nothing else is."""
    write(tmp_path, "chat_template.json", json.dumps({"chat_template": "J"}))
    assert values(tmp_path, {}) == {"chat_template": "J"}
    assert values(tmp_path, {"chat_template": "C"}) == {"chat_template": "C"}
    told = "the chat template in tokenizer_config.json is used, and not that in chat_template.json"
    assert remark(tmp_path, {"chat_template": "C"}) == told
    assert remark(tmp_path, {"chat_template": "J"}) == ""
    write(tmp_path, "chat_template.jinja", "F")
    assert values(tmp_path, {"chat_template": "C"}) == {"chat_template": "F"}
    assert remark(tmp_path, {"chat_template": "C"}) == (
        "the chat template in chat_template.jinja is used, and not that in tokenizer_config.json or chat_template.json"
    )


def test_additional_templates(tmp_path: Path) -> None:
    """transformers takes their names from the files', and with them ignores tokenizer_config.json altogether."""
    write(tmp_path, "additional_chat_templates/tools.jinja", "T")
    write(tmp_path, "additional_chat_templates/notes.txt", "not one")
    assert values(tmp_path, {}) == {"chat_template.tools": "T", "chat_templates": ["tools"]}
    told = (
        r"additional_chat_templates has no default template, and hides the one in tokenizer_config.json from transfor"
    )
    with pytest.raises(CheckpointError, match=told):
        chat_templates(tmp_path, {"chat_template": "C"})
    write(tmp_path, "chat_template.jinja", "F")
    expected = {"chat_template": "F", "chat_template.tools": "T", "chat_templates": ["tools"]}
    assert values(tmp_path, {"chat_template": "C"}) == expected
    write(tmp_path, "additional_chat_templates/default.jinja", "F")
    assert values(tmp_path, {}) == expected
    write(tmp_path, "additional_chat_templates/default.jinja", "X")  # which transformers takes, of all
    with pytest.raises(
        CheckpointError, match=r"chat_template.jinja and additional_chat_templates/default.jinja are two"
    ):
        chat_templates(tmp_path, {})


def test_two_names_that_are_one_in_gguf(tmp_path: Path) -> None:
    named = {"default": "D", "tool-use": "A", "tool_use": "B"}
    with pytest.raises(CheckpointError, match="two chat templates are named 'tool_use' in GGUF"):
        chat_templates(tmp_path, {"chat_template": named})


@pytest.mark.parametrize("template", [3, {"default": 3}, ["D"], [{"name": "x"}], [{"name": "", "template": "T"}]])
def test_other_templates_are_refused(tmp_path: Path, template: Any) -> None:
    with pytest.raises(CheckpointError, match="chat_template is neither"):
        chat_templates(tmp_path, {"chat_template": template})


def test_a_template_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"chat_template.jinja: the chat template cannot be read"):
        chat_templates(tmp_path, {})
