"""Tests of results files longer than their header says, which are refused before they are copied."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from pa_lite.errors import InputError
from pa_lite.study.cells import Cell
from pa_lite.study.store import open_store, read_store

CELL = Cell(lam=0.5, type="F16", kind="task", name="a", n_items=3, inputs={"base": "x"})


def make(folder: Path) -> Path:
    with open_store(folder) as store:
        store.enter([CELL], {})
        store.add(CELL.key, {i: {"metric": "acc", "metrics": {"acc": 1.0}} for i in range(3)}, 0.1)
    return folder / "study.sqlite"


def test_sparse_file_is_refused_at_once(tmp_path: Path) -> None:
    path = make(tmp_path)
    os.truncate(path, 3 << 30)
    start = time.monotonic()
    with (
        pytest.raises(InputError, match=r"has 3221225472 bytes, but its header says \d+ pages of 4096 bytes"),
        read_store(tmp_path),
    ):
        pass
    with pytest.raises(InputError, match="header says"), open_store(tmp_path):
        pass
    assert time.monotonic() - start < 5
    assert path.stat().st_size == 3 << 30


def test_foreign_file_is_refused_before_it_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite"
    path.write_bytes(b"SQLite format 3\0" + b"\x10\0" + bytes(50) + b"abcd" + bytes(28))
    os.truncate(path, 3 << 30)
    start = time.monotonic()
    with pytest.raises(InputError, match="is not a pa-lite results file"), read_store(tmp_path):
        pass
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("salt", [b"\1\2\3\4\5\6\7\x08", bytes(8)])
def test_only_valid_pages_of_a_log_are_copied(tmp_path: Path, salt: bytes) -> None:
    make(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    log = tmp_path / "b" / "study.sqlite-wal"
    log.write_bytes(b"\x37\x7f\x06\x82" + (3007000).to_bytes(4, "big") + (4096).to_bytes(4, "big") + bytes(4) + salt)
    os.truncate(log, 3 << 30)
    start = time.monotonic()
    with read_store(tmp_path / "a") as whole, read_store(tmp_path / "b") as padded:
        assert padded.items(CELL.key) == whole.items(CELL.key)
        assert len(padded.items(CELL.key)) == 3
    assert time.monotonic() - start < 5


def test_results_mostly_in_the_log_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    with open_store(tmp_path / "run") as store:
        store.enter([CELL], {})
        store.add(CELL.key, {i: {"metric": "acc", "metrics": {"acc": 1.0}, "x": "y" * 9000} for i in range(3)}, 0.1)
        shutil.copytree(tmp_path / "run", folder)  # the state that a run killed here leaves
    assert (folder / "study.sqlite-wal").stat().st_size > (folder / "study.sqlite").stat().st_size
    with read_store(folder) as store:
        assert len(store.items(CELL.key)) == 3
