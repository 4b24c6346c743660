"""Task specifications: TOML files that say where rows come from and how a row becomes a prompt. Knows no model."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pa_lite.errors import InputError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SUITES = Path(__file__).parent / "suites"
KINDS = ("MC",)


@dataclass(frozen=True)
class TaskSpec:
    """One few-shot task.

    `data` is a JSONL file: `models:PATH` lies in pa-lite's models folder, anything else beside the TOML file. A row has
    the columns `choices` (texts), `answer` (the right choice's index), `split`, and whatever `template` (Jinja) names.
    A prompt is `shots` solved rows of `shots_split`, each behind it `separator`, then the row; a choice stands one
    blank behind it.
    """

    name: str
    data: str
    template: str
    folder: Path
    description: str = ""
    area: str = ""
    kind: str = "MC"
    separator: str = "\n\n"
    shots: int = 0
    shots_split: str = "train"
    split: str = "test"


def _read(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
        return document
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror}.") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: is no TOML: {e}.") from e


def load_suite_file(path: Path) -> list[TaskSpec]:
    """The tasks of a TOML file, in its order: each `[tasks.NAME]` over `[defaults]`.

    Raises InputError, naming file, task and key, for what is missing, unknown or of the wrong type.
    """
    document = _read(path)
    tasks, defaults = document.get("tasks"), document.get("defaults", {})
    if not isinstance(tasks, dict) or not tasks or not isinstance(defaults, dict):
        raise InputError(f"{path}: has no [tasks.NAME] table.")
    return [_spec(path, name, {**defaults, **entry}) for name, entry in tasks.items()]


def _spec(path: Path, name: str, entry: Mapping[str, Any]) -> TaskSpec:
    known = {f.name: int if f.type == "int" else str for f in fields(TaskSpec) if f.name not in ("name", "folder")}
    for key, value in entry.items():
        if key not in known:
            raise InputError(f"{path}: task {name} has the unknown key {key!r}.{nearest(key, known)}")
        if type(value) is not known[key]:
            raise InputError(f"{path}: task {name}: {key} must be {'a number' if known[key] is int else 'a text'}.")
    for key in ("data", "template"):
        if key not in entry:
            raise InputError(f"{path}: task {name} has no {key!r}.")
    spec = TaskSpec(name=name, folder=path.parent, **entry)
    if spec.kind not in KINDS:
        raise InputError(f"{path}: task {name} has the unknown kind {spec.kind!r}.{nearest(spec.kind, KINDS)}")
    if spec.shots < 0:
        raise InputError(f"{path}: task {name}: shots is {spec.shots}, but must be 0 or more.")
    return spec


def suites() -> dict[str, list[TaskSpec]]:
    """Every suite that comes with pa-lite: name -> its tasks."""
    return {path.stem: load_suite_file(path) for path in sorted(_SUITES.glob("*.toml"))}


def find_tasks(names: Sequence[str]) -> list[TaskSpec]:
    """The tasks that names of suites, names of tasks and .toml files stand for, in that order, each once.

    Raises InputError with the nearest names for one that is not known.
    """
    known = suites()
    by_name = {spec.name: spec for specs in known.values() for spec in specs}
    found: dict[str, TaskSpec] = {}
    for name in names:
        if name in known:
            specs = known[name]
        elif name in by_name:
            specs = [by_name[name]]
        elif name.endswith(".toml"):
            specs = load_suite_file(Path(name))
        else:
            raise InputError(f"unknown task or suite {name!r}.{nearest(name, [*known, *by_name])}")
        found.update((spec.name, spec) for spec in specs)
    return list(found.values())
