"""A task's templates, expressions and patterns in Jinja's sandbox; untrusted ones also run in a limited process.

An untrusted task file must not access Python's internals, hang a run or exhaust memory. Time limits within this process
would only work in its main thread, and not during a long C call.
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

SECONDS = 5  # of processor time for one rendering
_A_SECOND = 1000  # answers that a reasonable pattern searches in a second: many answers get more time
_PORTION, _PORTION_CHARACTERS = 1000, 2_000_000  # answers sent at a time, and their total characters
_PATIENCE = 3  # wall-clock time allowed, as a multiple of processor time: the machine may be busy
_MEMORY = 512 << 20  # bytes in addition to what the process holds when it starts
_LONGEST = 10_000_000  # characters of one rendered text: far more than fits any context
# limits for all rows of a task: rendered bytes and wall-clock time, which grow with the input
_SUM, _SUM_PER_BYTE = 64 << 20, 16  # bytes, plus a multiple of the bytes of rows and templates
_SUM_SECONDS, _ASKS_A_SECOND, _BYTES_A_SECOND = 60, 20, 1_000_000
WORKER = "pa_lite.tasks.template_worker"


class BrokenTemplateError(Exception):
    """A template or expression that does not compile: `name` is its name, the message the reason."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(why)
        self.name = name


@dataclass(frozen=True)
class Missing:
    """The value of an expression that uses the undefined name `name`."""

    name: str


def _not_null(value: Any) -> Any:
    """Return a value that a template prints. Raises ValueError for null, which would be printed as None."""
    if value is None:
        raise ValueError("a value that it prints is null")
    return value


class Templates:
    """Templates and expressions compiled in this process; `names` are the variables they use, None if unknown."""

    def __init__(self, templates: Mapping[str, str], expressions: Mapping[str, str]) -> None:
        """Compile them. Raises BrokenTemplateError."""
        # prompts are not HTML: nothing is escaped
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
        except (jinja2.TemplateError, SyntaxError) as e:  # also raised at Python's nesting limits
            raise BrokenTemplateError(name, str(e)) from e
        with contextlib.suppress(jinja2.TemplateError, RecursionError):
            parsed = map(environment.parse, (*templates.values(), *(f"{{{{ {e} }}}}" for e in expressions.values())))
            self.names = frozenset(name for tree in parsed for name in jinja2.meta.find_undeclared_variables(tree))

    def render(self, name: str, scope: Mapping[str, Any]) -> str:
        """Return a rendered template. Raises whatever the template raises, and ValueError if it is too long."""
        text: str = self._templates[name].render(scope)
        if len(text) > _LONGEST:
            raise ValueError(f"it renders {len(text)} characters; the limit is {_LONGEST}")
        return text

    def evaluate(self, name: str, scope: Mapping[str, Any]) -> Any:
        """Return an expression's value, or Missing. Raises whatever the expression raises."""
        value = self._expressions[name](scope)
        return Missing(str(value._undefined_name)) if isinstance(value, jinja2.Undefined) else value

    def close(self) -> None:
        """Do nothing: there is no process."""


class LimitedTemplates:
    """The same in a limited process, until `close`; every failure is a TemplateError."""

    def __init__(self, templates: Mapping[str, str], expressions: Mapping[str, str]) -> None:
        """Compile them. Raises BrokenTemplateError."""
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
        """Return one rendering or value, and limit the totals over all rows: many small ones may be too much.

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
                f"the rows so far render to {self._made >> 20} MB; the limit for all rows is {most >> 20} MB: "
                f"{_SUM >> 20} MB plus {_SUM_PER_BYTE} times the rows and templates. Shorten the texts, or score fewer "
                "rows (--limit)"
            )
        longest = _SUM_SECONDS + self._asked / _ASKS_A_SECOND + self._given / _BYTES_A_SECOND
        if self._seconds > longest:
            raise jinja2.TemplateRuntimeError(
                f"the rows so far took {self._seconds:.0f} seconds; the limit for all rows is {longest:.0f}: "
                f"{_SUM_SECONDS}, plus one for each {_ASKS_A_SECOND} texts and each MB of rows and templates. Simplify "
                "the templates, or score fewer rows (--limit)"
            )
        return answer

    def close(self) -> None:
        self._process.close()


def size_of(value: Any) -> int:
    """Return approximately how many bytes of memory a JSON value takes."""
    size = sys.getsizeof(value)
    if isinstance(value, dict):
        return size + sum(map(size_of, value.values()))
    return size + sum(map(size_of, value)) if isinstance(value, (list, tuple)) else size


def _packed(scope: Mapping[str, Any]) -> str:
    """Pickle a row for the process, as it may have values that JSON lacks. Answers are never pickled."""
    return base64.b64encode(pickle.dumps(scope)).decode("ascii")


def find_answers(extracts: Sequence[Extract], texts: Sequence[str], is_own: bool) -> list[dict[str, str]]:
    """Return what each pattern finds in each text, by the patterns' names.

    Python's regular expressions can take exponential time, so untrusted ones run in a limited process. Raises
    EngineError with the reason, without a full stop.
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
                    f"the matches take more than {most >> 20} MB, the limit for all answers: {_SUM >> 20} MB plus "
                    f"{_SUM_PER_BYTE} times the answers"
                )
            found += answer
            if (took := time.monotonic() - start) > longest:
                raise EngineError(
                    f"the first {len(found)} answers took {took:.0f} seconds; the limit for all {len(texts)} is "
                    f"{longest:.0f}: {_PATIENCE * SECONDS:g}, plus {_PATIENCE} for each {_A_SECOND}"
                )
    return found
