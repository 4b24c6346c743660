"""A host: moving a model before requests name its lam."""

from __future__ import annotations

from pathlib import Path

import pytest

import pa_lite
from pa_lite.engine.conversation import Message
from pa_lite.engine.options import EngineOptions
from pa_lite.engine.resident_models import ResidentOptions
from pa_lite.engine.scheduler import SchedulerOptions
from pa_lite.errors import InputError
from pa_lite.serving.host import open_host

ONE = EngineOptions(threads=1)
TWO = ResidentOptions(models=2, scheduler=SchedulerOptions(parallel=1, length=200))


def test_a_model_is_moved_once_and_answers_as_if_it_had_not_been() -> None:
    turn = [Message("user", "In one word: what does Sada keep?")]
    with open_host("demo@0.6", TWO, ONE) as host:
        answers = []
        for lam in (0.0, 1.0, 0.6):
            assert host.move(lam) is not None  # 0.6, idle longest, made room for 1
            assert host.move(abs(lam - 0.004)) is None  # two decimals
            answers.append(host.start(host.prompt(turn), lam=lam).result().text)
            assert host.models.lams[0] == lam
            assert len(host.models.lams) <= 2
    for lam, text in zip((0.0, 1.0, 0.6), answers, strict=True):
        with pa_lite.load("demo", ONE, lam=lam) as model:
            assert model.chat("In one word: what does Sada keep?").text == text.strip()


def test_moves_that_cannot_be_are_errors(tmp_path: Path) -> None:
    with open_host("demo@0.6", TWO, ONE) as host, pytest.raises(InputError, match=r"lam 2 is outside \[0, 1\]"):
        host.move(2)
    path = pa_lite.merge("demo", lam=0.7, type="f16", output=tmp_path / "m.gguf")
    with open_host(path, TWO, ONE) as host, pytest.raises(InputError, match="the lam of a GGUF file is fixed"):
        host.move(0.7)
