"""Untrusted JSON, TOML and CSV, read strictly: whatever is wrong with a text is one ValueError, and ends soon.

What Python's own readers accept, or fail of in ways of their own, is refused: duplicate keys, numbers that no float
holds, NaN where it is not asked for, lone surrogates, nesting and keys of any depth. Errors are worded here, as those
of Python's readers differ between its versions. Imports nothing.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_DEEPEST = 64  # lists and objects within each other; the deepest known file, a tokenizer.json, has eight
_MOST_DIGITS = 4300  # of a whole number: Python's own limit, as time grows with their square
_MOST_BITS = 64  # of an integer in TOML
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # where JSON spells a half of a character beyond 16 bits
_QUOTED = re.compile(r""""[^"\\\n]*(?:\\.[^"\\\n]*)*("?)|'[^'\n]*'""")  # group 1 is empty for one without an end
_LITERAL = re.compile(r"'[^'\n]*'")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BETWEEN_KEYS = re.compile(r"[=,{}\[\]]")
_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]')  # a string without an end is passed over once, too
_CELL_END = re.compile(r"[,\r\n]|\Z")
# bytes of memory for a JSON value or a cell, an object that is not empty, and a list
_VALUE, _OBJECT, _LIST = 64, 232, 64
_LINE_END = re.compile(r"\r\n|\r|\n")


def json_memory(content: bytes) -> int:
    """Return at most how many bytes of memory a JSON or CSV text and its values take, from counting its marks."""
    objects, lists = content.count(b"{"), content.count(b"[")
    values = content.count(b",") + content.count(b"\n") + objects + lists
    return len(content) * (1 if content.isascii() else 4) + _VALUE * values + _OBJECT * objects + _LIST * lists


def parse_json(text: str | bytes, nan: bool = False) -> Any:
    """The value of a JSON text, or of its UTF-8 bytes. With `nan`, NaN and infinities are let through.

    Raises ValueError, in one line, for whatever is not strict JSON, has two members of one name in an object, is nested
    more than 64 deep, or holds a text that is no Unicode.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        numbers: dict[str, Any] = {} if nan else {"parse_float": _finite, "parse_constant": _constant}
        value = json.loads(text, object_pairs_hook=_object, parse_int=_whole, **numbers)
    except RecursionError:
        raise too_deep() from None
    except json.JSONDecodeError as e:  # how deep Python gets before it gives up differs between versions
        if _is_too_deep(e.doc, e.pos):
            raise too_deep() from None
        raise
    if text.count("[") + text.count("{") > _DEEPEST:
        check_depth(value)
    if has_lone_surrogate(text):
        check_characters(value)
    return value


def parse_toml(text: str | bytes) -> dict[str, Any]:
    """The table of a TOML text, or of its UTF-8 bytes.

    Raises ValueError, in one line, for what is no TOML, is nested more than 64 deep, or has a key of more parts: time
    and memory of Python's reader grow with the square of them.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    _check_keys(text)
    try:
        document: dict[str, Any] = tomllib.loads(text)
    except RecursionError:
        raise too_deep() from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # what Python says of it speaks to programmers
        raise ValueError(f"it has a number of more than {_MOST_DIGITS} digits") from None
    check_depth(document)
    _check_integers(document)
    return document


def _check_integers(value: Any) -> None:
    """Raise ValueError for an integer that TOML does not have: more than 64 bits, as hexadecimal numbers may spell.

    Python cannot write those of more than 4300 digits, not even into an error.
    """
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise ValueError(f"it has a number of {value.bit_length()} bits; the most is {_MOST_BITS}")
    if isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            _check_integers(child)


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        seen: set[str] = set()
        doubled = next(key for key, _ in members if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"it has the member {doubled!r:.80} twice")
    return found


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"it has a number of more than {_MOST_DIGITS} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text:.40} is too large")
    return value


def _constant(text: str) -> float:
    raise ValueError(f"it has {text} where a number must stand")


