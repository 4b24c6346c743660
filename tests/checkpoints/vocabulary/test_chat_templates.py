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
    """Return the remark on the choice without the folder; empty if there is none."""
    return "; ".join(chat_templates(folder, settings)[1]).removeprefix(f"{folder}: ")


def test_a_single_template(tmp_path: Path) -> None:
    assert values(tmp_path, {"chat_template": "C"}) == {"chat_template": "C"}
    assert values(tmp_path, {}) == {}


def test_keys_of_named_templates(tmp_path: Path) -> None:
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


def test_templates_in_a_table_by_name(tmp_path: Path) -> None:
    """transformers accepts a table by name as well as a list."""
    named = {"default": "D", "tool_use": "T"}
    assert values(tmp_path, {"chat_template": named})["chat_template.tool_use"] == "T"


def test_chat_template_jinja_takes_precedence(tmp_path: Path) -> None:
    """Follow transformers, with newlines as Python reads them; llama.cpp's converter uses tokenizer_config.json."""
    write(tmp_path, "chat_template.jinja", "ж\r\n")
    assert values(tmp_path, {}) == {"chat_template": "ж\n"}
    assert remark(tmp_path, {}) == ""
    named = [{"name": "default", "template": "C"}, {"name": "tool_use", "template": "T"}]
    for other in ("C", named):
        assert values(tmp_path, {"chat_template": other}) == {"chat_template": "ж\n"}
        assert remark(tmp_path, {"chat_template": other}) == (
            "using the chat template in chat_template.jinja, not the one in tokenizer_config.json"
        )
    assert remark(tmp_path, {"chat_template": "ж\n"}) == ""  # both are the same


def test_the_template_of_a_processor_is_used_if_there_is_no_other(tmp_path: Path) -> None:
    """Use chat_template.json, which in transformers only the processor reads, if there is no other template."""
    write(tmp_path, "chat_template.json", json.dumps({"chat_template": "J"}))
    assert values(tmp_path, {}) == {"chat_template": "J"}
    assert values(tmp_path, {"chat_template": "C"}) == {"chat_template": "C"}
    expected = "using the chat template in tokenizer_config.json, not the one in chat_template.json"
    assert remark(tmp_path, {"chat_template": "C"}) == expected
    assert remark(tmp_path, {"chat_template": "J"}) == ""
    write(tmp_path, "chat_template.jinja", "F")
    assert values(tmp_path, {"chat_template": "C"}) == {"chat_template": "F"}
    assert remark(tmp_path, {"chat_template": "C"}) == (
        "using the chat template in chat_template.jinja, not the one in tokenizer_config.json or chat_template.json"
    )


def test_additional_templates_in_files(tmp_path: Path) -> None:
    """transformers names them after their files, and then ignores tokenizer_config.json."""
    write(tmp_path, "additional_chat_templates/tools.jinja", "T")
    write(tmp_path, "additional_chat_templates/notes.txt", "not one")
    assert values(tmp_path, {}) == {"chat_template.tools": "T", "chat_templates": ["tools"]}
    message = (
        r"additional_chat_templates has no default template and makes transformers ignore the one in tokenizer_config"
    )
    with pytest.raises(CheckpointError, match=message):
        chat_templates(tmp_path, {"chat_template": "C"})
    write(tmp_path, "chat_template.jinja", "F")
    expected = {"chat_template": "F", "chat_template.tools": "T", "chat_templates": ["tools"]}
    assert values(tmp_path, {"chat_template": "C"}) == expected
    write(tmp_path, "additional_chat_templates/default.jinja", "F")
    assert values(tmp_path, {}) == expected
    write(tmp_path, "additional_chat_templates/default.jinja", "X")  # the one that transformers uses
    with pytest.raises(
        CheckpointError, match=r"chat_template.jinja and additional_chat_templates/default.jinja are both"
    ):
        chat_templates(tmp_path, {})


def test_template_names_with_the_same_gguf_key_are_refused(tmp_path: Path) -> None:
    named = {"default": "D", "tool-use": "A", "tool_use": "B"}
    with pytest.raises(CheckpointError, match="two chat templates would be 'tool_use' in GGUF"):
        chat_templates(tmp_path, {"chat_template": named})


@pytest.mark.parametrize("template", [3, {"default": 3}, ["D"], [{"name": "x"}], [{"name": "", "template": "T"}]])
def test_templates_of_other_types_are_refused(tmp_path: Path, template: Any) -> None:
    with pytest.raises(CheckpointError, match="chat_template is neither"):
        chat_templates(tmp_path, {"chat_template": template})


def test_a_template_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"chat_template.jinja: the chat template cannot be read"):
        chat_templates(tmp_path, {})
