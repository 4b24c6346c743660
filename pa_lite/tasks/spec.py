"""Task specifications: TOML files that say where rows come from and how a row becomes a prompt. Uses no model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pa_lite.errors import InputError, nearest
from pa_lite.tasks.answers import STEPS, Extract
from pa_lite.tasks.metrics import CLASS_METRICS, METRICS_OF_KIND
from pa_lite.tasks.transforms import TRANSFORMS
from pa_lite.untrusted.rows import read_toml
from pa_lite.untrusted.tables import BOOLEAN, INTEGER, STRING, STRING_TABLE, STRINGS, TABLE, TABLES, Form, check_table

_SUITES = Path(__file__).parent / "suites"
KINDS = tuple(METRICS_OF_KIND)
SAMPLERS = ("seed", "first", "balanced")


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One few-shot task: where its rows are, how a row becomes a prompt, and what is measured.

    **Rows.** `data` is a JSONL, JSON, CSV or parquet file with a column `split`, or a table that maps splits to files.
    `models:PATH` is in pa-lite's models folder, any other path is relative to the TOML file. Instead of `data`, `hub`
    names a data set on the Hub, with `config` (or several `configs`, scored as groups) and `revision`. `transforms` are
    names of Python functions that add columns.

    **Prompts.** `template` (sandboxed Jinja) renders a row's context from its columns, `row` (all of them), `config`
    and `texts`; `column(choices, 'text')` returns one field of a list of structs. `prefix` comes before everything.
    `shots` solved rows of `shots_split`, each followed by `separator`, come before the item, from the item's group if
    the task has groups (`configs`, or the values of the column `group_by`). `sampler` chooses them: by `seed`, the
    `first`, or `balanced`, one row of each answer before a second one of any, in the order of the seed, or of the file
    if the split is also scored. With `leave_one_out` they are other rows of the scored split instead of `shots_split`,
    so that every row is scored: never the item itself, a row with the same text, or one of its cluster. `delimiter`
    separates a context from its answer.

    **MC, FMC.** `choices` and `answer` are Jinja expressions: the choices, and the index of the correct one. FMC is
    answered with letters: the template shows `lettered`, and ` A`, ` B`, ... are scored. `partial` scores one
    continuation, `target`, after the template rendered with each `choice`.

    **G.** The model generates until `stop` or `max_tokens`. The expression `answers` returns the accepted answers,
    `target` is the answer that an exemplar shows, `extract` finds the answer, `normalise` applies to both sides.

    **Clusters.** The Jinja expression `cluster` returns what an item may share with others: its passage, or a question
    that occurs several times. Items with equal values are not independent: standard errors and intervals are by
    clusters. Prompts and scores do not depend on it.

    The first of `metrics` is the task's score. `sample` scores a fixed random sample of that many rows. `rows` is the
    number of rows of the scored split when the task was written. `version` increases when prompts or scores change.
    `only` keeps one group. `is_own` marks tasks that come with pa-lite, which run without limits.
    """

    name: str
    template: str
    folder: Path
    data: str | Mapping[str, str] = ""
    hub: str = ""
    config: str = ""
    configs: tuple[str, ...] = ()
    revision: str = ""
    description: str = ""
    area: str = ""
    licence: str = ""
    kind: str = "MC"
    transforms: tuple[str, ...] = ()
    prefix: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)
    separator: str = "\n\n"
    delimiter: str = " "
    shots: int = 0
    shots_split: str = "train"
    sampler: str = "seed"
    leave_one_out: bool = False
    split: str = "test"
    group_by: str = ""
    cluster: str = ""
    choices: str = "choices"
    answer: str = "answer"
    answers: str = "answer"
    target: str = ""
    partial: bool = False
    stop: tuple[str, ...] = ("\n",)
    max_tokens: int = 64
    extract: tuple[Extract, ...] = ()
    normalise: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    sample: int = 0
    rows: int = 0
    version: int = 1
    only: str = ""
    is_own: bool = False

    @property
    def metric(self) -> str:
        """The name of the metric that is the task's score."""
        return self.metrics[0] if self.metrics else "exact_match" if self.kind == "G" else "acc"

    @property
    def grouped(self) -> bool:
        return bool(self.configs or self.group_by)


