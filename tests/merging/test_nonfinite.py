"""NaN, infinities and values too large are rejected with their position, or kept as numpy rounds them and counted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import pa_lite
from pa_lite.checkpoints import open_checkpoint
from pa_lite.engine.in_memory import InMemoryModel
from pa_lite.errors import CheckpointError, PaLiteError
from pa_lite.ggml.container import read_gguf_header
from pa_lite.ggml.imatrix import read_imatrix
from pa_lite.ggml.kernels import from_float32, prepare, tensor_type, to_float32
from pa_lite.ggml.quant_types import TENSOR_TYPES
from pa_lite.merging.diff import diff_checkpoints
from pa_lite.merging.nonfinite import Nonfinite, check_quantised, check_values
from pa_lite.merging.plan import PlanOptions, plan_merge
from pa_lite.merging.write import MergeOptions
from tests.merging.test_stream import twin
from tests.support import tiny

Values = npt.NDArray[np.float32]
UP = "model.layers.1.mlp.up_proj.weight"
# types whose tables are quick to compute
BLOCKS = [name for name in TENSOR_TYPES if tensor_type(name).block > 1 and not name.startswith(("IQ1", "IQ2_S"))]
NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a tiny checkpoint in float32 with one value changed."""

    def made(value: float | None = None, name: str = "m", tensor: str = UP) -> Path:
        arrays = tiny.weights(1)
        if value is not None:
            arrays[tensor][(3, 5)[-arrays[tensor].ndim :]] = value
        return tiny.write_checkpoint(tmp_path / name, arrays, "F32")

    return made


@pytest.mark.parametrize("kind", ["F32", "BF16", "F16", "Q8_0", "Q4_K_M", "IQ4_NL"])
@pytest.mark.parametrize("value", [NAN, -INFINITY])
def test_non_finite_weights_are_rejected(tmp_path: Path, write: Callable[..., Path], kind: str, value: float) -> None:
    folder = write(value)
    message = rf"blk.1.ffn_up.weight at lam 0.5 is not finite \({value}\) at row 3, column 5: .*--allow"
    with pytest.raises(CheckpointError, match=message):
        pa_lite.merge(folder, folder, (0.5,), plan=PlanOptions(type=kind), output=tmp_path / "x.gguf")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("F16", 1e6, r"is 1e\+06 at row 3, column 5, which F16 cannot hold. Use --type BF16 or F32"),
        ("BF16", 3.4e38, r"is 3.4e\+38 at row 3, column 5, which BF16 cannot hold. Use --type F32"),
        (
            "Q8_0",
            9e6,
            r"too large for the scales of Q8_0. Use another type for it \(--tensor-type blk.1.ffn_up.we",
        ),
        ("Q8_0", -1e9, r"is -1e\+09 at row 3, column 5, which Q8_0 cannot hold. Use another type for it"),
        ("Q4_0", 600000, "too large for the scales of Q4_0"),
        ("IQ4_NL", 3e38, "which IQ4_NL cannot hold"),
    ],
)
def test_finite_values_that_the_type_cannot_hold_are_rejected(
    tmp_path: Path, write: Callable[..., Path], kind: str, value: float, message: str
) -> None:
    folder = write(value)
    with pytest.raises(CheckpointError, match=message):
        pa_lite.merge(folder, folder, (1.0,), plan=PlanOptions(type=kind), output=tmp_path / "x.gguf")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    pa_lite.merge(folder, folder, (1.0,), plan=PlanOptions(type="F32"), output=tmp_path / "x.gguf")


def test_tensor_type_keeps_non_finite_values_in_a_quantised_output(tmp_path: Path, write: Callable[..., Path]) -> None:
    plan = PlanOptions(type="Q8_0", tensor_types=(("blk.1.ffn_up.weight", "BF16"),), allow_nonfinite=True)
    (file,) = pa_lite.merge(write(NAN), write(NAN), (0.5,), plan=plan, output=tmp_path / "x.gguf")
    header = read_gguf_header(file)
    assert header.tensors["blk.1.ffn_up.weight"].type.name == "BF16"
    assert header.tensors["blk.0.ffn_up.weight"].type.name == "Q8_0"


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K_M", "IQ4_NL"])
def test_quantised_types_reject_non_finite_values_even_if_allowed(
    tmp_path: Path, write: Callable[..., Path], kind: str
) -> None:
    plan = PlanOptions(type=kind, allow_nonfinite=True)
    with pytest.raises(CheckpointError, match=r"not finite.*--tensor-type blk.1.ffn_up.weight=BF16 --allow-non"):
        pa_lite.merge(write(INFINITY), write(INFINITY), (0.5,), plan=plan, output=tmp_path / "x.gguf")
    # a norm stays float32 in a quantised model, and holds it
    norm = "model.layers.0.input_layernorm.weight"
    pa_lite.merge(write(NAN, "n", norm), write(NAN, "n", norm), (0.5,), plan=plan, output=tmp_path / "x.gguf")


