"""The cached sequences of a context: which prompts start in which, what they share, and what they keep for later.

Each sequence has its own stream of cells: with 32 of them that is a fifth faster than one unified cache, because
attention reads no other sequence's cells. A copy of one sequence to another copies all its cells, also unused ones.

llama.cpp splits a batch wherever sequence ids are not consecutive, and each part reads all weights again, in every
step. So running sequences get consecutive ids: the last one moves into a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pa_lite.engine.context import Context
from pa_lite.engine.token_choice import RunningAnswer

WORTH = 8  # copy cells from another sequence if that saves decoding at least as many tokens, in a list of prompts
_LOOP = 32  # tokens compared one by one, which is faster where prompts differ early


@dataclass(kw_only=True, eq=False)
class CachedSequence:
    """A sequence of the cache: the first `cached` of `tokens` are decoded, the others are waiting.

    Between two answers it keeps the tokens of the last one. While `source` is set, it waits until that sequence has
    decoded its first `shared` tokens, and will start with a copy of them. `number` is llama.cpp's id; `used` orders
    sequences by their last use.
    """

    number: int
    tokens: list[int] = field(default_factory=list)
    cached: int = 0
    running: RunningAnswer | None = None
    source: CachedSequence | None = None
    shared: int = 0
    used: int = 0

    @property
    def left(self) -> int:
        """The number of tokens to decode."""
        return len(self.tokens) - self.cached


class CachedSequences:
    """All sequences of a context, in the order of their ids."""

    def __init__(self, context: Context, keeps: bool, worth: int = WORTH) -> None:
        """Start with empty sequences.

        With `keeps`, idle sequences are kept for conversations that continue them, the last used ones longest.
        Otherwise they only serve the next prompts of a list. Cells are copied from another sequence if that saves
        decoding at least `worth` tokens.
        """
        self._context, self._keeps, self._worth = context, keeps, worth
        self._can_rewind = context.model.can_rewind
        self.all = [CachedSequence(number=i) for i in range(context.n_seq_max)]
        self.running: list[CachedSequence] = []  # those of running answers, in the order of their ids
        self._clock = 0
        self.has_gaps = self.has_sources = False  # whether there may be some

    @property
    def n_cached(self) -> int:
        """The number of cells in use."""
        return sum(s.cached for s in self.all)

    def has_free(self) -> bool:
        """Return whether an answer can start."""
        return len(self.running) < len(self.all)

    def _note(self) -> None:
        """Note that sequences became running or idle, or changed their ids."""
        self.running = [s for s in self.all if s.running is not None]
        self.has_gaps, self.has_sources = True, any(s.source is not None for s in self.running)

    def start(self, running: RunningAnswer, prompt: list[int]) -> None:
        """Start an answer in a free sequence: keep the prefix that it holds, or copy a longer one from another."""
        sequence = self._choose(prompt)
        own = self._held(sequence, prompt)
        best, shared = None, own
        for other in self.all if self._can_rewind else []:
            # a running sequence will decode all its tokens; a finished one never decodes its last
            held = other.tokens[: other.cached] if other.running is None else other.tokens
            if other is not sequence and (n := common(held, prompt)) >= shared + self._worth:
                best, shared = other, n
        self._clock += 1
        sequence.running, sequence.used = running, self._clock
        running.answer.n_reused = shared
        sequence.source, sequence.shared = best, shared
        held_before, sequence.tokens = sequence.cached, prompt
        if best is None:
            sequence.cached = own
            if own < held_before:
                self._context.trim(sequence.number, own)
        else:
            self._empty(sequence)
            self._copy(sequence)
        self._note()

    def _choose(self, prompt: list[int]) -> CachedSequence:
        """Return the free sequence to start in: one that the prompt continues, else the one that is lost the least."""
        free = [s for s in self.all if s.running is None]
        if not self._keeps:
            return free[0]
        held = {s.number: self._held(s, prompt) for s in free}
        best = max(free, key=lambda s: held[s.number])
        if held[best.number] and 2 * held[best.number] >= best.cached:  # most of it, not only a common system prompt
            return best
        near = [s.number for s in self.running] or [0]
        return min(free, key=lambda s: (s.cached > 0, s.used if s.cached else min(abs(s.number - n) for n in near)))

    def _held(self, sequence: CachedSequence, prompt: list[int]) -> int:
        """Return how many tokens of a prompt a free sequence holds; a recurrent state serves only as a whole."""
        held = sequence.tokens[: sequence.cached]
        n = common(held, prompt)
        return n if self._can_rewind or n == len(held) else 0

    def _copy(self, sequence: CachedSequence) -> None:
        """Copy the shared prefix from the source once it is decoded there."""
        source = sequence.source
        if source is not None and source.cached >= sequence.shared:
            self._context.copy(source.number, sequence.number, sequence.shared)
            sequence.cached, sequence.source = sequence.shared, None

    def copy_shared(self) -> None:
        """Copy shared prefixes that have been decoded."""
        for sequence in self.all:
            self._copy(sequence)
        self._note()

    def free(self, sequence: CachedSequence) -> None:
        """End a sequence's answer; those that wait for tokens that it has not decoded decode these themselves."""
        sequence.running = sequence.source = None
        for other in self.all:
            if other.source is sequence:
                other.shared = min(other.shared, sequence.cached)
                self._copy(other)
        del sequence.tokens[sequence.cached :]
        self._note()

    def restore(self, sequences: Sequence[CachedSequence]) -> None:
        """Drop what a stopped or failed batch left of its tokens in these sequences."""
        for sequence in sequences:
            if self._can_rewind:
                self._context.trim(sequence.number, sequence.cached)
            else:
                self._empty(sequence)

    def forget(self) -> None:
        """Drop the tokens of all sequences. None may be running."""
        for sequence in self.all:
            sequence.tokens, sequence.cached = [], 0
        self._context.clear()

    def close_gaps(self) -> None:
        """Move the last running sequence into each gap between running ones; those of a list start at id 0."""
        if not self.has_gaps or not self._can_rewind:
            return
        for number in range(self.running[0].number if self._keeps and self.running else 0, len(self.all)):
            if not self.running or self.running[-1].number <= number:
                break
            gap = self.all[number]
            if gap.running is None:
                self._move(self.running[-1], gap)
        self.has_gaps = False

    def _move(self, last: CachedSequence, gap: CachedSequence) -> None:
        """Give a running sequence the id of an idle one, whose tokens are moved away if they are worth keeping."""
        if gap.cached and self._keeps and last.cached:
            idle = [s for s in self.all if s.running is None]
            hole = min(idle, key=lambda s: s.used if s.cached else 0)
            self._empty(hole)
            if hole is not gap:
                self._exchange(gap, hole)
            gap = hole
        elif not self._keeps:
            self._empty(gap)
        if gap.cached:  # the running sequence is empty
            self._exchange(gap, last)
        else:
            self._exchange(last, gap)

    def _exchange(self, sequence: CachedSequence, hole: CachedSequence) -> None:
        """Exchange the ids of a sequence and an empty one."""
        if sequence.cached:
            self._context.copy(sequence.number, hole.number, sequence.cached)
            self._context.forget(sequence.number)
        sequence.number, hole.number = hole.number, sequence.number
        self.all[sequence.number], self.all[hole.number] = sequence, hole
        self._note()

    def _empty(self, sequence: CachedSequence) -> None:
        """Drop a sequence's decoded tokens; those of a running answer wait again."""
        if sequence.cached:
            self._context.forget(sequence.number)
        sequence.cached = 0
        if sequence.running is None:
            sequence.tokens = []


def common(held: Sequence[int], prompt: Sequence[int]) -> int:
    """Return how many tokens of a prompt are held already, without its last: the logits after it are needed."""
    most = min(len(held), len(prompt) - 1)
    for i in range(min(most, _LOOP)):
        if held[i] != prompt[i]:
            return i
    low, high = min(most, _LOOP), most  # all of the first `low` are equal; find the first that is not by halving
    while low < high:
        middle = (low + high + 1) // 2
        if held[low:middle] == prompt[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
