"""Encode a text with an untrusted tokenizer.json, in a separate process with limits of time and memory.

The package `tokenizers` does anything that such a file says: it pads texts to any length, matches any regular
expression, and can crash. The limits are those of `pa_lite.untrusted.sandbox_worker`.
"""

from __future__ import annotations

from typing import Any

from pa_lite.untrusted.sandbox_worker import serve

_MOST_IDS = 1 << 14  # of a text with 350 characters; the parent process holds them in memory


def encode(request: dict[str, Any]) -> dict[str, Any]:
    """Return the ids of a text with and without special tokens, and the tokens of the latter.

    Raises whatever `tokenizers` raises.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(request["definition"])
    tokenizer.no_padding()
    tokenizer.no_truncation()
    found = [tokenizer.encode(request["text"], add_special_tokens=special) for special in (True, False)]
    if max(len(each.ids) for each in found) > _MOST_IDS:
        raise ValueError("it turns a short text into a long one")
    return {"ids": [each.ids for each in found], "tokens": found[1].tokens}


def main() -> None:
    """Answer requests until there are no more."""
    import tokenizers  # noqa: F401 - loaded before the memory limit counts

    serve(encode)
