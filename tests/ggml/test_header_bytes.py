"""Compare our header bytes with the gguf package's GGUFWriter, for any metadata and tensors."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pa_lite.ggml.container import gguf_header_bytes, read_gguf_header
from pa_lite.ggml.gguf_tables import ALIGNMENT
from pa_lite.ggml.kernels import TYPE_IDS, TensorType, tensor_type
from pa_lite.ggml.metadata import Field, Metadata, array, boolean, string
from pa_lite.ggml.packed import PackedNumbers, pack_texts
from tests.support.ggufs import write_gguf_header

Tensors = dict[str, tuple[TensorType, tuple[int, ...]]]

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
NUMBERS: dict[str, st.SearchStrategy[Any]] = {
    **{f"UINT{bits}": st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    "FLOAT32": st.floats(width=32),
    "FLOAT64": st.floats(),
    "BOOL": st.booleans(),
}
VALUES = {**NUMBERS, "STRING": TEXTS}
SCALAR_FIELDS = st.one_of([st.builds(Field, st.just(name), values) for name, values in VALUES.items()])
# GGUFWriter refuses an array without items
ARRAY_FIELDS = st.one_of(
    [st.builds(array, st.just(name), st.lists(values, min_size=1, max_size=5)) for name, values in VALUES.items()]
)
KEYS = TEXTS.filter(lambda key: key and key not in ("general.architecture", "general.alignment"))
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)
TENSORS = st.tuples(st.sampled_from(list(TYPE_IDS)).map(tensor_type), SHAPES).map(
    lambda pair: (pair[0], (*pair[1][:-1], pair[1][-1] * pair[0].block))
)


def writers_bytes(folder: Path, architecture: str, metadata: Metadata, tensors: Tensors) -> bytes:
    """Return the header as GGUFWriter writes it; it only pads the header when it writes the first tensor."""
    writer = gguf.GGUFWriter(folder / "theirs.gguf", architecture)
    for key, entry in metadata.items():
        item = None if entry.item is None else gguf.GGUFValueType[entry.item]
        value = list(entry.value) if entry.type == "ARRAY" else entry.value
        writer.add_key_value(key, value, gguf.GGUFValueType[entry.type], item)
    for name, (held, shape) in tensors.items():
        size = held.nbytes(int(np.prod(shape)))
        writer.add_tensor_info(name, shape, np.dtype(np.float32), size, gguf.GGMLQuantizationType[held.name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    raw = (folder / "theirs.gguf").read_bytes()
    return raw + bytes(-len(raw) % ALIGNMENT)


EVERY_TYPE: Metadata = {
    **{f"number.{name}": Field(name, 1) for name in NUMBERS if name != "BOOL"},
    "text.größe": string("日本\0 𝄞"),
    "no text": string(""),
    "flags": array("BOOL", [True, False]),
    "texts": array("STRING", ["", "é", "\n"]),
    "on": boolean(True),
}


@given(TEXTS.filter(bool), st.dictionaries(KEYS, SCALAR_FIELDS | ARRAY_FIELDS, max_size=6),
       st.dictionaries(TEXTS, TENSORS, max_size=5))  # fmt: skip
@example("llama", EVERY_TYPE, {f"{name}.weight": (tensor_type(name), (2, 256)) for name in TYPE_IDS})
@example("é", {}, {})
@settings(max_examples=300, deadline=None)
def test_header_bytes_equal_gguf_writers(architecture: str, metadata: Metadata, tensors: Tensors) -> None:
    with tempfile.TemporaryDirectory() as folder:
        theirs = writers_bytes(Path(folder), architecture, metadata, tensors)
    assert gguf_header_bytes(architecture, metadata, tensors)[0] == theirs


def test_packed_arrays_are_written_like_lists(tmp_path: Path) -> None:
    """Vocabularies of 1024 items or more are packed when they are read."""
    texts = [f"tök{i}" for i in range(2000)]
    packed = pack_texts(text.encode() for text in texts)
    scores = PackedNumbers(np.arange(2000, dtype=np.float32))
    metadata: Metadata = {"texts": array("STRING", packed), "scores": array("FLOAT32", scores)}
    theirs = writers_bytes(tmp_path, "llama", metadata, {})
    assert gguf_header_bytes("llama", metadata, {})[0] == theirs
    lists: Metadata = {"texts": array("STRING", texts), "scores": array("FLOAT32", list(scores))}
    assert gguf_header_bytes("llama", lists, {})[0] == theirs
    (tmp_path / "theirs.gguf").write_bytes(theirs)
    read = read_gguf_header(tmp_path / "theirs.gguf").metadata
    assert read["texts"].value == texts
    assert read["scores"].value == list(scores)


@pytest.mark.parametrize("empty", [array("STRING", []), array("FLOAT32", [])])
def test_values_that_gguf_writer_drops_or_refuses_are_kept(tmp_path: Path, empty: Field) -> None:
    with pytest.raises(ValueError, match="Empty array"):
        writers_bytes(tmp_path, "llama", {"a.list": empty}, {})
    kept: Mapping[str, Field] = {"a.text": string(""), "a.list": empty}
    write_gguf_header(tmp_path / "ours.gguf", "llama", dict(kept), {})
    assert {k: e for k, e in read_gguf_header(tmp_path / "ours.gguf").metadata.items() if k in kept} == kept
