"""Every family of the table against llama.cpp's converter and transformers, on tiny random models.

At lam 0 and 1 metadata and tensors are the converter's, and between them llama.cpp computes the same as transformers.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pa_lite
from pa_lite.checkpoints.families.table import FAMILIES
from pa_lite.engine.model import Model
from pa_lite.errors import CheckpointError
from pa_lite.ggml.container import read_gguf_header
from pa_lite.ggml.quant_types import FILE_TYPES
from pa_lite.merging.plan import PlanOptions
from tests.merging.test_quantize import llama_quantize, tensor_bytes
from tests.parity.cases import CASES, DEMO, build
from tests.parity.conftest import ConvertAll
from tests.parity.differences import check_metadata, more_tensors
from tests.parity.test_converter import data
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
    """The converter's files of every base and instruct."""
    files = convert_all([(side, KIND) for pair in pairs.values() for side in pair])
    return dict(zip(pairs, zip(files[::2], files[1::2], strict=True), strict=True))


def merged(pair: tuple[Path, Path], lam: float, kind: str, folder: Path) -> Path:
    return pa_lite.merge(*pair, (lam,), plan=PlanOptions(type=kind), output=folder)[0]


@pytest.mark.parametrize("lam", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_tensors_equal_the_converters(pairs: Pairs, converted: Pairs, name: str, lam: int, tmp_path: Path) -> None:
    expected = read_gguf_header(converted[name][lam])
    ours = read_gguf_header(merged(pairs[name], lam, KIND, tmp_path))
    added = more_tensors(name)
    assert ours.tensors.keys() - added.keys() == expected.tensors.keys()
    for tensor in expected.tensors:
        mine, theirs = ours.tensors[tensor], expected.tensors[tensor]
        assert (mine.type, mine.shape) == (theirs.type, theirs.shape), tensor
        assert data(ours, tensor) == data(expected, tensor), tensor
    for tensor in added:
        assert data(ours, tensor) == data(ours, "token_embd.weight")


@pytest.mark.parametrize("lam", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_metadata_equals_the_converters(pairs: Pairs, converted: Pairs, name: str, lam: int, tmp_path: Path) -> None:
    expected = read_gguf_header(converted[name][lam]).metadata
    ours = read_gguf_header(merged(pairs[name], lam, KIND, tmp_path)).metadata
    check_metadata(ours, expected)


def reference(name: str, pair: tuple[Path, Path], lam: float, tokens: list[int]) -> Any:
    """Return transformers' float32 logits of the interpolated state dict."""
    import torch
    import transformers

    load = getattr(transformers, CASES[name].architecture).from_pretrained
    base, instruct = (load(path, dtype=torch.float32, attn_implementation="eager") for path in pair)
    other = base.state_dict()
    instruct.load_state_dict({k: (1 - lam) * other[k] + lam * v for k, v in instruct.state_dict().items()})
    with torch.no_grad():
        return instruct.eval()(torch.tensor([tokens])).logits[0].double().numpy()


def check_logits(ours: Any, theirs: Any) -> None:
    cosine = (ours * theirs).sum(-1) / np.linalg.norm(ours, axis=-1) / np.linalg.norm(theirs, axis=-1)
    assert cosine.min() > 0.9999
    assert (ours.argmax(-1) == theirs.argmax(-1)).all()


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_transformers(pairs: Pairs, name: str, tmp_path: Path) -> None:
    with Model(merged(pairs[name], 0.7, "F32", tmp_path), EXACT) as model:
        tokens = model.tokenize(TEXT)
        ours = logits(model, tokens)
    theirs = reference(name, pairs[name], 0.7, tokens)
    check_logits(ours, theirs)


WIDE = {"hidden_size": 256, "intermediate_size": 512}
WIDE_EXPERTS = {**WIDE, "moe_intermediate_size": 256, "num_experts": 8}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    """Pairs with rows that K-quants' blocks divide, and rows of attention that they do not divide."""
    changes = {"mixtral": WIDE, "gemma2": WIDE, "phi3": WIDE, "qwen3moe": WIDE_EXPERTS}
    out = {}
    for name, settings in changes.items():
        case = replace(CASES[name], settings={**CASES[name].settings, **settings})
        out[name] = build(case, tmp_path_factory.mktemp(f"wide-{name}"))
    return out


@pytest.mark.parametrize("kind", ["Q4_K_M", "Q8_0", "Q3_K_M", "IQ4_XS"])
@pytest.mark.parametrize("name", ["mixtral", "gemma2", "phi3", "qwen3moe"])
def test_quantised_types_and_bytes_equal_llama_quantizes(wide: Pairs, name: str, kind: str, tmp_path: Path) -> None:
    whole = merged(wide[name], 0.7, "F32", tmp_path)
    llama_quantize(whole, tmp_path / "theirs.gguf", FILE_TYPES[kind])
    ours, theirs = (
        tensor_bytes(read_gguf_header(path))
        for path in (merged(wide[name], 0.7, kind, tmp_path), tmp_path / "theirs.gguf")
    )
    assert {t: held for t, (held, _) in ours.items()} == {t: held for t, (held, _) in theirs.items()}
    assert ours == theirs


def test_gpt2_merges_as_two_gguf_files(convert_all: ConvertAll, tmp_path: Path) -> None:
    """GPT-2 as two GGUF files: metadata is instruct's, and the merge computes the same as transformers."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=2048, n_embd=64, n_layer=2, n_head=4, n_positions=256, n_ctx=256, bos_token_id=0, eos_token_id=2
    )
    torch.manual_seed(3)
    nets = [transformers.GPT2LMHeadModel(config) for _ in range(2)]
    folders = [tmp_path / side for side in ("base", "instruct")]
    for net, folder in zip(nets, folders, strict=True):
        for values in net.parameters():
            values.data += 0.1 * torch.randn(values.shape)
        net.save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(DEMO / name, folder)
    with pytest.raises(CheckpointError, match="architecture 'GPT2LMHeadModel' cannot be read from safetensors"):
        pa_lite.merge(folders[0], folders[1], (0.7,), output=tmp_path)
    base, instruct = convert_all([(folder, "F32") for folder in folders])
    file = merged((base, instruct), 0.7, "F32", tmp_path)
    with Model(file, EXACT) as model:
        tokens = model.tokenize(TEXT)
        ours = logits(model, tokens)
    other = nets[0].state_dict()
    nets[1].load_state_dict({k: 0.3 * other[k] + 0.7 * v for k, v in nets[1].state_dict().items()})
    with torch.no_grad():
        check_logits(ours, nets[1].eval()(torch.tensor([tokens])).logits[0].double().numpy())
    own, theirs = (read_gguf_header(path).metadata for path in (file, instruct))
    assert {k: v for k, v in own.items() if k.startswith("gpt2.")} == {
        k: v for k, v in theirs.items() if k.startswith("gpt2.")
    }


def test_defaults_equal_transformers() -> None:
    """Settings that config.json omits have the defaults of transformers' classes."""
    transformers = pytest.importorskip("transformers")
    for case in CASES.values():
        family = FAMILIES[case.architecture]
        config = transformers.AutoConfig.for_model(case.model_type).get_text_config().to_dict()
        given = {key: config[key] for key in family.defaults if key != "layer_norm_eps"}
        assert given == {key: value for key, value in family.defaults.items() if key != "layer_norm_eps"}
        rope = config["rope_parameters"]
        assert rope.get("full_attention", rope)["rope_theta"] == family.rope_theta
