"""Find faults in a GGUF file's vocabulary with which llama.cpp would crash or tokenise wrongly."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pa_lite.engine.charsmap_refusals import charsmap_fault
from pa_lite.ggml.container import GgufHeader
from pa_lite.ggml.packed import PackedNumbers

_OWN = "tokenizer.ggml"
_NONE = (1 << 32) - 1  # -1 as an unsigned number: no token
# llama.cpp's default ids of BOS and EOS by tokenizer, for files that have none; None: no default
_DEFAULT_IDS: dict[str, tuple[int | None, int | None]] = {
    "llama": (1, 2), "gpt2": (11, 11), "hybriddna": (11, 11), "whitespace": (11, 11), "bert": (101, None),
    "t5": (None, 1), "plamo2": (1, 2), "gemma4": (None, None),
}  # fmt: skip
# pre-tokenizers that add BOS unless the file says otherwise
_BEGIN_WITH_BOS = (
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano", "tekken",
    "chameleon",
)  # fmt: skip
_ALWAYS_BOS = ("gemma4", "granite-embed-multi-311m")
_BYTE = 6  # token_type of byte tokens
BYTE_PAIRS = ("gpt2", "hybriddna", "whitespace", "gemma4")
# longest token in bytes: rwkv and t5 recurse once for each (100,000 crash), plamo2 takes cubic time to load, bert tries
# all lengths at every character of a text, and byte-level ones copy a token once for each character that does not stand
# for a byte (3 GB for 20,000)
_LONGEST_TOKEN = {"rwkv": 1000, "t5": 1000, "plamo2": 512, "bert": 256, **dict.fromkeys(BYTE_PAIRS, 10_000)}


def _size(text: str) -> int:
    """Return a text's length in bytes."""
    return len(text.encode())


def vocabulary_faults(header: GgufHeader, _architecture: str) -> Iterator[str]:
    """Yield what is wrong with a vocabulary, each fault as the start of a sentence. Source: llama-vocab.cpp."""
    entry, model = header.metadata.get(f"{_OWN}.tokens"), header.metadata.get(f"{_OWN}.model")
    if entry is None or entry.item != "STRING" or not entry.value:
        yield f"it has no vocabulary ({_OWN}.tokens)"
        return
    if model is None or model.type != "STRING" or model.value in ("none", "no_vocab"):
        yield f"it does not name the tokenizer of its vocabulary ({_OWN}.model)"
        return
    texts = as_llama_cpp_reads(entry.value)
    known = set(texts)
    if len(known) != len(texts):
        seen: set[str] = set()
        repeated = next(t for t in texts if t in seen or seen.add(t))  # type: ignore[func-returns-value]
        yield f"its vocabulary has the token {repeated[:60]!r} twice ({_OWN}.tokens)"
    if (most := _LONGEST_TOKEN.get(model.value)) is not None:
        longest = max((text for text in texts if 4 * len(text) > most), key=_size, default="")
        if _size(longest) > most:
            yield (
                f"its vocabulary has a token of {_size(longest)} bytes, {longest[:40]!r}...; the limit of llama.cpp's "
                f"tokenizer for {model.value} is {most} ({_OWN}.tokens)"
            )
    if model.value == "llama":
        missing = [b for b in range(256) if f"<0x{b:02X}>" not in known and not (b < 128 and chr(b) in known)]
        if missing:
            yield f"its vocabulary has no token for the byte <0x{missing[0]:02X}> ({_OWN}.tokens)"
    if model.value == "rwkv":  # without them tokenising never ends
        own = set(map(_unescaped, texts))
        missing = [b for b in range(256) if bytes([b]) not in own]
        if missing:
            yield f"its vocabulary has no token for the byte \\x{missing[0]:02x} ({_OWN}.tokens)"
    if model.value == "t5":
        yield from _charsmap(header)
    yield from _lists(header, len(texts))
    types = header.metadata.get(f"{_OWN}.token_type")
    if model.value == "bert" and types is not None and _BYTE in types.value:
        yield f"its vocabulary of words has a byte token at index {types.value.index(_BYTE)} ({_OWN}.token_type)"
    if model.value in BYTE_PAIRS:
        yield from _merges(header, known)
    yield from _special(header, str(model.value), len(texts))


def as_llama_cpp_reads(tokens: Sequence[str]) -> list[str]:
    """Return the texts of tokens in llama.cpp: up to a NUL, and `[EMPTY_i]` for an empty one."""
    return [text.partition("\0")[0] or f"[EMPTY_{i}]" for i, text in enumerate(tokens)]


