from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pa_lite.system import machine


def test_memory_is_given_in_bytes() -> None:
    total, available = machine.total_memory(), machine.available_memory()
    assert 100_000_000 < available <= total < 1 << 50


@pytest.mark.skipif(sys.platform != "linux", reason="control groups")
def test_the_memory_limit_of_a_container_counts(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_processor_limit_of_a_container_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    n = machine.cores()
    for quota, expected in ((0.0, n), (0.5, 1), (1.0, 1), (1.2, min(n, 2)), (1000.0, n)):
        monkeypatch.setattr(machine, "_container_cores", lambda quota=quota: quota)
        assert machine.cores() == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "max 100000\n"}, 0.0),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "nonsense\n"}, 0.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.0),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "0\n"}, 0.0),
        ({}, 0.0),
    ],
)
def test_processor_limits_of_control_groups_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: float
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "ascii")
    monkeypatch.setattr(machine, "Path", lambda name: tmp_path / name.removeprefix("/sys/fs/cgroup/"))
    assert machine._container_cores() == expected
