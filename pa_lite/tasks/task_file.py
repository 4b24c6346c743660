"""Write a task as a TOML file, which `load_suite_file` reads back as the same task."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pa_lite.errors import InputError
from pa_lite.sanitize import toml_string
from pa_lite.tasks.results import spec_record
from pa_lite.tasks.spec import TaskSpec

_ABOUT = """\
# A few-shot task of pa-lite. Score it with: pa-lite score MODEL --tasks THIS_FILE
# See an item as the model sees it with:    pa-lite tasks show THIS_FILE
# The keys are described in TaskSpec (pa_lite/tasks/spec.py).
"""


def task_text(spec: TaskSpec, folder: Path) -> str:
    """Return a task as the text of a TOML file in a folder. Raises InputError if its data is not in it, or below."""
    lines = [_ABOUT, f"[tasks.{_key(spec.name)}]"]
    for key, value in spec_record(spec).items():
        if key != "name":
            lines.append(f"{key} = {_value(_located(spec, folder) if key == 'data' else value)}")
    return "\n".join(lines) + "\n"


def _located(spec: TaskSpec, folder: Path) -> Any:
    """Return the task's data, with names relative to the folder."""

    def name(of: str) -> str:
        path, home = (spec.folder / of).resolve(), folder.resolve()
        if not path.is_relative_to(home):
            raise InputError(
                f"{path}: is not in {home} or below, where its task file would be. Write it there with -o."
            )
        return path.relative_to(home).as_posix()

    return name(spec.data) if isinstance(spec.data, str) else {split: name(of) for split, of in spec.data.items()}


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(each)}" for key, each in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else toml_string(str(value))


def _key(name: str) -> str:
    """Return a key of TOML: bare where it may be, else in quotes."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml_string(name)
