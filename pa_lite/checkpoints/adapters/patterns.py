"""Match module names with the patterns of an adapter's settings, which are regular expressions of its author."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pa_lite.errors import CheckpointError, EngineError
from pa_lite.untrusted.sandbox import LimitedProcess

# no wildcard but the dot: Python matches such a pattern in linear time
_PLAIN = re.compile(r"[\w.-]+")
_WORKER = "pa_lite.checkpoints.adapters.pattern_worker"
_MEMORY, _SECONDS = 64 << 20, 5.0
_MOST_PAIRS = 1 << 24  # of patterns and names


def first_matches(patterns: Sequence[str], names: Sequence[str], where: str) -> list[str | None]:
    """Return for each name the first pattern that matches it, None where none does, as peft's `get_pattern_key` does.

    A pattern matches a whole name, or the end of it after a dot. Python's regular expressions can take exponential
    time, so that all but plain names run in a limited process. Raises CheckpointError, which starts with `where`.
    """
    if not patterns or not names:
        return [None] * len(names)
    if len(patterns) * len(names) > _MOST_PAIRS:
        raise CheckpointError(f"{where} has {len(patterns)} patterns for {len(names)} modules, which are too many.")
    if all(_PLAIN.fullmatch(pattern) for pattern in patterns):
        found = match_first(patterns, names)
    else:
        try:
            with LimitedProcess(_WORKER, _MEMORY) as process:
                found = process.ask({"patterns": list(patterns), "names": list(names)}, _SECONDS)["found"]
        except EngineError as e:
            raise CheckpointError(f"{where} cannot be matched with the modules: {e}. Write their names instead.") from e
    return [None if i < 0 else patterns[i] for i in found]


def match_first(patterns: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return for each name the index of the first pattern that matches it, -1 where none does. Raises re.error."""
    compiled = [re.compile(rf"(.*\.)?({pattern})$") for pattern in patterns]
    return [next((i for i, pattern in enumerate(compiled) if pattern.match(name)), -1) for name in names]