SPECIAL = st.sampled_from([NAN, INFINITY, -INFINITY, 65504.0, 65519.0, 65520.0, -1e5, 3.39e38, 3.4e38, -3.4e38, 0.0])
SPOTS = st.lists(st.tuples(st.integers(0, 319), st.integers(0, 63), SPECIAL, SPECIAL), min_size=1, max_size=6)


def rounded(values: Values, kind: str) -> Values:
    """Return the values rounded to the type, computed by numpy."""
    with np.errstate(over="ignore"):
        if kind == "F16":
            return values.astype(np.float16).astype(np.float32)
    if kind == "BF16":
        found = tiny.stored({"a": values}, "BF16")["a"]
        return np.where(np.isnan(values), values, found).astype(np.float32)
    return values


@settings(max_examples=12, deadline=None)
@given(spots=SPOTS, kind=st.sampled_from(["F32", "F16", "BF16"]), lam=st.sampled_from([0.0, 0.3, 1.0, 1.5]))
def test_allowed_values_are_what_numpy_computes(
    tmp_path_factory: pytest.TempPathFactory, spots: list[tuple[int, int, float, float]], kind: str, lam: float
) -> None:
    folder = tmp_path_factory.mktemp("allowed")
    base, instruct = tiny.weights(1), tiny.weights(2, near=tiny.weights(1))
    name = "model.embed_tokens.weight"
    for row, column, left, right in spots:
        base[name][row, column], instruct[name][row, column] = left, right
    sides = tiny.write_checkpoint(folder / "b", base, "F32"), tiny.write_checkpoint(folder / "i", instruct, "F32")
    plan = PlanOptions(type=kind, allow_nonfinite=True)
    options = MergeOptions(verify=True, extrapolate=True)
    (file,) = pa_lite.merge(*sides, (lam,), plan=plan, output=folder / "x.gguf", options=options)
    with np.errstate(all="ignore"):
        expected = rounded(twin(base[name], instruct[name], lam, name), kind)
    tensor = next(t for t in gguf.GGUFReader(file).tensors if t.name == "token_embd.weight")
    found = np.empty(expected.size, np.float32)
    to_float32(tensor_type(kind), np.frombuffer(tensor.data.tobytes(), np.uint8), found)
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)  # NaN equals NaN here
    assert read_gguf_header(file).metadata["pa_lite.allow_nonfinite"].value is True
    strict = PlanOptions(type=kind)
    if np.isfinite(expected).all():
        pa_lite.merge(*sides, (lam,), plan=strict, output=folder / "y.gguf", options=options)
        assert "pa_lite.allow_nonfinite" not in read_gguf_header(folder / "y.gguf").metadata
    else:
        with pytest.raises(CheckpointError, match=r"token_embd.weight at lam .* is .* at row"):
            pa_lite.merge(*sides, (lam,), plan=strict, output=folder / "y.gguf", options=options)


