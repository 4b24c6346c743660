"""Options of generation: how a prompt is continued. Runs no model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pa_lite.errors import InputError

MAX_PARALLEL = 256  # LLAMA_MAX_SEQ: llama.cpp aborts beyond it


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How to continue prompts. Raises InputError for values out of range.

    `max_tokens` limits the new tokens of each prompt. With `temperature` 0 the most likely token is chosen, otherwise
    one is sampled (`top_k` 0, `top_p` 1 and `min_p` 0 keep all tokens; see `sampling.candidates`); `seed` and the
    prompt's index determine its random numbers. A text ends before the first `stop` string in it. `parallel` is the
    number of prompts that run at a time, of a list of prompts.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    min_p: float = 0.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    parallel: int = 16

    def __post_init__(self) -> None:
        for name, holds, allowed in (
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < math.inf, "a number from 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0, up to 1"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 to 1"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("seed", self.seed >= 0, "at least 0"),
            ("parallel", 1 <= self.parallel <= MAX_PARALLEL, f"from 1 to {MAX_PARALLEL}"),
        ):
            if not holds:
                raise InputError(f"{name} is {getattr(self, name)}; it must be {allowed}.")
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        for text in self.stop:
            if not isinstance(text, str) or not text or _encoded(text) is None:
                raise InputError(f"stop string {text!r} is empty or not valid Unicode.")


def _encoded(text: str) -> bytes | None:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return None
