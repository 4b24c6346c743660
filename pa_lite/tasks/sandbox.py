"""A task's templates, expressions and patterns, done in Jinja's sandbox: our own here, strangers' in a limited process.

A stranger's task file must neither reach Python's insides, nor hang a run, nor fill the machine. Bounds of this
process would hold in its main thread alone, and not within one long call of C.
"""

from __future__ import annotations

import base64
import contextlib
import pickle
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import jinja2.meta
import jinja2.sandbox

from pa_lite.errors import EngineError
from pa_lite.tasks.answers import Extract
from pa_lite.tasks.transforms import column
from pa_lite.untrusted.portions import portions
from pa_lite.untrusted.sandbox import LimitedProcess

SECONDS = 5  # of processor time, for one text
_A_SECOND = 1000  # answers that any sane pattern gets through: more time for many
_PORTION, _PORTION_CHARACTERS = 1000, 2_000_000  # answers sent at a time, and their characters
_PATIENCE = 3  # times the processor time that all answers may take: other programs may have the processor
_MEMORY = 512 << 20  # bytes beyond what the process holds when it starts
_LONGEST = 10_000_000  # characters of one rendered text: far more than any context holds
# all that a task's templates make of a data set, in memory and in time on the clock, beside what goes in
_SUM, _SUM_PER_BYTE = 64 << 20, 16  # bytes, and times the bytes of rows and templates
_SUM_SECONDS, _ASKS_A_SECOND, _BYTES_A_SECOND = 60, 20, 1_000_000
WORKER = "pa_lite.tasks.template_worker"


class BrokenTemplateError(Exception):
    """A template or expression that cannot be compiled; `name` tells which, the message why."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(why)
        self.name = name


@dataclass(frozen=True)
class Missing:
    """What an expression gives that names something that is not there."""

    name: str


def _not_null(value: Any) -> Any:
    """What a template prints; null would become the word None."""
    if value is None:
        raise ValueError("a value that it prints is null")
    return value


class Templates:
    """Templates and expressions by name, compiled here; `names` are all that they refer to, None if that is unknown."""

    def __init__(self, templates: Mapping[str, str], expressions: Mapping[str, str]) -> None:
        """Raises BrokenTemplateError."""
        # texts stay as they are: no HTML here
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined, finalize=_not_null, keep_trailing_newline=True, autoescape=False
        )
        environment.globals["column"] = column
        self._templates, self._expressions = {}, {}
        self.names: frozenset[str] | None = None
        name = ""
        try:
            for name, text in templates.items():
                self._templates[name] = environment.from_string(text)
            for name, text in expressions.items():
                self._expressions[name] = environment.compile_expression(text, undefined_to_none=False)
        except (jinja2.TemplateError, SyntaxError) as e:  # Python's own limits of nesting count, too
            raise BrokenTemplateError(name, str(e)) from e
        with contextlib.suppress(jinja2.TemplateError, RecursionError):
            parsed = map(environment.parse, (*templates.values(), *(f"{{{{ {e} }}}}" for e in expressions.values())))
            self.names = frozenset(name for tree in parsed for name in jinja2.meta.find_undeclared_variables(tree))

    def render(self, name: str, scope: Mapping[str, Any]) -> str:
        """A template's text. Raises whatever the template raises, ValueError for one that is too long."""
        text: str = self._templates[name].render(scope)
        if len(text) > _LONGEST:
            raise ValueError(f"it makes a text of {len(text)} characters, more than {_LONGEST}")
        return text

    def evaluate(self, name: str, scope: Mapping[str, Any]) -> Any:
        """An expression's value, or Missing. Raises whatever the expression raises."""
        value = self._expressions[name](scope)
        return Missing(str(value._undefined_name)) if isinstance(value, jinja2.Undefined) else value

    def close(self) -> None:
        """Nothing to do here."""