def too_deep() -> ValueError:
    """Return the error for nesting beyond what any known file has."""
    return ValueError(f"it is nested more than {_DEEPEST} deep")


def _is_too_deep(text: str, end: int) -> bool:
    """Tell whether the JSON text before `end` has more than 64 lists and objects open within each other."""
    depth = 0
    for found in _BRACKET.finditer(text, 0, end):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth > _DEEPEST:
            return True
    return False


# for parts of a document that another reader cuts it into: as strict as `parse_json` with `nan`, depth and characters
# aside, which `check_depth` and `check_characters` check
STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole)


def has_lone_surrogate(text: str) -> bool:
    """Return whether a JSON text may spell one half of a character beyond 16 bits, which is not Unicode."""
    return _HALF.search(text) is not None


def check_depth(value: Any, outside: int = 0) -> None:
    """Raise ValueError for lists and objects more than 64 deep; the value itself is in `outside` others."""
    level = [value]
    for _ in range(_DEEPEST - outside):
        level = [
            child
            for parent in level
            if isinstance(parent, (dict, list))
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise too_deep()


def check_characters(value: Any) -> None:
    """Raise ValueError for a value with a lone surrogate in a string."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as e:
        raise ValueError(f"it holds half a character (\\u{ord(e.object[e.start]):04x}) in a text") from None


def _check_keys(text: str) -> None:
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") < _DEEPEST:
            continue
        for piece in _BETWEEN_KEYS.split(_without_strings(line)):
            parts = "".join(piece.split()).split(".")
            if len(parts) > _DEEPEST and all(map(_BARE_KEY.fullmatch, parts)):
                raise ValueError(f"line {number} has a key of {len(parts)} parts")


def _without_strings(line: str) -> str:
    """Return a line of TOML with `x` for each string. After a `"` that no other closes, no further `"` opens one."""
    kept, at = [], 0
    for found in _QUOTED.finditer(line):
        kept.append(line[at : found.start()])
        at = found.start()
        if found[1] == "":
            return "".join(kept) + _LITERAL.sub("x", line[at:])
        kept.append("x")
        at = found.end()
    return "".join(kept) + line[at:]


def parse_csv(text: str) -> list[tuple[int, list[str]]]:
    """Return the rows of a CSV text (RFC 4180), each with the number of the line it ends on; empty lines are skipped.

    Cells may have any length. The rows are those of `csv.reader(strict=True)`, whose limit on a cell's length holds for
    the whole process, so that raising it would change what other code in it accepts. Raises ValueError, naming the
    line, for a quoted cell that never ends or is followed by anything but a comma or a line end.
    """
    rows: list[tuple[int, list[str]]] = []
    at, line = 0, 1
    while at < len(text):
        start = at
        cells: list[str] = []
        while True:
            if text.startswith('"', at):
                end = _closing_quote(text, at, line)
                cells.append(text[at + 1 : end - 1].replace('""', '"'))
            else:
                end = _cell_end(text, at)
                cells.append(text[at:end])
            at = end + 1
            if not text.startswith(",", end):
                break
        if text.startswith("\r\n", end):
            at += 1
        inner = len(_LINE_END.findall(text, start, end))
        if end > start:
            rows.append((line + inner, cells))
        line += inner + 1
    return rows


def _cell_end(text: str, at: int) -> int:
    found = _CELL_END.search(text, at)
    assert found is not None
    return found.start()


def _closing_quote(text: str, at: int, line: int) -> int:
    """Return where a quoted cell that starts at `at`, in a row that starts on `line`, ends: one past its last quote."""
    end = at + 1
    while True:
        end = text.find('"', end) + 1
        if end == 0:
            raise ValueError(f"line {line}: a quotation mark is never closed")
        if text.startswith('"', end):
            end += 1
            continue
        if end < len(text) and text[end] not in ",\r\n":
            raise ValueError(f"line {line}: {text[end]!r} follows a closing quotation mark, where a comma must stand")
        return end
