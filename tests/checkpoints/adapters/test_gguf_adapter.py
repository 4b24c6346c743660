"""Compare a base with a GGUF adapter with numpy's product; explain adapters that are damaged or of another kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pa_lite
from pa_lite.checkpoints import open_checkpoint, open_pair
from pa_lite.checkpoints.fingerprint import fingerprint
from pa_lite.errors import CheckpointError
from pa_lite.ggml.container import read_gguf_header
from pa_lite.ggml.metadata import array, float32, string
from pa_lite.merging import stream
from tests.merging.test_sources import read
from tests.support import adapters, families, tiny
from tests.support.ggufs import write_gguf_header

Pairs = dict[str, tuple[Any, Any]]


def pairs_of(path: Path, names: list[str], rank: int = 4, dtype: Any = np.float32) -> Pairs:
    """Return random factors of a GGUF model's tensors, as llama.cpp stores them."""
    rng = np.random.default_rng(7)
    out: Pairs = {}
    for name in names:
        shape = read_gguf_header(path).tensors[name].shape
        a, b = ((shape[0], rank), (shape[1], rank)) if "embd" in name else (
            (*shape[:-2], rank, shape[-1]), (*shape[:-1], rank))  # fmt: skip
        out[name] = tuple((0.3 * rng.standard_normal(s, np.float32)).astype(dtype) for s in (a, b))  # type: ignore[assignment]
    return out


def product(name: str, pair: tuple[Any, Any]) -> Any:
    a, b = (x.astype(np.float64) for x in pair)
    return a @ b.T if "embd" in name else b @ a


@pytest.fixture(scope="module")
def base(tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pa_lite.merge(*tiny_pair, 0.0, type="F32", output=tmp_path_factory.mktemp("base") / "base.gguf")


NAMES = ["blk.0.attn_q.weight", "blk.1.attn_k.weight", "blk.1.ffn_down.weight"]


@pytest.mark.parametrize("alpha", [0.0, 6.0])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_scale_is_alpha_over_rank_or_1(base: Path, tmp_path: Path, alpha: float, kind: str) -> None:
    pairs = pairs_of(base, NAMES, dtype=np.float16 if kind == "F16" else np.float32)
    if kind == "BF16":
        pairs = {
            n: (tiny.stored({"x": p[0]}, kind)["x"], tiny.stored({"x": p[1]}, kind)["x"]) for n, p in pairs.items()
        }
    file = adapters.write_gguf(tmp_path / "lora.gguf", pairs, alpha, kind)
    found, before = read(pa_lite.merge(base, file, 1.0, type="F32", output=tmp_path / "out.gguf")), read(base)
    for name, values in before.items():
        change = product(name, pairs[name]) * (alpha / 4 or 1.0) if name in pairs else 0
        np.testing.assert_allclose(found[name], values + change, rtol=1e-5, atol=1e-5)


def test_a_safetensors_base_gives_the_same(tiny_pair: tuple[Path, Path], base: Path, tmp_path: Path) -> None:
    """Its rows of q and k are in another order than the adapter's, in blocks of any size."""
    file = adapters.write_gguf(tmp_path / "lora.gguf", pairs_of(base, NAMES))
    wanted = read(pa_lite.merge(base, file, 0.4, type="F32", output=tmp_path / "w.gguf"))
    for block in (1, 1 << 18):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stream, "BLOCK_VALUES", block)
            found = read(pa_lite.merge(tiny_pair[0], file, 0.4, type="F32", output=tmp_path / f"{block}.gguf"))
        for name, values in wanted.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-6)


def test_embedding_factors_change_only_the_embedding(base: Path, tmp_path: Path) -> None:
    """The base ties its output matrix, which stays as it was: the result has both."""
    pairs = pairs_of(base, ["token_embd.weight"])
    file = adapters.write_gguf(tmp_path / "lora.gguf", pairs, 0.0)
    found, before = read(pa_lite.merge(base, file, 1.0, type="F32", output=tmp_path / "out.gguf")), read(base)
    name = "token_embd.weight"
    np.testing.assert_allclose(found[name], before[name] + product(name, pairs[name]), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found["output.weight"], before[name])


def test_experts(tmp_path: Path) -> None:
    folder, _ = families.write_checkpoint(tmp_path / "moe", "MixtralForCausalLM", dtype="F32")
    base = pa_lite.merge(folder, folder, 0.0, type="F32", output=tmp_path / "base.gguf")
    names = [f"blk.1.ffn_{part}_exps.weight" for part in ("gate", "up", "down")]
    pairs = pairs_of(base, names)
    file = adapters.write_gguf(tmp_path / "lora.gguf", pairs, 0.0)
    before = read(base)
    for side in (base, folder):
        found = read(pa_lite.merge(side, file, 1.0, type="F32", output=tmp_path / f"{side.name}-out.gguf"))
        for name in names:
            wanted = before[name] + product(name, pairs[name])
            np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-5)


