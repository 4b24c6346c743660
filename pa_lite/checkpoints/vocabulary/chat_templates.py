"""A checkpoint's chat templates, wherever they are kept, as GGUF metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.safetensors_file import read_json
from pa_lite.checkpoints.source import Metadata, array, string
from pa_lite.errors import CheckpointError
from pa_lite.opening import read_regular


def _read_text(path: Path) -> str:
    try:
        return read_regular(path).decode("utf-8")
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{path}: the chat template cannot be read: {e}") from e


def _stored_template(folder: Path) -> Any:
    """The template beside tokenizer_config.json: a text, a list of named ones, or None."""
    main = folder / "chat_template.jinja"
    if main.is_file():
        others = sorted((folder / "additional_chat_templates").glob("*.jinja"))
        named = [{"name": path.stem, "template": _read_text(path)} for path in others]
        text = _read_text(main)
        return [{"name": "default", "template": text}, *named] if named else text
    if (folder / "chat_template.json").is_file():
        return read_json(folder / "chat_template.json").get("chat_template")
    return None


def chat_templates(folder: Path, settings: Mapping[str, Any]) -> Metadata:
    """The chat templates as GGUF keys, empty without one: tokenizer_config.json's (`settings`), else those of files.

    The default is `tokenizer.chat_template`, another `tokenizer.chat_template.<name>`. Raises CheckpointError for a
    template that is neither a text nor a list of named texts.
    """
    template = settings.get("chat_template")
    if template is None:
        template = _stored_template(folder)
    if template is None:
        return {}
    entries = [{"name": "default", "template": template}] if isinstance(template, str) else template
    texts: dict[str, str] = {}
    for entry in entries if isinstance(entries, list) else [None]:
        name, text = (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not name or not isinstance(text, str):
            raise CheckpointError(f"{folder}: its chat_template is neither a text nor a list of named texts.")
        texts[re.sub("[^A-Za-z0-9]", "_", name)] = text
    out: Metadata = {}
    if "default" in texts:
        out["tokenizer.chat_template"] = string(texts.pop("default"))
    out.update({f"tokenizer.chat_template.{name}": string(text) for name, text in texts.items()})
    if texts:
        out["tokenizer.chat_templates"] = array("STRING", list(texts))
    return out
