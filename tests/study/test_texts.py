"""Tests of reading texts: every byte is in one passage, folders are walked in order, and odd files are refused."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_lite.errors import InputError
from pa_lite.study import texts
from pa_lite.study.texts import Document, Documents, cut, cut_documents, read_documents

WORDS = "The quick brown fox jumps over the lazy dog. "


def documents(*found: str) -> Documents:
    return Documents(tuple(Document(f"d{i}", text) for i, text in enumerate(found)))


@given(st.text(max_size=300), st.integers(4, 80))
@settings(deadline=None)
def test_parts_are_whole_characters_and_together_the_text(text: str, longest: int) -> None:
    raw = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode("utf-8")
    parts = cut(raw, longest)
    assert b"".join(parts) == raw
    assert all(0 < len(part) <= longest for part in parts)
    assert "".join(part.decode("utf-8") for part in parts) == raw.decode("utf-8")  # each is valid UTF-8
    assert len(parts) <= 2 * -(-len(raw) // longest) + 1


def test_parts_end_at_line_ends_and_before_spaces() -> None:
    lines = ("x" * 9 + "\n") * 10
    assert [len(part) for part in cut(lines.encode(), 35)] == [30, 30, 20, 20]
    assert all(part.startswith(b" ") for part in cut((WORDS * 20).encode(), 90)[1:])
    assert cut(b"", 10) == []


@given(st.lists(st.text("ab é\n", min_size=1, max_size=200), min_size=1, max_size=8), st.integers(20, 200))
@settings(deadline=None)
def test_without_a_limit_every_byte_is_in_one_passage(found: list[str], longest: int) -> None:
    kept = [text for text in found if text.strip()]
    if sum(len(text.encode()) for text in kept) < 256:
        with pytest.raises(InputError, match="too few"):
            cut_documents(documents(*found), longest)
        return
    passages = cut_documents(documents(*found), longest)
    assert "".join(passages.texts) == "".join(kept)
    assert all(len(text.encode()) <= passages.longest <= longest for text in passages.texts)
    assert list(passages.documents) == sorted(passages.documents)
    rebuilt = dict.fromkeys(passages.documents, "")
    for i, text in zip(passages.documents, passages.texts, strict=True):
        rebuilt[i] += text
    assert {i: found[i] for i in rebuilt} == rebuilt


def test_a_limit_takes_evenly_spaced_passages_and_says_so() -> None:
    found = documents(*(f"{i:03d}" + "x" * 97 for i in range(100)))
    passages = cut_documents(found, 100, 1000)
    assert [text[:3] for text in passages.texts] == [f"{i:03d}" for i in range(0, 100, 10)]
    assert passages.remarks == ("uses 1000 of 10000 bytes of text: 10 evenly spaced windows (--text-limit).",)
    assert cut_documents(found, 100, 10_000).remarks == ()


def test_a_short_text_gets_shorter_windows() -> None:
    passages = cut_documents(documents(WORDS * 20), 3000)
    assert len(passages.texts) >= 8
    assert passages.longest == 113
    assert passages.remarks == ("the text has only 900 bytes: windows of 113 bytes, not 3000.",)
    short = cut_documents(documents(*[WORDS * 3] * 20), 3000)
    assert short.texts == (WORDS * 3,) * 20  # many short documents stay whole
    with pytest.raises(InputError, match=r"the text has 45 bytes \(--text\): too few. Give at least 256"):
        cut_documents(documents(WORDS), 3000)


def test_documents_are_clusters_where_there_are_several() -> None:
    long = WORDS * 10
    assert cut_documents(documents(*[long] * 4), 150).clusters is None
    five = cut_documents(documents(*[long] * 5), 150)
    assert five.clusters == five.documents
    assert set(five.documents) == set(range(5))
    assert cut_documents(documents(*[WORDS] * 9), 150).clusters is None  # each is one passage


def test_folders_are_walked_by_name_and_what_is_skipped_is_said(tmp_path: Path) -> None:
    for name, content in (
        ("b.txt", WORDS), ("a/z.md", "in a"), ("a/b/deep.py", "x = 1"), (".hidden.txt", "no"), (".git/x.txt", "no"),
        ("model.bin", "no"), ("c.txt", ""), ("notes", "no suffix"),
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, "utf-8")
    (tmp_path / "latin.txt").write_bytes("größe".encode("latin-1"))
    found = read_documents([tmp_path])
    assert [d.text for d in found.found] == ["x = 1", "in a", WORDS, "no suffix"]
    (remark,) = found.remarks
    assert remark.startswith(f"{tmp_path}: skipped is empty (c.txt); is not UTF-8 (")
    assert read_documents([tmp_path / "b.txt", tmp_path]).found[0].text == WORDS
    names = [d.name for d in read_documents([tmp_path / "b.txt", tmp_path]).found]
    assert len(set(names)) == len(names) == 4  # a file that is named twice is read once


def test_rows_of_jsonl_are_documents(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {i}", "id": i}) + "\n" for i in range(3)), "utf-8")
    assert [d.text for d in read_documents([path]).found] == ["text 0", "text 1", "text 2"]
    path.write_text('{"text": "a"}\n{"body": "b"}\n', "utf-8")
    with pytest.raises(InputError, match=r"rows\.jsonl:2 has no string under 'text'"):
        read_documents([path])


def _write(content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "a.txt"
        path.write_bytes(content)
        return path

    return write


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.txt")
    return folder / "pipe.txt"


def _link_to_nothing(folder: Path) -> Path:
    (folder / "link.txt").symlink_to(folder / "nothing")
    return folder / "link.txt"


def _unreadable(folder: Path) -> Path:
    path = _write(b"x" * 300)(folder)
    path.chmod(0)
    return path


def _empty_folder(folder: Path) -> Path:
    (folder / "sub").mkdir()
    return folder / "sub"


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "none.txt", "cannot be read: No such file or directory"),
    "empty": (_write(b""), "is empty"),
    "white space": (_write(b" \n\t\n"), "is empty"),
    "latin-1": (_write("größe".encode("latin-1")), "is not UTF-8 (invalid start byte at byte 2). Convert it to UTF-8"),
    "utf-16": (_write("text".encode("utf-16")), "is not UTF-8"),
    "nul": (_write(b"a\0b"), "is not text: it has a NUL byte"),
    "gzip": (_write(b"\x1f\x8b\x08" + b"\0" * 20), "is not text but a gzip archive"),
    "zip": (_write(b"PK\x03\x04" + b"\0" * 20), "is not text but a zip archive"),
    "lfs": (
        _write(b"version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 12345\n"),
        "is not text but a git-lfs pointer",
    ),
    "folder": (_empty_folder, "no text was found (--text)"),
    "pipe": (_pipe, "named pipe"),
    "broken link": (_link_to_nothing, "cannot be read"),
}


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes and links")
@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_one_line(name: str, tmp_path: Path) -> None:
    make, message = BAD[name]
    path = make(tmp_path)
    with pytest.raises(InputError) as failed:
        read_documents([path])
    assert message in str(failed.value)
    assert str(path) in str(failed.value)
    assert "\n" not in str(failed.value)


@pytest.mark.skipif(sys.platform == "win32" or os.getuid() == 0, reason="root reads every file")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        read_documents([_unreadable(tmp_path)])


@pytest.mark.skipif(sys.platform == "win32", reason="needs links and pipes")
def test_links_and_pipes_in_folders_are_skipped(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret", "utf-8")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("mine", "utf-8")
    (folder / "file.txt").symlink_to(outside / "secret.txt")
    (folder / "sub").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.txt")
    found = read_documents([folder])
    assert [d.text for d in found.found] == ["mine"]
    assert found.remarks == (
        f"{folder}: skipped it is a link (file.txt); it is a link (loop); "
        "cannot be read: it is a named pipe, not a regular file (pipe.txt), and 1 more.",
    )
    linked = tmp_path / "mine"
    linked.symlink_to(folder)
    assert [d.text for d in read_documents([linked]).found] == ["mine"]  # the user named this link


def test_sizes_and_numbers_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "MOST_BYTES", 1000)
    for i in range(4):
        (tmp_path / f"{i}.txt").write_text(f"{i}" * 400, "utf-8")
    found = read_documents([tmp_path])
    assert [d.text[0] for d in found.found] == ["0", "1"]
    assert "is too large: all texts together may have" in found.remarks[0]
    with pytest.raises(InputError, match="is too large"):
        read_documents([tmp_path / f"{i}.txt" for i in range(3)])
    monkeypatch.setattr(texts, "_MOST_ENTRIES", 3)
    with pytest.raises(InputError, match="has more than 3 entries"):
        read_documents([tmp_path])
    monkeypatch.setattr(texts, "_MOST_ENTRIES", 100)
    monkeypatch.setattr(texts, "_MOST_DEPTH", 1)
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "c.txt").write_text("deep", "utf-8")
    assert "it is more than 1 folders deep (a/b)" in read_documents([tmp_path]).remarks[0]
