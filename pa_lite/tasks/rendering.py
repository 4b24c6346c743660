"""Rendering of rows as items, with sandboxed templates and expressions. Uses no model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2

from pa_lite.errors import InputError
from pa_lite.tasks.baselines import Accepted
from pa_lite.tasks.data import RowReference
from pa_lite.tasks.metrics import Gold
from pa_lite.tasks.sandbox import BrokenTemplateError, LimitedTemplates, Missing, Templates
from pa_lite.tasks.spec import TaskSpec
from pa_lite.tasks.transforms import COLUMNS, TRANSFORMS
from pa_lite.untrusted.rows import Row

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MOST_CHOICES = 10_000
_MOST_GOLDS, _LONGEST_GOLDS = 10_000, 1_000_000  # accepted answers of a row, and their total characters
_MOST_SPANS, _MOST_ALIGNED = 100, 1000  # spans in one accepted answer, and in all those that have several
# errors that a template or transform can raise on a row that does not fit
_ROW_ERRORS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
)


@dataclass(frozen=True, kw_only=True)
class Item:
    """A rendered row: what is sent to the model and how its answer is graded.

    `index` is the row's index in the split. `lead` is the description and exemplars, shared by the items of a group.
    `contexts` is the item's own text, one for each choice with partial scoring. MC and FMC: `continuations` are scored
    and `answer` is the index of the correct one. G: `golds` are the accepted answers, each a tuple of spans, and
    `answer` is -1. `cluster` is a digest of what it shares with other items, empty if the task has no clusters.
    """

    index: int
    lead: str = field(repr=False)
    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    answer: int
    row: Row = field(repr=False)
    golds: tuple[Gold, ...] = ()
    group: str = ""
    where: str = ""
    cluster: str = ""

    @property
    def prompt(self) -> str:
        """The complete text before the answer; with partial scoring, that of the first choice."""
        return self.lead + self.contexts[0]

    @property
    def key(self) -> str:
        """The item's own text, which identifies the question."""
        return "\0".join(self.contexts)

    @property
    def requests(self) -> list[tuple[str, str]]:
        """The (context, continuation) pair of each choice."""
        contexts = self.contexts * len(self.continuations) if len(self.contexts) == 1 else self.contexts
        return [(self.lead + c, t) for c, t in zip(contexts, self.continuations, strict=True)]

    @property
    def length(self) -> int:
        """The total characters of the prompts of all choices, including the choices."""
        n = max(1, len(self.continuations))
        each = len(self.contexts[0]) * n if len(self.contexts) == 1 else sum(map(len, self.contexts))
        return len(self.lead) * n + each + sum(map(len, self.continuations))

    @property
    def prompt_hash(self) -> str:
        """The SHA-256 of the prompt in UTF-8, as hexadecimal digits."""
        return hashlib.sha256(self.prompt.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def target(self) -> str:
        """The correct answer without its delimiter; the first of several."""
        return ", ".join(self.golds[0]) if self.golds else self.continuations[self.answer].lstrip()


class Formatter:
    """A task's compiled templates and expressions; call `close` when done."""

    def __init__(self, spec: TaskSpec) -> None:
        """Compile them. Raises InputError for an invalid template or expression."""
        self.spec = spec
        names = ["answers"] if spec.kind == "G" else ["choices", "answer"]
        names += ["cluster"] if spec.cluster else []
        make = Templates if spec.is_own else LimitedTemplates
        try:
            self._templates: Templates | LimitedTemplates = make(
                {name: getattr(spec, name) for name in ("template", "prefix", "target")},
                {name: getattr(spec, name) for name in names},
            )
        except BrokenTemplateError as e:
            raise InputError(f"task {spec.name}: its {e.name} is not valid: {e}.") from e

    def close(self) -> None:
        """Stop the worker process."""
        self._templates.close()

    @property
    def columns(self) -> frozenset[str] | None:
        """The columns that the task may use; None if that is unknown or it uses the whole row."""
        names = self._templates.names
        if names is None or "row" in names:
            return None
        return names.union([self.spec.group_by], *(COLUMNS[name] for name in self.spec.transforms))

    def _fails(self, ref: RowReference, name: str, why: object) -> InputError:
        return InputError(f"{ref.where}: {name} of task {self.spec.name} fails on this row: {why}.")

    def scope(self, ref: RowReference) -> dict[str, Any]:
        """Return the variables of templates: the row's columns, those that transforms add, `row`, `config`, `texts`."""
        row = dict(ref.row)
        for name in self.spec.transforms:
            try:
                row.update(TRANSFORMS[name](row))
            except KeyError as e:
                raise self._fails(ref, f"transform {name}", f"it has no column {e}") from e
            except _ROW_ERRORS as e:
                raise self._fails(ref, f"transform {name}", e) from e
        return {"config": ref.config, "texts": self.spec.texts, **row, "row": row}

    def render(self, name: str, ref: RowReference, scope: Mapping[str, Any]) -> str:
        try:
            text = self._templates.render(name, scope)
            text.encode("utf-8")  # a lone surrogate from JSON cannot be tokenized
        except _ROW_ERRORS as e:
            raise self._fails(ref, name, str(e).rstrip(".")) from e
        return text

    def evaluate(self, name: str, ref: RowReference, scope: Mapping[str, Any]) -> Any:
        try:
            value = self._templates.evaluate(name, scope)
        except _ROW_ERRORS as e:
            raise self._fails(ref, name, str(e).rstrip(".")) from e
        if isinstance(value, Missing):
            if getattr(self.spec, name) == value.name:
                raise InputError(f"{ref.where}: has no column {value.name!r}.")
            raise self._fails(ref, name, f"{value.name!r} is undefined")
        return value

    def prefix(self, ref: RowReference) -> str:
        return self.render("prefix", ref, self.scope(ref)) if self.spec.prefix else ""

    def item(self, index: int, ref: RowReference) -> Item:
        """Return a row's item without a lead. Raises InputError, naming file, row and field, if it does not fit."""
        spec, scope = self.spec, self.scope(ref)
        if spec.kind == "G":
            golds = self._golds(ref, scope)
            context = self.render("template", ref, scope)
            return Item(
                index=index,
                lead="",
                contexts=(context,),
                continuations=(),
                answer=-1,
                row=ref.row,
                golds=golds,
                group=ref.group,
                where=ref.where,
                cluster=self._cluster(ref, scope),
            )
        choices, answer = self._choices(ref, scope)
        if spec.partial:
            contexts = tuple(self.render("template", ref, {**scope, "choice": c}) for c in choices)
            continuations = (spec.delimiter + self._target(ref, scope),) * len(choices)
        else:
            if spec.kind == "FMC":
                letters = _LETTERS[: len(choices)]
                scope["lettered"] = "\n".join(f"{a}. {c}" for a, c in zip(letters, choices, strict=True))
                choices = list(letters)
            contexts = (self.render("template", ref, scope),)
            continuations = tuple(spec.delimiter + c for c in choices)
        return Item(
            index=index,
            lead="",
            contexts=contexts,
            continuations=continuations,
            answer=answer,
            row=ref.row,
            golds=(),
            group=ref.group,
            where=ref.where,
            cluster=self._cluster(ref, scope),
        )

    def accepted(self, ref: RowReference) -> Accepted:
        """Return a row's accepted answers without rendering a template. Raises InputError if it does not fit."""
        scope = self.scope(ref)
        if self.spec.kind == "G":
            return self._accepted(ref.group, self._golds(ref, scope))
        choices, answer = self._choices(ref, scope)
        return self._accepted(ref.group, (), answer, choices[answer])

    def accepted_of(self, item: Item) -> Accepted:
        """Return what `accepted` returns of the item's row."""
        text = "" if item.golds else item.continuations[item.answer].removeprefix(self.spec.delimiter)
        return self._accepted(item.group, item.golds, item.answer, text)

    def _accepted(self, group: str, golds: Sequence[Gold], answer: int = -1, text: str = "") -> Accepted:
        is_by_text = self.spec.kind == "MC" and not self.spec.partial
        own = {text if is_by_text else str(answer)}
        return Accepted(group, frozenset({", ".join(g) for g in golds} or own))

    def _cluster(self, ref: RowReference, scope: Mapping[str, Any]) -> str:
        """Return a digest of the value of `cluster`: a passage may be long."""
        if not self.spec.cluster:
            return ""
        value = self.evaluate("cluster", ref, scope)
        if not isinstance(value, (str, int, float, list, tuple)):
            raise InputError(f"{ref.where}: cluster is {value!r:.80}, but must be a string, a number or a list.")
        return hashlib.blake2b(repr(value).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    def solved(self, ref: RowReference) -> str:
        """Return the text of an exemplar: context, delimiter, answer, separator."""
        item = self.item(0, ref)
        context = item.contexts[item.answer if self.spec.partial else 0]
        if self.spec.kind != "G":
            return context + item.continuations[item.answer] + self.spec.separator
        target = self._target(ref, self.scope(ref)) if self.spec.target else item.target
        return context + self.spec.delimiter + target + self.spec.separator

    def _target(self, ref: RowReference, scope: Mapping[str, Any]) -> str:
        target = self.render("target", ref, scope).strip()
        if not target:
            raise self._fails(ref, "target", "it is empty")
        return target

    def _choices(self, ref: RowReference, scope: Mapping[str, Any]) -> tuple[list[str], int]:
        choices, answer = self.evaluate("choices", ref, scope), self.evaluate("answer", ref, scope)
        if (
            not isinstance(choices, (list, tuple))
            or len(choices) < 2
            or not all(isinstance(c, str) and c for c in choices)
        ):
            raise InputError(f"{ref.where}: choices must be a list of at least two non-empty strings.")
        if any("\ud800" <= character <= "\udfff" for choice in choices for character in choice):
            raise InputError(f"{ref.where}: choices contain a lone surrogate, which is not valid Unicode.")
        if len(choices) > _MOST_CHOICES:
            raise InputError(f"{ref.where}: has {len(choices)} choices; the limit is {_MOST_CHOICES}. Remove some.")
        if self.spec.kind == "FMC" and len(choices) > len(_LETTERS):
            raise InputError(f"{ref.where}: has {len(choices)} choices; the limit for kind FMC is {len(_LETTERS)}.")
        if isinstance(answer, str) and answer.isascii() and answer.lstrip("-").isdigit():
            answer = int(answer)
        if type(answer) is not int or not 0 <= answer < len(choices):
            raise InputError(
                f"{ref.where}: answer is {answer!r}, but must be the index of a choice, 0 to {len(choices) - 1}."
            )
        return list(choices), answer

    def _golds(self, ref: RowReference, scope: Mapping[str, Any]) -> tuple[Gold, ...]:
        value = self.evaluate("answers", ref, scope)
        golds = []
        for entry in value if isinstance(value, (list, tuple)) else [value]:
            spans = entry if isinstance(entry, (list, tuple)) else [entry]
            if not spans or not all(isinstance(s, (str, int, float)) and not isinstance(s, bool) for s in spans):
                raise InputError(f"{ref.where}: answers are {value!r:.80}, but must be a string or a list of strings.")
            golds.append(tuple(map(str, spans)))
        if not golds:
            raise InputError(f"{ref.where}: has no accepted answer.")
        _check_golds(ref.where, golds)
        return tuple(golds)


def _check_golds(where: str, golds: Sequence[Gold]) -> None:
    """Raise InputError for accepted answers that take metrics too long, which align spans, in number or length."""
    n_aligned = sum(len(gold) for gold in golds if len(gold) > 1)
    for n, most, what in (
        (len(golds), _MOST_GOLDS, "accepted answers"),
        (max(map(len, golds)), _MOST_SPANS, "spans in one accepted answer"),
        (n_aligned, _MOST_ALIGNED, "spans in accepted answers of several spans"),
        (sum(len(span) for gold in golds for span in gold), _LONGEST_GOLDS, "characters in all accepted answers"),
    ):
        if n > most:
            raise InputError(f"{where}: has {n} {what}; the limit is {most}. Remove some.")
