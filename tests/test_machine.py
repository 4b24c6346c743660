from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pa_lite import machine


def test_memory_is_told_in_bytes() -> None:
    total, available = machine.total_memory(), machine.available_memory()
    assert 100_000_000 < available <= total < 1 << 50


@pytest.mark.skipif(sys.platform != "linux", reason="control groups")
def test_a_containers_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_container_memory", lambda: (900_000_000, 200_000_000))
    assert machine.total_memory() == 900_000_000
    assert machine.available_memory() <= 700_000_000
    monkeypatch.setattr(machine, "_container_memory", lambda: (0, 0))
    assert machine.total_memory() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_cache_folder_follows_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert machine.cache_folder() == tmp_path / ".cache" / "pa-lite"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert machine.cache_folder() == tmp_path / ".cache" / "pa-lite"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert machine.cache_folder() == tmp_path / "x" / "pa-lite"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert machine.cache_folder() == tmp_path / "Library" / "Caches" / "pa-lite"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert machine.cache_folder() == tmp_path / "local" / "pa-lite" / "Cache"
