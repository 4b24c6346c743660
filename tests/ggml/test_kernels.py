from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pa_lite.errors import InputError
from pa_lite.ggml.kernels import TYPE_IDS, from_float32, tensor_type, to_float32

FINITE = st.floats(-60000, 60000, width=32)


def encode(name: str, values: np.ndarray) -> np.ndarray:
    kind = tensor_type(name)
    out = np.empty(kind.nbytes(values.size), np.uint8)
    from_float32(kind, values, out)
    return out


def decode(name: str, raw: np.ndarray, n: int) -> np.ndarray:
    out = np.empty(n, np.float32)
    to_float32(tensor_type(name), raw, out)
    return out


def test_type_table_equals_ggmls() -> None:
    for name, number in TYPE_IDS.items():
        assert gguf.GGMLQuantizationType[name] == number
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
        assert (tensor_type(name).block, tensor_type(name).size) == (block, size)


def test_an_unknown_type_gets_a_suggestion() -> None:
    with pytest.raises(InputError, match="Q4_K"):
        tensor_type("Q4_k")


@given(hnp.arrays(np.float32, (3, 32), elements=FINITE))
def test_float_conversions_equal_numpys(values: np.ndarray) -> None:
    np.testing.assert_array_equal(encode("F16", values).view(np.float16).reshape(3, 32), values.astype(np.float16))
    bits = values.view(np.uint32)
    nearest_even = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(encode("BF16", values).view(np.uint16).reshape(3, 32), nearest_even)
    np.testing.assert_array_equal(decode("F32", encode("F32", values), 96), values.reshape(-1))


@given(hnp.arrays(np.uint16, 64))
def test_widening_to_float32_is_exact(bits: np.ndarray) -> None:
    wide = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(decode("BF16", bits.view(np.uint8), 64), wide)
    half = bits.view(np.float16)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(decode("F16", bits.view(np.uint8), 64), half.astype(np.float32))


# no values so small that the reciprocal of a block's scale overflows: there numpy's and C's casts of NaN differ
@given(hnp.arrays(np.float32, (2, 64), elements=st.integers(-(2**20), 2**20).map(lambda n: n / 64)))
def test_q8_0_equals_the_reference_in_numpy(values: np.ndarray) -> None:
    np.testing.assert_array_equal(
        encode("Q8_0", values), gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0).reshape(-1)
    )


def test_f64_is_converted() -> None:
    values = np.array([0.1, -3.5, 1e-30], np.float64)
    np.testing.assert_array_equal(decode("F64", values.view(np.uint8), 3), values.astype(np.float32))
