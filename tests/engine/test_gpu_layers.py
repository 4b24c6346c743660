"""The largest number of GPU layers that fits is found, and reduced when a context needs the memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pa_lite.engine.gpu_layers import most_that_fit
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.errors import EngineError, InputError

ONE = EngineOptions(threads=1)


@pytest.mark.parametrize("most", [0, 1, 2, 31, 33, 80])
def test_the_most_that_fit_is_found_in_few_tries(most: int) -> None:
    for room in range(most + 1):
        tried: list[int] = []

        def fits(n: int, room: int = room, tried: list[int] = tried) -> bool:
            tried.append(n)
            return n <= room

        assert most_that_fit(most, fits) == room
        assert tried[0] == most
        assert len(tried) <= most.bit_length() + 2
    assert most_that_fit(most, lambda _n: False) is None


def test_fewer_layers_are_loaded_when_a_context_does_not_fit(
    tiny_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake GPU with room for three layers, or for one layer and a context of 500 cells."""
    load, create = Model._try, Model._new_context
    tried: list[int] = []

    def try_layers(self: Model, gpu_layers: int) -> bool:
        tried.append(gpu_layers)
        if gpu_layers > 3:
            self.close()
            return False
        done = load(self, gpu_layers)
        self.gpu_layers = gpu_layers
        return done

    def new_context(self: Model, n_ctx: int, *more: object) -> object:
        return create(self, n_ctx, *more) if self.gpu_layers <= (1 if n_ctx >= 500 else 3) else None  # type: ignore[arg-type]

    monkeypatch.setattr(Model, "_try", try_layers)
    monkeypatch.setattr(Model, "_new_context", new_context)
    with Model(tiny_ggufs["F32"], ONE) as model:
        monkeypatch.setattr(Model, "n_layers", 4)
        with model.context(256):
            pass
        model._load(most=5)
        assert model.gpu_layers == 3
        assert tried[1] == 5
        with model.context(256), pytest.raises(EngineError, match="no room for a context of 500"), model.context(500):
            pass  # another context is open, so the model cannot be loaded again
        assert model.gpu_layers == 3
        with model.context(500) as context:
            assert model.gpu_layers == 1
            context.decode([5], [0], [0], [0], [True])
            assert np.isfinite(context.logits(0)).all()


@pytest.mark.parametrize("layers", [-2, "most", 1.5])
def test_invalid_numbers_of_layers_are_refused(tiny_ggufs: dict[str, Path], layers: object) -> None:
    with pytest.raises(InputError, match="must be auto, -1"):
        Model(tiny_ggufs["F32"], EngineOptions(gpu_layers=layers))  # type: ignore[arg-type]
