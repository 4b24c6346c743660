"""The prefix tree of token sequences, cut into batches: what goes where, and nothing of llama.cpp.

The tree is walked depth first, so that every shared prefix is met once, at every depth. The walk is cut into full
batches anywhere; what a later batch needs of the earlier ones is always one path, the spine: the tokens above the next
one to come. So each distinct token is decoded once, and the cells in use never exceed the longest path and a batch. The
cuts depend on the set of requests and the limits alone, not on the requests' order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt

from pa_lite.engine.requests import Request

IntArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]
SPINE = 0  # the sequence that carries a path from batch to batch; a batch's branches are the sequences 1, 2, ...


@dataclass(frozen=True)
class BatchLimits:
    """What a batch may hold: tokens, branches, rows of logits; and the cells that there are in all."""

    tokens: int
    branches: int
    rows: int
    cells: int


@dataclass(frozen=True)
class Batch:
    """Tokens to decode at once, each in the sequences first..last; branch b begins with `shared[b - 1]` spine tokens.

    Each target asks a wanted row for a token's logprob on behalf of a request (an index). Afterwards the spine is the
    first `keep` tokens of the last branch, and `done` requests are complete in all.
    """

    tokens: IntArray
    positions: IntArray
    first: IntArray
    last: IntArray
    shared: tuple[int, ...]
    wanted: BoolArray
    target_rows: IntArray
    target_tokens: IntArray
    target_requests: IntArray
    keep: int
    done: int


@dataclass(frozen=True)
class _WantedRows:
    """A request wants the rows behind tokens start..stop-1 of its path; the row behind token t predicts token t + 1."""

    start: int
    stop: int
    request: int
    tokens: tuple[int, ...]


@dataclass
class _Branch:
    """A path that is no prefix of another: the tokens behind those that it shares with the branch before."""

    shared: int
    tail: IntArray
    wishes: list[_WantedRows] = field(default_factory=list)
    n_ended: int = 0  # requests that are complete with this branch

    @property
    def stop(self) -> int:
        return self.shared + len(self.tail)

    def wanted(self, start: int) -> BoolArray:
        """Which rows from a depth on somebody wants."""
        out = np.zeros(self.stop - start, np.bool_)
        for wish in self.wishes:
            out[max(0, wish.start - start) : max(0, wish.stop - start)] = True
        return out


def _common(left: IntArray, right: IntArray) -> int:
    n = min(len(left), len(right))
    unequal = left[:n] != right[:n]
    return int(unequal.argmax()) if unequal.any() else n


def _branches(requests: Sequence[Request]) -> list[_Branch]:
    """The tree's branches in order. A wish goes to the branch that decodes the row, however many share it.

    A request's path is all of its tokens but the last, which is predicted only. In the order of whole requests a path
    is a prefix of the newest branch, or goes on where that ends, or leaves it: no older branch shares more with it.
    """
    branches: list[_Branch] = []
    newest = np.zeros(0, np.int32)  # the newest branch with all that it shares
    owners: list[tuple[int, _Branch]] = []  # who decodes it: each from a depth to the next one's
    for index in sorted(range(len(requests)), key=lambda i: requests[i].tokens):
        tokens = requests[index].tokens
        path = np.array(tokens[:-1], np.int32)
        shared = _common(newest, path)
        if branches and shared == len(newest) < len(path):
            branches[-1].tail = np.concatenate([branches[-1].tail, path[shared:]])
        elif shared < len(path):
            while owners and owners[-1][0] >= shared:
                owners.pop()
            branches.append(_Branch(shared, path[shared:].copy()))
            owners.append((shared, branches[-1]))
        newest = path if shared < len(path) else newest
        stop = len(path)
        for depth, owner in reversed(owners):
            start = max(depth, requests[index].n_context - 1)
            if start < stop:
                owner.wishes.append(_WantedRows(start, stop, index, tokens))
            stop = min(stop, depth)
        branches[-1].n_ended += 1
    return branches


class _Builder:
    """A batch as it grows behind a spine of some tokens."""

    def __init__(self, limits: BatchLimits, spine: int) -> None:
        self.limits, self.spine = limits, spine
        self.room = min(limits.tokens, limits.cells - spine)
        self.tokens = np.zeros(self.room, np.int32)
        self.positions = np.zeros(self.room, np.int32)
        self.first = np.zeros(self.room, np.int32)
        self.last = np.zeros(self.room, np.int32)
        self.wanted = np.zeros(self.room, np.bool_)
        self.shared: list[int] = []
        self.open: list[tuple[int, int, int]] = []  # the newest branch's rows: (depth, row, how many), going down
        self.targets: list[tuple[IntArray, tuple[int, ...], int]] = []
        self.n = self.n_rows = 0

    def add(self, branch: _Branch, start: int) -> int:
        """Append a branch's tokens from a depth on, as many as fit; returns how many did."""
        wanted = branch.wanted(start)
        n = min(len(wanted), self.room - self.n)
        rows, rows_left = np.flatnonzero(wanted[:n]), self.limits.rows - self.n_rows
        if len(rows) > rows_left:
            n = int(rows[rows_left])
        if n == 0 or len(self.shared) == self.limits.branches:
            return 0
        self._leave(start)
        self.shared.append(min([*self.shared[-1:], start, self.spine]))
        new, offset = slice(self.n, self.n + n), start - branch.shared
        self.tokens[new] = branch.tail[offset : offset + n]
        self.positions[new] = np.arange(start, start + n)
        self.first[new] = len(self.shared)
        self.wanted[new] = wanted[:n]
        self.open.append((start, self.n, n))
        for wish in branch.wishes:
            low, high = max(wish.start, start), min(wish.stop, start + n)
            if low < high:
                places = np.arange(low, high, dtype=np.int32) + (self.n - start)
                self.targets.append((places, wish.tokens[low + 1 : high + 1], wish.request))
        self.n += n
        self.n_rows += int(wanted[:n].sum())
        return n

    def _leave(self, depth: int) -> None:
        """The newest branch ends, the next one leaves it at a depth: its rows from there on are in no later branch."""
        while self.open:
            begin, row, n = self.open[-1]
            if begin + n <= depth:
                break
            kept = max(0, depth - begin)
            self.last[row + kept : row + n] = len(self.shared)
            self.open[-1:] = [(begin, row, kept)] if kept else []

    def build(self, keep: int, done: int) -> Batch:
        """The batch; nothing may be added any more."""
        self._leave(0)
        n = self.n
        return Batch(
            self.tokens[:n],
            self.positions[:n],
            self.first[:n],
            self.last[:n],
            tuple(self.shared),
            self.wanted[:n],
            np.concatenate([np.zeros(0, np.int32), *(rows for rows, _, _ in self.targets)]),
            np.fromiter(chain.from_iterable(tokens for _, tokens, _ in self.targets), np.int32),
            np.repeat(
                np.array([request for _, _, request in self.targets], np.int32),
                [len(rows) for rows, _, _ in self.targets],
            ),
            keep,
            done,
        )


def plan_batches(requests: Sequence[Request], limits: BatchLimits) -> Iterator[Batch]:
    """Batches that decode every distinct token of the requests once, in the order in which they must run.

    No request may have more than `limits.cells` tokens to decode (its last one is not). Memory is in proportion to the
    distinct tokens.
    """
    assert min(limits.tokens, limits.branches, limits.rows) > 0
    builder, done = _Builder(limits, 0), 0
    for branch in _branches(requests):
        depth = branch.shared
        while (depth := depth + builder.add(branch, depth)) < branch.stop:
            yield builder.build(depth, done)
            builder = _Builder(limits, depth)
        done += branch.n_ended
    if builder.n:
        yield builder.build(0, done)
