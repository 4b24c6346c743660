from __future__ import annotations

import pytest

from pa_lite.checkpoints.pairs import all_pairs, find_pair
from pa_lite.errors import InputError


def test_the_embedded_pair_is_there() -> None:
    pair = find_pair("demo")
    base, instruct = pair.folders
    assert (base / "config.json").is_file()
    assert (instruct / "model.safetensors").is_file()
    assert pair in all_pairs().values()


def test_unknown_pair_suggests() -> None:
    with pytest.raises(InputError, match="Did you mean demo"):
        find_pair("dmeo")
