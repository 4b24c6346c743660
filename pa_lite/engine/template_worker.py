"""The child process that renders chat templates, which are untrusted code: limited in time, memory and output.

jinja2's sandbox protects Python's internals from templates, but does not stop endless loops or 'a' * 10 ** 10; the
limits of `pa_lite.untrusted.sandbox_worker` do. Templates get the same variables as in transformers'
`apply_chat_template`.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from typing import Any

import jinja2
import jinja2.meta
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pa_lite.untrusted.sandbox_worker import serve

_WIDTH = re.compile(r"%[^A-Za-z%0-9]*([0-9]+)")  # the width of a field in strftime's format
_WIDEST_DIGITS = 2  # digits of a width
_MOST_VARIABLES = 1000  # in one template; published ones have up to 30


class GenerationTag(Extension):
    """Accepts transformers' `{% generation %}` around an assistant's text: a scope that renders its content."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        """Return the block's content."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


def raise_exception(message: object) -> None:
    """Raise ValueError: a template calls this to refuse a conversation."""
    raise ValueError(message)


def tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Return JSON without HTML escapes, as transformers' filter writes it."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@functools.lru_cache(maxsize=1)
def environment() -> ImmutableSandboxedEnvironment:
    """Return the sandbox with transformers' settings."""
    made = ImmutableSandboxedEnvironment(
        loader=jinja2.BaseLoader(), trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    made.filters["tojson"] = tojson
    return made


@functools.lru_cache(maxsize=2)
def compiled(template: str) -> jinja2.Template:
    return environment().from_string(template)


class Clock:
    """The `strftime_now` of templates: the real time, or 12:00 on a given day."""

    def __init__(self, date: str | None) -> None:
        noon = datetime.time(12)
        self._at = None if date is None else datetime.datetime.combine(datetime.date.fromisoformat(date), noon)

    def __call__(self, form: str) -> str:
        """Return the time in strftime's format. Raises ValueError for a field more than 99 characters wide."""
        if any(len(width.lstrip("0")) > _WIDEST_DIGITS for width in _WIDTH.findall(form)):
            raise ValueError(f"strftime_now: a field of {form[:60]!r} is wider than 99 characters")
        return (self._at or datetime.datetime.now()).strftime(form)


def render(request: dict[str, Any]) -> dict[str, Any]:
    """Return the text of every conversation, under `texts`.

    Raises what the template raises, and ValueError for a text that is too long.
    """
    template, arguments = compiled(request["template"]), request["arguments"]
    more = request["characters"] + 4 * len(json.dumps(arguments))
    texts = []
    for messages in request["conversations"]:
        text = template.render({
            "tools": None, "documents": None, **arguments,
            "messages": messages, "bos_token": request["bos"], "eos_token": request["eos"],
            "add_generation_prompt": request["add_generation_prompt"], "raise_exception": raise_exception,
            "strftime_now": Clock(request["date"]),
        })  # fmt: skip
        most = more + 4 * sum(map(length, (value for m in messages for value in m.values())))
        if len(text) > most:
            raise ValueError(f"it makes a text of {len(text)} characters, more than {most}")
        texts.append(text)
    return {"texts": texts}


def length(value: Any) -> int:
    """Return the characters of a message's value: a string, or tool calls."""
    return len(value) if isinstance(value, str) else len(json.dumps(value))


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """Return the variables that a template reads and does not set, and which of the request's words its texts contain.

    The template is parsed, not run; comments do not count.
    """
    tree = environment().parse(request["template"])
    variables = sorted(jinja2.meta.find_undeclared_variables(tree))[:_MOST_VARIABLES]
    texts = [node.data for node in tree.find_all(nodes.TemplateData)]
    texts += [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    whole = "\0".join(texts)
    return {"variables": variables, "words": [word for word in request["words"] if word in whole]}


def do(request: dict[str, Any]) -> dict[str, Any]:
    """Do what the request asks: describe the template, or render it."""
    return describe(request) if "words" in request else render(request)


def main() -> None:
    """Answer requests until stdin closes."""
    serve(do)