def _unescaped(text: str) -> bytes:
    """Return the bytes of an RWKV token, whose text has escapes."""
    plain = {"t": b"\t", "n": b"\n", "r": b"\r"}

    def byte(found: re.Match[str]) -> str:
        escape = found[1]
        raw = bytes([int(escape[1:], 16)]) if len(escape) == 3 else plain.get(escape, escape.encode("latin-1"))
        return raw.decode("latin-1")

    return re.sub(r"\\(x[0-9a-f]{2}|.)", byte, text.encode().decode("latin-1"), flags=re.DOTALL).encode("latin-1")


def _charsmap(header: GgufHeader) -> Iterator[str]:
    entry = header.metadata.get(f"{_OWN}.precompiled_charsmap")
    if entry is None or entry.item not in ("INT8", "UINT8"):
        return  # llama.cpp refuses the latter itself
    packed = isinstance(entry.value, PackedNumbers)
    table = entry.value.values.tobytes() if packed else bytes(value & 255 for value in entry.value)
    if (fault := charsmap_fault(table)) is not None:
        yield f"{_OWN}.precompiled_charsmap {fault}"


def _lists(header: GgufHeader, n_tokens: int) -> Iterator[str]:
    for name, items in (("scores", ("FLOAT32", "INT32")), ("token_type", ("INT32",))):
        entry = header.metadata.get(f"{_OWN}.{name}")
        if entry is None:
            continue
        if entry.item not in items:
            yield f"{_OWN}.{name} is not a list of type {' or '.join(items)}"
        elif len(entry.value) < n_tokens:
            yield f"{_OWN}.{name} has {len(entry.value)} values for {n_tokens} tokens"


def _merges(header: GgufHeader, known: set[str]) -> Iterator[str]:
    """Yield malformed merges, and merges of two tokens into no token, where llama.cpp would fall back to bytes."""
    entry = header.metadata.get(f"{_OWN}.merges")
    if entry is None:
        return  # llama.cpp reports it, for tokenizers that need merges
    if entry.item != "STRING":
        yield f"{_OWN}.merges is not a list of strings"
        return
    for i, merge in enumerate(entry.value):
        if "\0" in merge:
            yield f"{_OWN}.merges has a NUL character at index {i}, where llama.cpp ends a string"
        at = merge.find(" ", 1)
        left, right = merge[:at], merge[at + 1 :]
        if at < 0 or not right:
            yield f"{_OWN}.merges has {merge[:60]!r} at index {i}, not two parts with a space between them"
        elif left + right not in known and left in known and right in known:
            yield f"{_OWN}.merges joins {left[:30]!r} and {right[:30]!r} at index {i}, which is not a token"


def _special(header: GgufHeader, model: str, n_tokens: int) -> Iterator[str]:
    """Yield ids without a token. llama.cpp would ignore them and use defaults, which changes prompts."""
    ids: dict[str, int | None] = dict(zip(("bos", "eos"), _DEFAULT_IDS.get(model, (None, None)), strict=True))
    for name in ("bos", "eos", "eot", "eom"):
        entry = header.metadata.get(f"{_OWN}.{name}_token_id")
        if entry is None or entry.value == _NONE:
            continue
        if entry.type != "UINT32" or entry.value >= n_tokens:
            yield f"{_OWN}.{name}_token_id is {str(entry.value)[:40]}, which is not one of its {n_tokens} tokens"
        ids[name] = entry.value
    for name, is_added in _added(header, model).items():
        token = ids[name]
        if is_added and (token is None or not token < n_tokens):
            yield f"{_OWN}.add_{name}_token adds {name.upper()} to texts, but the vocabulary lacks it"


def _added(header: GgufHeader, model: str) -> dict[str, bool]:
    """Return whether llama.cpp adds BOS and EOS to a text, by the file or by default."""
    pre = header.metadata[f"{_OWN}.pre"].value if f"{_OWN}.pre" in header.metadata else ""
    pre = "gemma4" if model == "gemma4" else pre
    added = {"bos": model in ("llama", "bert"), "eos": model == "t5"}
    if model in BYTE_PAIRS:
        added["bos"] = pre in _BEGIN_WITH_BOS
    for name in added:
        entry = header.metadata.get(f"{_OWN}.add_{name}_token")
        if entry is not None and entry.type == "BOOL":
            added[name] = bool(entry.value)
    if model in BYTE_PAIRS and pre in _ALWAYS_BOS:
        added["bos"] = True
    return added
