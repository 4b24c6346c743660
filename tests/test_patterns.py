"""Every regular expression of pa_lite takes time in proportion to a text, whatever the text is."""

from __future__ import annotations

import ast
import contextlib
import importlib
import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pa_lite
from pa_lite.errors import PaLiteError

try:
    from re import _parser as parser  # type: ignore[attr-defined]
except ImportError:  # Python 3.10
    import sre_parse as parser

_N = 20_000  # characters: a quadratic pattern takes seconds
_LONGEST = 1.0  # second; a linear pattern takes some milliseconds
_CALLS = ("compile", "search", "match", "fullmatch", "sub", "subn", "split", "findall", "finditer")
_ANCHORED = " (anchored)"
_MOST_CHARACTERS = 7  # of a pattern that texts are made of
# what else searches a text that is bounded, by file
_BOUNDED = {
    "engine/probe.py": "the last 2000 characters of what llama.cpp says",
    "checkpoints/vocabulary/large_json.py": "a piece of a file: a string without an end stops the search",
}


def _values(value: Any, depth: int = 0) -> Iterator[re.Pattern[Any]]:
    """Yield the compiled patterns in a module's constant."""
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, dict) and depth < 3:
        for v in value.values():
            yield from _values(v, depth + 1)
    elif isinstance(value, (tuple, list)) and depth < 3:
        for v in value:
            yield from _values(v, depth + 1)
    elif type(value).__module__.startswith("pa_lite") and hasattr(value, "__dict__") and depth < 3:
        yield from _values(vars(value), depth + 1)


def _is_searched(source: str, name: str) -> bool:
    """Return whether a pattern is used otherwise than on a text as a whole, or from its start."""
    return re.search(rf"\b{name}\.(?:match|fullmatch)\b", source) is None or (
        re.search(rf"\b{name}\.(?:search|sub|subn|split|findall|finditer)\b", source) is not None
    )


def _patterns() -> dict[str, re.Pattern[Any]]:
    """Return each pattern that a module holds or spells in a call, by place; `anchored` is in those only matched."""
    found: dict[str, re.Pattern[Any]] = {}
    package = Path(pa_lite.__file__).parent
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package).as_posix()
        source = path.read_text("utf-8")
        if "re." not in source or path.name == "__main__.py":
            continue
        name = ".".join(("pa_lite", *path.relative_to(package).with_suffix("").parts)).removesuffix(".__init__")
        with contextlib.suppress(ImportError, PaLiteError):  # without an optional package
            for key, value in vars(importlib.import_module(name)).items():
                if not key.startswith("__"):
                    how = "" if _is_searched(source, key) else _ANCHORED
                    found |= {f"{place}: {p.pattern!r:.90}{how}": p for p in _values(value)}
        for node in ast.walk(ast.parse(source)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "re"
                and node.func.attr in _CALLS
                and isinstance(node.args[0], ast.Constant)
            ):
                flags = re.MULTILINE | re.DOTALL if "DOTALL" in ast.unparse(node) else 0
                spelled: Any = node.args[0].value
                pattern: re.Pattern[Any] = re.compile(spelled, flags)
                here = f"{place}: {pattern.pattern!r:.90}"
                if node.func.attr in ("match", "fullmatch"):
                    found.setdefault(here + _ANCHORED, pattern)
                elif here + _ANCHORED not in found:
                    found.setdefault(here, pattern)
    return found


def _characters(parsed: Any, out: list[str]) -> None:
    """Collect a character of each literal, range and class of a parsed pattern, in order."""
    for code, argument in parsed:
        name = str(code)
        if name in ("LITERAL", "NOT_LITERAL"):
            out.append(chr(argument))
        elif name == "RANGE":
            out.append(chr(argument[0]))
        elif name == "CATEGORY":
            out += {"SPACE": [" ", "\t"], "DIGIT": ["1"], "WORD": ["a"]}.get(str(argument).rpartition("_")[2], [])
        elif name == "ANY":
            out.append("y")
        elif name == "IN":
            _characters(argument, out)
        elif name == "BRANCH":
            for branch in argument[1]:
                _characters(branch, out)
        elif isinstance(argument, tuple):
            for part in argument:
                if isinstance(part, parser.SubPattern):
                    _characters(part, out)


def _texts(pattern: re.Pattern[Any], n: int) -> Iterator[str]:
    """Yield runs of a pattern's characters and pairs of them, whole, and with an end that does not match."""
    parsed = parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE if isinstance(pattern.pattern, bytes) else 0)
    found: list[str] = []
    _characters(parsed, found)
    distinct = list(dict.fromkeys(found))
    step = max(1, -(-len(distinct) // _MOST_CHARACTERS))
    chosen = [*distinct[::step], "\n", "a", " "]
    literal = "".join(itertools.islice(found, 40))
    for piece in dict.fromkeys([*chosen, *map("".join, itertools.permutations(dict.fromkeys(chosen), 2)), literal]):
        run = (piece * (n // len(piece) + 1))[:n]
        yield run
        yield literal + run + "\0"
        yield run + "\0" + run


def _seconds(pattern: re.Pattern[Any], text: str, is_anchored: bool) -> float:
    subject: Any = text.encode("latin-1", "replace") if isinstance(pattern.pattern, bytes) else text
    start = time.process_time()
    for _ in () if is_anchored else pattern.finditer(subject):
        pass
    pattern.match(subject), pattern.fullmatch(subject)
    return time.process_time() - start


def _worst(pattern: re.Pattern[Any], n: int, is_anchored: bool = False) -> tuple[float, str]:
    worst = (0.0, "")
    for text in _texts(pattern, n):
        worst = max(worst, (_seconds(pattern, text, is_anchored), text[:40]))
        if worst[0] > _LONGEST:
            break
    return worst


_FOUND = _patterns()


@pytest.mark.parametrize("place", _FOUND)
def test_patterns_are_linear(place: str) -> None:
    if (why := _BOUNDED.get(place.split(":")[0])) is not None:
        pytest.skip(why)
    seconds, text = _worst(_FOUND[place], _N, place.endswith(_ANCHORED))
    assert seconds < _LONGEST, f"{seconds:.1f} seconds for {text!r}..."


def test_every_package_has_patterns_that_are_tried() -> None:
    assert len(_FOUND) > 90
    assert {place.split("/")[0] for place in _FOUND} >= {"checkpoints", "engine", "follow", "merge", "study", "tasks"}


@pytest.mark.parametrize("pattern", [r"[.!?]+(?=\s|$)", r"```[a-z]*\s*(.*?)\s*```", r"^[ \t]*#[ \t]*\d", r"x\s+$"])
def test_slow_patterns_are_noticed(pattern: str) -> None:
    assert _worst(re.compile(pattern), 4 * _N)[0] > _LONGEST
