"""Every output type equals llama_model_quantize on the F32 merge, tensor for tensor and byte for byte."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

import pa_lite
from pa_lite.checkpoints.pairs import Pair
from pa_lite.engine.llama import llama
from pa_lite.ggml.container import GgufHeader, read_gguf_header
from pa_lite.ggml.quant_types import FILE_TYPES
from pa_lite.merging.plan import PlanOptions


def llama_quantize(source: Path, target: Path, file_type: int) -> None:
    lib = llama()
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread = file_type, 1
    assert lib.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(params)) == 0


def tensor_bytes(header: GgufHeader) -> dict[str, tuple[str, bytes]]:
    out = {}
    with header.path.open("rb") as f:
        for t in header.tensors.values():
            f.seek(t.offset)
            out[t.name] = (t.type.name, f.read(t.nbytes))
    return out


@pytest.fixture(scope="module")
def merged(demo_pair: Pair, tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("f32")
    pairs = {"demo": (demo_pair.base, demo_pair.instruct), "tiny": tiny_pair}
    plan = PlanOptions(type="F32")
    return {
        name: pa_lite.merge(*pair, (0.7,), plan=plan, output=folder / f"{name}.gguf")[0] for name, pair in pairs.items()
    }


@pytest.mark.parametrize("kind", FILE_TYPES)
@pytest.mark.parametrize("name", ["demo", "tiny"])
def test_types_and_bytes_equal_those_of_llama_quantize(
    merged: dict[str, Path], demo_pair: Pair, tiny_pair: tuple[Path, Path], tmp_path: Path, name: str, kind: str
) -> None:
    """The tiny pair's rows of 64 and 96 values exercise every fallback."""
    llama_quantize(merged[name], tmp_path / "theirs.gguf", FILE_TYPES[kind])
    pair = (demo_pair.base, demo_pair.instruct) if name == "demo" else tiny_pair
    (ours,) = pa_lite.merge(*pair, (0.7,), plan=PlanOptions(type=kind), output=tmp_path / "ours.gguf")
    expected, got = (tensor_bytes(read_gguf_header(p)) for p in (tmp_path / "theirs.gguf", ours))
    assert got.keys() == expected.keys()
    for tensor in expected:
        assert got[tensor][0] == expected[tensor][0], tensor
        assert got[tensor][1] == expected[tensor][1], tensor
    file_type = read_gguf_header(ours).metadata["general.file_type"]
    assert file_type == read_gguf_header(tmp_path / "theirs.gguf").metadata["general.file_type"]
