"""The block stream: read a block of base and of instruct, interpolate in float32, round once, write it.

The plan gives the offset of every block in every file. So threads take blocks in any order, and memory is a few
buffers per thread, whatever the model's size.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from pa_lite.checkpoints.checkpoint import LowRank, TensorSource
from pa_lite.checkpoints.readers import READ_AHEAD, RandomFile, Read, Readers, Region
from pa_lite.checkpoints.rows import Buffers, RowMap, RowReader, cut_rows, regions_of
from pa_lite.errors import OutputError
from pa_lite.ggml.container import GgufTensor
from pa_lite.ggml.kernels import ByteArray, FloatArray, from_float32
from pa_lite.merging.nonfinite import Nonfinite, check_quantised, check_values
from pa_lite.merging.plan import TensorPlan
from pa_lite.progress import Progress
from pa_lite.system.byte_source import ByteSource

BLOCK_VALUES = 1 << 18  # values in a block: small enough for the cache, large enough to hide the cost of calls


@dataclass(frozen=True, kw_only=True)
class Target:
    """One output file whose header is written: the lam and the position of each tensor; `done` tensors are complete.

    With `nonfinite`, non-finite values are kept and counted there; without it they raise CheckpointError.
    """

    file: RandomFile
    lams: Mapping[str, float]
    tensors: Mapping[str, GgufTensor]
    done: frozenset[str] = frozenset()
    nonfinite: Nonfinite | None = None


@dataclass(frozen=True)
class Block:
    """The rows [start, stop) of one tensor."""

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
    """Return (1 - lam) * base + lam * instruct in float32; lam 0 and 1 return base and instruct, not copies."""
    if lam == 0.0:
        return base
    if lam == 1.0:
        return instruct
    np.multiply(base, np.float32(1.0 - lam), out=out)
    np.multiply(instruct, np.float32(lam), out=spare)
    return np.add(out, spare, out=out)


def blocks_of(tensor: TensorPlan) -> Iterator[Block]:
    """Cut a tensor into blocks of about BLOCK_VALUES values.

    No block crosses from one stacked matrix to the next when each has its own importance.
    """
    rows, columns = math.prod(tensor.shape[:-1]), tensor.shape[-1]
    is_stacked = tensor.importance is not None and len(tensor.importance) > 1
    part = tensor.shape[-2] if is_stacked else rows
    for start, stop in cut_rows(tensor.sides, rows, columns, BLOCK_VALUES, part):
        yield Block(tensor, start, stop)


class BlockWorker:
    """Reader and encoder of blocks for one thread. Its buffers grow to the largest block and are reused."""

    def __init__(self, files: Mapping[ByteSource, Read]) -> None:
        self._buffers = Buffers()
        self._reader = RowReader(files, self._buffers)

    def _load(self, side: str, source: TensorSource, block: Block, rows: RowMap | None = None) -> FloatArray:
        """Read the block's rows of one side as float32 [values]; rows that the side lacks are undefined."""
        values = self._buffers.floats(side, block.n_values)
        self._reader.read(source, block.start, block.stop, values, rows, source.shift - block.tensor.shift)
        return values

    def sides(self, block: Block, lams: Sequence[float]) -> tuple[FloatArray, FloatArray]:
        """Read base and instruct as float32 [values] each. A side that no lam needs is not read: it is the other array.

        The tensor's common shift is not added yet.
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
            base = self._load("base", tensor.base, block)
            return base, base
        if needs_base and tensor.base is not None and tensor.is_shared:
            base = self._load("base", tensor.base, block)
            if not tensor.instruct.changes:
                return base, base
            instruct = self._buffers.floats("instruct", block.n_values)
            np.copyto(instruct, base)
            self._reader.change(tensor.instruct, block.start, block.stop, instruct)
            return base, instruct
        instruct = self._load("instruct", tensor.instruct, block)
        base = self._load("base", tensor.base, block) if needs_base and tensor.base is not None else instruct
        return base, instruct

    def _merged(self, block: Block, lam: float, base: FloatArray, instruct: FloatArray) -> FloatArray:
        """Return the block at one lam, float32 [values]: an input array, or a buffer that the next call overwrites."""
        tensor, n = block.tensor, block.n_values
        if base is instruct:
            values = base
        else:
            values = interpolate(base, instruct, lam, self._buffers.floats("out", n), self._buffers.floats("spare", n))
            if tensor.maps is not None:
                # copy a row that one side lacks from the other exactly, without rounding
                here = slice(block.start, block.stop)
                alone = (tensor.maps.base[here] < 0) | (tensor.maps.instruct[here] < 0)
                values.reshape(-1, block.columns)[alone] = instruct.reshape(-1, block.columns)[alone]
        return np.add(values, np.float32(tensor.shift), out=self._buffers.floats("out", n)) if tensor.shift else values

    def encode(
        self, block: Block, lams: Sequence[float], allowed: Sequence[Nonfinite | None] | None = None
    ) -> Iterator[ByteArray]:
        """Yield the block's bytes for the file of each lam, valid until the next one is requested.

        `allowed` holds a counter of non-finite values for each lam. Where it is None, they raise CheckpointError.
        """
        tensor = block.tensor
        with np.errstate(over="ignore", invalid="ignore"):  # check_values handles them
            base, instruct = self.sides(block, lams)
        importance = tensor.importance
        if importance is not None:
            importance = importance[block.start // tensor.shape[-2] if len(importance) > 1 else 0]
        for lam, nonfinite in zip(lams, allowed or [None] * len(lams), strict=True):
            with np.errstate(over="ignore", invalid="ignore"):
                values = self._merged(block, lam, base, instruct).reshape(-1, block.columns)
            is_doubtful = check_values(tensor.name, tensor.type, lam, values, block.start, nonfinite)
            encoded = self._buffers.bytes("encoded", tensor.type.nbytes(values.size))
            from_float32(tensor.type, values, encoded, importance)
            if is_doubtful:
                check_quantised(tensor.name, tensor.type, lam, encoded, self._buffers.floats("back", values.size))
            yield encoded

    def run(self, block: Block, targets: Sequence[Target], verify: bool) -> int:
        """Write one block to every target, or with `verify` compare it with what they hold. Return the bytes done.

        Raises OutputError for a difference.
        """
        name, done = block.tensor.name, 0
        start = block.tensor.type.nbytes(block.columns) * block.start
        blocks = self.encode(block, [t.lams[name] for t in targets], [t.nonfinite for t in targets])
        for target, encoded in zip(targets, blocks, strict=True):
            offset = target.tensors[name].offset + start
            if verify:
                held = self._buffers.bytes("held", encoded.nbytes)
                target.file.read_into(held, offset)
                if not np.array_equal(held, encoded):
                    raise OutputError(
                        f"{target.file.path.parent}: verification failed: {name} differs from what was written."
                    )
            else:
                target.file.write(encoded, offset)
            done += encoded.nbytes
        return done


def _rounds(tensor: TensorPlan, lams: Sequence[float]) -> list[list[Region]]:
    """Return what merging a tensor at these lams reads: lists of regions, in order, that are read at the same time."""
    sides = tensor.sides
    if tensor.maps is None and len(sides) == 2 and len(set(lams)) == 1:
        sides = sides[:1] if lams[0] == 0.0 else sides[1:] if lams[0] == 1.0 else sides
    changes = sides[-1].changes if sides and sides[-1] is tensor.instruct else ()
    if tensor.is_shared:
        sides = sides[:1]
    # factors that are read completely before the first block, then the others along with the tensor
    first = [region for change in changes if isinstance(change, LowRank) for region in regions_of(change.right.source)]
    along = (change.left.source if isinstance(change, LowRank) else change.values for change in changes)
    regions = itertools.zip_longest(*map(regions_of, (*sides, *along)))
    return [first, *([region for region in found if region is not None] for found in regions)]


def run_blocks(
    tensors: Sequence[TensorPlan],
    threads: int,
    handle: Callable[[BlockWorker, Block], None],
    lams_of: Callable[[TensorPlan], Sequence[float]] = lambda tensor: (0.5,),
    read_ahead: int = READ_AHEAD,
) -> None:
    """Call `handle` with every block of the tensors, from several threads, each with its own worker.

    `lams_of` gives the lams of a tensor, which decide the sides to read. Of files on the Hub, `read_ahead` bytes are
    fetched in advance. The first exception, Ctrl-C included, stops all threads and is raised. Raises InputChangedError
    when a file has changed since its header was read.
    """
    queue = (block for t in tensors for block in blocks_of(t))
    rounds = (regions for t in tensors for regions in _rounds(t, lams_of(t)))
    files = {p.path: p.stamp for t in tensors for side in t.sides for s in side.sources for p in s.pieces}
    lock, stop = threading.Lock(), threading.Event()

    def run(readers: Readers) -> None:
        worker = BlockWorker(readers.by_path)
        while not stop.is_set():
            with lock:
                block = next(queue, None)
            if block is None:
                return
            handle(worker, block)

    with (
        Readers(files, rounds, read_ahead) as readers,
        ThreadPoolExecutor(threads) as pool,
    ):
        futures = [pool.submit(run, readers) for _ in range(threads)]
        ended = set(futures)
        try:
            ended, _ = wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()  # after an error or Ctrl-C the other threads finish their block and leave
            readers.stop()
        try:
            for future in ended:  # threads that were stopped raise errors that mean nothing
                future.result()
        finally:
            readers.check()  # a changed file may have caused the error and is then the one to report


def run_stream(
    tensors: Sequence[TensorPlan],
    targets: Sequence[Target],
    threads: int,
    progress: Progress | None = None,
    on_tensor: Callable[[str], None] | None = None,
    verify: bool = False,
    read_ahead: int = READ_AHEAD,
) -> None:
    """Merge all tensors into all targets that lack them, reading each input byte once; with `verify`, compare.

    `progress` gets the bytes done, `on_tensor` the name of each tensor that is complete in every target. Of inputs
    on the Hub, `read_ahead` bytes are fetched in advance. Raises InputChangedError when an input changed meanwhile,
    CheckpointError when it cannot be read or the type cannot hold its values, OutputError when verification fails,
    OSError when a target cannot be written.
    """
    lacking = {t.name: [x for x in targets if t.name not in x.done] for t in tensors}
    total = sum(len(targets) * t.nbytes for t in tensors)
    done = total - sum(len(lacking[t.name]) * t.nbytes for t in tensors)
    pending = [t for t in tensors if lacking[t.name]]
    blocks_left = {t.name: sum(1 for _ in blocks_of(t)) for t in pending}
    lock = threading.Lock()

    def handle(worker: BlockWorker, block: Block) -> None:
        nonlocal done
        name = block.tensor.name
        n = worker.run(block, lacking[name], verify)
        with lock:
            done += n
            blocks_left[name] -= 1
            is_complete = blocks_left[name] == 0
            if progress is not None:
                progress("verify" if verify else "merge", done, total, "B")
        if is_complete and on_tensor is not None:
            on_tensor(name)

    run_blocks(pending, threads, handle, lambda t: [x.lams[t.name] for x in lacking[t.name]], read_ahead)
