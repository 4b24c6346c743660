from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from pa_lite.merging.diff import Distance, diff_checkpoints
from tests.merging.test_stream import gguf_name
from tests.support import tiny
from tests.support.reports import Reports


def test_distances_equal_those_of_numpy(tmp_path: Path) -> None:
    base = tiny.weights(1)
    instruct = tiny.weights(2, near=base)
    tiny.write_checkpoint(tmp_path / "base", base, "F32", 2)
    tiny.write_checkpoint(tmp_path / "instruct", instruct, "F32")
    seen = Reports()
    found = diff_checkpoints(tmp_path / "base", tmp_path / "instruct", 2, seen)
    assert seen[-1] == ("diff", found.n_values, found.n_values, "values")

    def expected(names: list[str]) -> tuple[float, float]:
        b, i = (np.concatenate([a[n].reshape(-1) for n in names]).astype(np.float64) for a in (base, instruct))
        norm, other = np.linalg.norm(b), np.linalg.norm(i)
        return float(np.linalg.norm(i - b) / norm), float(b @ i / norm / other)

    def close(distance: Distance, names: list[str]) -> None:
        values = (distance.relative_norm, distance.cosine)
        assert values == pytest.approx(expected(names), rel=1e-5)

    close(found.total, list(base))
    for layer in (0, 1):
        close(found.layers[layer], [n for n in base if f".layers.{layer}." in n])
    for name in base:
        close(found.tensors[gguf_name(name)], [name])
    close(found.groups["attention"], [n for n in base if "self_attn" in n])
    assert list(found.groups) == ["embeddings", "attention", "ffn", "norms"]


def test_distances_of_equal_and_of_zero_tensors(tmp_path: Path) -> None:
    arrays = tiny.weights(1)
    arrays["model.norm.weight"][:] = 0
    folder = tiny.write_checkpoint(tmp_path / "m", arrays)
    found = diff_checkpoints(folder, folder)
    assert found.total.relative_norm == 0.0
    assert found.total.cosine == pytest.approx(1.0)
    assert found.tensors["output_norm.weight"] == Distance(0.0, 1.0)
    other = {**arrays, "model.norm.weight": np.ones(64, np.float32)}
    found = diff_checkpoints(folder, tiny.write_checkpoint(tmp_path / "n", other))
    assert found.tensors["output_norm.weight"].relative_norm == math.inf
