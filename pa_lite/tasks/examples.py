"""A user's own rows as a few-shot task: a table with an input and an output column becomes a specification.

Few different outputs are choices, others are generated. Exemplars are the other rows (leave one out). Uses no model.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from pa_lite.errors import InputError
from pa_lite.tasks.columns import Columns, find_columns
from pa_lite.tasks.data import DataFiles
from pa_lite.tasks.spec import KINDS, TaskSpec, find_tasks
from pa_lite.untrusted.rows import Rows
from pa_lite.untrusted.safe_names import file_name

_log = logging.getLogger(__name__)
_LEAST = 8  # rows that ask something different
_MOST = 100_000  # rows of a table
_SCORED = 1000  # rows that are scored; of more, a fixed random sample
_MOST_CLASSES = 10  # different outputs up to which they are choices
_MOST_CHOICES = 100  # with --kind
_LETTERS = 26  # choices of kind FMC
_SHOTS, _LEAD = 8, 6000  # most exemplars, and about as many characters of them
_LONGEST_CELL = 100_000  # characters
_LONGEST_LABEL = 40  # characters of a column's name that is shown in the prompt
_SHORT = 40  # characters of cells up to which a row is one line
_ARROW = "->"
_MOST_TOKENS = 512  # of a generated answer
_SHOWN = 5  # rows in a message
_NAME = re.compile(r"[^\W\d_][\w -]*")  # of a column that is shown in the prompt
_RESERVED = ("config", "texts", "row", "choice", "lettered", "column", "true", "false", "none", "not", "and", "or",
             "in", "is", "if", "else", "self", "loop", "super", "caller", "varargs", "kwargs")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Examples:
    """A table of a user's own rows, which is scored as a few-shot task.

    `path` is a CSV, TSV, JSONL, JSON or parquet file. `input` and `output` name its columns, by default those with
    usual names (`question`, `text`, ... and `answer`, `label`, ...); several inputs are shown one below the other.
    `kind` is MC, FMC or G (see `TaskSpec`); by default at most 10 different outputs, each in two rows or more, are
    choices (MC), and others are generated (G).
    """

    path: str | Path = field(kw_only=False)
    input: str | Sequence[str] = ()
    output: str = ""
    kind: str = ""

    def __post_init__(self) -> None:
        """Convert the path, a single input, and the kind in any case. Raises InputError for an unknown kind."""
        if self.kind and self.kind.upper() not in KINDS:
            raise InputError(f"kind is {self.kind!r:.80}, but must be one of {', '.join(KINDS)}.")
        for name, value in {
            "path": Path(self.path),
            "input": (self.input,) if isinstance(self.input, str) and self.input else tuple(self.input),
            "kind": self.kind.upper(),
        }.items():
            object.__setattr__(self, name, value)


def as_examples(examples: Examples | str | Path) -> Examples:
    """Return examples given as a path, or as they are."""
    return examples if isinstance(examples, Examples) else Examples(examples)


def find_specs(tasks: str | Sequence[str] | None, examples: Examples | str | Path | None) -> list[TaskSpec]:
    """Return the tasks with these names, and that of the examples.

    Raises InputError as `find_tasks` and `examples_task` do, and if two have the same name.
    """
    found = find_tasks(tasks) if tasks else []
    if examples is not None:
        own = examples_task(examples)
        if own.name in (spec.name for spec in found):
            raise InputError(f"the examples and another task are both called {own.name}. Rename the file of examples.")
        found.append(own)
    return found


def column_names(examples: Examples) -> list[str]:
    """Return the names of a table's columns. Raises InputError if it cannot be read."""
    return _names(DataFiles().read(Path(examples.path))[0])


class _Row(NamedTuple):
    """The texts of a row's cells, without spaces at their ends, and where it is."""

    inputs: tuple[str, ...]
    output: str
    where: str

    @property
    def question(self) -> str:
        """What it asks, without case and repeated spaces, as exemplars are compared."""
        return " ".join(" ".join(self.inputs).casefold().split())


def examples_task(examples: Examples | str | Path) -> TaskSpec:
    """Return the task that a table amounts to; `task_text` writes it as TOML, and scoring that gives the same numbers.

    In prompts, rows of a few words are lines such as `- Paris -> France`; others have a line for each column that
    starts with its name (`Question: ...`, `Answer: ...`), and an empty line between exemplars.
    There is no instruction: both forms are for base models too. Raises InputError, naming file, column and row, for a
    table that is too small, has empty cells, or only one output.
    """
    chosen = as_examples(examples)
    path = Path(os.path.realpath(chosen.path)) if Path(chosen.path).is_symlink() else Path(chosen.path)
    table, _ = DataFiles().read(path)
    if len(table) > _MOST:
        raise InputError(f"{path}: has {len(table)} rows; the limit for examples is {_MOST}. Use a part of them.")
    columns = find_columns(path, _names(table), tuple(chosen.input), chosen.output)
    rows = list(_rows(path, table, columns))
    _check_number(path, rows)
    kind = chosen.kind or _kind_of(rows)
    _check_outputs(path, rows, kind)
    is_short = kind != "FMC" and _are_short(rows)
    spec = TaskSpec(
        name=file_name(re.sub(r"[\s,/]+", "-", Path(chosen.path).stem), otherwise="examples"), folder=path.parent,
        data={"test": path.name}, description=f"the examples in {path.name}", kind=kind,
        template=f"- {{{{ {_value(columns.inputs[0])} | trim }}}} {_ARROW}" if is_short else _template(columns, kind),
        separator="\n" if is_short else "\n\n", shots=_shots(rows, kind), leave_one_out=True,
        sampler="seed" if kind == "G" else "balanced", cluster=_cluster(rows, columns),
        sample=_SCORED if len(rows) > _SCORED else 0,
    )  # fmt: skip
    output = f"{_value(columns.output)} | trim"
    if kind == "G":
        inner = any("\n" in row.output for row in rows)
        return replace(
            spec, answers=output, max_tokens=_tokens(path, rows), metrics=("exact_match", "f1"),
            normalise=("lower", "blanks"), stop=(f"\n\n{_label(columns.inputs[0], 'Input')}:",) if inner else ("\n",),
        )  # fmt: skip
    choices = f"[{', '.join(map(_literal, sorted({row.output for row in rows})))}]"
    return replace(spec, choices=choices, answer=f"{choices}.index({output})", metrics=("acc", "f1_weighted"))


def _names(table: Rows) -> list[str]:
    """Return the names of a table's columns: those of its first rows, as rows of JSON may differ."""
    return list(dict.fromkeys(name for i in range(min(len(table), 100)) for name in table.row(i)))


def _rows(path: Path, table: Rows, columns: Columns) -> Iterator[_Row]:
    """Yield the rows. Raises InputError, naming the rows, for empty, missing and very long cells, lists and tables."""
    empty = []
    for i in range(len(table)):
        row, where = table.row(i), table.where(i)
        cells = []
        for name in (*columns.inputs, columns.output):
            value = row.get(name)
            if isinstance(value, (list, dict, tuple)):
                kind = "table" if isinstance(value, dict) else "list"
                raise InputError(f"{where}: the column {name!r} has a {kind}, not a text. Describe it in a task file.")
            text = "" if value is None or value != value else str(value).strip()
            if len(text) > _LONGEST_CELL:
                long = f"has {len(text)} characters; the limit is {_LONGEST_CELL}"
                raise InputError(f"{where}: the column {name!r} {long}. Shorten it.")
            cells.append(text)
        # of several inputs, such as instruction and input, some may be empty
        if not any(cells[:-1]) or not cells[-1] or (len(columns.inputs) == 1 and not cells[0]):
            empty.append((where, columns.output if any(cells[:-1]) else columns.inputs[0]))
        yield _Row(tuple(cells[:-1]), cells[-1], where)
    if empty:
        shown = ", ".join(f"{where.removeprefix(str(path)).lstrip(': ')} ({name})" for where, name in empty[:_SHOWN])
        more = f" and {len(empty) - _SHOWN} more" if len(empty) > _SHOWN else ""
        kind = "rows" if "row" in empty[0][0].removeprefix(str(path)) else "lines"
        raise InputError(f"{path}: has empty cells in {kind} {shown.replace('row ', '')}{more}. Fill or remove them.")


def _check_number(path: Path, rows: Sequence[_Row]) -> None:
    questions = Counter(row.question for row in rows)
    if len(questions) < _LEAST:
        different = f", of which {len(questions)} are different" if len(questions) < len(rows) else ""
        raise InputError(f"{path}: has {len(rows)} rows{different}; at least {_LEAST} are required, 30 are useful.")
    if repeated := len(rows) - len(questions):
        answers = {(row.question, row.output) for row in rows}
        other = (
            f", {len(answers) - len(questions)} of them with another output" if len(answers) > len(questions) else ""
        )
        _log.warning(
            "%s: %d rows have the input of another row%s. They are never exemplars of each other, and intervals count "
            "them as one.", path, repeated, other,
        )  # fmt: skip


