"""The block stream: read a block of base and of instruct, interpolate in float32, round once, write it in its place.

Every block's place in every file is known from the plan, so threads work on blocks in any order and memory is a few
buffers a thread, whatever the model's size.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from pa_lite.checkpoints.checkpoint import TensorSource
from pa_lite.errors import OutputError
from pa_lite.ggml.container import GgufTensor
from pa_lite.ggml.kernels import ByteArray, FloatArray, from_float32, to_float32
from pa_lite.merging.align import RowMap, runs
from pa_lite.merging.nonfinite import Nonfinite, check_quantised, check_values
from pa_lite.merging.plan import TensorPlan
from pa_lite.merging.readers import READ_AHEAD, RandomFile, Reader, Readers, Region
from pa_lite.progress import Progress
from pa_lite.system.byte_source import ByteSource

BLOCK_VALUES = 1 << 18  # values in a block: small enough for the cache, large enough to hide the calls


@dataclass(frozen=True)
class Target:
    """One output file, its header written: each tensor's lam and place; `done` tensors are in it already.

    With `nonfinite`, values that are no finite numbers are let through and counted there; else they are refused.
    """

    file: RandomFile
    lams: Mapping[str, float]
    tensors: Mapping[str, GgufTensor]
    done: frozenset[str] = frozenset()
    nonfinite: Nonfinite | None = None


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

    def __init__(self, sources: Mapping[ByteSource, Reader]) -> None:
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

    def _merged(self, block: Block, lam: float, base: FloatArray, instruct: FloatArray) -> FloatArray:
        """The block at one lam, float32 [values]: one of the two themselves, or in a buffer that the next will need."""
        tensor, n = block.tensor, block.n_values
        if base is instruct:
            values = base
        else:
            values = interpolate(base, instruct, lam, self._floats("out", n), self._floats("spare", n))
            if tensor.maps is not None:
                # a row that one side lacks is the other's own, to the bit
                here = slice(block.start, block.stop)
                alone = (tensor.maps.base[here] < 0) | (tensor.maps.instruct[here] < 0)
                values.reshape(-1, block.columns)[alone] = instruct.reshape(-1, block.columns)[alone]
        return np.add(values, np.float32(tensor.shift), out=self._floats("out", n)) if tensor.shift else values

    def encode(
        self, block: Block, lams: Sequence[float], allowed: Sequence[Nonfinite | None] | None = None
    ) -> Iterator[ByteArray]:
        """The block as it stands in each lam's file; valid until the next is asked for.

        `allowed` holds, for each lam, where to count values that are no finite numbers. Raises CheckpointError for
        those where there is None.
        """
        tensor = block.tensor
        with np.errstate(over="ignore", invalid="ignore"):  # such values are looked for below
            base, instruct = self.sides(block, lams)
        importance = tensor.importance
        if importance is not None:
            importance = importance[block.start // tensor.shape[-2] if len(importance) > 1 else 0]
        for lam, nonfinite in zip(lams, allowed or [None] * len(lams), strict=True):
            with np.errstate(over="ignore", invalid="ignore"):
                values = self._merged(block, lam, base, instruct).reshape(-1, block.columns)
            is_doubtful = check_values(tensor.name, tensor.type, lam, values, block.start, nonfinite)
            encoded = self._bytes("encoded", tensor.type.nbytes(values.size))
            from_float32(tensor.type, values, encoded, importance)
            if is_doubtful:
                check_quantised(tensor.name, tensor.type, lam, encoded, self._floats("back", values.size))
            yield encoded

    def run(self, block: Block, targets: Sequence[Target], verify: bool) -> int:
        """Write one block into every target, or compare it with what they hold; returns the bytes done."""
        name, done = block.tensor.name, 0
        start = block.tensor.type.nbytes(block.columns) * block.start
        blocks = self.encode(block, [t.lams[name] for t in targets], [t.nonfinite for t in targets])
        for target, encoded in zip(targets, blocks, strict=True):
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


def regions_of(tensor: TensorPlan, lams: Sequence[float]) -> list[list[Region]]:
    """What merging a tensor at these lams reads: the pieces of its sides in order, those read side by side together."""
    sides = [tensor.base, tensor.instruct]
    if tensor.maps is None and tensor.base is not None and len(set(lams)) == 1:
        sides = sides[:1] if lams[0] == 0.0 else sides[1:] if lams[0] == 1.0 else sides
    regions = [
        [Region(p.path, p.offset, s.type.nbytes(s.piece_rows * s.columns)) for p in s.pieces]
        for s in sides
        if s is not None
    ]
    return [[region for region in found if region is not None] for found in itertools.zip_longest(*regions)]


def run_blocks(
    tensors: Sequence[TensorPlan],
    threads: int,
    handle: Callable[[BlockWorker, Block], None],
    lams_of: Callable[[TensorPlan], Sequence[float]] = lambda tensor: (0.5,),
    read_ahead: int = READ_AHEAD,
) -> None:
    """Call `handle` with every block of the tensors, from several threads, each with a worker of its own.

    `lams_of` tells which sides of a tensor will be read; of files on the Hub `read_ahead` bytes are fetched before they
    are asked for. The first exception, Ctrl-C included, ends the work of all and is raised. Raises InputChangedError
    when a file is at the end not what it was when its header was read.
    """
    queue = (block for t in tensors for block in blocks_of(t))
    sources = [s for t in tensors for s in (t.base, t.instruct) if s is not None]
    rounds = (regions for t in tensors for regions in regions_of(t, lams_of(t)))
    lock, stop = threading.Lock(), threading.Event()

    def run(files: Mapping[ByteSource, Reader]) -> None:
        worker = BlockWorker(files)
        while not stop.is_set():
            with lock:
                block = next(queue, None)
            if block is None:
                return
            handle(worker, block)

    with (
        Readers({p.path: p.stamp for s in sources for p in s.pieces}, rounds, read_ahead) as readers,
        ThreadPoolExecutor(threads) as pool,
    ):
        futures = [pool.submit(run, readers.by_path) for _ in range(threads)]
        ended = set(futures)
        try:
            ended, _ = wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()  # after an error or Ctrl-C the other threads finish their block and leave
            readers.stop()
        try:
            for future in ended:  # those that were stopped have errors of their own, which tell nothing
                future.result()
        finally:
            readers.check()  # what went wrong may have come of a changed file, which then is the thing to tell


def run_stream(
    tensors: Sequence[TensorPlan],
    targets: Sequence[Target],
    threads: int,
    progress: Progress | None = None,
    on_tensor: Callable[[str], None] | None = None,
    verify: bool = False,
    read_ahead: int = READ_AHEAD,
) -> None:
    """Merge all tensors into all targets that lack them, each input byte read once; or, to verify, compare.

    `progress` gets the bytes done, `on_tensor` each tensor's name once it is whole in every target; of
    inputs on the Hub `read_ahead` bytes are held. Raises InputChangedError when an input changed meanwhile,
    CheckpointError when it cannot be read or its values not be written in the type, OutputError for a difference
    found, OSError when a target cannot be written.
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
                progress("verify" if verify else "merge", done, total, "B")
        if is_whole and on_tensor is not None:
            on_tensor(name)

    run_blocks(work, threads, handle, lambda t: [x.lams[t.name] for x in lacking[t.name]], read_ahead)
