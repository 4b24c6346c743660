"""Importance matrices: reading, refusing broken files, and use as in llama-quantize."""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pa_lite.errors import CheckpointError, InputError, MismatchError
from pa_lite.ggml.imatrix import assign_importance, read_imatrix
from pa_lite.ggml.kernels import FloatArray, TensorType, from_float32, tensor_type
from pa_lite.ggml.quant_types import ModelShape, choose_types
from tests.ggml.test_quant_types import llama_quantize, random_arrays, tensor_shapes, types_of, write_model

Sums = Mapping[str, tuple[FloatArray, list[float]]]
RNG = np.random.default_rng(6)
SUMS: Sums = {
    "blk.0.attn_q.weight": (RNG.random(8, np.float32) * 100, [7.0]),
    "blk.0.ffn_up_exps.weight": (RNG.random(12, np.float32) * 100, [3.0, 0.0, 2.5]),
}


def write_gguf(path: Path, sums: Sums = SUMS, kind: str = "imatrix", keys: int = 3, suffix: str = ".counts") -> Path:
    """Write an imatrix as llama-imatrix does: sums [experts, columns] and counts [experts, 1]."""
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].clear()  # its key general.architecture, which an imatrix has not
    writer.add_string("general.type", kind)
    if keys:
        writer.add_array("imatrix.datasets", ["text.txt"])
    for key in ("imatrix.chunk_count", "imatrix.chunk_size")[: max(0, keys - 1)]:
        writer.add_uint32(key, 4)
    for name, (values, counts) in sums.items():
        shaped = values.reshape(len(counts), -1) if values.size % len(counts) == 0 else values
        writer.add_tensor(name + ".in_sum2", shaped)
        writer.add_tensor(name + suffix, np.array(counts, np.float32)[:, None])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def legacy(entries: list[tuple[bytes, int, FloatArray]], tail: bytes = b"") -> bytes:
    out = struct.pack("<i", len(entries))
    for name, calls, values in entries:
        out += struct.pack("<i", len(name)) + name + struct.pack("<ii", calls, values.size) + values.tobytes()
    return out + tail


TAIL = struct.pack("<ii", 4, 8) + b"text.txt"
ENTRIES = [(b"output.weight", 5, RNG.random(6, np.float32)), (b"blk.0.ffn_up.weight", 0, RNG.random(3, np.float32))]


