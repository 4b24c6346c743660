"""Plan batches that decode every distinct prefix of many token sequences once. Calls nothing of llama.cpp.

Sorted by their tokens, requests that share a prefix stand next to each other, so going through the sorted list walks
their prefix tree depth first. Each path that is not a prefix of another is a branch; a branch has only the tokens that
the branch before it does not share. Four requests (the last token of each is predicted, never decoded):

    a b c x        branch 1: a b c                       rows wanted after c
    a b c y        (the same path as the one above)
    a b d x        branch 2: shares a b, adds d          row wanted after d
    a e x          branch 3: shares a, adds e            row wanted after e

The branches' own tokens, one after the other, are what has to be decoded. That list may be cut into batches anywhere:
what a later batch needs of earlier ones is always one path, the tokens above its first one. This path, the spine, is
kept in the cache as a separate sequence. So no token is decoded twice, and the cells in use never exceed the longest
path and one batch. The cuts depend on the set of requests and the limits, not on the order of the requests.
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
SPINE = 0  # the sequence that carries the spine from batch to batch; a batch's branches are the sequences 1, 2, ...


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """The most that a batch may hold: tokens, branches, and rows of logits; `cells` is the size of the whole cache."""

    tokens: int
    branches: int
    rows: int
    cells: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Tokens to decode at once, each in the sequences first..last; branch b starts with `shared[b - 1]` spine tokens.

    `wanted` marks the tokens whose logits are kept. Target i reads the logprob of `target_tokens[i]` from the logits
    after batch token `target_rows[i]`, for request `target_requests[i]` (an index). After the batch, the spine becomes
    the first `keep` tokens of the last branch, and `done` requests in all are complete.
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


@dataclass(frozen=True, kw_only=True)
class _WantedRows:
    """The rows that a request needs from one branch: those after tokens start..stop-1 of its path.

    The row after token t predicts token t + 1 of `tokens`, the whole request.
    """

    start: int
    stop: int
    request: int
    tokens: tuple[int, ...]


@dataclass(kw_only=True)
class _Branch:
    """A path that is not a prefix of another: its `tail` follows the tokens that it shares with the branch before."""

    shared: int
    tail: IntArray
    needed: list[_WantedRows] = field(default_factory=list)
    n_ended: int = 0  # requests that are complete once this branch is

    @property
    def stop(self) -> int:
        return self.shared + len(self.tail)

    def wanted(self, start: int) -> BoolArray:
        """Return which rows, from depth `start` on, some request needs."""
        out = np.zeros(self.stop - start, np.bool_)
        for rows in self.needed:
            out[max(0, rows.start - start) : max(0, rows.stop - start)] = True
        return out


def _common(left: IntArray, right: IntArray) -> int:
    n = min(len(left), len(right))
    unequal = left[:n] != right[:n]
    return int(unequal.argmax()) if unequal.any() else n


def _branches(requests: Sequence[Request]) -> list[_Branch]:
    """Return the tree's branches in order, each with the rows that requests need from it.

    A request's path is all of its tokens but the last, which is only predicted. As requests are sorted, a path can be
    related to the newest branch in three ways: it is a prefix of it, continues where it ends, or leaves it somewhere.
    No older branch shares more tokens with it.
    """
    branches: list[_Branch] = []
    newest = np.zeros(0, np.int32)  # the newest branch's whole path, shared tokens included
    # The branches that decode the newest path, top down, each from its depth to the next one's depth. A row is computed
    # by the branch that owns its token, so a request that shares tokens gets their rows from several branches.
    owners: list[tuple[int, _Branch]] = []
    for index in sorted(range(len(requests)), key=lambda i: requests[i].tokens):
        tokens = requests[index].tokens
        path = np.array(tokens[:-1], np.int32)
        shared = _common(newest, path)
        if branches and shared == len(newest) < len(path):  # continues: the newest branch becomes longer
            branches[-1].tail = np.concatenate([branches[-1].tail, path[shared:]])
        elif shared < len(path):  # leaves: below `shared` a new branch owns the path
            while owners and owners[-1][0] >= shared:
                owners.pop()
            branches.append(_Branch(shared=shared, tail=path[shared:].copy()))
            owners.append((shared, branches[-1]))
        newest = path if shared < len(path) else newest
        stop = len(path)
        for depth, owner in reversed(owners):  # bottom up: each owner gets the rows between its depth and `stop`
            start = max(depth, requests[index].n_context - 1)
            if start < stop:
                owner.needed.append(_WantedRows(start=start, stop=stop, request=index, tokens=tokens))
            stop = min(stop, depth)
        branches[-1].n_ended += 1
    return branches


class _Builder:
    """A batch that is being filled, after a spine of `spine` tokens.

    A token belongs to the sequence of its branch and of every later branch of the batch that shares it. Branches
    come in depth-first order, so these sequences are consecutive: `first` is known when the token is added, `last` when
    a branch leaves the path above it (`_leave`), or when the batch is full.
    """

    def __init__(self, limits: BatchLimits, spine: int) -> None:
        self.limits, self.spine = limits, spine
        self.room = min(limits.tokens, limits.cells - spine)
        self.tokens = np.zeros(self.room, np.int32)
        self.positions = np.zeros(self.room, np.int32)
        self.first = np.zeros(self.room, np.int32)
        self.last = np.zeros(self.room, np.int32)
        self.wanted = np.zeros(self.room, np.bool_)
        self.shared: list[int] = []
        # where the newest path's tokens are in the batch, top down: (depth of the first, its index, how many)
        self.open: list[tuple[int, int, int]] = []
        self.targets: list[tuple[IntArray, tuple[int, ...], int]] = []
        self.n = self.n_rows = 0

    def add(self, branch: _Branch, start: int) -> int:
        """Append a branch's tokens from depth `start` on, as many as fit; return how many did."""
        wanted = branch.wanted(start)
        n = min(len(wanted), self.room - self.n)
        rows, rows_left = np.flatnonzero(wanted[:n]), self.limits.rows - self.n_rows
        if len(rows) > rows_left:
            n = int(rows[rows_left])  # up to the token whose row would be one too many
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
        for needed in branch.needed:
            low, high = max(needed.start, start), min(needed.stop, start + n)
            if low < high:
                indices = np.arange(low, high, dtype=np.int32) + (self.n - start)
                self.targets.append((indices, needed.tokens[low + 1 : high + 1], needed.request))
        self.n += n
        self.n_rows += int(wanted[:n].sum())
        return n

    def _leave(self, depth: int) -> None:
        """Close the newest path from `depth` on: the next branch leaves it there, and no later one shares the rest."""
        while self.open:
            begin, row, n = self.open[-1]
            if begin + n <= depth:
                break
            kept = max(0, depth - begin)
            self.last[row + kept : row + n] = len(self.shared)
            self.open[-1:] = [(begin, row, kept)] if kept else []

    def build(self, keep: int, done: int) -> Batch:
        """Return the batch. Nothing may be added after that."""
        self._leave(0)
        n = self.n
        return Batch(
            tokens=self.tokens[:n],
            positions=self.positions[:n],
            first=self.first[:n],
            last=self.last[:n],
            shared=tuple(self.shared),
            wanted=self.wanted[:n],
            target_rows=np.concatenate([np.zeros(0, np.int32), *(rows for rows, _, _ in self.targets)]),
            target_tokens=np.fromiter(chain.from_iterable(tokens for _, tokens, _ in self.targets), np.int32),
            target_requests=np.repeat(
                np.array([request for _, _, request in self.targets], np.int32),
                [len(rows) for rows, _, _ in self.targets],
            ),
            keep=keep,
            done=done,
        )


def plan_batches(requests: Sequence[Request], limits: BatchLimits) -> Iterator[Batch]:
    """Yield batches that decode every distinct prefix of the requests once, in the order in which they must run.

    No request may have more than `limits.cells` tokens to decode (its last one is not decoded). Memory is proportional
    to the distinct tokens.
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
