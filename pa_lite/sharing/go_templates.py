"""Render the part of Go's text/template language that Ollama's prompt templates need, as Go does.

Ollama gives a template `.System` and `.Messages`, each with `.Role` and `.Content` (`collate` and `Execute` in Ollama's
template/template.go). Known are text, `{{-` and `-}}`, values, `if`, `else if`, `else`, `range` (also with
`$i, $m :=`), `end`, and some functions. It is for comparing our own templates with a model's; untrusted ones are not
rendered here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_ACTION = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.S)
_WORD = re.compile(r'"[^"\\]*"|\d+|:=|[(),]|\$\w*(?:\.\w+)*|(?:\.\w+)+|\.|[A-Za-z]\w*')
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "eq": lambda value, *others: value in others,
    "ne": lambda a, b: a != b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "len": len,
    "slice": lambda items, start: items[start:],
    "not": lambda value: not value,
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "or": lambda *values: next((value for value in values if value), values[-1]),
}
_SPACE = " \t\r\n"  # what Go trims


class GoMessage(NamedTuple):
    """A message as Ollama gives it to a template."""

    Role: str
    Content: str


class _Call(NamedTuple):
    """A word, or a function and its arguments."""

    words: Sequence[Any]


class _Block(NamedTuple):
    """An `if` or `range` with its value and nodes; `otherwise` are those of `else`, `names` (for `range`) variables."""

    value: _Call
    names: tuple[str, ...] | None
    nodes: list[Any]
    otherwise: Sequence[Any] = ()


def collate(messages: Sequence[GoMessage]) -> tuple[str, list[GoMessage]]:
    """Return the system prompts joined, and the messages with neighbours of the same role joined, as Ollama does."""
    joined: list[GoMessage] = []
    for message in messages:
        if joined and joined[-1].Role == message.Role:
            joined[-1] = GoMessage(message.Role, f"{joined[-1].Content}\n\n{message.Content}")
        else:
            joined.append(message)
    return "\n\n".join(m.Content for m in messages if m.Role == "system"), joined


def render_go(template: str, messages: Sequence[GoMessage]) -> str:
    """Return the prompt that Ollama builds from a conversation. Raises ValueError for what is not known here."""
    system, joined = collate(messages)
    root = {"System": system, "Messages": joined}
    pieces = _pieces(template)
    return _run(_parse(pieces, is_inner=False)[0], root, {"": root})


def _pieces(template: str) -> Iterator[str | list[str]]:
    """Yield texts, trimmed where `{{-` or `-}}` says so, and the words of actions."""
    at, trims = 0, False
    for found in _ACTION.finditer(template):
        text = template[at : found.start()].lstrip(_SPACE if trims else "")
        yield text.rstrip(_SPACE if found[1] else "")
        words = _WORD.findall(found[2])
        if not words or "".join(words) != "".join(found[2].split()):
            raise ValueError(f"{found[0]!r} is not known here")
        yield words
        at, trims = found.end(), bool(found[3])
    yield template[at:].lstrip(_SPACE if trims else "")


def _parse(pieces: Iterator[str | list[str]], is_inner: bool) -> tuple[list[Any], list[str]]:
    """Return nodes up to the `else` or `end` that closes their block, and its words."""
    nodes: list[Any] = []
    for piece in pieces:
        if isinstance(piece, str):
            nodes.append(piece)
        elif piece[0] in ("else", "end"):
            if not is_inner:
                raise ValueError(f"{piece[0]} without a block")
            return nodes, piece
        elif piece[0] == "if":
            nodes.append(_parse_if(piece, pieces))
        elif piece[0] == "range":
            start = piece.index(":=") + 1 if ":=" in piece else 1
            names = tuple(word[1:] for word in piece[1:start] if word.startswith("$"))
            nodes.append(_Block(_call(piece[start:]), names, _parse(pieces, is_inner=True)[0]))
        else:
            nodes.append(_call(piece))
    if is_inner:
        raise ValueError("a block without an end")
    return nodes, []


def _parse_if(words: list[str], pieces: Iterator[str | list[str]]) -> _Block:
    nodes, closing = _parse(pieces, is_inner=True)
    otherwise: list[Any] = []
    if closing[:2] == ["else", "if"]:
        otherwise = [_parse_if(closing[1:], pieces)]
    elif closing[0] == "else":
        otherwise = _parse(pieces, is_inner=True)[0]
    return _Block(_call(words[1:]), None, nodes, otherwise)


def _call(words: Sequence[str]) -> _Call:
    """Return words as a call, with calls for parts in brackets."""
    stack: list[list[Any]] = [[]]
    for word in words:
        if word == "(":
            stack.append([])
        elif word == ")":
            inner = _Call(stack.pop())
            stack[-1].append(inner)
        else:
            stack[-1].append(word)
    return _Call(stack[0])


def _run(nodes: Sequence[Any], dot: Any, names: Mapping[str, Any]) -> str:
    out = []
    for node in nodes:
        if isinstance(node, str):
            out.append(node)
        elif isinstance(node, _Call):
            out.append(str(_value(node, dot, names)))
        elif node.names is None:
            out.append(_run(node.nodes if _value(node.value, dot, names) else node.otherwise, dot, names))
        else:
            for i, item in enumerate(_value(node.value, dot, names)):
                own = (i, item) if len(node.names) == 2 else (item,)
                out.append(_run(node.nodes, item, {**names, **dict(zip(node.names, own, strict=False))}))
    return "".join(out)


def _value(part: Any, dot: Any, names: Mapping[str, Any]) -> Any:
    if isinstance(part, _Call):
        first, *others = part.words
        if first not in _FUNCTIONS:
            if others:
                raise ValueError(f"the function {first} is not known here")
            return _value(first, dot, names)
        return _FUNCTIONS[first](*(_value(other, dot, names) for other in others))
    if part.startswith('"'):
        return part[1:-1]
    if part.isdigit():
        return int(part)
    name, *fields = part.split(".")
    value = names[name[1:]] if name.startswith("$") else dot
    for each in filter(None, fields):
        value = value.get(each, "") if isinstance(value, dict) else getattr(value, each)
    return value