# annotation of a field -> the form of its TOML value
_FORM_OF: dict[str, Form] = {
    "int": INTEGER,
    "bool": BOOLEAN,
    "str": STRING,
    "str | Mapping[str, str]": ((lambda v: STRING[0](v) or STRING_TABLE[0](v)), "a file, or a table of files"),
    "tuple[str, ...]": STRINGS,
    "Mapping[str, str]": STRING_TABLE,
    "tuple[Extract, ...]": TABLES,
}
_FORMS = {f.name: _FORM_OF[str(f.type)] for f in fields(TaskSpec) if f.name not in ("name", "folder", "only", "is_own")}
_EXTRACT = {f.name: STRING for f in fields(Extract)}
_FILE = {"description": STRING, "defaults": TABLE, "tasks": TABLE, "include": STRINGS, "override": TABLE}


def load_suite_file(path: Path) -> list[TaskSpec]:
    """Return the tasks of a TOML file, in its order: each `[tasks.NAME]` over `[defaults]`.

    A file with `include` takes the tasks of the suites named there instead, each changed by `[override]`. Raises
    InputError, naming file, task and key, for what is missing, unknown or of the wrong type.
    """
    document = check_table(read_toml(path)[0], str(path), _FILE)
    if "include" in document:
        return _included(path, document)
    if "override" in document:
        raise InputError(f"{path}: [override] needs include. For settings of all tasks, use [defaults].")
    tasks, defaults = document.get("tasks"), document.get("defaults", {})
    if not tasks:
        raise InputError(f"{path}: has no [tasks.NAME] table.")
    where = f"{path}: task"
    return [_spec(path, n, {**defaults, **check_table(t, f"{where} {n}", {}, others=True)}) for n, t in tasks.items()]


def _included(path: Path, document: Mapping[str, Any]) -> list[TaskSpec]:
    if not document.keys().isdisjoint(("tasks", "defaults")):
        raise InputError(f"{path}: a file with include may have [override], but not [tasks] or [defaults].")
    changes = _values(f"{path}: [override]", document.get("override", {}))
    found = []
    for name in document["include"]:
        inner = _SUITES / f"{name}.toml"
        if name not in _suite_names():
            raise InputError(f"{path}: includes the unknown suite {name!r}.{nearest(name, _suite_names())}")
        specs = [replace(spec, is_own=path.parent == _SUITES) for spec in load_suite_file(inner)]
        found += [_checked(path, replace(spec, **changes)) for spec in specs]
    return found


