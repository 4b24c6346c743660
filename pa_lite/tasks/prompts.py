"""Rows of a task's data become prompts: templates, exemplars, groups, samples. Knows no model."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jinja2
import jinja2.sandbox
import numpy as np

from pa_lite.errors import InputError
from pa_lite.tasks.data import Place, Row, commits, load_split, source_name, split_names
from pa_lite.tasks.metrics import Gold
from pa_lite.tasks.spec import TaskSpec
from pa_lite.tasks.transforms import TRANSFORMS

_log = logging.getLogger(__name__)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SAMPLE_SEED = 20250416  # a suite's fixed samples must not move with --seed
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
    def prompt_hash(self) -> str:
        """SHA-256 of the prompt's UTF-8, in hexadecimal."""
        return hashlib.sha256(self.prompt.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def target(self) -> str:
        """The right answer as text, without its delimiter; the first of several."""
        return ", ".join(self.golds[0]) if self.golds else self.continuations[self.answer].lstrip()


@dataclass(frozen=True)
class Prepared:
    """A task's items, how many rows its split had (of each group, too), and how many exemplars stand before each.

    `commits` are those of the Hub's repository that the rows came from.
    """

    spec: TaskSpec
    items: tuple[Item, ...]
    n_rows: int
    group_rows: Mapping[str, int]
    shots: int
    commits: tuple[str, ...] = ()


class _Formatter:
    """A task's templates and expressions, compiled."""

    def __init__(self, spec: TaskSpec) -> None:
        """Raises InputError for a template or expression that is broken."""
        self.spec = spec
        # texts stay as they are: no HTML here
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
        )
        self._templates, self._expressions = {}, {}
        for name in ("template", "prefix", "target"):
            try:
                self._templates[name] = environment.from_string(getattr(spec, name))
            except jinja2.TemplateError as e:
                raise InputError(f"task {spec.name}: its {name} is broken: {e}.") from e
        for name in ("answers",) if spec.kind == "G" else ("choices", "answer"):
            try:
                self._expressions[name] = environment.compile_expression(getattr(spec, name), undefined_to_none=False)
            except jinja2.TemplateError as e:
                raise InputError(f"task {spec.name}: its {name} is broken: {e}.") from e

    def _fails(self, place: Place, name: str, why: object) -> InputError:
        return InputError(f"{place.where}: {name} of task {self.spec.name} fails on this row: {why}.")

    def scope(self, place: Place) -> dict[str, Any]:
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

    def render(self, name: str, place: Place, scope: Mapping[str, Any]) -> str:
        try:
            return self._templates[name].render(scope)
        except _ROW_ERRORS as e:
            raise self._fails(place, name, str(e).rstrip(".")) from e

    def evaluate(self, name: str, place: Place, scope: Mapping[str, Any]) -> Any:
        try:
            value = self._expressions[name](scope)
        except _ROW_ERRORS as e:
            raise self._fails(place, name, str(e).rstrip(".")) from e
        if isinstance(value, jinja2.Undefined):
            column = value._undefined_name
            if getattr(self.spec, name) == column:
                raise InputError(f"{place.where}: has no column {column!r}.")
            raise self._fails(place, name, f"there is no {column!r}")
        return value

    def prefix(self, place: Place) -> str:
        return self.render("prefix", place, self.scope(place)) if self.spec.prefix else ""

    def item(self, index: int, place: Place) -> Item:
        """An item with nothing before it. Raises InputError, naming file, row and field, for one that does not fit."""
        spec, scope = self.spec, self.scope(place)
        group = self.group(place, scope)
        if spec.kind == "G":
            golds = self._golds(place, scope)
            context = self.render("template", place, scope)
            return Item(index, "", (context,), (), -1, place.row, golds, group, place.where)
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
        return Item(index, "", contexts, continuations, answer, place.row, (), group, place.where)

    def solved(self, place: Place) -> str:
        """An exemplar's text: context, delimiter, answer, separator."""
        item = self.item(0, place)
        context = item.contexts[item.answer if self.spec.partial else 0]
        if self.spec.kind != "G":
            return context + item.continuations[item.answer] + self.spec.separator
        target = self._target(place, self.scope(place)) if self.spec.target else item.target
        return context + self.spec.delimiter + target + self.spec.separator

    def _target(self, place: Place, scope: Mapping[str, Any]) -> str:
        target = self.render("target", place, scope).strip()
        if not target:
            raise self._fails(place, "target", "it is empty")
        return target

    def group(self, place: Place, scope: Mapping[str, Any] | None = None) -> str:
        """The name of the group that a row belongs to; empty where the task has none."""
        if not self.spec.group_by:
            return place.config if self.spec.configs else ""
        row = place.row if scope is None else scope["row"]
        if self.spec.group_by not in row:
            raise InputError(f"{place.where}: has no column {self.spec.group_by!r}.")
        return str(row[self.spec.group_by])

    def _choices(self, place: Place, scope: Mapping[str, Any]) -> tuple[list[str], int]:
        choices, answer = self.evaluate("choices", place, scope), self.evaluate("answer", place, scope)
        if (
            not isinstance(choices, (list, tuple))
            or len(choices) < 2
            or not all(isinstance(c, str) and c for c in choices)
        ):
            raise InputError(f"{place.where}: choices must be two or more texts.")
        if self.spec.kind == "FMC" and len(choices) > len(_LETTERS):
            raise InputError(f"{place.where}: has {len(choices)} choices, more than there are letters.")
        if isinstance(answer, str) and answer.isascii() and answer.lstrip("-").isdigit():
            answer = int(answer)
        if type(answer) is not int or not 0 <= answer < len(choices):
            raise InputError(
                f"{place.where}: answer is {answer!r}, but must be a choice's index, 0 to {len(choices) - 1}."
            )
        return list(choices), answer

    def _golds(self, place: Place, scope: Mapping[str, Any]) -> tuple[Gold, ...]:
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
        return tuple(golds)


