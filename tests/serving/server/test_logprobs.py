"""Forms of logprobs, with tokens that are parts of characters, control tokens, and infinite values."""

from __future__ import annotations

import json

from pa_lite.engine.answers import TokenLogprob
from pa_lite.serving.server.errors import to_bytes
from pa_lite.serving.server.logprobs import TextLogprobs, chat_logprobs, tokens_in
from pa_lite.serving.server.vocabulary import TokenText

TEXTS = {
    0: TokenText("<s>", b"", False),
    1: TokenText("a", b"a", False),
    2: TokenText("bytes:\\xe2\\x82", b"\xe2\x82", False),
    3: TokenText("bytes:\\xac", b"\xac", False),
    4: TokenText("b", b"b", False),
    5: TokenText("b", b"b", False),  # another token of the same text
}


def chosen(token: int, logprob: float, *top: tuple[int, float]) -> TokenLogprob:
    return TokenLogprob(token=token, piece=TEXTS[token].raw, logprob=logprob, top=top)


def test_chat_logprobs_have_texts_and_bytes() -> None:
    entries = [chosen(1, -0.5, (1, -0.5), (2, -1.0)), chosen(0, float("-inf"))]
    assert tokens_in(entries) == {0, 1, 2}
    found = chat_logprobs(entries, TEXTS)["content"]
    assert found[0] == {
        "token": "a", "logprob": -0.5, "bytes": [97],
        "top_logprobs": [
            {"token": "a", "logprob": -0.5, "bytes": [97]},
            {"token": "bytes:\\xe2\\x82", "logprob": -1.0, "bytes": [0xE2, 0x82]},
        ],
    }  # fmt: skip
    assert found[1] == {"token": "<s>", "logprob": -9999.0, "bytes": [], "top_logprobs": []}
    assert json.loads(to_bytes(found)) == found


def test_offsets_count_characters_over_parts() -> None:
    logprobs = TextLogprobs(with_top=True)
    first = logprobs.part([0, 1, 2], [None, chosen(1, -1.0, (4, -0.1)), chosen(2, -1.0)], TEXTS)
    assert first["text_offset"] == [0, 0, 1]
    assert first["token_logprobs"] == [None, -1.0, -1.0]
    assert first["top_logprobs"] == [None, {"b": -0.1, "a": -1.0}, {"bytes:\\xe2\\x82": -1.0}]
    second = logprobs.part([3, 4, 1], [chosen(3, -2.0), chosen(4, -2.0), chosen(1, -3.0)], TEXTS)
    assert second["text_offset"] == [1, 2, 3]  # "a€ba"


def test_the_most_likely_of_equal_texts_counts() -> None:
    (top,) = TextLogprobs(True).part([5], [chosen(5, -2.0, (4, -0.2))], TEXTS)["top_logprobs"]
    assert top == {"b": -0.2}


def test_skipped_characters_move_offsets() -> None:
    found = TextLogprobs(False, skipped=1).part([1, 4], [None, chosen(4, -1.0)], TEXTS)
    assert found["text_offset"] == [0, 0]
    assert found["top_logprobs"] is None
