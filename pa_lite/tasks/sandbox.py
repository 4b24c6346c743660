"""A task's templates, expressions and patterns, done in Jinja's sandbox: our own here, strangers' in a limited process.

A stranger's task file must neither reach Python's insides, nor hang a run, nor fill the machine. Bounds of this
process would hold in its main thread alone, and not within one long call of C.
"""

from __future__ import annotations

import base64
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import jinja2.sandbox

from pa_lite.errors import EngineError
from pa_lite.limited import LimitedProcess
from pa_lite.tasks.answers import Extract
from pa_lite.tasks.transforms import column

SECONDS = 5  # of processor time, for one text
_A_SECOND = 1000  # answers that any sane pattern gets through: more time for many
_MEMORY = 512 << 20  # bytes beyond what the process holds when it starts
_LONGEST = 10_000_000  # characters of one rendered text: far more than any context holds
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
    """Templates and expressions by name, compiled here."""

    def __init__(self, templates: Mapping[str, str], expressions: Mapping[str, str]) -> None:
        """Raises BrokenTemplateError."""
        # texts stay as they are: no HTML here
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined, finalize=_not_null, keep_trailing_newline=True, autoescape=False
        )
        environment.globals["column"] = column
        self._templates, self._expressions = {}, {}
        name = ""
        try:
            for name, text in templates.items():
                self._templates[name] = environment.from_string(text)
            for name, text in expressions.items():
                self._expressions[name] = environment.compile_expression(text, undefined_to_none=False)
        except (jinja2.TemplateError, SyntaxError) as e:  # Python's own limits of nesting count, too
            raise BrokenTemplateError(name, str(e)) from e

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
        try:
            answer = self._ask({"do": "compile", "templates": dict(templates), "expressions": dict(expressions)})
        except jinja2.TemplateError as e:
            self.close()
            raise BrokenTemplateError("template", str(e)) from e
        if "broken" in answer:
            self.close()
            raise BrokenTemplateError(*answer["broken"])

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self._process.ask(request, SECONDS)
        except EngineError as e:
            raise jinja2.TemplateRuntimeError(str(e)) from e

    def render(self, name: str, scope: Mapping[str, Any]) -> str:
        text: str = self._ask({"do": "render", "name": name, "scope": _packed(scope)})["text"]
        return text

    def evaluate(self, name: str, scope: Mapping[str, Any]) -> Any:
        answer = self._ask({"do": "evaluate", "name": name, "scope": _packed(scope)})
        return Missing(answer["missing"]) if "missing" in answer else answer["value"]

    def close(self) -> None:
        self._process.close()


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
    request = {
        "do": "find",
        "extracts": [{"name": e.name, "pattern": e.pattern, "pick": e.pick} for e in extracts],
        "texts": list(texts),
    }
    with LimitedProcess(WORKER, _MEMORY) as process:
        found: list[dict[str, str]] = process.ask(request, SECONDS + len(texts) // _A_SECOND)["found"]
    return found
