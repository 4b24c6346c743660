"""Mutator for GGUF files, by structure: read them leniently, change values, write them again.

Pure: bytes and a random source in, bytes out. Callers need only `mutate`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from random import Random

from pa_lite.ggml.kernels import TYPE_NAMES
from tools.fuzz.gguf_parts import (
    ARRAY,
    TEXT,
    WIDTHS,
    Array,
    Entry,
    GgufFile,
    Info,
    Scalar,
    Text,
    Value,
    parse,
    repair,
    serialise,
)

NUMBERS = (
    0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 33, 63, 64, 100, 127, 128, 255, 256, 257, 511, 512, 513, 1023, 1024, 4096,
    65535, 65536, 2**20, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**33, 2**40, 2**48, 2**53, 2**59, 2**60,
    2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1,
)  # fmt: skip
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-6, 0.5, 1e4, 1e6, 3.4e38, math.inf, -math.inf, math.nan)
TEXTS = (
    b"", b" ", b"\0", b"a\0b", b"\n", b"\x1b[31m", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"a" * 63,
    b"a" * 64, b"a" * 300, b"..", b"../x", b"/dev/null", b"\xe2\x96\x81", b"<0x00>", b"<0xFF>", b"<unk>", b"<|im_end|>",
    b"llama", b"gpt2", b"bert", b"none", b"rwkv", b"t5", b"default", b"qwen2", b"gemma2", b"mamba", b"clip", b"phi3",
    b"model", b"adapter", b"imatrix", b"linear", b"yarn", b"longrope", b"{{ messages }}", b"{% for", b"%s%n",
)  # fmt: skip
_HYPER = (
    b"block_count", b"context_length", b"embedding_length", b"feed_forward_length", b"attention.head_count",
    b"attention.head_count_kv", b"attention.key_length", b"attention.value_length", b"attention.sliding_window",
    b"attention.layer_norm_rms_epsilon", b"attention.layer_norm_epsilon", b"attention.group_norm_groups",
    b"rope.dimension_count", b"rope.freq_base", b"rope.scaling.type", b"rope.scaling.factor",
    b"rope.dimension_sections", b"rope.scaling.original_context_length", b"expert_count", b"expert_used_count",
    b"expert_shared_count", b"expert_group_count", b"leading_dense_block_count", b"vocab_size", b"logit_scale",
    b"pooling_type", b"attention.causal", b"attention.max_alibi_bias", b"attention.clamp_kqv", b"ssm.conv_kernel",
    b"ssm.state_size",
)  # fmt: skip
_KEYS = (
    b"general.architecture", b"general.type", b"general.name", b"general.alignment", b"general.file_type", b"split.no",
    b"split.count", b"split.tensors.count", *(b"tokenizer.ggml." + k for k in (
        b"model", b"pre", b"tokens", b"token_type", b"scores", b"merges", b"bos_token_id", b"eos_token_id",
        b"eot_token_id", b"eom_token_id", b"unknown_token_id", b"padding_token_id", b"add_bos_token",
        b"add_space_prefix", b"remove_extra_whitespaces", b"precompiled_charsmap", b"token_type_count",
        b"fim_pre_token_id")),
    b"tokenizer.chat_template", b"tokenizer.chat_template.x", b"tokenizer.chat_templates",
    b"tokenizer.huggingface.json",
)  # fmt: skip


def _number(random: Random, bits: int = 64) -> int:
    value = random.choice(NUMBERS) if random.random() < 0.8 else random.getrandbits(bits)
    return value % (1 << bits)


def some_text(random: Random, raw: bytes = b"") -> bytes:
    """Return another text, or the given one with a change."""
    choice = random.randrange(6)
    at = random.randrange(len(raw) + 1)
    if choice == 0 and raw:
        return raw[:at] + raw[at + 1 :]
    if choice == 1:
        return raw[:at] + random.choice(TEXTS) + raw[at:]
    if choice == 2 and raw:
        return raw[:at] + bytes([random.randrange(256)]) + raw[at + 1 :]
    if choice == 3 and raw:
        return raw * random.choice((2, 3, 9))
    return random.choice(TEXTS)


def _scalar(random: Random, kind: int) -> Scalar:
    if kind in (6, 12):
        return Scalar(kind, struct.pack("<f" if kind == 6 else "<d", random.choice(_FLOATS)))
    width = WIDTHS[kind]
    return Scalar(kind, _number(random, 8 * width).to_bytes(width, "little"))


def _any_value(random: Random, depth: int = 0) -> Value:
    kind = random.choice((4, 4, 5, 6, 7, 8, 8, 9, 10, 11, 12, 0, 1, 2, 3))
    if kind in WIDTHS:
        return _scalar(random, kind)
    if kind == TEXT or depth > 3:
        return Text(some_text(random))
    inner = _any_value(random, depth + 1)
    n = random.choice((0, 1, 2, 3, 40))
    return Array(inner.kind, raw=inner.raw * n) if isinstance(inner, Scalar) else Array(inner.kind, [inner] * n)


def _mutate_array(array: Array, random: Random) -> None:
    choice = random.randrange(8)
    if choice == 0:
        array.claim = _number(random)
    elif choice == 1:
        array.item = random.choice((*range(14), _number(random, 32)))
    elif choice == 2:
        n = random.randrange(len(array.items) + 1)
        array.items, array.raw = array.items[:n], array.raw[: random.randrange(len(array.raw) + 1)]
    elif choice == 3:
        inner = Array(array.item, array.items, array.raw, array.claim)
        array.item, array.items, array.raw, array.claim = ARRAY, [inner] * random.choice((1, 1, 2)), b"", None
    elif choice == 4 and array.items:
        i = random.randrange(len(array.items))
        array.items[i] = random.choice(array.items)
    elif array.items:
        i = random.randrange(len(array.items))
        array.items[i] = _mutated(array.items[i], random)
    elif len(array.raw) >= WIDTHS.get(array.item, 1 << 64):
        width = WIDTHS[array.item]
        at = random.randrange(len(array.raw) // width) * width
        array.raw = array.raw[:at] + _scalar(random, array.item).raw + array.raw[at + width :]


def _mutated(value: Value, random: Random) -> Value:
    if isinstance(value, Scalar):
        return _scalar(random, value.kind if random.random() < 0.7 else random.choice((*WIDTHS,)))
    if isinstance(value, Text):
        return Text(value.raw, _number(random)) if random.random() < 0.1 else Text(some_text(random, value.raw))
    _mutate_array(value, random)
    return value


def _change_value(file: GgufFile, random: Random) -> None:
    entry = random.choice(file.entries)
    entry.value = _mutated(entry.value, random)


def _replace_value(file: GgufFile, random: Random) -> None:
    entry = random.choice(file.entries)
    entry.value = random.choice(file.entries).value if random.random() < 0.3 else _any_value(random)


def _change_kind(file: GgufFile, random: Random) -> None:
    random.choice(file.entries).kind = random.choice((*range(14), 2**31, 2**32 - 1))


def _change_key(file: GgufFile, random: Random) -> None:
    entry = random.choice(file.entries)
    raw = random.choice((*_KEYS, some_text(random, entry.key.raw), random.choice(file.entries).key.raw))
    entry.key = Text(raw, _number(random) if random.random() < 0.05 else None)


def _add_entry(file: GgufFile, random: Random) -> None:
    own = next(
        (e.value.raw for e in file.entries if e.key.raw == b"general.architecture" and e.value.kind == TEXT), b""
    )
    key = own + b"." + random.choice(_HYPER) if random.random() < 0.6 else random.choice(_KEYS)
    kept = [e for e in file.entries if e.key.raw != key or random.random() < 0.1]
    kept.insert(random.randrange(len(kept) + 1), Entry(Text(key), _any_value(random)))
    file.entries = kept


def _drop_entry(file: GgufFile, random: Random) -> None:
    del file.entries[random.randrange(len(file.entries))]


def _move_entry(file: GgufFile, random: Random) -> None:
    entry = random.choice(file.entries)
    if random.random() < 0.7:
        file.entries.remove(entry)
    file.entries.insert(random.randrange(len(file.entries) + 1), entry)


def _set_alignment(file: GgufFile, random: Random) -> None:
    file.entries = [e for e in file.entries if e.key.raw != b"general.alignment"]
    value = Scalar(4, random.choice((1, 4, 8, 16, 32, 33, 64, 4096, 2**31, 0)).to_bytes(4, "little"))
    file.entries.append(Entry(Text(b"general.alignment"), value))


def _change_dimensions(file: GgufFile, random: Random) -> None:
    info = random.choice(file.infos)
    choice = random.randrange(6)
    if choice == 0:
        info.claim = random.choice((0, 1, 2, 3, 4, 5, 8, 16, 2**31, 2**32 - 1))
    elif choice == 1:
        info.dimensions.append(random.choice((1, 1, 2, 2**32)))
    elif choice == 2 and info.dimensions:
        info.dimensions.pop()
    elif choice == 3:
        random.shuffle(info.dimensions)
    elif info.dimensions:
        i = random.randrange(len(info.dimensions))
        near = info.dimensions[i] + random.choice((-1, 1, -32, 32, info.dimensions[i]))
        info.dimensions[i] = max(0, near) % 2**64 if random.random() < 0.5 else _number(random)


def _change_type(file: GgufFile, random: Random) -> None:
    random.choice(file.infos).type = random.choice((*TYPE_NAMES, 4, 5, 31, 32, 33, 36, 40, 255, 2**32 - 1))


def _change_offset(file: GgufFile, random: Random) -> None:
    info = random.choice(file.infos)
    others = (random.choice(file.infos).offset, info.offset + 32, info.offset + 1, _number(random))
    info.offset = random.choice(others) % 2**64


def _change_name(file: GgufFile, random: Random) -> None:
    info = random.choice(file.infos)
    raw = random.choice((some_text(random, info.name.raw), random.choice(file.infos).name.raw, info.name.raw + b".x"))
    info.name = Text(raw, _number(random) if random.random() < 0.05 else None)


def _drop_info(file: GgufFile, random: Random) -> None:
    del file.infos[random.randrange(len(file.infos))]


def _move_info(file: GgufFile, random: Random) -> None:
    info = random.choice(file.infos)
    if random.random() < 0.7:
        file.infos.remove(info)
    copied = Info(info.name, list(info.dimensions), info.type, info.offset)
    file.infos.insert(random.randrange(len(file.infos) + 1), copied)


def _change_head(file: GgufFile, random: Random) -> None:
    choice = random.randrange(4)
    if choice == 0:
        file.version = random.choice((0, 1, 2, 4, 3 << 24, 2**32 - 1))
    elif choice == 1:
        file.n_tensors = random.choice((len(file.infos) + 1, max(0, len(file.infos) - 1), _number(random)))
    elif choice == 2:
        file.n_entries = random.choice((len(file.entries) + 1, max(0, len(file.entries) - 1), _number(random)))
    else:
        file.magic = random.choice((b"GGUF", b"FUGG", b"GGML", b"ggjt", bytes(4)))


def _change_data(file: GgufFile, random: Random) -> None:
    at = random.randrange(len(file.data) + 1)
    some = random.choice((b"", b"\0", b"\xff" * 4, struct.pack("<f", random.choice(_FLOATS)), bytes(64)))
    file.data = file.data[:at] + some + file.data[at + random.choice((0, len(some), len(file.data))) :]


_OF_ENTRIES: tuple[Callable[[GgufFile, Random], None], ...] = (
    _change_value, _change_value, _change_value, _replace_value, _change_kind, _change_key, _drop_entry, _move_entry,
)  # fmt: skip
_OF_INFOS: tuple[Callable[[GgufFile, Random], None], ...] = (
    _change_dimensions, _change_dimensions, _change_type, _change_offset, _change_name, _drop_info, _move_info,
)  # fmt: skip
_OF_ALL: tuple[Callable[[GgufFile, Random], None], ...] = (
    _add_entry,
    _add_entry,
    _set_alignment,
    _change_head,
    _change_data,
)


def damage(data: bytes, random: Random) -> bytes:
    """Return the bytes with one change that ignores their format: cut, repeated, flipped, or replaced by a number."""
    at, n = random.randrange(len(data) + 1), random.choice((1, 2, 4, 8, 16, 64))
    choice = random.randrange(6)
    if choice == 0:
        return data[:at]
    if choice == 1:
        return data[:at] + data[at + n :]
    if choice == 2:
        return data[: at + n] + data[at:]
    if choice == 3 and data:
        at %= len(data)
        return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
    width = random.choice((1, 2, 4, 8))
    return data[:at] + _number(random, 8 * width).to_bytes(width, "little") + data[at + width :]


def mutate(data: bytes, random: Random, n: int | None = None) -> bytes:
    """Return a GGUF file that differs from `data` in `n` values (default: one to four); half of the files are repaired.

    A repaired file has consistent offsets and enough data, so that readers reach the change.
    """
    changes = random.choice((1, 1, 2, 4)) if n is None else n
    if random.random() < 0.15:
        for _ in range(changes):
            data = damage(data, random)
        return data
    file = parse(data)
    for _ in range(changes):
        pool = _OF_ALL + _OF_ENTRIES * bool(file.entries) + _OF_INFOS * bool(file.infos)
        random.choice(pool)(file, random)
    if random.random() < 0.5:
        repair(file)
    return serialise(file)
