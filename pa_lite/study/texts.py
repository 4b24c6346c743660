"""Plain text to measure: documents in files and folders, and the passages that they are cut into.

Files and folders may be other people's: sizes and numbers are bounded, links in folders are not followed, and what is
not UTF-8 text is refused, or skipped in a folder with a remark.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pa_lite.alpaca.records import text_of
from pa_lite.errors import InputError
from pa_lite.sanitize import name_text
from pa_lite.system.opening import TooLargeError, read_regular
from pa_lite.tasks.averages import cluster_numbers
from pa_lite.untrusted.file_kind import FileStart
from pa_lite.untrusted.rows import read_objects, unreadable

MOST_BYTES = 64 << 20  # of all files together
_MOST_ENTRIES, _MOST_DEPTH = 100_000, 32  # of a folder
_ROWS = (".jsonl", ".ndjson")  # files whose rows have a `text`
# what is read in a folder; a file that the user names may have any name
_SUFFIXES = frozenset({
    "", *_ROWS, ".txt", ".text", ".md", ".markdown", ".rst", ".tex", ".org", ".adoc", ".log", ".srt", ".csv", ".tsv",
    ".py", ".pyi", ".ipynb", ".js", ".jsx", ".ts", ".tsx", ".c", ".h", ".cc", ".cpp", ".hpp", ".cs", ".java", ".kt",
    ".go", ".rs", ".rb", ".php", ".pl", ".lua", ".r", ".jl", ".scala", ".swift", ".sh", ".bash", ".ps1", ".sql",
    ".html", ".css", ".xml", ".json", ".yaml", ".yml", ".toml", ".ini", ".cfg",
})  # fmt: skip
_SHOWN = 3  # skipped files that a remark names
_LEAST_BYTES = 256  # of all text: less says nothing
_LEAST_WINDOWS, _SHORTEST = 8, 64  # passages wanted at least, and bytes of the shortest that a short text is cut into
LEAST_DOCUMENTS = 5  # from which documents, not windows, are what varies


@dataclass(frozen=True)
class Document:
    """A text and its name for messages."""

    name: str
    text: str


@dataclass(frozen=True)
class Documents:
    """Texts in the order that they were named, in folders by name; `remarks` say what was skipped."""

    found: tuple[Document, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Passages:
    """The parts of documents that are scored: their texts, and the number of each one's document.

    `longest` is the most bytes of one. `remarks` say what was left out or made shorter.
    """

    texts: tuple[str, ...]
    documents: tuple[int, ...]
    longest: int
    remarks: tuple[str, ...] = ()

    @property
    def clusters(self) -> tuple[int, ...] | None:
        """The number of each passage's document, where documents are what varies; None where passages are."""
        if len(set(self.documents)) < LEAST_DOCUMENTS:
            return None
        return cluster_numbers([str(number) for number in self.documents])


def read_documents(paths: Sequence[Path]) -> Documents:
    """Return the documents of files and folders. A row of a .jsonl file is one document: the string under `text`.

    Raises InputError for a file that cannot be read, is empty, too large or not UTF-8 text, and for folders without any
    text. In folders such files are skipped, as are hidden files, links, and files that do not look like text by name.
    """
    found: list[Document] = []
    remarks: list[str] = []
    seen: set[tuple[int, int]] = set()
    room = MOST_BYTES
    for path in paths:
        try:
            is_folder = path.is_dir()
        except OSError as e:
            raise unreadable(path, e) from e
        if not is_folder:
            own, used = _read(path, room, seen)
            found += own
            room -= used
            continue
        skipped: list[str] = []
        for file in _files(path, skipped):
            try:
                own, used = _read(file, room, seen)
            except InputError as e:
                skipped.append(str(e).removeprefix(f"{file}: ").rstrip(".") + f" ({file.relative_to(path)})")
                continue
            found += own
            room -= used
        if skipped:
            more = f", and {len(skipped) - _SHOWN} more" if len(skipped) > _SHOWN else ""
            remarks.append(f"{path}: skipped {'; '.join(skipped[:_SHOWN])}{more}.")
    if not found:
        named = ", ".join(map(str, paths))
        raise InputError(" ".join([f"{named}: no text was found (--text).", *remarks]))
    return Documents(tuple(found), tuple(remarks))


def _read(path: Path, room: int, seen: set[tuple[int, int]]) -> tuple[list[Document], int]:
    """Return the documents of a file that was not seen yet, and its bytes. Raises InputError."""
    try:
        facts = path.stat()
        if (facts.st_dev, facts.st_ino) in seen:
            return [], 0
        raw = read_regular(path, room)
    except TooLargeError as e:
        raise InputError(
            f"{path}: is too large: all texts together may have {MOST_BYTES >> 20} MB. Use a part of it."
        ) from e
    except OSError as e:
        raise unreadable(path, e) from e
    seen.add((facts.st_dev, facts.st_ino))
    if path.suffix.lower() in _ROWS:
        rows = read_objects(path)
        own = [
            Document(f"{path}: row {i + 1}", text_of(dict(rows.row(i)), "text", rows.where(i)))
            for i in range(len(rows))
        ]
    else:
        own = [Document(name_text(str(path)), _text(path, raw))]
    if not own or not any(each.text.strip() for each in own):
        raise InputError(f"{path}: is empty.")
    return own, len(raw)


