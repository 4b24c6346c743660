"""Fixtures shared by all tests: tiny pairs written once, and the embedded pair."""

from __future__ import annotations

from pathlib import Path

import pytest

import pa_lite
from pa_lite.checkpoints.pairs import Pair, find_pair
from pa_lite.merge.plan import PlanOptions
from tests import tiny


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Base (two shards) and instruct of a tiny random Llama, bfloat16."""
    return tiny.write_pair(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_ggufs(tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny pair merged at lam 0.7: type -> file."""
    folder = tmp_path_factory.mktemp("ggufs")
    return {
        kind: pa_lite.merge(*tiny_pair, (0.7,), plan=PlanOptions(kind), output=folder)[0]
        for kind in ("F32", "F16", "Q8_0")
    }


@pytest.fixture(scope="session")
def demo_pair() -> Pair:
    return find_pair("demo")
