"""Read-ahead gives the right bytes for any forecast and any order of reads."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_lite.checkpoints import readers
from pa_lite.checkpoints.hub.http import FileFacts
from pa_lite.checkpoints.hub.ranges import RemoteFile
from pa_lite.checkpoints.hub.references import HubReference
from pa_lite.checkpoints.readers import LEAST_READ_AHEAD, ReadAhead, Readers, Region
from pa_lite.errors import CheckpointError, HubError
from pa_lite.system.byte_source import ByteSource, Stamp, stamp_of

SIZE = 6_000_000
CONTENTS = [np.random.default_rng(i).bytes(SIZE) for i in range(2)]


class Shelf(RemoteFile):
    """A remote file that counts reads and serves them from memory; reads beyond `broken` fail."""

    def __init__(self, content: bytes, broken: int = 1 << 60) -> None:
        super().__init__(
            HubReference(repo="org/m", file="x"),
            FileFacts(commit="0" * 40, etag="0" * 64, size=len(content), location="http://x", is_elsewhere=True),
        )
        self.content, self.broken = content, broken
        self.asked: list[tuple[int, int]] = []

    def read_into(self, buffer: memoryview, offset: int, stop: threading.Event | None = None) -> None:
        self.asked.append((offset, len(buffer)))
        if offset + len(buffer) > self.broken:
            raise HubError("the Hub is gone")
        buffer[:] = self.content[offset : offset + len(buffer)]


places = st.tuples(st.integers(0, 1), st.integers(0, SIZE - 1), st.integers(1, 2_000_000))


def read(ahead: ReadAhead, file: Shelf, offset: int, n: int) -> bytes:
    buffer = np.empty(n, np.uint8)
    ahead.read_into(file, buffer, offset)
    return buffer.tobytes()


@settings(max_examples=60, deadline=None)
@given(
    rounds=st.lists(st.lists(places, max_size=2), max_size=8),
    reads=st.lists(places, max_size=12),
    threads=st.integers(1, 4),
)
def test_any_forecast_and_any_order_give_the_right_bytes(
    rounds: list[list[tuple[int, int, int]]], reads: list[tuple[int, int, int]], threads: int
) -> None:
    files = [Shelf(content) for content in CONTENTS]

    def clipped(place: tuple[int, int, int]) -> tuple[int, int, int]:
        return place[0], place[1], min(place[2], SIZE - place[1])

    regions = [[Region(files[i], start, n) for i, start, n in map(clipped, places)] for places in rounds]
    ahead = ReadAhead(regions, LEAST_READ_AHEAD)
    asked = [clipped(place) for places in rounds for place in places] + list(map(clipped, reads))
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(lambda place: read(ahead, files[place[0]], *place[1:]), asked))
    ahead.stop()
    for (i, start, n), data in zip(asked, found, strict=True):
        assert data == CONTENTS[i][start : start + n]


def test_each_byte_is_fetched_once_if_the_forecast_is_right() -> None:
    """Two files at the same time, in blocks smaller than a segment."""
    files = [Shelf(content) for content in CONTENTS]
    regions = [[Region(f, start, 1_500_000) for f in files] for start in range(0, SIZE, 1_500_000)]
    ahead = ReadAhead(regions, LEAST_READ_AHEAD)

    def block(start: int) -> bool:
        return all(read(ahead, f, start, 100_000) == f.content[start : start + 100_000] for f in files)

    assert all(map(block, range(0, SIZE, 100_000)))
    for file in files:
        assert sum(n for _, n in file.asked) == SIZE
        assert sorted(file.asked)[0] == (0, readers._SMALLEST)


def test_rows_that_are_never_read_do_not_block() -> None:
    """Half of each segment is never read: it must be dropped in time, with few direct reads."""
    file = Shelf(CONTENTS[0] * 4)
    total = len(file.content)
    ahead = ReadAhead([[Region(file, 0, total)]], LEAST_READ_AHEAD)
    half = readers._SMALLEST // 2
    for start in range(0, total - half, 2 * half):
        assert read(ahead, file, start, half) == file.content[start : start + half]
    ahead.stop()
    assert sum(n for _, n in file.asked) <= total + half
    assert sum(n == half for _, n in file.asked) <= 1


def test_an_error_is_raised_where_the_bytes_are_needed() -> None:
    file = Shelf(CONTENTS[0], broken=3_000_000)
    ahead = ReadAhead([[Region(file, 0, SIZE)]], LEAST_READ_AHEAD)
    assert read(ahead, file, 0, 1_000_000) == file.content[:1_000_000]
    with pytest.raises(HubError, match="the Hub is gone"):
        read(ahead, file, 4_000_000, 10)
    ahead.stop()
    with pytest.raises(HubError, match="stopped"):
        read(ahead, file, 2_000_000, 10)


def test_files_on_the_disk_and_on_the_hub_are_read_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(CONTENTS[1])
    file = Shelf(CONTENTS[1])
    with Readers({path: None, file: None}, [[Region(path, 0, SIZE), Region(file, 0, SIZE)]]) as opened:
        for read_bytes in opened.by_path.values():
            buffer = np.empty(1000, np.uint8)
            read_bytes(buffer, 777)
            assert buffer.tobytes() == CONTENTS[1][777:1777]


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_more_shards_than_the_limit_of_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is raised if the system allows it; otherwise the error says what to do and no file stays open."""
    import resource

    paths = [tmp_path / f"{i}.safetensors" for i in range(300)]
    for path in paths:
        path.write_bytes(b"x")
    stamps: dict[ByteSource, Stamp | None] = {path: stamp_of(path) for path in paths}
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
    try:
        with Readers(stamps, []) as found:
            assert len(found.by_path) == 300
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
        monkeypatch.setattr(readers, "allow_open_files", lambda n: None)
        n_open = len(os.listdir("/dev/fd"))
        with pytest.raises(CheckpointError, match=r"too many open files\. Raise the limit \(ulimit -n\)"):
            Readers(stamps, [])
        assert len(os.listdir("/dev/fd")) == n_open
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
