"""Untrusted JSON, TOML and CSV, parsed strictly: any invalid input raises a single ValueError, in bounded time.

Some input that Python's parsers accept, or crash on, is refused: duplicate keys, numbers too large for a float, NaN
unless it is allowed, lone surrogates, and nesting or dotted keys beyond a depth. Such errors are worded here because
Python's differ between versions. Imports no other module of pa-lite.
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
_MOST_DIGITS = 4300  # of an integer: Python's default limit, as parsing time is quadratic
_MOST_BITS = 64  # of an integer in TOML
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # an escaped high surrogate: possibly a lone one
_QUOTED = re.compile(r""""[^"\\\n]*(?:\\.[^"\\\n]*)*("?)|'[^'\n]*'""")  # group 1 is empty if it is not closed
_LITERAL = re.compile(r"'[^'\n]*'")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BETWEEN_KEYS = re.compile(r"[=,{}\[\]]")
_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]')  # an unclosed string is also skipped in one pass
_DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
_CELL_END = {mark: re.compile(rf"[{mark}\r\n]|\Z") for mark in _DELIMITERS}
_HEADER = re.compile(r'(?:"[^"]*"|[^"\r\n])*')  # the first row, whose quoted cells may contain line ends
# bytes of memory for a JSON value or a cell, an object that is not empty, and a list
_VALUE, _OBJECT, _LIST = 64, 232, 64
_LINE_END = re.compile(r"\r\n|\r|\n")


def json_memory(content: bytes, is_csv: bool = False) -> int:
    """Return an upper bound of the memory in bytes of JSON or CSV content and its values, from its punctuation."""
    objects, lists = content.count(b"{"), content.count(b"[")
    marks = (*_DELIMITERS, "\n") if is_csv else (",", "\n")
    values = sum(content.count(mark.encode()) for mark in marks) + objects + lists
    return len(content) * (1 if content.isascii() else 4) + _VALUE * values + _OBJECT * objects + _LIST * lists


def parse_json(text: str | bytes, nan: bool = False) -> Any:
    """Return the value of a JSON document given as a string or UTF-8 bytes. With `nan`, NaN and infinities are allowed.

    Raises ValueError, in one line, for anything that is not strict JSON, has duplicate keys, is nested more than 64
    deep, or contains a lone surrogate.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        numbers: dict[str, Any] = {} if nan else {"parse_float": _finite, "parse_constant": _constant}
        value = json.loads(text, object_pairs_hook=_object, parse_int=_whole, **numbers)
    except RecursionError:
        raise too_deep() from None
    except json.JSONDecodeError as e:  # Python's own depth limit differs between versions
        if _is_too_deep(e.doc, e.pos):
            raise too_deep() from None
        raise
    if text.count("[") + text.count("{") > _DEEPEST:
        check_depth(value)
    if has_lone_surrogate(text):
        check_characters(value)
    return value


def parse_toml(text: str | bytes) -> dict[str, Any]:
    """Return the table of a TOML document given as a string or UTF-8 bytes.

    Raises ValueError, in one line, for invalid TOML, nesting more than 64 deep, or a key of more than 64 parts, for
    which Python's parser takes quadratic time and memory.
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
    except ValueError:  # Python's message addresses programmers
        raise ValueError(f"it has a number of more than {_MOST_DIGITS} digits") from None
    check_depth(document)
    _check_integers(document)
    return document


def _check_integers(value: Any) -> None:
    """Raise ValueError for an integer of more than 64 bits, which TOML does not allow. Python accepts hexadecimal ones.

    Python cannot convert integers of more than 4300 digits to decimal, not even for an error message.
    """
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise ValueError(f"it has a number of {value.bit_length()} bits; the limit is {_MOST_BITS}")
    if isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            _check_integers(child)


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        seen: set[str] = set()
        duplicate = next(key for key, _ in members if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"duplicate key {duplicate!r:.80}")
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
    raise ValueError(f"it has {text} where a number is required")


def too_deep() -> ValueError:
    """Return the error for nesting beyond the limit."""
    return ValueError(f"it is nested more than {_DEEPEST} deep")


