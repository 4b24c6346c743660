"""Check the types of values in a GGUF header, and that strings have no NUL character, at which llama.cpp ends them."""

from __future__ import annotations

from collections.abc import Iterator

from pa_lite.checkpoints.vocabulary.space_prefix import SPACE_PREFIX_KEY, SPACE_PREFIX_SCHEMES
from pa_lite.checkpoints.vocabulary.special_tokens import END_IDS_KEY, TEMPLATE_TOKEN_KEYS
from pa_lite.ggml.container import GgufHeader
from pa_lite.ggml.metadata import Field

_STRINGS = ("tokenizer.ggml.pre", "tokenizer.chat_template", SPACE_PREFIX_KEY, *TEMPLATE_TOKEN_KEYS.values())
_TEMPLATES = "tokenizer.chat_template."  # prefix of the keys of named templates
_INTEGERS = ("UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "UINT64", "INT64")
# keys of the architecture with one integer, or one for each layer
_COUNTS = ("feed_forward_length", "expert_feed_forward_length", "expert_used_count")


def value_faults(header: GgufHeader, architecture: str) -> Iterator[str]:
    """Yield what is wrong with a header's values, each fault as the start of a sentence."""
    for key, entry in header.metadata.items():
        if entry.type == "STRING" and "\0" in entry.value:
            yield f"{key[:80]} contains a NUL character, at which llama.cpp ends a string"
        if entry.type != "STRING" and (key in _STRINGS or key.startswith(_TEMPLATES)):
            yield f"{key[:80]} is of type {entry.type}, not a string"
    scheme = header.metadata.get(SPACE_PREFIX_KEY)
    if scheme is not None and scheme.value not in SPACE_PREFIX_SCHEMES:
        yield f"{SPACE_PREFIX_KEY} is {str(scheme.value)[:40]!r}, not one of {', '.join(SPACE_PREFIX_SCHEMES)}"
    ends = header.metadata.get(END_IDS_KEY)
    if ends is not None and not (isinstance(ends.value, list) and ends.item in _INTEGERS):
        yield f"{END_IDS_KEY} is not a list of up to 1023 integers"
    for name in _COUNTS:
        entry = header.metadata.get(key := f"{architecture}.{name}", Field("UINT32", 0))
        if (entry.item or entry.type) not in _INTEGERS or not isinstance(entry.value, int | list):
            yield f"{key} is {str(entry.value)[:40]}, not an integer or a list of one for each layer"
