"""The block stream: read a block of base and of instruct, interpolate in float32, round once, write it in its place.

Every block's place in every file is known from the plan, so threads work on blocks in any order and memory is a few
buffers a thread, whatever the model's size.
"""

from __future__ import annotations

import io
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pa_lite.checkpoints.gguf_file import GgufTensor
from pa_lite.checkpoints.source import TensorSource
from pa_lite.errors import CheckpointError, OutputError
from pa_lite.kernels import ByteArray, FloatArray, from_float32, to_float32
from pa_lite.merge.align import RowMap, runs
from pa_lite.merge.plan import TensorPlan

BLOCK_VALUES = 1 << 18  # values in a block: small enough for the cache, large enough to hide the calls
_F16_MAX = 65504.0
Progress = Callable[[int, int], None]


class RandomFile:
    """A file that threads read and write at positions of their own. A context manager."""

    def __init__(self, path: Path, mode: str) -> None:
        self.path = path
        self._file = io.FileIO(path, mode)
        self._lock = threading.Lock()

    def __enter__(self) -> RandomFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def read_into(self, buffer: ByteArray, offset: int) -> None:
        """Fill the buffer from byte `offset` on. Raises CheckpointError when the file has become shorter."""
        view, done = buffer.data, 0
        while done < len(view):
            if hasattr(os, "preadv"):
                n = os.preadv(self._file.fileno(), [view[done:]], offset + done)
            else:
                with self._lock:
                    self._file.seek(offset + done)
                    n = self._file.readinto(view[done:])
            if not n:
                raise CheckpointError(f"{self.path}: became shorter while it was read. Fetch it again.")
            done += n

    def write(self, data: ByteArray, offset: int) -> None:
        """Write all of the data at byte `offset`. Raises OSError when the disk is full."""
        view, done = data.data, 0
        while done < len(view):
            if hasattr(os, "pwrite"):
                done += os.pwrite(self._file.fileno(), view[done:], offset + done)
            else:
                with self._lock:
                    self._file.seek(offset + done)
                    done += self._file.write(view[done:]) or 0

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        os.fsync(self._file.fileno())

    def forget_cache(self) -> None:
        """Let the next reads come from the disk, where the system can be told so."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@dataclass(frozen=True)
class Target:
    """One output file, its header written: each tensor's lam and place; `done` tensors are in it already."""

    file: RandomFile
    lams: Mapping[str, float]
    tensors: Mapping[str, GgufTensor]
    done: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Block:
    """Whole rows of one tensor: rows [start, stop)."""

    tensor: TensorPlan
    start: int
    stop: int

    @property
    def columns(self) -> int:
        return self.tensor.shape[-1]

    @property
    def n_values(self) -> int:
        return (self.stop - self.start) * self.columns


def interpolate(base: FloatArray, instruct: FloatArray, lam: float, out: FloatArray, spare: FloatArray) -> FloatArray:
    """(1 - lam) * base + lam * instruct in float32; for lam 0 and 1 base and instruct themselves, not copies."""
    if lam == 0.0:
        return base
    if lam == 1.0:
        return instruct
    np.multiply(base, np.float32(1.0 - lam), out=out)
    np.multiply(instruct, np.float32(lam), out=spare)
    return np.add(out, spare, out=out)


