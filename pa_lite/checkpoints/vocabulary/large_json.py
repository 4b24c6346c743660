"""JSON files with a few very long objects or lists, read in pieces: tokenizer.json and tokenizer_config.json.

`json.loads` of a tokenizer.json of 33 MB takes 190 MB. Here the long values ("vocab", "merges", ...) are cut out of the
document as it streams by; runs of their items are parsed by `json` itself, a quarter of a megabyte at a time, and given
to a sink, which keeps what it likes in as little memory as it likes. What is left of the document is parsed as a whole.
The result, and what is refused, are those of `parse_json` on the whole text.
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
_LONGEST_REST = 1 << 25  # bytes of the document without what is cut out; Gemma's, the longest known, has 1 MB
_PARTS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|"|[][{}]', re.DOTALL)
_AFTER_NAME = re.compile(rb"[ \t\n\r]*(:?)[ \t\n\r]*([\[{]?)")
_ITEM = re.compile(rb'[ \t\n\r]*(?:"[^"\\]*(?:\\.[^"\\]*)*"[ \t\n\r]*:)?[ \t\n\r]*([\[{]?)', re.DOTALL)
_CLOSERS = {b"[": b"]", b"{": b"}"}
Cut = tuple[tuple[str, ...], bytes]  # the keys that lead to a value, one or two, and how it opens: b"[" or b"{"


class Sink:
    """Takes the items of one long value, in order. This one forgets them, and leaves an empty list."""

    def add(self, items: Any) -> bool:
        """Take some items, a list or an object. Return whether each was of the plain kind that was expected.

        Those that were not are then checked for their depth.
        """
        return False

    def finish(self) -> Any:
        """Return what stands for the value in the document. Raises ValueError for keys that came twice."""
        return []


class ListSink(Sink):
    """Keeps the items of a list as they are."""

    def __init__(self) -> None:
        self._items: list[Any] = []

    def add(self, items: list[Any]) -> bool:
        self._items += items
        return False

    def finish(self) -> Any:
        return self._items


class ObjectSink(Sink):
    """Keeps the members of an object as they are."""

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
    """Return the JSON object in a file, with what the sinks of `cuts` made of its long values.

    `piece` is how many bytes are parsed at a time. Raises CheckpointError as `read_json` does.
    """
    with json_errors(path):
        size = size_of(path)
        if size > MAX_JSON:
            raise ValueError(f"{size} bytes are too many")
        with open_regular(path) as f:
            check_text(path, f.read(START), size)
            f.seek(0)
            document = _Document(f, cuts, piece).read()
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: holds no JSON object.")
    return document


class _Document:
    """One pass over a file; `window[at:]` is what is read of it and not yet used."""

    def __init__(self, f: BinaryIO, cuts: Mapping[Cut, Sink], piece: int) -> None:
        self._f, self._cuts, self._piece = f, cuts, piece
        self._window, self._at, self._offset = b"", 0, 0  # `_offset`: where the window begins in the file
        self._is_whole = False
        self._rest = bytearray()  # the document without what was cut out
        self._places: list[tuple[int, int]] = [(0, 0)]  # where parts of the rest begin, there and in the file
        self._found: list[tuple[tuple[str, ...], Sink]] = []
        self._outside = 0  # how many objects the value that is being cut out lies in

    def _more(self, least: int = 0) -> bool:
        """Read another piece behind what is not yet used; whether there was any."""
        data = self._f.read(max(self._piece, least))
        self._is_whole = self._is_whole or not data
        self._offset += self._at
        self._window, self._at = self._window[self._at :] + data, 0
        return bool(data)

    def _keep(self, end: int) -> None:
        """Let what is not yet used, up to here in the window, be part of the rest."""
        self._rest += self._window[self._at : end]
        self._at = end
        if len(self._rest) > _LONGEST_REST:
            raise ValueError(f"it has more than {_LONGEST_REST} bytes beside its vocabulary")

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
        """Read all of the file: what is cut out goes to its sinks, and all else to the rest."""
        depth, names = 0, ["", "", ""]
        while True:
            found = _PARTS.search(self._window, self._at)
            if found is None or found[0] == b'"':  # nothing more, or a string that goes on
                if found is None:
                    self._keep(len(self._window))
                elif len(self._window) - self._at > _LONGEST_REST:
                    raise ValueError(f"it has a string of more than {_LONGEST_REST} bytes")
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
                        raise ValueError(f"it has more than {_LONGEST_REST} bytes beside its vocabulary")
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
        """Give the items of the value that opens here to its sink; a number stands in for it in the rest."""
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
                raise ValueError(f"it has an entry that is broken or longer than {_LONGEST_REST} bytes")
            if not self._more(held):
                raise ValueError(fault)
        self._rest += b"0"
        self._places.append((len(self._rest), self._offset + self._at))

    def _add_run(self, sink: Sink, opener: bytes) -> bool:
        """Parse items up to a comma near the window's end, fast; False where that is not possible."""
        end = _last_comma(self._window, self._at)
        if end <= self._at:
            return False
        text = (opener + self._window[self._at : end] + _CLOSERS[opener]).decode("utf-8")
        try:
            items = STRICT.decode(text)
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
        """Parse the items up to the value's end, if that is in the window; else return what stopped it."""
        text, _ = codecs.utf_8_decode(opener + self._window[self._at :], "strict", self._is_whole)
        try:
            items, end = STRICT.raw_decode(text)
        except json.JSONDecodeError as e:
            return f"{e.msg} at byte {self._offset + self._at - 1 + len(text[: e.pos].encode())}"
        except RecursionError:
            raise too_deep() from None
        if not items and not is_first:
            return f"an item is missing at byte {self._offset + self._at}"  # behind a comma
        self._give(sink, items, text[:end])
        self._at += len(text[:end].encode()) - 1
        return None


def _name(token: bytes) -> str:
    """The key that a string of the text spells; empty for a broken one, which the parser refuses later."""
    try:
        return str(json.loads(token))
    except ValueError:
        return ""


def _last_comma(window: bytes, start: int) -> int:
    """Where a comma between two items stands, as late in the window as that is easily found; -1 if nowhere.

    Behind a list or an object it follows a bracket. Whether it is in a string the number of quotation marks before it
    tells.
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
        bare = window[start:end].replace(b"\\\\", b"").replace(b'\\"', b"")
        if bare.count(b'"') % 2 == 0:
            return end
    return -1
