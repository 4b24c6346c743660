"""A separate program that encodes a text with an untrusted tokenizer.json, limited in time and memory.

The package `tokenizers` does all that such a file says: it pads texts to any length, matches any expression, and what
it cannot do may end the process. The limits are those of `pa_lite.untrusted.sandbox_worker`.
"""

from __future__ import annotations

from typing import Any

from pa_lite.untrusted.sandbox_worker import serve

_MOST_IDS = 1 << 14  # that a text of 350 characters may have, and those who asked must hold


def encode(request: dict[str, Any]) -> dict[str, Any]:
    """Return the ids of a text, with special tokens and without, and the texts of the latter's tokens.

    Raises whatever `tokenizers` raises.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(request["definition"])
    tokenizer.no_padding()
    tokenizer.no_truncation()
    found = [tokenizer.encode(request["text"], add_special_tokens=special) for special in (True, False)]
    if max(len(each.ids) for each in found) > _MOST_IDS:
        raise ValueError("it makes a long text of a short one")
    return {"ids": [each.ids for each in found], "tokens": found[1].tokens}


def main() -> None:
    """Encode until there are no more requests."""
    import tokenizers  # noqa: F401 - its own memory is not the file's

    serve(encode)
