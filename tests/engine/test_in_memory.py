"""A model moved along the line in memory is the model that a merged file holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pa_lite
from pa_lite.checkpoints import open_checkpoint
from pa_lite.checkpoints.pairs import Pair
from pa_lite.engine import in_memory
from pa_lite.engine.in_memory import InMemoryModel
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.ggml.kernels import FloatArray
from pa_lite.merging.plan import PlanOptions, plan_merge

TEXT = "- Lati -> Rome\n- Nonu ->"


def logits(model: Model) -> FloatArray:
    """Return the logits of TEXT in a fresh context, float32 [tokens, n_vocab]."""
    tokens = model.tokenize(TEXT)
    n = len(tokens)
    with model.context(n) as context:
        context.decode(tokens, range(n), [0] * n, [0] * n, [True] * n)
        return np.array([context.logits(i) for i in range(n)])


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K_M", "IQ4_XS"])
def test_every_move_gives_the_logits_of_the_merged_file(demo_pair: Pair, tmp_path: Path, kind: str) -> None:
    lams = (0.3, 1.0, 0.0, 0.7)
    paths = pa_lite.merge(pair="demo", lam=lams, plan=PlanOptions(type=kind), output=tmp_path)
    plan = plan_merge(open_checkpoint(demo_pair.base), open_checkpoint(demo_pair.instruct), PlanOptions(type=kind))
    expected = {}
    for lam, path in zip(lams, paths, strict=True):
        with Model(path, EngineOptions(threads=1), rewritable=True) as model:
            expected[lam] = logits(model)
    assert not np.array_equal(expected[0.3], expected[0.7])
    with InMemoryModel(plan, 0.7, EngineOptions(threads=1)) as moved:
        for lam in (0.7, *lams):
            moved.move(lam)
            assert np.array_equal(logits(moved.model), expected[lam]), (kind, lam)
            assert moved.model.name.endswith(f" pa {lam:g}")


def test_without_memory_a_temporary_file_serves_and_is_removed(
    demo_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_memory, "available_memory", lambda: 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    plan = plan_merge(open_checkpoint(demo_pair.base), open_checkpoint(demo_pair.instruct), PlanOptions(type="F16"))
    with InMemoryModel(plan, 0.0, EngineOptions(threads=1)) as moved:
        assert not moved.is_in_memory
        first = logits(moved.model)
        moved.move(1.0)
        assert not np.array_equal(logits(moved.model), first)
        assert list(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []
