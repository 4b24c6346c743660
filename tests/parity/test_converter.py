"""At lam 0 and 1 the tensors equal, byte for byte, those that llama.cpp's converter writes for base and instruct."""

from __future__ import annotations

from pathlib import Path

import pytest

import pa_lite
from pa_lite.checkpoints.pairs import Pair
from pa_lite.ggml.container import GgufHeader, read_gguf_header
from pa_lite.merging.plan import PlanOptions
from tests.parity.conftest import ConvertAll
from tests.parity.differences import check_metadata
from tests.support import tiny

pytestmark = pytest.mark.parity

LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip

KINDS = ["F32", "F16", "BF16", "Q8_0"]
NAMES = ["demo", "tiny", "llama3"]


@pytest.fixture(scope="module")
def pairs(
    demo_pair: Pair, tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path]]:
    """The embedded pair, the tiny one, and one with Llama-3's rotary scaling, an explicit head size and float16."""
    folder = tmp_path_factory.mktemp("llama3")
    config = {**tiny.CONFIG, "rope_scaling": LLAMA3_ROPE, "head_dim": 32, "rope_theta": 500000.0}
    base = tiny.weights(5, config)
    tiny.write_checkpoint(folder / "base", base, "F16", 2, config)
    tiny.write_checkpoint(folder / "instruct", tiny.weights(6, config, near=base), "F16", 1, config)
    return {
        "demo": demo_pair.folders,
        "tiny": tiny_pair,
        "llama3": (folder / "base", folder / "instruct"),
    }


def data(header: GgufHeader, name: str) -> bytes:
    tensor = header.tensors[name]
    with header.path.open("rb") as f:
        f.seek(tensor.offset)
        return f.read(tensor.nbytes)


@pytest.fixture(scope="module")
def converted(pairs: dict[str, tuple[Path, Path]], convert_all: ConvertAll) -> dict[tuple[str, int, str], Path]:
    """The converter's file of every (pair, side, type)."""
    keys = [(name, lam, kind) for name in NAMES for lam in (0, 1) for kind in KINDS]
    return dict(zip(keys, convert_all([(pairs[name][lam], kind) for name, lam, kind in keys]), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lam", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_tensors_equal_the_converters(
    pairs: dict[str, tuple[Path, Path]],
    name: str,
    lam: int,
    kind: str,
    converted: dict[tuple[str, int, str], Path],
    tmp_path: Path,
) -> None:
    expected = read_gguf_header(converted[name, lam, kind])
    ours = read_gguf_header(pa_lite.merge(*pairs[name], (float(lam),), plan=PlanOptions(type=kind), output=tmp_path)[0])
    assert ours.tensors.keys() == expected.tensors.keys()
    for tensor in expected.tensors:
        mine, theirs = ours.tensors[tensor], expected.tensors[tensor]
        assert (mine.type, mine.shape) == (theirs.type, theirs.shape), tensor
        assert data(ours, tensor) == data(expected, tensor), tensor


@pytest.mark.parametrize("name", NAMES)
def test_metadata_equals_the_converters(
    pairs: dict[str, tuple[Path, Path]], name: str, converted: dict[tuple[str, int, str], Path], tmp_path: Path
) -> None:
    expected = read_gguf_header(converted[name, 1, "Q8_0"]).metadata
    check_metadata(read_gguf_header(pa_lite.merge(*pairs[name], (1.0,), output=tmp_path)[0]).metadata, expected)