def save(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_gguf_imatrix_is_sums_over_counts(tmp_path: Path) -> None:
    found = read_imatrix(write_gguf(tmp_path / "i.gguf"))
    assert list(found) == sorted(SUMS)
    values, _ = SUMS["blk.0.attn_q.weight"]
    np.testing.assert_array_equal(found["blk.0.attn_q.weight"], values / np.float32(7))
    values, _ = SUMS["blk.0.ffn_up_exps.weight"]
    expected = [values[:4] / np.float32(3), np.ones(4, np.float32), values[8:] / np.float32(3)]
    np.testing.assert_array_equal(found["blk.0.ffn_up_exps.weight"], np.concatenate(expected))
    assert all(v.dtype == np.float32 for v in found.values())


@pytest.mark.parametrize("tail", [b"", TAIL[:4], TAIL])
def test_a_legacy_imatrix_is_values_over_calls(tmp_path: Path, tail: bytes) -> None:
    found = read_imatrix(save(tmp_path / "i.dat", legacy(ENTRIES, tail)))
    assert list(found) == ["output.weight", "blk.0.ffn_up.weight"]
    np.testing.assert_array_equal(found["output.weight"], ENTRIES[0][2] / np.float32(5))
    np.testing.assert_array_equal(found["blk.0.ffn_up.weight"], ENTRIES[1][2])


ONES = np.ones(4, np.float32)
BROKEN_GGUF = [
    ({"kind": "model"}, r"is not an imatrix: its general\.type is 'model'"),
    ({"keys": 0}, r"is not an imatrix: the key imatrix\.datasets is missing"),
    ({"keys": 2}, r"is not an imatrix: the key imatrix\.chunk_size is missing"),
    ({"sums": {}}, r"is an imatrix without tensors"),
    ({"suffix": ".count"}, r"blk\.0\.attn_q\.weight has only sums or only counts"),
    ({"sums": {"a.weight": (ONES, [1.0, 1.0, 1.0])}}, r"a\.weight has 4 sums but 3 counts"),
    ({"sums": {"a.weight": (ONES, [np.inf])}}, r"a\.weight has counts that are not finite"),
    ({"sums": {"a.weight": (ONES.astype(np.float16), [1.0])}}, r"a\.weight\.in_sum2 is F16, not F32"),
    ({"sums": {"a.weight": (-ONES, [1.0])}}, r"the importance of a\.weight has values that are negative or not finite"),
    ({"sums": {"a.weight": (ONES * np.float32("nan"), [1.0])}}, r"the importance of a\.weight has values"),
]


@pytest.mark.parametrize(("settings", "message"), BROKEN_GGUF)
def test_broken_gguf_is_refused(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    path = write_gguf(tmp_path / "i.gguf", **settings)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=rf"i\.gguf: .*{message}"):
        read_imatrix(path)


BROKEN_LEGACY = [
    (b"\0", r"it names 4 bytes of the number of tensors at byte 0, but only 1 are left"),
    (struct.pack("<i", 0), r"it claims 0 tensors"),
    (struct.pack("<ii", 1, -3), r"it names -3 bytes of tensor 0's name"),
    (struct.pack("<ii", 1, 2**31 - 1), r"it names 2147483647 bytes of tensor 0's name at byte 8, but only 0 are left"),
    (legacy([(b"a", 1, ONES[:0])]), r"a claims 0 values"),
    (legacy([(b"a", 1, ONES)])[:-1], r"it names 16 bytes of a's values at byte 17, but only 15 are left"),
    (legacy([(b"a", 1, ONES), (b"a", 1, ONES)]), r"duplicate tensor a"),
    (legacy([(b"\xff", 1, ONES)]), r"the name of tensor 0 is not valid UTF-8"),
    (legacy([(b"a", 1, ONES * np.float32("inf"))]), r"the importance of a has values"),
    (legacy(ENTRIES, TAIL + b"more"), r"4 extra bytes at the end"),
    (legacy(ENTRIES, TAIL[:-1]), r"it names 8 bytes of the data set's name"),
]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "a git-lfs pointer"),
        (b"<html>", "an HTML page"),
        (b"", "an empty file"),
    ],
)
def test_a_file_that_is_not_an_imatrix_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "i.dat").write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"i\.dat: is not an importance matrix but {message}"):
        read_imatrix(tmp_path / "i.dat")


@pytest.mark.parametrize(("data", "message"), BROKEN_LEGACY)
def test_broken_legacy_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"i\.dat: broken imatrix file: {message}"):
        read_imatrix(save(tmp_path / "i.dat", data))


def test_a_missing_file_or_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.dat: does not exist"):
        read_imatrix(tmp_path / "none.dat")
    with pytest.raises(CheckpointError, match=r"cannot be read: is not a regular file"):
        read_imatrix(tmp_path)


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    whole = legacy(ENTRIES, TAIL)
    for n in set(range(len(whole))) - {len(whole) - len(TAIL), len(whole) - len(TAIL) + 4}:
        with pytest.raises(CheckpointError):
            read_imatrix(save(tmp_path / "i.dat", whole[:n]))
    whole = write_gguf(tmp_path / "i.gguf").read_bytes()
    last = len(whole) - 32 + 3 * 4  # the last counts; padding follows
    for n in range(0, last, 3):
        with pytest.raises(CheckpointError):
            read_imatrix(save(tmp_path / "cut.gguf", whole[:n]))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.booleans(), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_files_are_read_or_refused(tmp_path: Path, is_gguf: bool, changes: list[tuple[int, int]]) -> None:
    path = tmp_path / "whole"
    data = bytearray(write_gguf(path).read_bytes() if is_gguf else legacy(ENTRIES, TAIL))
    for at, value in changes:
        data[at % len(data)] = value
    try:
        found = read_imatrix(save(path, bytes(data)))
    except CheckpointError:
        return
    assert all(np.isfinite(values).all() for values in found.values())


