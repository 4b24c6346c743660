"""A row becomes an item: templates and expressions, in a sandbox, and what may go wrong with them. No model here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2

from pa_lite.errors import InputError
from pa_lite.tasks.data import RowReference
from pa_lite.tasks.metrics import Gold
from pa_lite.tasks.sandbox import BrokenTemplateError, LimitedTemplates, Missing, Templates
from pa_lite.tasks.spec import TaskSpec
from pa_lite.tasks.transforms import COLUMNS, TRANSFORMS
from pa_lite.untrusted.rows import Row

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MOST_CHOICES = 10_000
_MOST_GOLDS, _LONGEST_GOLDS = 10_000, 1_000_000  # accepted answers of a row, and characters in all of them
_MOST_SPANS, _MOST_ALIGNED = 100, 1000  # in one accepted answer, and in all those that have several
# what a template or transform can raise on a row that does not fit it
_ROW_ERRORS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
)


@dataclass(frozen=True)
class Item:
    """A row ready for the model.

    `index` is its place in the split; `lead` the description and exemplars, shared by a group's items; `contexts` its
    own text, one for each choice where scoring is partial. MC and FMC: `continuations` are scored, `answer` is the
    right one's index. G: `golds` are the accepted answers, each a tuple of spans, and there is no answer (-1).
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

    @property
    def prompt(self) -> str:
        """The whole text before the answer; where scoring is partial, the first choice's."""
        return self.lead + self.contexts[0]

    @property
    def key(self) -> str:
        """The item's own text: two rows with the same one are the same question."""
        return "\0".join(self.contexts)

    @property
    def requests(self) -> list[tuple[str, str]]:
        """(context, continuation) of each choice."""
        contexts = self.contexts * len(self.continuations) if len(self.contexts) == 1 else self.contexts
        return [(self.lead + c, t) for c, t in zip(contexts, self.continuations, strict=True)]

    @property
    def length(self) -> int:
        """How many characters the prompts of all choices have together, with the choices."""
        n = max(1, len(self.continuations))
        each = len(self.contexts[0]) * n if len(self.contexts) == 1 else sum(map(len, self.contexts))
        return len(self.lead) * n + each + sum(map(len, self.continuations))

    @property
    def prompt_hash(self) -> str:
        """SHA-256 of the prompt's UTF-8, in hexadecimal."""
        return hashlib.sha256(self.prompt.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def target(self) -> str:
        """The right answer as text, without its delimiter; the first of several."""
        return ", ".join(self.golds[0]) if self.golds else self.continuations[self.answer].lstrip()


class Formatter:
    """A task's templates and expressions, compiled, until `close`."""

    def __init__(self, spec: TaskSpec) -> None:
        """Raises InputError for a template or expression that is broken."""
        self.spec = spec
        names = ("answers",) if spec.kind == "G" else ("choices", "answer")
        make = Templates if spec.is_own else LimitedTemplates
        try:
            self._templates: Templates | LimitedTemplates = make(
                {name: getattr(spec, name) for name in ("template", "prefix", "target")},
                {name: getattr(spec, name) for name in names},
            )
        except BrokenTemplateError as e:
            raise InputError(f"task {spec.name}: its {e.name} is broken: {e}.") from e

    def close(self) -> None:
        """End the process that was started."""
        self._templates.close()

    @property
    def columns(self) -> frozenset[str] | None:
        """The columns that the task can refer to; None where that is unknown, or where it takes whole rows."""
        names = self._templates.names
        if names is None or "row" in names:
            return None
        return names.union([self.spec.group_by], *(COLUMNS[name] for name in self.spec.transforms))

    def _fails(self, place: RowReference, name: str, why: object) -> InputError:
        return InputError(f"{place.where}: {name} of task {self.spec.name} fails on this row: {why}.")

    def scope(self, place: RowReference) -> dict[str, Any]:
        """What templates see: the row's columns and those that transforms add, `row`, `config`, `texts`."""
        row = dict(place.row)
        for name in self.spec.transforms:
            try:
                row.update(TRANSFORMS[name](row))
            except KeyError as e:
                raise self._fails(place, f"transform {name}", f"there is no column {e}") from e
            except _ROW_ERRORS as e:
                raise self._fails(place, f"transform {name}", e) from e
        return {"config": place.config, "texts": self.spec.texts, **row, "row": row}

    def render(self, name: str, place: RowReference, scope: Mapping[str, Any]) -> str:
        try:
            text = self._templates.render(name, scope)
            text.encode("utf-8")  # a lone surrogate of JSON's cannot become tokens
        except _ROW_ERRORS as e:
            raise self._fails(place, name, str(e).rstrip(".")) from e
        return text

    def evaluate(self, name: str, place: RowReference, scope: Mapping[str, Any]) -> Any:
        try:
            value = self._templates.evaluate(name, scope)
        except _ROW_ERRORS as e:
            raise self._fails(place, name, str(e).rstrip(".")) from e
        if isinstance(value, Missing):
            if getattr(self.spec, name) == value.name:
                raise InputError(f"{place.where}: has no column {value.name!r}.")
            raise self._fails(place, name, f"there is no {value.name!r}")
        return value

    def prefix(self, place: RowReference) -> str:
        return self.render("prefix", place, self.scope(place)) if self.spec.prefix else ""

    def item(self, index: int, place: RowReference) -> Item:
        """An item with nothing before it. Raises InputError, naming file, row and field, for one that does not fit."""
        spec, scope = self.spec, self.scope(place)
        if spec.kind == "G":
            golds = self._golds(place, scope)
            context = self.render("template", place, scope)
            return Item(index, "", (context,), (), -1, place.row, golds, place.group, place.where)
        choices, answer = self._choices(place, scope)
        if spec.partial:
            contexts = tuple(self.render("template", place, {**scope, "choice": c}) for c in choices)
            continuations = (spec.delimiter + self._target(place, scope),) * len(choices)
        else:
            if spec.kind == "FMC":
                letters = _LETTERS[: len(choices)]
                scope["lettered"] = "\n".join(f"{a}. {c}" for a, c in zip(letters, choices, strict=True))
                choices = list(letters)
            contexts = (self.render("template", place, scope),)
            continuations = tuple(spec.delimiter + c for c in choices)
        return Item(index, "", contexts, continuations, answer, place.row, (), place.group, place.where)

    def solved(self, place: RowReference) -> str:
        """An exemplar's text: context, delimiter, answer, separator."""
        item = self.item(0, place)
        context = item.contexts[item.answer if self.spec.partial else 0]
        if self.spec.kind != "G":
            return context + item.continuations[item.answer] + self.spec.separator
        target = self._target(place, self.scope(place)) if self.spec.target else item.target
        return context + self.spec.delimiter + target + self.spec.separator

    def _target(self, place: RowReference, scope: Mapping[str, Any]) -> str:
        target = self.render("target", place, scope).strip()
        if not target:
            raise self._fails(place, "target", "it is empty")
        return target

    def _choices(self, place: RowReference, scope: Mapping[str, Any]) -> tuple[list[str], int]:
        choices, answer = self.evaluate("choices", place, scope), self.evaluate("answer", place, scope)
        if (
            not isinstance(choices, (list, tuple))
            or len(choices) < 2
            or not all(isinstance(c, str) and c for c in choices)
        ):
            raise InputError(f"{place.where}: choices must be two or more texts.")
        if any("\ud800" <= character <= "\udfff" for choice in choices for character in choice):
            raise InputError(f"{place.where}: choices hold a lone surrogate, which is no text.")
        if len(choices) > _MOST_CHOICES:
            raise InputError(f"{place.where}: has {len(choices)} choices; the limit is {_MOST_CHOICES}. Remove some.")
        if self.spec.kind == "FMC" and len(choices) > len(_LETTERS):
            raise InputError(f"{place.where}: has {len(choices)} choices, more than there are letters.")
        if isinstance(answer, str) and answer.isascii() and answer.lstrip("-").isdigit():
            answer = int(answer)
        if type(answer) is not int or not 0 <= answer < len(choices):
            raise InputError(
                f"{place.where}: answer is {answer!r}, but must be a choice's index, 0 to {len(choices) - 1}."
            )
        return list(choices), answer

    def _golds(self, place: RowReference, scope: Mapping[str, Any]) -> tuple[Gold, ...]:
        value = self.evaluate("answers", place, scope)
        told = value if isinstance(value, (list, tuple)) else [value]
        golds = []
        for entry in told:
            spans = entry if isinstance(entry, (list, tuple)) else [entry]
            if not spans or not all(isinstance(s, (str, int, float)) and not isinstance(s, bool) for s in spans):
                raise InputError(f"{place.where}: answers are {value!r:.80}, but must be a text or a list of texts.")
            golds.append(tuple(map(str, spans)))
        if not golds:
            raise InputError(f"{place.where}: has no accepted answer.")
        _check_golds(place.where, golds)
        return tuple(golds)


def _check_golds(where: str, golds: Sequence[Gold]) -> None:
    """Raise InputError for more accepted answers, or longer ones, than metrics get through: spans are aligned."""
    n_aligned = sum(len(gold) for gold in golds if len(gold) > 1)
    for n, most, what in (
        (len(golds), _MOST_GOLDS, "accepted answers"),
        (max(map(len, golds)), _MOST_SPANS, "spans in one accepted answer"),
        (n_aligned, _MOST_ALIGNED, "spans in all accepted answers of several spans"),
        (sum(len(span) for gold in golds for span in gold), _LONGEST_GOLDS, "characters in all accepted answers"),
    ):
        if n > most:
            raise InputError(f"{where}: has {n} {what}; the limit is {most}. Remove some.")