def prepare_task(
    spec: TaskSpec, shots: int | None = None, limit: int | None = None, seed: int = 0, split: str | None = None
) -> Prepared:
    """The task's items in file order, each behind its group's exemplars.

    Exemplars are drawn from the shots split by `seed` (or are its first), and no item is among them: where the two
    splits are one, rows with an exemplar's text are not scored; elsewhere candidates with a scored item's text are
    passed over. `limit` takes the first items, of a task with groups as many of each group as it can. Raises InputError
    when rows, exemplars or columns are missing or a template fails.
    """
    split, formatter = split or spec.split, _Formatter(spec)
    rows = _scored_rows(spec, formatter, split)
    same = split == spec.shots_split
    n_shots = spec.shots if shots is None else shots
    pools: dict[str, list[Place]] = {}
    if n_shots:
        for place in [place for _, place in rows] if same else load_split(spec, spec.shots_split):
            pools.setdefault(formatter.group(place), []).append(place)
    # a task whose rows bring their own exemplars has no split to draw from, and --shots does not concern it
    if spec.shots == 0 and not pools:
        n_shots = 0
    group_rows = Counter(formatter.group(place) for _, place in rows)
    exemplars: dict[str, list[Place]] = {}
    if same and n_shots:
        for group in group_rows:
            exemplars[group] = _draw(spec, formatter, pools.get(group, []), n_shots, seed, set())
        taken = {formatter.item(0, place).key for places in exemplars.values() for place in places}
        rows = [(i, place) for i, place in rows if formatter.item(0, place).key not in taken]
    if not rows:
        raise InputError(f"{source_name(spec)}: every row of split {split!r} is an exemplar; none is left to score.")
    rows = _limited(_sampled(rows, spec.sample), limit, formatter)
    items = [formatter.item(i, place) for i, place in rows]
    if not same and n_shots:
        keys = {item.key for item in items}
        for group in dict.fromkeys(item.group for item in items):
            exemplars[group] = _draw(spec, formatter, pools.get(group, []), n_shots, seed, keys)
    solved = {group: "".join(map(formatter.solved, places)) for group, places in exemplars.items()}
    leads = [formatter.prefix(place) + solved.get(item.group, "") for (_, place), item in zip(rows, items, strict=True)]
    items = [replace(item, lead=sys.intern(lead)) for item, lead in zip(items, leads, strict=True)]
    return Prepared(spec, tuple(items), group_rows.total(), group_rows, n_shots, commits([p for _, p in rows]))


