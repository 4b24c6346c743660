"""A program of its own that encodes a text with a stranger's tokenizer.json, limited in time and memory.

The package `tokenizers` does all that such a file says: it pads texts to any length, matches any expression, and what
it cannot do may end the process. The limits are those of `pa_lite.limited_worker`.
"""

from __future__ import annotations

from typing import Any

from pa_lite.limited_worker import serve


def encode(request: dict[str, Any]) -> dict[str, Any]:
    """The ids of a text, with special tokens and without. Raises whatever `tokenizers` raises."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(request["file"])
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return {"ids": [tokenizer.encode(request["text"], add_special_tokens=special).ids for special in (True, False)]}


def main() -> None:
    """Encode until there are no more requests."""
    import tokenizers  # noqa: F401 - its own memory is not the file's

    serve(encode)