def _values(where: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry's values as arguments of TaskSpec. Raises InputError for an unknown key or a wrong type."""
    values = check_table(dict(entry), where, _FORMS)
    for i, table in enumerate(values.get("extract", ()), 1):
        check_table(table, f"{where}: extract {i}", _EXTRACT, ("name", "pattern"))
    if "extract" in values:
        values["extract"] = [Extract(**table) for table in values["extract"]]
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _spec(path: Path, name: str, entry: Mapping[str, Any]) -> TaskSpec:
    values = _values(f"{path}: task {name}", entry)
    if not values.get("template"):
        raise InputError(f"{path}: task {name} has no 'template'.")
    if bool(values.get("data")) == bool(values.get("hub")):
        both = "both 'data' and 'hub'" if values.get("data") else "neither 'data' nor 'hub'"
        raise InputError(f"{path}: task {name} has {both}; exactly one is required.")
    if values.get("leave_one_out") and "shots_split" in values:
        raise InputError(f"{path}: task {name}: leave_one_out draws from the scored split: remove shots_split.")
    return _checked(path, TaskSpec(name=name, folder=path.parent, is_own=path.parent == _SUITES, **values))


def _checked(path: Path, spec: TaskSpec) -> TaskSpec:
    """Return the spec itself after checks. Raises InputError for an unknown name or a number out of range."""

    def known(what: str, names: Iterable[str], table: Iterable[str]) -> None:
        for name in names:
            if name not in table:
                raise InputError(f"{path}: task {spec.name} has the unknown {what} {name!r}.{nearest(name, table)}")

    known("kind", [spec.kind], KINDS)
    known("sampler", [spec.sampler], SAMPLERS)
    known("transform", spec.transforms, TRANSFORMS)
    known("normalise step", spec.normalise, STEPS)
    known(f"metric of kind {spec.kind}", spec.metrics, METRICS_OF_KIND[spec.kind])
    if spec.metric in CLASS_METRICS:
        raise InputError(
            f"{path}: task {spec.name}: {spec.metric} is not a mean over items; list another metric first."
        )
    known("pick", [e.pick for e in spec.extract], ("first", "last"))
    for key, low in (("shots", 0), ("sample", 0), ("rows", 0), ("max_tokens", 1)):
        if getattr(spec, key) < low:
            raise InputError(f"{path}: task {spec.name}: {key} is {getattr(spec, key)}, but must be {low} or more.")
    if spec.partial and (spec.kind != "MC" or not spec.target):
        raise InputError(f"{path}: task {spec.name}: partial requires kind MC and a target.")
    for extract in spec.extract:
        extract.compiled()
    return spec


def _suite_names() -> list[str]:
    return sorted(path.stem for path in _SUITES.glob("*.toml"))


def suites() -> dict[str, list[TaskSpec]]:
    """Return every suite that comes with pa-lite: name -> its tasks."""
    return {name: load_suite_file(_SUITES / f"{name}.toml") for name in _suite_names()}


def suite_descriptions() -> dict[str, str]:
    """Return a one-line description of each suite, by name."""
    return {name: read_toml(_SUITES / f"{name}.toml")[0].get("description", "") for name in _suite_names()}


def split_names(names: str | Iterable[str], what: str = "tasks") -> tuple[str, ...]:
    """Return names given as a list or as one comma-separated string, whose empty entries are skipped.

    Raises InputError, which begins with `what`, for a string without names and for anything else.
    """
    found = tuple(n for n in names.split(",") if n.strip()) if isinstance(names, str) else tuple(names)
    if isinstance(names, str) and not found:
        raise InputError(f"{what}: the list {names!r:.80} has no names.")
    if not all(isinstance(name, str) for name in found):
        raise InputError(f"{what} must be strings, not {names!r:.80}.")
    return tuple(name.strip() for name in found)


def find_tasks(names: str | Iterable[str]) -> list[TaskSpec]:
    """Return the tasks of the given suites, task names and .toml files, in that order and each once.

    `TASK/GROUP` is one group of a task with groups. Raises InputError for an unknown name, with the nearest known ones,
    and for a task that is requested with different settings.
    """
    names = split_names(names)
    known = suites()
    by_name: dict[str, TaskSpec] = {}
    for specs in known.values():
        for spec in specs:
            # a suite's overrides (sample) apply only if the suite itself is named
            if not spec.sample or spec.name not in by_name:
                by_name[spec.name] = spec
    found: dict[str, TaskSpec] = {}
    for name in names:
        for spec in _named(name, known, by_name):
            if found.setdefault(spec.name, spec) != spec:
                raise InputError(f"{name}: task {spec.name} is requested twice with different settings.")
    return list(found.values())


def _named(name: str, known: Mapping[str, list[TaskSpec]], by_name: Mapping[str, TaskSpec]) -> list[TaskSpec]:
    if name in known:
        return known[name]
    if name in by_name:
        return [by_name[name]]
    if name.endswith(".toml"):
        return load_suite_file(Path(name))
    task, slash, group = name.partition("/")
    if slash and task in by_name and by_name[task].grouped:
        spec = by_name[task]
        if spec.configs and group not in spec.configs:
            raise InputError(f"task {task} has no group {group!r}.{nearest(group, spec.configs)}")
        configs = (group,) if spec.configs else ()
        return [replace(spec, name=name, only=group, configs=configs, rows=0)]
    if Path(name).suffix.lower() in (".csv", ".tsv", ".jsonl", ".json", ".parquet"):
        raise InputError(f"{name!r} is not a task but a table: use --examples {name}, or write a task file for it.")
    raise InputError(f"unknown task or suite {name!r}.{nearest(name, [*known, *by_name])}")