def build_items(
    spec: TaskSpec, shots: int | None = None, limit: int | None = None, seed: int = 0, split: str | None = None
) -> list[Item]:
    """The items of `prepare_task`."""
    return list(prepare_task(spec, shots, limit, seed, split).items)


def _scored_rows(spec: TaskSpec, formatter: _Formatter, split: str) -> list[tuple[int, Place]]:
    """The split's rows with their places in it. Raises InputError when there are none."""
    rows = list(enumerate(load_split(spec, split)))
    if not rows:
        names = "" if spec.hub else f"; it has {', '.join(split_names(spec))}"
        raise InputError(f"{source_name(spec)}: has no rows of split {split!r}{names}.")
    if spec.rows and split == spec.split and len(rows) != spec.rows:
        _log.warning("%s: split %s has %d rows, %d were expected", source_name(spec), split, len(rows), spec.rows)
    if spec.only:
        of_group = [(i, place) for i, place in rows if formatter.group(place) == spec.only]
        if not of_group:
            raise InputError(f"{source_name(spec)}: split {split!r} has no group {spec.only!r}.")
        return of_group
    return rows


def _draw(
    spec: TaskSpec, formatter: _Formatter, pool: Sequence[Place], n: int, seed: int, forbidden: set[str]
) -> list[Place]:
    """n rows of the pool, no two with the same text and none with a forbidden one."""
    order: Iterable[int] = range(len(pool))
    if spec.sampler == "seed":
        order = map(int, np.random.default_rng(seed).permutation(len(pool)))
    chosen: list[Place] = []
    seen = set(forbidden)
    for i in order:
        if len(chosen) == n:
            break
        if (key := formatter.item(i, pool[i]).key) not in seen:
            seen.add(key)
            chosen.append(pool[i])
    if len(chosen) < n:
        some = f" ({len(pool) - len(chosen)} of them repeat or are scored)" if len(chosen) < len(pool) else ""
        raise InputError(
            f"{source_name(spec)}: {n} shots asked for, split {spec.shots_split!r} has {len(pool)} rows{some}."
        )
    return chosen


def _sampled(rows: list[tuple[int, Place]], sample: int) -> list[tuple[int, Place]]:
    """A fixed draw of so many rows, in their order; all of them where 0 or fewer are there."""
    if not 0 < sample < len(rows):
        return rows
    chosen = np.random.default_rng(_SAMPLE_SEED).choice(len(rows), sample, replace=False)
    return [rows[i] for i in sorted(map(int, chosen))]


def _limited(rows: list[tuple[int, Place]], limit: int | None, formatter: _Formatter) -> list[tuple[int, Place]]:
    """The first `limit` rows; with groups, one of each group in turn until there are so many, in their order."""
    if limit is None or limit >= len(rows):
        return rows
    if not formatter.spec.grouped:
        return rows[:limit]
    rank: dict[str, int] = {}
    order = []
    for n, (_, place) in enumerate(rows):
        group = formatter.group(place)
        rank[group] = rank.get(group, -1) + 1
        order.append((rank[group], n))
    return [rows[n] for n in sorted(n for _, n in sorted(order)[:limit])]


def majority_rate(items: Sequence[Item]) -> float:
    """The share of items that are right if one answer is always given: within each group the one right most often.

    MC compares answer texts; partial scoring and its single continuation, the choices' places; G any accepted answer.
    """
    counts: dict[str, dict[str, int]] = {}
    for item in items:
        told = {", ".join(g) for g in item.golds} or {f"{item.answer}" if len(item.contexts) > 1 else item.target}
        of_group = counts.setdefault(item.group, {})
        for text in told:
            of_group[text] = of_group.get(text, 0) + 1
    return sum(max(c.values()) for c in counts.values()) / len(items)
