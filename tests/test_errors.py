from __future__ import annotations

import pickle
import time

import pytest

from pa_lite.errors import CheckpointError, HubError, InputError, MismatchError, nearest


@pytest.mark.parametrize("kind", [InputError, CheckpointError, HubError, MismatchError])
def test_a_message_is_one_escaped_line(kind: type[Exception]) -> None:
    told = str(kind("tensor a\nb\r\x1b[31m\u2028\u202e\ud800 occurs twice. Fetch it again."))
    assert told == "tensor a\\nb\\r\\x1b[31m\\u2028\\u202e\\ud800 occurs twice. Fetch it again."


def test_a_long_message_keeps_its_start_and_end() -> None:
    told = str(InputError("model.gguf: tensor " + "\n" * 10_000_000 + " occurs twice. Fetch it again."))
    assert len(told) <= 2000
    assert told.startswith("model.gguf: tensor ")
    assert told.endswith(" occurs twice. Fetch it again.")


def test_errors_can_be_pickled() -> None:
    again = pickle.loads(pickle.dumps(InputError("a\nb")))
    assert isinstance(again, InputError)
    assert str(again) == "a\\nb"


def test_very_long_names_are_not_compared() -> None:
    start = time.perf_counter()
    assert nearest("x" * 10_000_000, ["xx", "xy"]) == ""
    assert time.perf_counter() - start < 10  # and not forever
    assert nearest("xz", ["xx", "long"]) == " Did you mean xx?"
