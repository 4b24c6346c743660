"""What of a GGUF file's vocabulary makes llama.cpp end the process, or tokenise otherwise than it was made to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pa_lite.engine.charsmap_refusals import charsmap_fault
from pa_lite.ggml.container import GgufHeader
from pa_lite.ggml.packed import PackedNumbers

_OWN = "tokenizer.ggml"
_NONE = (1 << 32) - 1  # -1 as the unsigned number that it is written as: no such token
# llama.cpp's own ids of bos and eos, where the file tells none, by tokenizer; None: it has none
_DEFAULT_IDS: dict[str, tuple[int | None, int | None]] = {
    "llama": (1, 2), "gpt2": (11, 11), "hybriddna": (11, 11), "whitespace": (11, 11), "bert": (101, None),
    "t5": (None, 1), "plamo2": (1, 2), "gemma4": (None, None),
}  # fmt: skip
# pre-tokenizers that begin a text with BOS where the file does not say otherwise
_BEGIN_WITH_BOS = (
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano", "tekken",
    "chameleon",
)  # fmt: skip
_ALWAYS_BOS = ("gemma4", "granite-embed-multi-311m")
_BYTE = 6  # token_type of a byte
BYTE_PAIRS = ("gpt2", "hybriddna", "whitespace", "gemma4")
# bytes of a token at most: rwkv and t5 go one call deeper for each (100,000 end the process), plamo2 takes cubic time
# to load, bert tries all lengths at every character of a text, and byte-level ones spell a token once for each
# character that stands for no byte (3 GB for 20,000)
_LONGEST_TOKEN = {"rwkv": 1000, "t5": 1000, "plamo2": 512, "bert": 256, **dict.fromkeys(BYTE_PAIRS, 10_000)}


def _size(text: str) -> int:
    """Return a text's length in bytes."""
    return len(text.encode())


def vocabulary_faults(header: GgufHeader, _architecture: str) -> Iterator[str]:
    """What is wrong with a vocabulary, each fault the beginning of a sentence. Source: llama.cpp, llama-vocab.cpp."""
    entry, model = header.metadata.get(f"{_OWN}.tokens"), header.metadata.get(f"{_OWN}.model")
    if entry is None or entry.item != "STRING" or not entry.value:
        yield f"it has no vocabulary ({_OWN}.tokens)"
        return
    if model is None or model.type != "STRING" or model.value in ("none", "no_vocab"):
        yield f"it does not say what tokenizer its vocabulary is for ({_OWN}.model)"
        return
    texts = as_llama_cpp_reads(entry.value)
    known = set(texts)
    if len(known) != len(texts):
        seen: set[str] = set()
        doubled = next(t for t in texts if t in seen or seen.add(t))  # type: ignore[func-returns-value]
        yield f"its vocabulary has two equal tokens, {doubled[:60]!r} ({_OWN}.tokens)"
    if (most := _LONGEST_TOKEN.get(model.value)) is not None:
        longest = max((text for text in texts if 4 * len(text) > most), key=_size, default="")
        if _size(longest) > most:
            yield (
                f"its vocabulary has a token of {_size(longest)} bytes, {longest[:40]!r}..., where llama.cpp's "
                f"tokenizer for {model.value} can do with {most} ({_OWN}.tokens)"
            )
    if model.value == "llama":
        missing = [b for b in range(256) if f"<0x{b:02X}>" not in known and not (b < 128 and chr(b) in known)]
        if missing:
            yield f"its vocabulary has no token for the byte <0x{missing[0]:02X}> ({_OWN}.tokens)"
    if model.value == "rwkv":  # without them it tokenises without end
        own = set(map(_unescaped, texts))
        missing = [b for b in range(256) if bytes([b]) not in own]
        if missing:
            yield f"its vocabulary has no token for the byte \\x{missing[0]:02x} ({_OWN}.tokens)"
    if model.value == "t5":
        yield from _charsmap(header)
    yield from _lists(header, len(texts))
    types = header.metadata.get(f"{_OWN}.token_type")
    if model.value == "bert" and types is not None and _BYTE in types.value:
        yield f"its vocabulary of words has a byte in place {types.value.index(_BYTE)} ({_OWN}.token_type)"
    if model.value in BYTE_PAIRS:
        yield from _merges(header, known)
    yield from _special(header, str(model.value), len(texts))


def as_llama_cpp_reads(tokens: Sequence[str]) -> list[str]:
    """The tokens' texts in llama.cpp: up to a NUL, and a text of its own for an empty one."""
    return [text.partition("\0")[0] or f"[EMPTY_{i}]" for i, text in enumerate(tokens)]


def _unescaped(text: str) -> bytes:
    """The bytes that a token of RWKV stands for."""
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
            yield f"{_OWN}.{name} is no list of type {' or '.join(items)}"
        elif len(entry.value) < n_tokens:
            yield f"{_OWN}.{name} has {len(entry.value)} values for {n_tokens} tokens"


def _merges(header: GgufHeader, known: set[str]) -> Iterator[str]:
    """A merge that is none, and one that makes of two tokens what is none: llama.cpp then falls back to bytes."""
    entry = header.metadata.get(f"{_OWN}.merges")
    if entry is None:
        return  # llama.cpp says so, and knows which tokenizer does without
    if entry.item != "STRING":
        yield f"{_OWN}.merges is no list of texts"
        return
    for i, merge in enumerate(entry.value):
        if "\0" in merge:
            yield f"{_OWN}.merges has a NUL character in place {i}, at which llama.cpp ends a string"
        at = merge.find(" ", 1)
        left, right = merge[:at], merge[at + 1 :]
        if at < 0 or not right:
            yield f"{_OWN}.merges has {merge[:60]!r} in place {i}, not two parts with a blank between them"
        elif left + right not in known and left in known and right in known:
            yield f"{_OWN}.merges joins {left[:30]!r} and {right[:30]!r} in place {i}, which together are no token"


def _special(header: GgufHeader, model: str, n_tokens: int) -> Iterator[str]:
    """Ids that no token has; llama.cpp passes over them and takes its own, or none, which makes other texts of it."""
    ids: dict[str, int | None] = dict(zip(("bos", "eos"), _DEFAULT_IDS.get(model, (None, None)), strict=True))
    for name in ("bos", "eos", "eot", "eom"):
        entry = header.metadata.get(f"{_OWN}.{name}_token_id")
        if entry is None or entry.value == _NONE:
            continue
        if entry.type != "UINT32" or entry.value >= n_tokens:
            yield f"{_OWN}.{name}_token_id is {str(entry.value)[:40]}, no number of one of its {n_tokens} tokens"
        ids[name] = entry.value
    for name, is_added in _added(header, model).items():
        token = ids[name]
        if is_added and (token is None or not token < n_tokens):
            yield f"texts are to get a token of {name.upper()} ({_OWN}.add_{name}_token), but the vocabulary has none"


def _added(header: GgufHeader, model: str) -> dict[str, bool]:
    """Whether llama.cpp adds bos and eos to a text, by the file or by default."""
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