def _text(path: Path, raw: bytes) -> str:
    """Return a file's text. Raises InputError, saying what the file is, if it is not UTF-8 text."""
    explanation = FileStart(raw[:512], len(raw)).explanation or ""
    what = "" if explanation.startswith(("a text", "an empty", "an HTML", "an XML")) else explanation
    if what:
        raise InputError(f"{path}: is not text but {what}.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: is not UTF-8 ({e.reason} at byte {e.start}). Convert it to UTF-8.") from e
    if "\0" in text:
        raise InputError(f"{path}: is not text: it has a NUL byte.")
    return text


def _files(folder: Path, skipped: list[str]) -> Iterator[Path]:
    """Yield the files of a folder that look like text, by name, those of a subfolder in its place.

    Hidden ones and files of other kinds are passed over; links and folders that cannot be read are added to `skipped`.
    Raises InputError for a folder with too many entries.
    """
    left = [_MOST_ENTRIES]

    def walk(where: Path, depth: int) -> Iterator[Path]:
        try:
            with os.scandir(where) as entries:
                listed = sorted(itertools.islice(entries, left[0] + 1), key=lambda entry: entry.name)
        except OSError as e:
            if where == folder:
                raise unreadable(folder, e) from e
            skipped.append(f"cannot be read: {e.strerror} ({where.relative_to(folder)})")
            return
        left[0] -= len(listed)
        if left[0] < 0:
            raise InputError(f"{folder}: has more than {_MOST_ENTRIES} entries. Name the folders or files you mean.")
        for entry in listed:
            path = where / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                skipped.append(f"it is a link ({path.relative_to(folder)})")
            elif entry.is_dir(follow_symlinks=False):
                if depth < _MOST_DEPTH:
                    yield from walk(path, depth + 1)
                else:
                    skipped.append(f"it is more than {_MOST_DEPTH} folders deep ({path.relative_to(folder)})")
            elif path.suffix.lower() in _SUFFIXES:
                yield path

    return walk(folder, 0)


def cut_documents(documents: Documents, longest: int, limit: int | None = None) -> Passages:
    """Cut documents into passages of up to `longest` bytes, and take evenly spaced ones of up to `limit` bytes in all.

    A short text of few documents is cut into shorter passages, so that there are some to compare. Raises InputError for
    less than 256 bytes.
    """
    raws = [(i, document.text.encode("utf-8")) for i, document in enumerate(documents.found)]
    raws = [(i, raw) for i, raw in raws if raw.strip()]
    total, remarks = sum(len(raw) for _, raw in raws), list(documents.remarks)
    if total < _LEAST_BYTES:
        raise InputError(f"the text has {total} bytes (--text): too few. Give at least {_LEAST_BYTES}, better 20000.")
    shorter = max(_SHORTEST, -(-total // _LEAST_WINDOWS))
    n_windows = sum(-(-len(raw) // longest) for _, raw in raws)
    if len(raws) < LEAST_DOCUMENTS and n_windows < _LEAST_WINDOWS and shorter < longest:
        remarks.append(f"the text has only {total} bytes: windows of {shorter} bytes, not {longest}.")
        longest = shorter
    parts = [(i, part) for i, raw in raws for part in cut(raw, longest)]
    if limit is not None and total > limit:
        n = max(1, min(len(parts), limit * len(parts) // total))
        parts = [parts[k * len(parts) // n] for k in range(n)]
        used = sum(len(part) for _, part in parts)
        remarks.append(f"uses {used} of {total} bytes of text: {n} evenly spaced windows (--text-limit).")
    return Passages(
        texts=tuple(part.decode("utf-8") for _, part in parts),
        documents=tuple(i for i, _ in parts),
        longest=longest,
        remarks=tuple(remarks),
    )


def cut(raw: bytes, longest: int) -> list[bytes]:
    """Cut UTF-8 text into parts of up to `longest` bytes (at least 4) and about equal length, which together are it.

    A part ends after a line end, or else before a space, in the last quarter of its length; else between characters.
    """
    parts = []
    while raw:
        end = -(-len(raw) // -(-len(raw) // longest))
        if end < len(raw):
            least = max(1, 3 * end // 4)
            if (line := raw.rfind(b"\n", least, end)) >= 0:
                end = line + 1
            elif (space := raw.rfind(b" ", least, end)) > 0:
                end = space
            end = _boundary(raw, end)
        parts.append(raw[:end])
        raw = raw[end:]
    return parts


def _boundary(raw: bytes, at: int) -> int:
    """Return where the character that `at` is inside of starts; where it ends if that is the start of the text."""
    start = end = at
    while start and raw[start] & 0xC0 == 0x80:
        start -= 1
    while end < len(raw) and raw[end] & 0xC0 == 0x80:
        end += 1
    return start or end