def encoded(kind: TensorType, values: FloatArray, importance: FloatArray | None) -> bytes:
    """Return a matrix [rows, columns] as quantised by ggml with importance [columns]."""
    out = np.empty(kind.nbytes(values.size), np.uint8)
    from_float32(kind, values, out, importance)
    return out.tobytes()


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_L", "Q4_K_M", "Q5_K_S", "Q6_K",
                                  "IQ4_NL", "IQ4_XS", "F16"])  # fmt: skip
def test_bytes_equal_llama_quantizes(tmp_path: Path, kind: str) -> None:
    model = ModelShape(architecture="llama", n_layers=9, n_heads=4, n_kv_heads=4, n_experts=2)
    shapes = tensor_shapes(model, (256, 288, 512), True, False)
    arrays = random_arrays(7, shapes)
    sums: dict[str, tuple[FloatArray, list[float]]] = {}
    for name, shape in shapes.items():
        if len(shape) > 1 and "attn_k" not in name:
            experts = math.prod(shape[:-2])
            sums[name] = (np.square(RNG.standard_normal(experts * shape[-1], np.float32)), [4.0] * experts)
    sums["token_embd.weight"] = (ONES, [1.0])  # of another length, and so ignored
    imatrix = read_imatrix(write_gguf(tmp_path / "i.gguf", sums))
    source = write_model(tmp_path / "f32.gguf", model, arrays)
    theirs = llama_quantize(source, tmp_path / "out.gguf", kind, imatrix)
    types = choose_types(kind, model, shapes, has_imatrix=True)
    assert theirs is not None
    assert types_of(theirs) == {name: held.name for name, held in types.items()}
    importance = assign_importance(imatrix, types, shapes)
    assert ("blk.0.ffn_up_exps.weight" in importance) == (kind != "F16")
    assert "blk.0.attn_k.weight" not in importance
    raw = theirs.path.read_bytes()
    for name, held in types.items():
        values = arrays[name] if arrays[name].ndim > 1 else arrays[name][None]
        matrices = values.reshape(-1, *values.shape[-2:])
        weights = importance.get(name, [None] * len(matrices))
        ours = b"".join(encoded(held, m, w) for m, w in zip(matrices, weights, strict=True))
        placed = theirs.tensors[name]
        assert raw[placed.offset :][: placed.nbytes] == ours, name


SHAPES: dict[str, tuple[int, ...]] = {
    "token_embd.weight": (3, 256), "output_norm.weight": (256,), "blk.0.attn_v.weight": (2, 256),
    "blk.0.ffn_up.weight": (2, 256), "blk.0.ffn_down_exps.weight": (2, 2, 256),
}  # fmt: skip
MODEL = ModelShape(architecture="llama", n_layers=1, n_heads=4, n_kv_heads=4)


def everything() -> dict[str, FloatArray]:
    """Return an imatrix with an entry for each of these tensors."""
    return {name: np.ones(math.prod(shape[:-2]) * shape[-1], np.float32) for name, shape in SHAPES.items()}


