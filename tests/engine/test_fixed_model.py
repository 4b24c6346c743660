"""A GGUF file and a pair, opened by reference, are used in the same way."""

from __future__ import annotations

from pathlib import Path

import pytest

import pa_lite
from pa_lite.engine.answers import GenerationRequest
from pa_lite.engine.chat import chat_prompts
from pa_lite.engine.fixed_model import FixedModel
from pa_lite.engine.generation_options import GenerationOptions
from pa_lite.engine.model import EngineOptions
from pa_lite.engine.model_reference import open_scheduled
from pa_lite.engine.resident_models import ResidentModels, ResidentOptions
from pa_lite.engine.runner import Runner
from pa_lite.engine.scheduler import SchedulerOptions
from pa_lite.errors import InputError

ONE = EngineOptions(threads=1)
OPTIONS = ResidentOptions(models=1, scheduler=SchedulerOptions(parallel=2, length=200))


def answer(model: FixedModel | ResidentModels) -> tuple[str, float | None]:
    with model.vocabulary() as loaded:
        (prompt,) = chat_prompts(loaded, ["What does Tobi do?"]).tokens
    request = GenerationRequest(prompt=prompt, options=GenerationOptions(max_tokens=12))
    with Runner(model):
        found = model.submit(request)
        text = "".join(piece.text for piece in found.pieces(60))
    assert (model.n_running, model.n_waiting, model.is_busy) == (0, 0, False)
    return text, found.lam


def test_a_file_and_a_pair_give_the_same_answer(tmp_path: Path) -> None:
    (path,) = pa_lite.merge(pair="demo", lam=(0.7,), type="F16", output=tmp_path)
    with open_scheduled(path, OPTIONS, ONE) as fixed:
        assert isinstance(fixed, FixedModel)
        assert (fixed.lams, fixed.length, fixed.moves_reload, fixed.n_decoded) == ([], 200, False, 0)
        with pytest.raises(InputError, match=r"the lam of a GGUF file is fixed. Leave lam 0.5 out"):
            fixed.submit(GenerationRequest(prompt=[5]), 0.5)
        from_file = answer(fixed)
        assert fixed.n_decoded > 0
    with open_scheduled("demo@0.7", OPTIONS, ONE) as several:
        assert isinstance(several, ResidentModels)
        assert several.lams == [0.7]
        from_pair = answer(several)
    assert from_pair[0] == from_file[0] != ""
    assert (from_file[1], from_pair[1]) == (None, 0.7)
