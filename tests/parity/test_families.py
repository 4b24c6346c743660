"""Every family of the table against llama.cpp's converter and transformers, on tiny random models.

At lam 0 and 1 metadata and tensors are the converter's, and between them llama.cpp computes what transformers does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pa_lite
from pa_lite.checkpoints.families import FAMILIES
from pa_lite.checkpoints.gguf_file import GgufHeader, read_gguf_header
from pa_lite.engine.model import Model
from pa_lite.merge.plan import PlanOptions
from tests.parity.cases import CASES, build
from tests.parity.conftest import ConvertAll
from tests.parity.test_converter import ALWAYS_TOLD, NEVER_TOLD, OWN_KEYS, data
from tests.parity.test_transformers import EXACT, TEXT, logits

pytestmark = pytest.mark.parity
KIND = "F16"
Pairs = dict[str, tuple[Path, Path]]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    for package in ("torch", "transformers"):
        pytest.importorskip(package)
    return {
        name: build(case, tmp_path_factory.mktemp(name.replace("phi3", "phi-three"))) for name, case in CASES.items()
    }


@pytest.fixture(scope="module")
def converted(pairs: Pairs, convert_all: ConvertAll) -> Pairs:
    """What the converter makes of every base and instruct."""
    files = convert_all([(side, KIND) for pair in pairs.values() for side in pair])
    return dict(zip(pairs, zip(files[::2], files[1::2], strict=True), strict=True))


def merged(pair: tuple[Path, Path], lam: float, kind: str, folder: Path) -> Path:
    return pa_lite.merge(*pair, (lam,), plan=PlanOptions(kind), output=folder)[0]


@pytest.mark.parametrize("lam", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_tensors_are_the_converters(pairs: Pairs, converted: Pairs, name: str, lam: int, tmp_path: Path) -> None:
    expected = read_gguf_header(converted[name][lam])
    ours = read_gguf_header(merged(pairs[name], lam, KIND, tmp_path))
    added = {"output.weight"} if name == "olmo2-tied" else set()
    assert ours.tensors.keys() - added == expected.tensors.keys()
    for tensor in expected.tensors:
        mine, theirs = ours.tensors[tensor], expected.tensors[tensor]
        assert (mine.type, mine.shape) == (theirs.type, theirs.shape), tensor
        assert data(ours, tensor) == data(expected, tensor), tensor
    for tensor in added:
        assert data(ours, tensor) == data(ours, "token_embd.weight")


@pytest.mark.parametrize("lam", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_metadata_is_the_converters(pairs: Pairs, converted: Pairs, name: str, lam: int, tmp_path: Path) -> None:
    expected = read_gguf_header(converted[name][lam]).metadata
    ours = read_gguf_header(merged(pairs[name], lam, KIND, tmp_path)).metadata
    assert {k: ours.get(k) for k in expected.keys() - OWN_KEYS - NEVER_TOLD} == {
        k: v for k, v in expected.items() if k not in OWN_KEYS | NEVER_TOLD
    }
    more = {key for key in ours.keys() - expected.keys() if not key.startswith(("pa_lite.", "general.base_model."))}
    assert more <= OWN_KEYS | ALWAYS_TOLD


def reference(name: str, pair: tuple[Path, Path], lam: float, tokens: list[int]) -> Any:
    """transformers' logits, float32, of the interpolated state dict."""
    import torch
    import transformers

    load = getattr(transformers, CASES[name].architecture).from_pretrained
    base, instruct = (load(path, dtype=torch.float32, attn_implementation="eager") for path in pair)
    other = base.state_dict()
    instruct.load_state_dict({k: (1 - lam) * other[k] + lam * v for k, v in instruct.state_dict().items()})
    with torch.no_grad():
        return instruct.eval()(torch.tensor([tokens])).logits[0].double().numpy()


@pytest.mark.parametrize("name", CASES)
def test_logits_are_transformers(pairs: Pairs, name: str, tmp_path: Path) -> None:
    with Model(merged(pairs[name], 0.7, "F32", tmp_path), EXACT) as model:
        tokens = model.tokenize(TEXT)
        ours = logits(model, tokens)
    theirs = reference(name, pairs[name], 0.7, tokens)
    cosine = (ours * theirs).sum(-1) / np.linalg.norm(ours, axis=-1) / np.linalg.norm(theirs, axis=-1)
    assert cosine.min() > 0.9999
    assert (ours.argmax(-1) == theirs.argmax(-1)).all()