def _kind_of(rows: Sequence[_Row]) -> str:
    counts = Counter(row.output for row in rows)
    return "MC" if len(counts) <= _MOST_CLASSES and min(counts.values()) > 1 else "G"


def _check_outputs(path: Path, rows: Sequence[_Row], kind: str) -> None:
    """Raise InputError for a single output, and for too many choices; warn about ones that nearly are the same."""
    counts = Counter(row.output for row in rows)
    if len(counts) == 1:
        raise InputError(f"{path}: every row has the output {rows[0].output!r:.80}. At least two are required.")
    if kind == "G":
        return
    most = _LETTERS if kind == "FMC" else _MOST_CHOICES
    if len(counts) > most:
        raise InputError(f"{path}: has {len(counts)} different outputs; kind {kind} allows {most}. Use --kind G.")
    if once := [output for output, n in counts.items() if n == 1]:
        _log.warning("%s: %d outputs are in one row only, so no exemplar shows them: %s", path, len(once),
                     ", ".join(f"{output!r:.40}" for output in once[:_SHOWN]))  # fmt: skip
    spelled: dict[str, str] = {}
    for output in sorted(counts):
        if spelled.setdefault(output.casefold(), output) != output:
            same = spelled[output.casefold()]
            _log.warning("%s: the outputs %r and %r differ only in case and count as two choices", path, same, output)


def _shots(rows: Sequence[_Row], kind: str) -> int:
    """Return the number of exemplars: up to 8, fewer long ones, and of choices equally many of each, at least one."""
    mean = sum(len(row.output) + sum(map(len, row.inputs)) + 20 for row in rows) / len(rows)
    most = min(_SHOTS, max(1, int(_LEAD / mean)))
    if kind != "G":
        n = len({row.output for row in rows})
        most = n * max(1, most // n)
    return min(most, len({row.question for row in rows}) - 1)


def _tokens(path: Path, rows: Sequence[_Row]) -> int:
    """Return how many tokens an answer may have: room for the longest output, in any script."""
    longest = max(len(row.output.encode()) for row in rows)
    tokens = 16 * -(-max(16, longest // 2 + 8) // 16)
    if tokens > _MOST_TOKENS:
        _log.warning("%s: the longest output has %d bytes; answers end after %d tokens", path, longest, _MOST_TOKENS)
    return min(tokens, _MOST_TOKENS)


def _are_short(rows: Sequence[_Row]) -> bool:
    """Return whether every row fits one line of a few words."""
    cells = [cell for row in rows for cell in (*row.inputs, row.output)]
    return len(rows[0].inputs) == 1 and all(len(c) <= _SHORT and c.isprintable() and _ARROW not in c for c in cells)


def _cluster(rows: Sequence[_Row], columns: Columns) -> str:
    """Return the expression for what rows with the same input share, empty if there are none."""
    if len({row.question for row in rows}) == len(rows):
        return ""
    parts = [f"{_value(name)} | trim | lower" for name in columns.inputs]
    return parts[0] if len(parts) == 1 else f"[{', '.join(parts)}]"


def _template(columns: Columns, kind: str) -> str:
    lines = [f"{_label(name, 'Input')}: {{{{ {_value(name)} | trim }}}}\n" for name in columns.inputs]
    if len(lines) > 1:
        pairs = zip(columns.inputs, lines, strict=True)
        lines = [f"{{% if {_is_there(_value(name))} %}}{line}{{% endif %}}" for name, line in pairs]
    options = "{{ lettered }}\n" if kind == "FMC" else ""
    return f"{''.join(lines)}{options}{_label(columns.output, 'Output')}:"


def _label(name: str, otherwise: str) -> str:
    """Return a column's name as the prompt shows it: `sentence_1` as `Sentence 1`."""
    text = name.strip().replace("_", " ")
    is_plain = _NAME.fullmatch(text) is not None and len(text) <= _LONGEST_LABEL and len(text) > 1
    return text[0].upper() + text[1:] if is_plain else otherwise


def _value(name: str) -> str:
    """Return the Jinja expression for a column."""
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) and name.lower() not in _RESERVED
    return name if plain else f"row[{_literal(name)}]"


def _is_there(value: str) -> str:
    return f"{value} is defined and {value} is not none and {value} | trim"


def _literal(text: str) -> str:
    """Return a string literal of Jinja, which knows the escapes of JSON."""
    is_plain = text.isprintable() and not set("'\\") & set(text)
    return f"'{text}'" if is_plain else json.dumps(text, ensure_ascii=False)