def test_name_folder_and_fingerprint(base: Path, tmp_path: Path) -> None:
    pairs = pairs_of(base, NAMES[:1])
    (tmp_path / "a").mkdir()
    file = adapters.write_gguf(tmp_path / "a" / "lora.gguf", pairs)
    _, instruct = open_pair(base, file.parent)  # the only GGUF file in the folder
    assert (instruct.path, instruct.name, instruct.is_adapter) == (file, "lora", True)
    named = adapters.write_gguf(tmp_path / "n.gguf", pairs, general__name=string("Nice"))
    assert open_pair(base, named)[1].name == "Nice"
    other = adapters.write_gguf(tmp_path / "o.gguf", pairs, 7.0)
    found = {fingerprint(open_pair(base, path)[1]) for path in (file, other)} | {fingerprint(open_checkpoint(base))}
    assert len(found) == 3


def test_norms_are_ignored_as_in_llama_cpp(base: Path, tmp_path: Path) -> None:
    pairs: Pairs = {**pairs_of(base, NAMES[:1]), "blk.0.attn_norm.weight": (np.ones(64, np.float32), np.ones((1, 1)))}
    file = tmp_path / "lora.gguf"
    a, b = pairs[NAMES[0]]
    from pa_lite.ggml.kernels import tensor_type

    metadata = {"general.type": string("adapter"), "adapter.type": string("lora")}
    shapes = {f"{NAMES[0]}.lora_a": a.shape, f"{NAMES[0]}.lora_b": b.shape, "blk.0.attn_norm.weight": (64,)}
    write_gguf_header(file, "llama", metadata, {n: (tensor_type("F32"), s) for n, s in shapes.items()})
    _, instruct = open_pair(base, file)
    assert instruct.remarks == (f"{file}: 1 norms in the adapter are ignored, as in llama.cpp",)
    assert instruct.tensors["blk.0.attn_norm.weight"].changes == ()


Change = Callable[[Pairs, dict[str, Any]], Any]
Q0 = NAMES[0]
ONE = np.ones((4, 64), np.float32)
WRONG: list[tuple[Change, str]] = [
    (lambda p, m: m.update(adapter__type=string("loha")), "the adapter is loha, and pa-lite applies LoRA only"),
    (lambda p, m: m.update(adapter__type=None), "the adapter is of unknown kind"),
    (lambda p, m: m.update(architecture="qwen2"), "the adapter is for qwen2, but the base .* is llama"),
    (lambda p, m: m.update(adapter__alora__invocation_tokens=array("UINT32", [1])), "is activated LoRA"),
    (lambda p, m: m.update(adapter__lora__alpha=string("6")), "adapter.lora.alpha is 6, but must be a number"),
    (lambda p, m: m.update(adapter__lora__alpha=float32(float("inf"))), "adapter.lora.alpha is inf, but must be"),
    (lambda p, m: m.update(kind="Q8_0"), r"lora_a is quantised \(Q8_0\). Use an adapter of type F32"),
    (lambda p, m: p.clear(), "has no LoRA factors"),
    (lambda p, m: p.update({Q0: (ONE, np.ones((63, 4), np.float32))}), r"of shape \[4, 64\] and \[63, 4\], but "),
    (lambda p, m: p.update({Q0: (ONE.T, ONE)}), "has factors of shape"),
    (lambda p, m: p.update({Q0: (np.ones((65, 64), np.float32), np.ones((64, 65), np.float32))}), "has rank 65, which"),
    (lambda p, m: p.update({"blk.7.attn_q.weight": p[Q0]}), "changes blk.7.attn_q.weight, which the base .* does not"),
    (lambda p, m: p.update({"blk.0.attn_norm.weight": p[Q0]}), "has factors of shape"),
    (lambda p, m: p.update({"other": (np.ones(4, np.float32), ONE)}), "tensor other is not part of a LoRA adapter"),
]  # fmt: skip


@pytest.mark.parametrize("i", range(len(WRONG)))
def test_wrong_adapters_are_explained(base: Path, tmp_path: Path, i: int) -> None:
    change, message = WRONG[i]
    pairs, metadata = dict(pairs_of(base, NAMES[:1])), dict[str, Any]()
    if i == 6:
        pairs = {"blk.0.attn_q.weight": (np.ones((32, 64), np.float32), np.ones((64, 32), np.float32))}
    change(pairs, metadata)
    file = adapters.write_gguf(tmp_path / "lora.gguf", pairs, **metadata)
    with pytest.raises(CheckpointError, match=message) as error:
        pa_lite.merge(base, file, 0.5, output=tmp_path / "out.gguf")
    assert "lora.gguf" in str(error.value)


def test_half_a_pair(base: Path, tmp_path: Path) -> None:
    file = adapters.write_gguf(tmp_path / "lora.gguf", pairs_of(base, NAMES[:1]))
    raw = file.read_bytes().replace(b"attn_q.weight.lora_b", b"attn_k.weight.lora_b")
    file.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"blk.0.attn_q.weight.lora_b is missing"):
        open_pair(base, file)


def test_an_adapter_alone_is_not_a_model(base: Path, tmp_path: Path) -> None:
    file = adapters.write_gguf(tmp_path / "lora.gguf", pairs_of(base, NAMES[:1]))
    told = r"contains a LoRA adapter \(which goes after its base: BASE ADAPTER\), not a language model"
    with pytest.raises(CheckpointError, match=told):
        open_checkpoint(file)
    with pytest.raises(CheckpointError, match=told):
        pa_lite.merge(file, base, 0.5, output=tmp_path / "out.gguf")
