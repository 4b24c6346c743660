from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pa_lite.checkpoints.vocabulary.chat_templates import chat_templates
from pa_lite.errors import CheckpointError


def values(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("tokenizer."): entry.value for key, entry in chat_templates(folder, settings).items()}


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


def test_files_beside_the_settings(tmp_path: Path) -> None:
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "J"}), "utf-8")
    assert values(tmp_path, {}) == {"chat_template": "J"}
    (tmp_path / "chat_template.jinja").write_text("ж\r\n", "utf-8", newline="")
    assert values(tmp_path, {}) == {"chat_template": "ж\r\n"}
    assert values(tmp_path, {"chat_template": "C"}) == {"chat_template": "C"}
    (tmp_path / "additional_chat_templates").mkdir()
    for name in ("tools", "rag"):
        (tmp_path / "additional_chat_templates" / f"{name}.jinja").write_text(name, "utf-8")
    assert values(tmp_path, {}) == {
        "chat_template": "ж\r\n", "chat_template.rag": "rag", "chat_template.tools": "tools",
        "chat_templates": ["rag", "tools"],
    }  # fmt: skip


@pytest.mark.parametrize("template", [3, {"default": "D"}, ["D"], [{"name": "x"}], [{"name": "", "template": "T"}]])
def test_other_templates_are_refused(tmp_path: Path, template: Any) -> None:
    with pytest.raises(CheckpointError, match="chat_template is neither"):
        chat_templates(tmp_path, {"chat_template": template})


def test_a_template_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"chat_template.jinja: the chat template cannot be read"):
        chat_templates(tmp_path, {})