class LimitedTemplates:
    """The same, compiled and done in a limited process until `close`; whatever goes wrong is a TemplateError."""

    def __init__(self, templates: Mapping[str, str], expressions: Mapping[str, str]) -> None:
        """Raises BrokenTemplateError."""
        self._process = LimitedProcess(WORKER, _MEMORY)
        self._source = sum(map(len, (*templates.values(), *expressions.values())))
        self._asked = self._given = self._made = 0
        self._seconds = 0.0
        try:
            answer = self._ask({"do": "compile", "templates": dict(templates), "expressions": dict(expressions)})
        except jinja2.TemplateError as e:
            self.close()
            raise BrokenTemplateError("template", str(e)) from e
        if "broken" in answer:
            self.close()
            raise BrokenTemplateError(*answer["broken"])
        self.names = None if answer["names"] is None else frozenset(answer["names"])

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self._process.ask(request, SECONDS)
        except EngineError as e:
            raise jinja2.TemplateRuntimeError(str(e)) from e

    def render(self, name: str, scope: Mapping[str, Any]) -> str:
        text: str = self._do("render", name, scope)["text"]
        return text

    def evaluate(self, name: str, scope: Mapping[str, Any]) -> Any:
        answer = self._do("evaluate", name, scope)
        return Missing(answer["missing"]) if "missing" in answer else answer["value"]

    def _do(self, what: str, name: str, scope: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for one text or value, and bound the sums over all rows: each may be within its limits, and all too much.

        Raises TemplateRuntimeError.
        """
        packed = _packed(scope)
        start = time.monotonic()
        answer = self._ask({"do": what, "name": name, "scope": packed})
        self._seconds += time.monotonic() - start
        self._asked += 1
        self._given += len(packed) + self._source
        self._made += size_of(answer)
        most = _SUM + _SUM_PER_BYTE * self._given
        if self._made > most:
            raise jinja2.TemplateRuntimeError(
                f"with it, the texts of all rows so far take {self._made >> 20} MB, and the limit for all together is "
                f"{most >> 20} MB: {_SUM >> 20} MB and {_SUM_PER_BYTE} times the rows and templates. Make the texts "
                "shorter, or score fewer rows (--limit)"
            )
        longest = _SUM_SECONDS + self._asked / _ASKS_A_SECOND + self._given / _BYTES_A_SECOND
        if self._seconds > longest:
            raise jinja2.TemplateRuntimeError(
                f"all rows so far took {self._seconds:.0f} seconds, and the limit for all together is {longest:.0f}: "
                f"{_SUM_SECONDS}, and one for each {_ASKS_A_SECOND} texts and each MB of rows and templates. Make the "
                "templates simpler, or score fewer rows (--limit)"
            )
        return answer

    def close(self) -> None:
        self._process.close()


def size_of(value: Any) -> int:
    """Return about how many bytes of memory a value of JSON takes."""
    size = sys.getsizeof(value)
    if isinstance(value, dict):
        return size + sum(map(size_of, value.values()))
    return size + sum(map(size_of, value)) if isinstance(value, (list, tuple)) else size


def _packed(scope: Mapping[str, Any]) -> str:
    """A row on its way to the process: it holds more kinds of values than JSON has. Nothing comes back so."""
    return base64.b64encode(pickle.dumps(scope)).decode("ascii")


def find_answers(extracts: Sequence[Extract], texts: Sequence[str], is_own: bool) -> list[dict[str, str]]:
    """What each pattern finds in each text, by the patterns' names.

    Python's patterns can take time without end: those that are not our own are searched in a limited process. Raises
    EngineError with what went wrong, without a full stop.
    """
    if is_own:
        return [{e.name: e.find(text) for e in extracts} for text in texts]
    request = {"do": "find", "extracts": [{"name": e.name, "pattern": e.pattern, "pick": e.pick} for e in extracts]}
    found: list[dict[str, str]] = []
    size, most = 0, _SUM + _SUM_PER_BYTE * sum(map(len, texts))
    start, longest = time.monotonic(), _PATIENCE * (SECONDS + len(texts) / _A_SECOND)
    with LimitedProcess(WORKER, _MEMORY) as process:
        for portion in portions(texts, len, _PORTION_CHARACTERS, _PORTION):
            answer = process.ask({**request, "texts": portion}, SECONDS + len(portion) // _A_SECOND)["found"]
            size += size_of(answer)
            if size > most:
                raise EngineError(
                    f"what they find takes more than {most >> 20} MB, the limit for all answers: {_SUM >> 20} MB and "
                    f"{_SUM_PER_BYTE} times the answers"
                )
            found += answer
            if (took := time.monotonic() - start) > longest:
                raise EngineError(
                    f"the first {len(found)} answers took {took:.0f} seconds; the limit for all {len(texts)} is "
                    f"{longest:.0f}: {_PATIENCE * SECONDS:g}, and {_PATIENCE} for each {_A_SECOND}"
                )
    return found
