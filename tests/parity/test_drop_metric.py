"""DROP's F1 and exact match against the code that lm-eval ships for them."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from types import ModuleType

import pytest

from pa_lite.tasks.metrics import drop_em, drop_f1

pytestmark = pytest.mark.parity
WORDS = ("the", "Mill", "5", "5.0", "3-4", "a", "Dale", "1,000", "%", "FC", "x-y", "-7", "nan")


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    """lm-eval's module, loaded by its path: the package would import a data set library."""
    pytest.importorskip("scipy")
    package = importlib.util.find_spec("lm_eval")
    if package is None or package.origin is None:
        pytest.skip("lm-eval is not installed")
    path = Path(package.origin).parent / "tasks" / "drop" / "utils.py"
    spec = importlib.util.spec_from_file_location("lm_eval_drop", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_random_answers_get_equal_scores(peer: ModuleType) -> None:
    rng = random.Random(1)

    def span() -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(0, 3)))

    scores = set()
    for _ in range(5000):
        gold = tuple(span() for _ in range(rng.randint(1, 4)))
        text = ", ".join(span() for _ in range(rng.randint(1, 4)))
        predicted = text.split(", ") if len(gold) > 1 else [text]
        em, f1 = peer.get_metrics(predicted, gold)
        assert drop_em(text, [gold]) == em
        assert drop_f1(text, [gold]) == pytest.approx(f1, abs=1e-12)
        scores.add(round(float(f1), 2))
    assert len(scores) > 30