def test_an_imatrix_of_another_model_is_refused(tmp_path: Path) -> None:
    source = write_model(tmp_path / "f32.gguf", MODEL, random_arrays(8, SHAPES))
    for kind in ("Q4_K_M", "F16"):
        types = choose_types(kind, MODEL, SHAPES, has_imatrix=True)
        for name in SHAPES:
            imatrix = {**everything(), name: np.ones(64, np.float32)}
            fits = name in ("token_embd.weight", "output_norm.weight")
            assert (llama_quantize(source, tmp_path / "out.gguf", kind, imatrix) is not None) == fits
            if fits:
                assert name not in assign_importance(imatrix, types, SHAPES)
                continue
            with pytest.raises(MismatchError, match=rf"the imatrix has 64 values for {name}, which has (256|512) col"):
                assign_importance(imatrix, types, SHAPES)


@pytest.mark.parametrize("kind", ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"])
def test_types_that_require_an_imatrix_are_refused_without_one(tmp_path: Path, kind: str) -> None:
    overrides = [("ffn_up", kind)]
    source = write_model(tmp_path / "f32.gguf", MODEL, random_arrays(9, SHAPES))
    types = choose_types("Q4_0", MODEL, SHAPES, True, overrides)
    assert llama_quantize(source, tmp_path / "out.gguf", "Q4_0", everything(), overrides) is not None
    assert "blk.0.ffn_up.weight" in assign_importance(everything(), types, SHAPES)
    partial = {"blk.0.attn_v.weight": np.ones(256, np.float32)}
    for imatrix in (partial, {}):
        assert llama_quantize(source, tmp_path / "out.gguf", "Q4_0", imatrix, overrides) is None
        with pytest.raises(InputError, match=rf"blk\.0\.ffn_up\.weight: type {kind} requires an imatrix"):
            assign_importance(imatrix, types, SHAPES)


def test_embeddings_need_no_importance_unless_ggml_would_abort(tmp_path: Path) -> None:
    source = write_model(tmp_path / "f32.gguf", MODEL, random_arrays(9, SHAPES))
    for kind in ("IQ2_S", "IQ3_XXS"):
        assert llama_quantize(source, tmp_path / "out.gguf", "Q4_0", None, [("token_embd", kind)]) is not None
        assert not assign_importance({}, {"token_embd.weight": tensor_type(kind)}, SHAPES)
    for kind in ("IQ1_S", "IQ2_XXS", "IQ2_XS"):
        with pytest.raises(InputError, match=rf"token_embd\.weight: type {kind} requires an imatrix"):
            assign_importance({}, {"token_embd.weight": tensor_type(kind)}, SHAPES)


def test_tensors_missing_from_the_imatrix_are_counted_in_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    types = choose_types("Q4_K_M", MODEL, SHAPES, has_imatrix=True)
    with caplog.at_level(logging.WARNING):
        assign_importance({}, types, SHAPES)
        assert not caplog.messages
        assign_importance({"blk.0.attn_v.weight": np.ones(256, np.float32)}, types, SHAPES)
    assert caplog.messages == ["2 quantised tensors are not in the imatrix, first blk.0.ffn_down_exps.weight"]


def test_an_imatrix_of_a_deeper_model_gives_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    types = choose_types("Q4_K_M", MODEL, SHAPES, has_imatrix=True)
    with caplog.at_level(logging.WARNING):
        assign_importance({**everything(), "output.weight": np.ones(256, np.float32)}, types, SHAPES)
        assert not caplog.messages
        assign_importance({**everything(), "blk.9.attn_v.weight": np.ones(256, np.float32)}, types, SHAPES)
    assert caplog.messages == ["1 tensors of the imatrix are not in the model, first blk.9.attn_v.weight"]


@pytest.mark.filterwarnings("error")
def test_a_signalling_nan_is_an_error_without_numpy_warnings(tmp_path: Path) -> None:
    data = legacy([(b"a", 3, ONES)]).replace(ONES.astype("<f4").tobytes()[:4], struct.pack("<I", 0x7F800001), 1)
    with pytest.raises(CheckpointError, match="the importance of a has values that are negative or not finite"):
        read_imatrix(save(tmp_path / "i.dat", data))
