"""The history of chats: kept in a private file, bounded, and robust against damage."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pa_lite.serving import chat_history
from pa_lite.serving.chat_history import ChatHistory
from pa_lite.system.machine import state_folder


def test_entries_come_back_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "state" / "pa-lite" / "history"
    for text in ("one", "two\nlines", "drei \u00e4\U0001f600", "\x1b[31m"):
        ChatHistory(path).add(text)
    assert ChatHistory(path).load() == ["one", "two\nlines", "drei \u00e4\U0001f600", "\x1b[31m"]
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_damaged_lines_and_a_missing_file_are_nothing(tmp_path: Path) -> None:
    assert ChatHistory(tmp_path / "none").load() == []
    (tmp_path / "h").write_bytes(b'"one"\n{"a": 1}\n"half\n\xff\xfe\n3\n"\\ud800"\n[[\n"two"\n')
    assert ChatHistory(tmp_path / "h").load() == ["one", "two"]


def test_a_long_history_loses_its_older_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_history, "_MOST_BYTES", 1000)
    history = ChatHistory(tmp_path / "h")
    for i in range(200):
        history.add(f"entry {i:03d}")
    kept = history.load()
    assert kept == [f"entry {i:03d}" for i in range(200 - len(kept), 200)]
    assert 30 < len(kept) < 42
    assert (tmp_path / "h").stat().st_size <= 500
    history.add("x" * 100_000)  # a pasted file is not kept
    assert history.load() == kept


@pytest.mark.skipif(os.name != "posix", reason="links and permissions of POSIX")
def test_links_are_not_followed_and_permissions_are_tightened(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="link"):
        ChatHistory(tmp_path / "link").add("secret")
    assert (tmp_path / "other").read_text() == ""
    (tmp_path / "open").write_text("")
    (tmp_path / "open").chmod(0o644)
    ChatHistory(tmp_path / "open").add("x")
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o600


def test_the_default_is_in_the_folder_of_the_users_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert ChatHistory().path == state_folder() / "chat-history"
    if os.name == "posix" and os.uname().sysname == "Linux":
        assert ChatHistory().path == tmp_path / "pa-lite" / "chat-history"
        monkeypatch.setenv("XDG_STATE_HOME", "relative")  # the specification says to ignore it
        assert ChatHistory().path == Path.home() / ".local" / "state" / "pa-lite" / "chat-history"
