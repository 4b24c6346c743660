from __future__ import annotations

import pickle

import pytest

from pa_lite.errors import CheckpointError, HubError, InputError, MismatchError, nearest


@pytest.mark.parametrize("kind", [InputError, CheckpointError, HubError, MismatchError])
def test_a_message_is_one_plain_line_whatever_names_are_in_it(kind: type[Exception]) -> None:
    message = str(kind("tensor a\nb\r\x1b[31m\u2028\u202e\ud800 occurs twice. Fetch it again."))
    assert message == "tensor a\\nb\\r\\x1b[31m\\u2028\\u202e\\ud800 occurs twice. Fetch it again."


def test_a_long_message_keeps_its_start_and_its_end() -> None:
    message = str(InputError("model.gguf: tensor " + "\n" * 10_000_000 + " occurs twice. Fetch it again."))
    assert len(message) <= 2000
    assert message.startswith("model.gguf: tensor ")
    assert message.endswith(" occurs twice. Fetch it again.")


def test_errors_can_be_pickled() -> None:
    again = pickle.loads(pickle.dumps(InputError("a\nb")))
    assert isinstance(again, InputError)
    assert str(again) == "a\\nb"


@pytest.mark.timeout(60)
def test_unknown_names_of_any_length_are_compared_in_bounded_time() -> None:
    assert nearest("x" * 10_000_000, ["xx", "xy"]) == ""
    assert nearest("xz", ["xx", "long"]) == " Did you mean xx?"
