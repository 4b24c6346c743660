"""Compare the block stream with a slow reference: complete tensors in numpy, one after another."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import pa_lite
from pa_lite.errors import CheckpointError
from pa_lite.merging import stream
from pa_lite.merging.plan import PlanOptions
from pa_lite.merging.write import MergeOptions
from tests.support import tiny
from tests.support.reports import Reports

Values = npt.NDArray[np.float32]
SIMPLE = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def gguf_name(name: str) -> str:
    if ".layers." not in name:
        return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]
    _, _, layer, *rest = name.split(".")
    return f"blk.{layer}.{SIMPLE['.'.join(rest[:-1])]}.weight"


def rotary_order(values: Values, heads: int) -> Values:
    """Reorder row by row: in a head of d rows, output row 2j+t is input row t*d/2+j."""
    out, d = np.empty_like(values), len(values) // heads
    for head in range(heads):
        for j in range(d // 2):
            for t in range(2):
                out[head * d + 2 * j + t] = values[head * d + t * d // 2 + j]
    return out


def twin(base: Values, instruct: Values, lam: float, name: str) -> Values:
    out = {0.0: base, 1.0: instruct}.get(lam)
    if out is None:
        out = np.float32(1 - lam) * base + np.float32(lam) * instruct
    for projection, heads in (("q_proj", 4), ("k_proj", 2)):
        if projection in name:
            out = rotary_order(out, heads)
    return out


def encode(values: Values, kind: str) -> bytes:
    if values.ndim == 1:
        return values.tobytes()
    if kind == "Q8_0":
        raw: bytes = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0).tobytes()
        return raw
    return tiny.to_bytes(values, kind)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
@pytest.mark.parametrize("block_values", [1, 1000, 1 << 17])
def test_every_tensor_equals_the_reference(
    tmp_path: Path, dtype: str, kind: str, block_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "BLOCK_VALUES", block_values)
    base = tiny.weights(1)
    instruct = tiny.weights(2, near=base)
    tiny.write_checkpoint(tmp_path / "base", base, dtype, shards=3)
    tiny.write_checkpoint(tmp_path / "instruct", instruct, dtype)
    base, instruct = tiny.stored(base, dtype), tiny.stored(instruct, dtype)
    lams = (0.0, 0.3, 1.0, 1.5)
    options = MergeOptions(threads=3, extrapolate=True)
    files = pa_lite.merge(
        tmp_path / "base", tmp_path / "instruct", lams, plan=PlanOptions(type=kind), output=tmp_path, options=options
    )
    for lam, file in zip(lams, files, strict=True):
        found = {t.name: t for t in gguf.GGUFReader(file).tensors}
        assert found.keys() == {gguf_name(n) for n in base}
        for name in base:
            expected = encode(twin(base[name], instruct[name], lam, name), kind)
            assert found[gguf_name(name)].data.tobytes() == expected, (lam, name)


ARRAY = hnp.arrays(np.float32, 16, elements=st.floats(-(2.0**99), 2.0**99, width=32))


@given(ARRAY, ARRAY, st.integers(-200, 300).map(lambda n: n / 100))
def test_interpolation_is_accurate(base: Values, instruct: Values, lam: float) -> None:
    got = stream.interpolate(base, instruct, lam, np.empty_like(base), np.empty_like(base))
    exact = (1 - lam) * base.astype(np.float64) + lam * instruct.astype(np.float64)
    scale = np.abs((1 - lam) * base.astype(np.float64)) + np.abs(lam * instruct.astype(np.float64))
    assert (np.abs(got - exact) <= 4 * np.finfo(np.float32).eps * scale + 1e-38).all()


@given(ARRAY, ARRAY)
def test_lam_0_and_1_return_the_inputs(base: Values, instruct: Values) -> None:
    spare = np.empty_like(base)
    assert stream.interpolate(base, instruct, 0.0, spare, spare) is base
    assert stream.interpolate(base, instruct, 1.0, spare, spare) is instruct


def test_progress_ends_at_the_total(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    seen = Reports()
    pa_lite.merge(*tiny_pair, (0.2, 0.4), output=tmp_path, progress=seen)
    assert seen[-1] == ("merge", seen[-1][2], seen[-1][2], "B")
    assert [done for _, done, _, _ in seen] == sorted(done for _, done, _, _ in seen)


def test_an_input_that_shrinks_is_detected(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    from pa_lite.checkpoints import open_checkpoint
    from pa_lite.merging.plan import plan_merge
    from pa_lite.merging.write import write_merge

    base = tmp_path / "base"
    base.mkdir()
    for path in tiny_pair[0].iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    plan = plan_merge(open_checkpoint(base), open_checkpoint(tiny_pair[1]))
    with (base / "model-00001-of-00002.safetensors").open("r+b") as f:
        f.truncate(5000)
    with pytest.raises(CheckpointError, match="changed while being read"):
        write_merge(plan, [(0.5, tmp_path / "out.gguf")])
    assert list(tmp_path.iterdir()) == [base]
