"""Compare answers with those generated alone; they may differ where two tokens were nearly equally likely."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pa_lite.engine.context import Context
from pa_lite.engine.model import Model
from pa_lite.engine.scheduler import Scheduler

TIE = 0.05  # the largest lead, in logits, that the shape of a batch can turn round with F16 weights


class Alone:
    """The greedy tokens of prompts, each decoded alone, and the lead of each token over the second likeliest."""

    def __init__(self, model: Model, cache_type: str = "") -> None:
        self.model = model
        self._cache_type = cache_type or model.cache_type(True)
        self._known: dict[tuple[tuple[int, ...], int], tuple[list[int], list[float]]] = {}

    def tokens(self, prompt: Sequence[int], n: int) -> tuple[list[int], list[float]]:
        key = (tuple(prompt), n)
        if key not in self._known:
            self._known[key] = self._decode(prompt, n)
        return self._known[key]

    def _decode(self, prompt: Sequence[int], n: int) -> tuple[list[int], list[float]]:
        tokens: list[int] = []
        leads: list[float] = []
        with self.model.context(len(prompt) + n, cache_type=self._cache_type) as context:
            fed, at = list(prompt), 0
            while len(tokens) < n:
                logits = last_logits(context, fed, at)
                second, first = np.partition(logits, -2)[-2:]
                token = int(logits.argmax())
                leads.append(float(first - second))
                if self.model.is_end(token):
                    break
                tokens.append(token)
                at += len(fed)
                fed = [token]
        return tokens, leads

    def check(self, prompt: Sequence[int], n: int, text: str) -> bool:
        """Return whether a text equals that of the prompt alone; fail if it differs where there was no near tie."""
        tokens, leads = self.tokens(prompt, n)
        expected = self.model.text(tokens).rstrip("�")
        if text.rstrip("�") == expected:
            return True
        for k in range(1, len(tokens) + 1):
            if not text.startswith(self.model.text(tokens[:k]).rstrip("�")):
                assert leads[k - 1] < TIE, (text, expected, leads[k - 1])
                return False
        assert leads[-1] < TIE, (text, expected)
        return False


def last_logits(context: Context, fed: Sequence[int], at: int) -> np.ndarray:
    """Decode tokens of sequence 0 from position `at`; return the logits after the last."""
    for begin in range(0, len(fed), context.n_batch):
        part = fed[begin : begin + context.n_batch]
        zeros = [0] * len(part)
        positions = range(at + begin, at + begin + len(part))
        context.decode(part, positions, zeros, zeros, [False] * (len(part) - 1) + [True])
    return context.logits(len(part) - 1)


def check_cells(scheduler: Scheduler) -> None:
    """Check that llama.cpp's cache holds for every sequence exactly the tokens that the scheduler believes it holds."""
    context = scheduler.context
    for number, sequence in enumerate(scheduler.sequences.all):
        assert sequence.number == number
        assert len(sequence.tokens) >= sequence.cached
        last = context.lib.llama_memory_seq_pos_max(context.memory, number)
        assert last == sequence.cached - 1, (number, last, sequence.cached)
