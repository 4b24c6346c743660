"""At lam 0 and 1 the tensors are, byte for byte, those that llama.cpp's converter makes of base and of instruct."""

from __future__ import annotations

from pathlib import Path

import pytest

import pa_lite
from pa_lite.checkpoints.gguf_file import GgufHeader, read_gguf_header
from pa_lite.checkpoints.pairs import Pair
from pa_lite.merge.plan import PlanOptions
from tests import tiny
from tests.parity.conftest import Convert

pytestmark = pytest.mark.parity

LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip

# ours say more or other things: which two models were merged, and at what lam
OWN_KEYS = {"general.name", "general.size_label", "general.basename", "general.finetune", "general.tags",
            "general.version"}  # fmt: skip
# told even when false, as llama.cpp's default depends on the pre-tokenizer
ALWAYS_TOLD = {"tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"}
# of BERT's kind alone; false in every model here, which is llama.cpp's default
NEVER_TOLD = {"tokenizer.ggml.add_sep_token"}


@pytest.fixture(scope="module")
def pairs(
    demo_pair: Pair, tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path]]:
    """The embedded pair, the tiny one, and one with Llama-3's rotary scaling, an own head size and float16."""
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


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
@pytest.mark.parametrize("lam", [0, 1])
@pytest.mark.parametrize("name", ["demo", "tiny", "llama3"])
def test_tensors(
    pairs: dict[str, tuple[Path, Path]], name: str, lam: int, kind: str, convert: Convert, tmp_path: Path
) -> None:
    expected = read_gguf_header(convert(pairs[name][lam], kind))
    ours = read_gguf_header(pa_lite.merge(*pairs[name], (float(lam),), plan=PlanOptions(kind), output=tmp_path)[0])
    assert ours.tensors.keys() == expected.tensors.keys()
    for tensor in expected.tensors:
        mine, theirs = ours.tensors[tensor], expected.tensors[tensor]
        assert (mine.type, mine.shape) == (theirs.type, theirs.shape), tensor
        assert data(ours, tensor) == data(expected, tensor), tensor


@pytest.mark.parametrize("name", ["demo", "tiny", "llama3"])
def test_metadata(pairs: dict[str, tuple[Path, Path]], name: str, convert: Convert, tmp_path: Path) -> None:
    expected = read_gguf_header(convert(pairs[name][1], "Q8_0")).metadata
    ours = read_gguf_header(pa_lite.merge(*pairs[name], (1.0,), output=tmp_path)[0]).metadata
    for key in expected.keys() - OWN_KEYS - NEVER_TOLD:
        assert ours.get(key) == expected[key], key
    more = {key for key in ours.keys() - expected.keys() if not key.startswith(("pa_lite.", "general.base_model."))}
    assert more <= OWN_KEYS | ALWAYS_TOLD
    assert not any(expected[key].value for key in NEVER_TOLD & expected.keys())
