"""Read JSON files with a few very long values in pieces: tokenizer.json and tokenizer_config.json.

`json.loads` of a 33 MB tokenizer.json takes 190 MB. Here the long values ("vocab", "merges", ...) are cut out while the
file is read; `json` parses runs of their items, a quarter of a megabyte at a time, and a sink stores them in its own
compact form. The rest of the document is then parsed in one piece. The result is the same, and the same files are
refused, as with `parse_json` on the whole text.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from pa_lite.checkpoints.safetensors_file import MAX_JSON, json_errors
from pa_lite.errors import CheckpointError
from pa_lite.system.byte_source import size_of
from pa_lite.system.opening import open_regular
from pa_lite.untrusted.file_kind import START, check_text
from pa_lite.untrusted.strict_json import (
    STRICT,
    check_characters,
    check_depth,
    has_lone_surrogate,
    parse_json,
    too_deep,
)

PIECE = 1 << 18  # bytes parsed at a time
_LONGEST_REST = 1 << 25  # bytes of the document without the long values; the longest known, Gemma's, has 1 MB
_PARTS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|"|[][{}]', re.DOTALL)
_AFTER_NAME = re.compile(rb"[ \t\n\r]*(:?)[ \t\n\r]*([\[{]?)")
_ITEM = re.compile(rb'[ \t\n\r]*(?:"[^"\\]*(?:\\.[^"\\]*)*"[ \t\n\r]*:)?[ \t\n\r]*([\[{]?)', re.DOTALL)
_CLOSERS = {b"[": b"]", b"{": b"}"}
# Python's own integer parser is much faster than the one of STRICT, which refuses very long numbers
_FAST, _LONG_INTEGER = json.JSONDecoder(object_pairs_hook=STRICT.object_pairs_hook), re.compile("[0-9]{19}")
Cut = tuple[tuple[str, ...], bytes]  # the one or two keys of a value, and its first byte: b"[" or b"{"


class Sink:
    """Receives the items of one long value in order. This class drops them and returns an empty list."""

    def add(self, items: Any) -> bool:
        """Add items, a list or an object. Return whether all were of the expected simple form.

        If not, the caller checks their nesting depth.
        """
        return False

    def finish(self) -> Any:
        """Return the value for the document. Raises ValueError for duplicate keys."""
        return []


class ListSink(Sink):
    """Keeps the items of a list unchanged."""

    def __init__(self) -> None:
        self._items: list[Any] = []

    def add(self, items: list[Any]) -> bool:
        self._items += items
        return False

    def finish(self) -> Any:
        return self._items


class ObjectSink(Sink):
    """Keeps the items of an object unchanged."""

    def __init__(self) -> None:
        self._members: dict[str, Any] = {}

    def add(self, items: dict[str, Any]) -> bool:
        for key in items.keys() & self._members.keys():
            raise duplicate(key)
        self._members |= items
        return False

    def finish(self) -> Any:
        return self._members


def duplicate(key: str) -> ValueError:
    return ValueError(f"duplicate key {key!r:.80}")


def read_large_json(path: Path, cuts: Mapping[Cut, Sink], piece: int = PIECE) -> dict[str, Any]:
    """Return the JSON object in a file, with the results of the sinks in `cuts` as its long values.

    `piece` is the number of bytes to parse at a time. Raises CheckpointError as `read_json` does.
    """
    with json_errors(path):
        size = size_of(path)
        if size > MAX_JSON:
            raise ValueError(f"{size} bytes are over the limit")
        with open_regular(path) as f:
            check_text(path, f.read(START), size)
            f.seek(0)
            document = _Document(f, cuts, piece).read()
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: is not a JSON object.")
    return document


class _Document:
    """One pass over a file; `_window[_at:]` is read but not processed yet."""

    def __init__(self, f: BinaryIO, cuts: Mapping[Cut, Sink], piece: int) -> None:
        self._f, self._cuts, self._piece = f, cuts, piece
        self._window, self._at, self._offset = b"", 0, 0  # `_offset`: of the window in the file
        self._is_whole = False
        self._rest = bytearray()  # the document without the long values
        self._places: list[tuple[int, int]] = [(0, 0)]  # per part of the rest: its offset in the rest and in the file
        self._found: list[tuple[tuple[str, ...], Sink]] = []
        self._outside = 0  # nesting depth of the value that is being cut out

    def _more(self, least: int = 0) -> bool:
        """Read another piece into the window; return whether there was one."""
        data = self._f.read(max(self._piece, least))
        self._is_whole = self._is_whole or not data
        self._offset += self._at
        self._window, self._at = self._window[self._at :] + data, 0
        return bool(data)

    def _keep(self, end: int) -> None:
        """Append the window up to `end` to the rest."""
        self._rest += self._window[self._at : end]
        self._at = end
        if len(self._rest) > _LONGEST_REST:
            raise ValueError(f"it has more than {_LONGEST_REST} bytes without its vocabulary")

    def read(self) -> Any:
        self._separate()
        try:
            document = parse_json(bytes(self._rest), nan=True)
        except json.JSONDecodeError as e:
            at = len(e.doc[: e.pos].encode("utf-8", "surrogatepass"))
            first, start = max(place for place in self._places if place[0] <= at)
            raise ValueError(f"{e.msg} at byte {start + at - first}") from None
        for keys, sink in self._found:
            holder = document
            for key in keys[:-1]:
                holder = holder[key]
            holder[keys[-1]] = sink.finish()
        return document

    def _separate(self) -> None:
        """Read the whole file: long values go to their sinks, everything else to the rest."""
        depth, names = 0, ["", "", ""]
        while True:
            found = _PARTS.search(self._window, self._at)
            if found is None or found[0] == b'"':  # the end, or a string that continues
                if found is None:
                    self._keep(len(self._window))
                elif len(self._window) - self._at > _LONGEST_REST:
                    raise ValueError(f"it contains a string of more than {_LONGEST_REST} bytes")
                if self._more(len(self._window) - self._at):
                    continue
                self._keep(len(self._window))
                return
            if found[0] in b"{[":
                depth += 1
            elif found[0] in b"}]":
                depth -= 1
            elif depth in (1, 2):
                after = _AFTER_NAME.match(self._window, found.end())
                assert after is not None
                if after.end() == len(self._window) and not self._is_whole:
                    if len(self._window) - self._at > _LONGEST_REST:
                        raise ValueError(f"it has more than {_LONGEST_REST} bytes without its vocabulary")
                    self._more(len(self._window) - self._at)
                    continue
                if after[1]:
                    names[depth] = _name(found[0])
                    cut = (tuple(names[1 : depth + 1]), after[2])
                    if cut in self._cuts:
                        self._keep(after.start(2))
                        self._cut_out(*cut)
                        continue
            self._keep(found.end())

    def _cut_out(self, keys: tuple[str, ...], opener: bytes) -> None:
        """Pass the items of the value that starts here to its sink; in the rest it is replaced by a number."""
        if any(keys == other for other, _ in self._found):
            raise duplicate(keys[-1])
        sink = self._cuts[keys, opener]
        self._found.append((keys, sink))
        self._outside = len(keys)
        self._at += 1
        is_first = True
        while True:
            if len(self._window) - self._at < self._piece and not self._is_whole:
                self._more()
            if self._add_run(sink, opener):
                is_first = False
                continue
            fault = self._add_last(sink, opener, is_first)
            if fault is None:
                break
            held = len(self._window) - self._at
            if held > _LONGEST_REST:
                raise ValueError(f"it contains an entry that is broken or longer than {_LONGEST_REST} bytes")
            if not self._more(held):
                raise ValueError(fault)
        self._rest += b"0"
        self._places.append((len(self._rest), self._offset + self._at))

    def _add_run(self, sink: Sink, opener: bytes) -> bool:
        """Parse items up to a comma near the end of the window, fast; return False if that is not possible."""
        end = _last_comma(self._window, self._at)
        if end <= self._at:
            return False
        text = (opener + self._window[self._at : end] + _CLOSERS[opener]).decode("utf-8")
        try:
            items = (STRICT if opener == b"[" or _LONG_INTEGER.search(text) else _FAST).decode(text)
        except json.JSONDecodeError:
            return False  # the value ends before that comma, or is broken
        except RecursionError:
            raise too_deep() from None
        if not items:
            return False
        self._give(sink, items, text)
        self._at = end + 1
        return True

    def _give(self, sink: Sink, items: Any, text: str) -> None:
        if has_lone_surrogate(text):
            check_characters(items)
        if not sink.add(items):
            check_depth(items, self._outside)

    def _add_last(self, sink: Sink, opener: bytes, is_first: bool) -> str | None:
        """Parse the items up to the end of the value if that is in the window; else return the parser's error."""
        text, _ = codecs.utf_8_decode(opener + self._window[self._at :], "strict", self._is_whole)
        try:
            items, end = STRICT.raw_decode(text)
        except json.JSONDecodeError as e:
            return f"{e.msg} at byte {self._offset + self._at - 1 + len(text[: e.pos].encode())}"
        except RecursionError:
            raise too_deep() from None
        if not items and not is_first:
            return f"an item is missing at byte {self._offset + self._at}"  # after a comma
        self._give(sink, items, text[:end])
        self._at += len(text[:end].encode()) - 1
        return None


def _name(token: bytes) -> str:
    """Return the key that a JSON string stands for; empty for a broken one, which the parser refuses later."""
    try:
        return str(json.loads(token))
    except ValueError:
        return ""


def _last_comma(window: bytes, start: int) -> int:
    """Return the index of a late comma between two items in the window, -1 if none is easy to find.

    If the items are lists or objects, a bracket precedes it. An odd number of quotation marks before it means that it
    is in a string.
    """
    first = _ITEM.match(window, start)
    closer = _CLOSERS.get(first[1] if first else b"")
    end = len(window)
    for _ in range(16):
        end = window.rfind(b",", start, end)
        if end < 0:
            return -1
        if closer is not None and window[max(start, end - 64) : end].rstrip()[-1:] != closer:
            continue
        bare = window[start:end]
        if b"\\" in bare:
            bare = bare.replace(b"\\\\", b"").replace(b'\\"', b"")
        if bare.count(b'"') % 2 == 0:
            return end
    return -1