def blocks_of(tensor: TensorPlan) -> Iterator[Block]:
    """Cut a tensor into blocks of about BLOCK_VALUES values.

    A block has whole rows, and none of two pieces of a source, nor of two matrices with an importance each. Where a
    head's rows change places it has whole heads, or an even number of one head's rows.
    """
    rows, columns = math.prod(tensor.shape[:-1]), tensor.shape[-1]
    step = max(1, BLOCK_VALUES // columns)
    sides = [s for s in (tensor.base, tensor.instruct) if s is not None]
    part = min([rows, *(s.piece_rows for s in sides if len(s.pieces) > 1)])
    if tensor.importance is not None and len(tensor.importance) > 1:
        part = min(part, tensor.shape[-2])
    heads = {s.rows // s.heads for s in sides if s.heads and len(s.shape) > 1}  # a bias is one row, in one block
    if heads:
        (head,) = heads  # base and instruct have one shape
        step = step // head * head if step >= head else max(2, step // 2 * 2)
        part = part if step >= head else head
    for first in range(0, rows, part):
        for start in range(first, first + part, step):
            yield Block(tensor, start, min(first + part, start + step))


class BlockWorker:
    """One thread's buffers, grown to the largest block that it meets: reads blocks, and encodes merged ones."""

    def __init__(self, sources: Mapping[Path, RandomFile]) -> None:
        self.sources = sources
        self._buffers: dict[str, ByteArray] = {}

    def _bytes(self, name: str, n: int) -> ByteArray:
        held = self._buffers.get(name)
        if held is None or held.nbytes < n:
            self._buffers[name] = held = np.empty(n, np.uint8)
        return held[:n]

    def _floats(self, name: str, n: int) -> FloatArray:
        return self._bytes(name, 4 * n).view(np.float32)

    def _load(self, side: str, source: TensorSource, block: Block, rows: RowMap | None) -> FloatArray:
        """The block's rows of one side, float32 [values]; rows that the side lacks hold anything."""
        row_bytes = source.type.nbytes(source.columns)
        raw = self._bytes("raw", row_bytes * (block.stop - block.start))
        piece, first_row = divmod(block.start, source.piece_rows) if rows is None else (0, 0)
        file, offset = self.sources[source.pieces[piece].path], source.pieces[piece].offset
        unit, half = row_bytes, source.rows // source.heads // 2 if source.heads else 0
        if source.heads and len(source.shape) == 1:  # a bias: its values change places as rows do
            unit, half = source.type.nbytes(1), source.columns // source.heads // 2
            file.read_into(raw, offset)
        elif half and block.stop - block.start < 2 * half:
            # part of one head: its output rows 2j and 2j+1 are stored a half head apart
            head, within = divmod(block.start, 2 * half)
            cut = raw.nbytes // 2
            for t, part in enumerate((raw[:cut], raw[cut:])):
                first = (2 * head + t) * half + within // 2
                file.read_into(part, offset + row_bytes * first)
            half = (block.stop - block.start) // 2
        elif rows is None:
            file.read_into(raw, offset + row_bytes * first_row)
        else:
            for place, first, n in runs(rows[block.start : block.stop]):
                file.read_into(raw[place * row_bytes : (place + n) * row_bytes], offset + row_bytes * first)
        if half:
            turned = self._bytes("turned", raw.nbytes)
            np.copyto(turned.reshape(-1, half, 2, unit), raw.reshape(-1, 2, half, unit).swapaxes(1, 2))
            raw = turned
        values = self._floats(side, block.n_values)
        to_float32(source.type, raw, values)
        if source.shift != block.tensor.shift:
            values += np.float32(source.shift - block.tensor.shift)
        return values

    def sides(self, block: Block, lams: Sequence[float]) -> tuple[FloatArray, FloatArray]:
        """Base and instruct, float32 [values] each; a side that no lam needs is not read, and stands as the other.

        The tensor's common shift is still to be added.
        """
        tensor = block.tensor
        if tensor.constant is not None:
            fixed = tensor.constant.reshape(-1)[block.start * block.columns :][: block.n_values]
            return fixed, fixed
        assert tensor.instruct is not None
        if tensor.maps is not None and tensor.base is not None:
            base = self._load("base", tensor.base, block, tensor.maps.base)
            instruct = self._load("instruct", tensor.instruct, block, tensor.maps.instruct)
            rows = base.reshape(-1, block.columns), instruct.reshape(-1, block.columns)
            lacking = [m[block.start : block.stop] < 0 for m in (tensor.maps.base, tensor.maps.instruct)]
            rows[0][lacking[0]] = rows[1][lacking[0]]
            rows[1][lacking[1]] = rows[0][lacking[1]]
            return base, instruct
        needs_base = tensor.base is not None and any(lam != 1.0 for lam in lams)
        if tensor.base is not None and all(lam == 0.0 for lam in lams):
            base = self._load("base", tensor.base, block, None)
            return base, base
        instruct = self._load("instruct", tensor.instruct, block, None)
        base = self._load("base", tensor.base, block, None) if needs_base and tensor.base is not None else instruct
        return base, instruct

    def encode(self, block: Block, lams: Sequence[float]) -> Iterator[ByteArray]:
        """The block as it stands in each lam's file; valid until the next is asked for. Raises CheckpointError."""
        tensor, n = block.tensor, block.n_values
        base, instruct = self.sides(block, lams)
        importance = tensor.importance
        if importance is not None:
            importance = importance[block.start // tensor.shape[-2] if len(importance) > 1 else 0]
        for lam in lams:
            values = base if base is instruct else interpolate(
                base, instruct, lam, self._floats("out", n), self._floats("spare", n)
            )  # fmt: skip
            if tensor.maps is not None and base is not instruct:
                # a row that one side lacks is the other's own, to the bit
                here = slice(block.start, block.stop)
                alone = (tensor.maps.base[here] < 0) | (tensor.maps.instruct[here] < 0)
                values.reshape(-1, block.columns)[alone] = instruct.reshape(-1, block.columns)[alone]
            if tensor.shift:
                values = np.add(values, np.float32(tensor.shift), out=self._floats("out", n))
            if tensor.type.name == "F16" and not (values.max() <= _F16_MAX and values.min() >= -_F16_MAX):
                raise CheckpointError(
                    f"tensor {tensor.name} at lam {lam:g} has values that F16 cannot hold (beyond {_F16_MAX:g}, or not "
                    "numbers). Write BF16 or F32 (--type)."
                )
            encoded = self._bytes("encoded", tensor.type.nbytes(block.columns) * (block.stop - block.start))
            from_float32(tensor.type, values.reshape(-1, block.columns), encoded, importance)
            yield encoded

    def run(self, block: Block, targets: Sequence[Target], verify: bool) -> int:
        """Write one block into every target, or compare it with what they hold; returns the bytes done."""
        name, done = block.tensor.name, 0
        start = block.tensor.type.nbytes(block.columns) * block.start
        for target, encoded in zip(targets, self.encode(block, [t.lams[name] for t in targets]), strict=True):
            offset = target.tensors[name].offset + start
            if verify:
                held = self._bytes("held", encoded.nbytes)
                target.file.read_into(held, offset)
                if not np.array_equal(held, encoded):
                    raise OutputError(f"{target.file.path.parent}: what was written of {name} reads back otherwise.")
            else:
                target.file.write(encoded, offset)
            done += encoded.nbytes
        return done


def run_blocks(tensors: Sequence[TensorPlan], threads: int, handle: Callable[[BlockWorker, Block], None]) -> None:
    """Call `handle` with every block of the tensors, from several threads, each with a worker of its own.

    The first exception, Ctrl-C included, ends the work of all and is raised.
    """
    queue = (block for t in tensors for block in blocks_of(t))
    paths = {p.path for t in tensors for s in (t.base, t.instruct) if s for p in s.pieces}
    sources = {path: RandomFile(path, "r") for path in paths}
    lock, stop = threading.Lock(), threading.Event()

    def run() -> None:
        worker = BlockWorker(sources)
        while not stop.is_set():
            with lock:
                block = next(queue, None)
            if block is None:
                return
            handle(worker, block)

    try:
        with ThreadPoolExecutor(threads) as pool:
            futures = [pool.submit(run) for _ in range(threads)]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()  # after an error or Ctrl-C the other threads finish their block and leave
            for future in futures:
                future.result()
    finally:
        for source in sources.values():
            source.__exit__()


def run_stream(
    tensors: Sequence[TensorPlan],
    targets: Sequence[Target],
    threads: int,
    progress: Progress | None = None,
    on_tensor: Callable[[str], None] | None = None,
    verify: bool = False,
) -> None:
    """Merge all tensors into all targets that lack them, each input byte read once; or, to verify, compare.

    `progress` gets (bytes done, bytes in all), `on_tensor` each tensor's name once it is whole in every target. Raises
    CheckpointError when an input changes under the reader or cannot be written in the type, OutputError for a
    difference found, OSError when a target cannot be written.
    """
    lacking = {t.name: [x for x in targets if t.name not in x.done] for t in tensors}
    total = sum(len(targets) * t.nbytes for t in tensors)
    done = total - sum(len(lacking[t.name]) * t.nbytes for t in tensors)
    work = [t for t in tensors if lacking[t.name]]
    left = {t.name: sum(1 for _ in blocks_of(t)) for t in work}
    lock = threading.Lock()

    def handle(worker: BlockWorker, block: Block) -> None:
        nonlocal done
        name = block.tensor.name
        n = worker.run(block, lacking[name], verify)
        with lock:
            done += n
            left[name] -= 1
            is_whole = left[name] == 0
            if progress is not None:
                progress(done, total)
        if is_whole and on_tensor is not None:
            on_tensor(name)

    run_blocks(work, threads, handle)
