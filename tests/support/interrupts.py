"""Interrupted merges, for tests of what they leave."""

from __future__ import annotations

from pathlib import Path

import pytest

import pa_lite
from pa_lite.merging import stream, write
from pa_lite.merging.write import MergeOptions


def interrupted(
    pair: tuple[Path, Path],
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: MergeOptions,
    lam: float = 0.7,
    blocks: int = 30,
) -> None:
    """Run a merge in which the block after `blocks` raises KeyboardInterrupt, as Ctrl-C would."""
    count = iter(range(blocks))
    run = stream.BlockWorker.run

    def failing(self: stream.BlockWorker, *args: object) -> int:
        if next(count, None) is None:
            raise KeyboardInterrupt
        return run(self, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(stream.BlockWorker, "run", failing)
        patch.setattr(write, "_RECORD_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            pa_lite.merge(*pair, (lam,), output=target, options=options)
