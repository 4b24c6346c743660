"""Convert a checkpoint's chat templates to GGUF metadata: those that transformers 5 uses, from any of its files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.safetensors_file import read_json
from pa_lite.errors import CheckpointError
from pa_lite.ggml.metadata import Metadata, array, string
from pa_lite.system.opening import read_regular
from pa_lite.untrusted.file_kind import check_text

_FILE, _FOLDER, _PROCESSOR, _SETTINGS = (
    "chat_template.jinja", "additional_chat_templates", "chat_template.json", "tokenizer_config.json"
)  # fmt: skip
_DEFAULT = "default"


def _read_text(path: Path) -> str:
    """Return the text of a template file, every line end as a newline."""
    try:
        raw = read_regular(path)
        check_text(path, raw, len(raw))
        return raw.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{path}: the chat template cannot be read: {e}") from e


def _named(template: Any, where: Path) -> dict[str, str]:
    """Return templates by name, given as a string, a table or a list of named templates; empty for None.

    Raises CheckpointError for anything else.
    """
    if template is None:
        return {}
    if isinstance(template, str):
        return {_DEFAULT: template}
    if isinstance(template, dict):
        template = [{"name": name, "template": text} for name, text in template.items()]
    texts: dict[str, str] = {}
    for entry in template if isinstance(template, list) else [None]:
        name, text = (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not name or not isinstance(text, str):
            raise CheckpointError(f"{where}: its chat_template is neither a string nor a list of named strings.")
        texts[name] = text
    return texts


def _in_files(folder: Path) -> dict[str, str]:
    """Return the text of chat_template.jinja, as `default`, and of additional templates. Raises CheckpointError."""
    texts = {_DEFAULT: _read_text(folder / _FILE)} if (folder / _FILE).is_file() else {}
    others = {path.stem: _read_text(path) for path in sorted((folder / _FOLDER).glob("*.jinja")) if path.is_file()}
    if _DEFAULT in texts and others.get(_DEFAULT, texts[_DEFAULT]) != texts[_DEFAULT]:
        raise CheckpointError(
            f"{folder}: {_FILE} and {_FOLDER}/{_DEFAULT}.jinja are both the default template. Remove the wrong one."
        )
    return texts | others


def _chosen(folder: Path, settings: Mapping[str, Any], remarks: list[str]) -> dict[str, str]:
    """Return the templates that transformers' tokenizer uses: those in files, else tokenizer_config.json's.

    A processor's chat_template.json, which tokenizers do not read, is used if there is no other.
    """
    files = _in_files(folder)
    own = _named(settings.get("chat_template"), folder / _SETTINGS)
    processor: dict[str, str] = {}
    if (folder / _PROCESSOR).is_file():
        processor = _named(read_json(folder / _PROCESSOR).get("chat_template"), folder / _PROCESSOR)
    if files and _DEFAULT not in files and _DEFAULT in own:
        raise CheckpointError(
            f"{folder}: {_FOLDER} has no default template and makes transformers ignore the one in {_SETTINGS}. "
            f"Move that to {_FILE}, or remove {_FOLDER}."
        )
    sources = [(_FILE if _DEFAULT in files else _FOLDER, files), (_SETTINGS, own), (_PROCESSOR, processor)]
    given = [(name, texts) for name, texts in sources if texts]
    if not given:
        return {}
    taken, texts = given[0]
    hidden = [name for name, others in given[1:] if others != texts]
    if hidden:
        remarks.append(f"{folder}: using the chat template in {taken}, not the one in {' or '.join(hidden)}")
    return texts


def chat_templates(folder: Path, settings: Mapping[str, Any]) -> tuple[Metadata, list[str]]:
    """Return the chat templates as GGUF keys (empty if there are none), and a remark if one of several was chosen.

    chat_template.jinja takes precedence over tokenizer_config.json (`settings`), and that over chat_template.json. The
    default is `tokenizer.chat_template`, others are `tokenizer.chat_template.<name>`. Raises CheckpointError for a
    template that is neither a string nor a list of named strings, and for files that transformers reads in a way that
    their author cannot want.
    """
    remarks: list[str] = []
    texts: dict[str, str] = {}
    for name, text in _chosen(folder, settings, remarks).items():
        key = re.sub("[^A-Za-z0-9]", "_", name)
        if texts.setdefault(key, text) != text:
            raise CheckpointError(f"{folder}: two chat templates would be {key!r} in GGUF. Rename one of them.")
    out: Metadata = {}
    if _DEFAULT in texts:
        out["tokenizer.chat_template"] = string(texts.pop(_DEFAULT))
    out.update({f"tokenizer.chat_template.{name}": string(text) for name, text in texts.items()})
    if texts:
        out["tokenizer.chat_templates"] = array("STRING", list(texts))
    return out, remarks