def _is_too_deep(text: str, end: int) -> bool:
    """Return whether more than 64 lists and objects are open at the same time before `end` of a JSON document."""
    depth = 0
    for found in _BRACKET.finditer(text, 0, end):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth > _DEEPEST:
            return True
    return False


# for readers that split a document: as strict as `parse_json(nan=True)`, except for depth and characters, which
# `check_depth` and `check_characters` check
STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole)


def has_lone_surrogate(text: str) -> bool:
    """Return whether a JSON document may contain an escaped lone surrogate, which is not valid Unicode."""
    return _HALF.search(text) is not None


def check_depth(value: Any, outside: int = 0) -> None:
    """Raise ValueError for lists and objects nested more than 64 deep; the value is itself inside `outside` others."""
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
        raise ValueError(f"it contains a lone surrogate (\\u{ord(e.object[e.start]):04x})") from None


def _check_keys(text: str) -> None:
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") < _DEEPEST:
            continue
        for piece in _BETWEEN_KEYS.split(_without_strings(line)):
            parts = "".join(piece.split()).split(".")
            if len(parts) > _DEEPEST and all(map(_BARE_KEY.fullmatch, parts)):
                raise ValueError(f"line {number} has a key of {len(parts)} parts")


def _without_strings(line: str) -> str:
    """Return a line of TOML with `x` for each string. After an unclosed `"`, no later `"` opens a string."""
    kept, at = [], 0
    for found in _QUOTED.finditer(line):
        kept.append(line[at : found.start()])
        at = found.start()
        if found[1] == "":
            return "".join(kept) + _LITERAL.sub("x", line[at:])
        kept.append("x")
        at = found.end()
    return "".join(kept) + line[at:]


def csv_delimiter(text: str) -> str:
    """Return what separates the cells of CSV: the most frequent of comma, semicolon and tab in its first row."""
    header = _HEADER.match(text.lstrip("\r\n"))
    plain = re.sub(r'"[^"]*"', "", header[0]) if header else ""
    return max(_DELIMITERS, key=plain.count)  # the first, a comma, if there are equally many


def parse_csv(text: str, delimiter: str = ",") -> list[tuple[int, list[str]]]:
    """Return the rows of CSV (RFC 4180), each with the number of the line it ends on; empty lines are skipped.

    `delimiter` is a comma, a semicolon or a tab.

    Cells may have any length. The rows equal those of `csv.reader(strict=True)`, which is not used because its limit on
    a cell's length is global to the process. Raises ValueError, naming the line, for a quoted cell that is not closed
    or not followed by the delimiter or line end.
    """
    rows: list[tuple[int, list[str]]] = []
    at, line = 0, 1
    while at < len(text):
        start = at
        cells: list[str] = []
        while True:
            if text.startswith('"', at):
                end = _closing_quote(text, at, line, delimiter)
                cells.append(text[at + 1 : end - 1].replace('""', '"'))
            else:
                end = _cell_end(text, at, delimiter)
                cells.append(text[at:end])
            at = end + 1
            if not text.startswith(delimiter, end):
                break
        if text.startswith("\r\n", end):
            at += 1
        inner = len(_LINE_END.findall(text, start, end))
        if end > start:
            rows.append((line + inner, cells))
        line += inner + 1
    return rows


def _cell_end(text: str, at: int, delimiter: str) -> int:
    found = _CELL_END[delimiter].search(text, at)
    assert found is not None
    return found.start()


def _closing_quote(text: str, at: int, line: int, delimiter: str) -> int:
    """Return the end, one past the last quote, of a quoted cell that starts at `at` in a row that starts on `line`."""
    end = at + 1
    while True:
        end = text.find('"', end) + 1
        if end == 0:
            raise ValueError(f"line {line}: a quotation mark is never closed")
        if text.startswith('"', end):
            end += 1
            continue
        if end < len(text) and text[end] not in f"{delimiter}\r\n":
            wanted = _DELIMITERS[delimiter]
            raise ValueError(f"line {line}: {text[end]!r} follows a closing quotation mark, where {wanted} is required")
        return end