def test_kept_non_finite_values_are_reported(
    tmp_path: Path, write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    plan = PlanOptions(type="F16", allow_nonfinite=True)
    with caplog.at_level(logging.WARNING):
        pa_lite.merge(write(NAN, "b"), write(1e6, "i"), (0.0, 0.5, 1.0), plan=plan, output=tmp_path)
    assert [r.getMessage() for r in caplog.records] == [
        f"i-pa{lam}-F16.gguf: kept 1 non-finite value: 1 in blk.1.ffn_up.weight" for lam in ("0.00", "0.50", "1.00")
    ]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        pa_lite.merge(write(), write(1e6, "i"), (0.0,), plan=plan, output=tmp_path / "x.gguf")
        loaded = plan_merge(open_checkpoint(write(NAN, "b")), open_checkpoint(write()), plan)
        InMemoryModel(loaded, 0.5).close()
    assert [r.getMessage() for r in caplog.records] == ["lam 0.5: kept 1 non-finite value: 1 in blk.1.ffn_up.weight"]


def test_models_merged_in_memory_reject_non_finite_values(write: Callable[..., Path]) -> None:
    plan = plan_merge(open_checkpoint(write(NAN, "b")), open_checkpoint(write()), PlanOptions(type="F16"))
    with pytest.raises(CheckpointError, match=r"is not finite \(nan\) at row 3"):
        InMemoryModel(plan, 0.5)


def test_a_quantised_gguf_with_a_broken_scale_is_rejected(tmp_path: Path, tiny_ggufs: dict[str, Path]) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(tiny_ggufs["Q8_0"].read_bytes())
    tensor = read_gguf_header(file).tensors["blk.0.ffn_gate.weight"]
    with file.open("r+b") as f:
        f.seek(tensor.offset + 34 * 2)  # row 1's first block of two: its scale
        f.write(np.float16(np.nan).tobytes())
    for kind in ("Q8_0", "F16"):
        with pytest.raises(
            CheckpointError, match=r"blk.0.ffn_gate.weight at lam 1 is not finite \(nan\) at row 1, col"
        ):
            pa_lite.merge(file, file, (1.0,), plan=PlanOptions(type=kind), output=tmp_path / "x.gguf")
    plan = PlanOptions(type="F16", allow_nonfinite=True)
    pa_lite.merge(file, file, (1.0,), plan=plan, output=tmp_path / "x.gguf")
    held = next(t for t in gguf.GGUFReader(tmp_path / "x.gguf").tensors if t.name == tensor.name)
    assert int(np.isnan(held.data).sum()) == 32


QUANTISED = hnp.arrays(
    np.float32, (1, 256), elements=st.one_of(st.floats(-3, 3, width=32), st.floats(-1e7, 1e7, width=32), st.just(0.0))
)


@settings(max_examples=60, deadline=None)
@given(values=QUANTISED, kind=st.sampled_from(BLOCKS), weight=st.sampled_from([1e-30, 1.0, 1e15]))
def test_quantisers_do_not_crash_on_values_that_pass_the_check(values: Values, kind: str, weight: float) -> None:
    """Beyond these limits some of ggml's quantisers abort; values that decode to infinity are rejected."""
    held = tensor_type(kind)
    prepare(held)
    try:
        is_doubtful = check_values("t", held, 1.0, values, 0, None)
    except CheckpointError:
        assert np.abs(values).max() >= 1e7
        return
    encoded, spare = np.zeros(held.nbytes(256), np.uint8), np.zeros(256, np.float32)
    from_float32(held, values, encoded, np.full(256, weight, np.float32))
    to_float32(held, encoded, spare)
    if is_doubtful and not np.isfinite(spare).all():
        with pytest.raises(CheckpointError, match="too large for the scales"):
            check_quantised("t", held, 1.0, encoded, spare)
    else:
        assert np.isfinite(spare).all()


def test_importances_that_would_overflow_are_rejected(tmp_path: Path) -> None:
    file = tmp_path / "imatrix.dat"
    entry = b"a.w"
    values = np.array([1.0, 1e16], np.float32)
    file.write_bytes(
        (1).to_bytes(4, "little") + len(entry).to_bytes(4, "little") + entry + (1).to_bytes(4, "little")
        + len(values).to_bytes(4, "little") + values.tobytes()
    )  # fmt: skip
    with pytest.raises(PaLiteError, match=r"the importance of a.w has values above 1e\+15"):
        read_imatrix(file)


def test_counts_name_the_worst_tensors_first() -> None:
    found = Nonfinite()
    assert found.summary() == ""
    for i in range(12):
        found.add(f"t{i:02d}", 1)
    found.add("t07", 4)
    summary = found.summary()
    assert summary.startswith("kept 16 non-finite values: 5 in t07, 1 in t00, 1 in t01")
    assert summary.endswith("1 in t09, ...")


def test_diff_rejects_non_finite_values(tmp_path: Path, write: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match=r"blk.1.ffn_up.weight has non-finite values in base or instruct"):
        diff_checkpoints(write(NAN, "b"), write())
    found = diff_checkpoints(write(1e20, "b"), write())  # its square is beyond float32
    assert found.tensors["blk.1.ffn_up.weight"].relative_norm == pytest.approx(1.0)
