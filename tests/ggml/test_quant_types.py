"""Compare choose_types with llama-quantize (llama_model_quantize) on tiny random models of all shapes."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from pa_lite.checkpoints.families.family import Architecture
from pa_lite.checkpoints.families.table import ARCHITECTURES
from pa_lite.engine.llama import llama
from pa_lite.errors import CheckpointError, InputError
from pa_lite.ggml.container import GgufHeader, read_gguf_header
from pa_lite.ggml.kernels import TYPE_IDS, FloatArray, from_float32
from pa_lite.ggml.metadata import Metadata, array, string, uint32
from pa_lite.ggml.quant_types import (
    _KEPT,
    FILE_TYPES,
    TENSOR_TYPES,
    ModelShape,
    choose_types,
    model_shape,
    parse_override,
)

Arrays = dict[str, FloatArray]
ROWS = 2


def model_of(architecture: str, n_layers: int, n_heads: int, n_kv_heads: int, n_experts: int = 0) -> ModelShape:
    """Return the shape of a model, with its architecture's 70B from the families table."""
    facts = ARCHITECTURES.get(architecture, Architecture())
    return ModelShape(
        architecture=architecture,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        n_experts=n_experts,
        layers_70b=facts.layers_70b,
        grouped_70b=facts.grouped_70b,
    )


SMALL = model_of("llama", 2, 4, 2)
# name, shape of the model, columns of (embedding, attention output, ffn down), tied, attention in one matrix
CASES: list[tuple[str, ModelShape, tuple[int, int, int], bool, bool]] = [
    ("two layers, tied", SMALL, (256, 256, 512), True, False),
    ("untied", replace(SMALL, n_layers=9), (256, 256, 256), False, False),
    ("rows of 64 and 96", replace(SMALL, n_layers=8), (64, 64, 96), True, False),
    ("untied rows of 288", replace(SMALL, n_layers=8), (288, 288, 768), False, False),
    ("rows of 80 and 24", replace(SMALL, n_layers=3), (80, 80, 24), False, False),
    ("tied rows of 80", SMALL, (80, 80, 256), True, False),
    ("32 layers", model_of("llama", 32, 4, 4), (256, 256, 256), True, False),
    ("four heads share one", model_of("llama", 17, 8, 2), (256, 256, 256), False, False),
    ("a ratio that is rounded", model_of("llama", 2, 7, 2), (256, 256, 256), False, False),
    ("8 experts", model_of("llama", 9, 8, 2, 8), (256, 256, 256), False, False),
    ("8 experts, 64 columns", model_of("llama", 2, 4, 4, 8), (64, 64, 96), True, False),
    ("4 experts", model_of("llama", 16, 4, 4, 4), (256, 256, 256), False, False),
    ("the 70B", model_of("llama", 80, 8, 1), (256, 256, 256), False, False),
    ("65B", model_of("llama", 80, 4, 4), (256, 256, 256), False, False),
    ("qwen2 72B", model_of("qwen2", 80, 4, 4), (256, 256, 256), False, False),
    ("olmo 70B", model_of("olmo", 80, 4, 4), (256, 256, 256), True, False),
    ("qwen2", model_of("qwen2", 10, 6, 1), (256, 256, 288), True, False),
    ("gemma2", model_of("gemma2", 26, 4, 2), (256, 512, 256), True, False),
    ("phi3", model_of("phi3", 12, 4, 4), (256, 256, 256), False, True),
]
IDS = [name for name, *_ in CASES]


def tensor_shapes(
    model: ModelShape, columns: tuple[int, int, int], tied: bool, fused: bool
) -> dict[str, tuple[int, ...]]:
    """Return names and numpy shapes with a few rows per matrix; llama-quantize only looks at row lengths."""
    width, attention, hidden = columns
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (3, width), "output_norm.weight": (width,)}
    if not tied:
        shapes["output.weight"] = (3, width)
    if model.architecture == "llama":
        shapes["rope_freqs.weight"] = (8,)
    sparse = (model.n_experts,) if model.n_experts else ()
    end = "_exps" if sparse else ""
    for i in range(model.n_layers):
        p = f"blk.{i}."
        shapes |= {p + "attn_norm.weight": (width,), p + "ffn_norm.weight": (width,)}
        parts = ["attn_qkv"] if fused else ["attn_q", "attn_k", "attn_v"]
        shapes |= {p + f"{part}.weight": (ROWS, width) for part in parts}
        shapes |= {p + "attn_output.weight": (ROWS, attention), p + f"ffn_down{end}.weight": (*sparse, ROWS, hidden)}
        shapes |= {p + f"ffn_{part}{end}.weight": (*sparse, ROWS, width) for part in ("up", "gate")}
        if sparse:
            shapes[p + "ffn_gate_inp.weight"] = (model.n_experts, width)
        if model.architecture == "qwen2":
            shapes |= {p + "attn_q.bias": (ROWS,), p + "attn_q_norm.weight": (2, 64), p + "attn_k.weight": (1, width)}
    return shapes


def model_metadata(model: ModelShape) -> Metadata:
    """Return the keys that llama.cpp requires to read the file."""
    a = model.architecture
    counts = {
        "context_length": 64, "embedding_length": 16 * model.n_heads, "block_count": model.n_layers,
        "feed_forward_length": 32, "attention.head_count": model.n_heads, "attention.head_count_kv": model.n_kv_heads,
        "rope.dimension_count": 16, "attention.sliding_window": 16, "vocab_size": 3,
    }  # fmt: skip
    if model.n_experts:
        counts |= {"expert_count": model.n_experts, "expert_used_count": 1}
    return {f"{a}.{key}": uint32(value) for key, value in counts.items()}


def write_model(path: Path, model: ModelShape, arrays: Mapping[str, FloatArray]) -> Path:
    writer = gguf.GGUFWriter(path, model.architecture)
    for key in ("layer_norm_rms_epsilon", "layer_norm_epsilon"):
        writer.add_float32(f"{model.architecture}.attention.{key}", 1e-5)
    for key, entry in model_metadata(model).items():
        writer.add_uint32(key, entry.value)
    for name, values in arrays.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_arrays(seed: int, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def llama_quantize(
    source: Path,
    target: Path,
    kind: str,
    imatrix: Mapping[str, FloatArray] | None = None,
    overrides: Sequence[tuple[str, str]] = (),
) -> GgufHeader | None:
    """Quantise a file with llama-quantize; None if it refuses. Patterns are lowered as its command does."""
    lib: Any = llama()
    params = lib.llama_model_quantize_default_params()
    params.nthread, params.ftype = 1, FILE_TYPES[kind]
    if imatrix is not None:
        entries = (lib.llama_model_imatrix_data * (len(imatrix) + 1))()
        for entry, (name, values) in zip(entries, imatrix.items(), strict=False):
            data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entry.name, entry.data, entry.size = name.encode(), data, values.size
        params.imatrix = entries
    if overrides:
        asked = (lib.llama_model_tensor_override * (len(overrides) + 1))()
        for one, (pattern, name) in zip(asked, overrides, strict=False):
            one.pattern, one.type = pattern.lower().encode(), TYPE_IDS[name.upper()]
        params.tt_overrides = asked
    if lib.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(params)):
        return None
    return read_gguf_header(target)


def types_of(header: GgufHeader | None) -> dict[str, str]:
    assert header is not None
    return {name: tensor.type.name for name, tensor in header.tensors.items()}


def chosen(*args: Any, **named: Any) -> dict[str, str]:
    return {name: kind.name for name, kind in choose_types(*args, **named).items()}


@pytest.fixture(scope="module")
def quick() -> tuple[ModelShape, dict[str, tuple[int, ...]]]:
    model = replace(SMALL, n_layers=8)
    return model, tensor_shapes(model, (256, 256, 256), False, False)


@pytest.mark.parametrize(("model", "columns", "tied", "fused"), [case[1:] for case in CASES], ids=IDS)
def test_types_equal_llama_quantizes(
    tmp_path: Path, model: ModelShape, columns: tuple[int, int, int], tied: bool, fused: bool
) -> None:
    shapes = tensor_shapes(model, columns, tied, fused)
    source = write_model(tmp_path / "f32.gguf", model, random_arrays(1, shapes))
    backwards = dict(reversed(shapes.items()))
    for kind, importance in itertools.product(FILE_TYPES, (None, {"blk.0.other": np.ones(4, np.float32)})):
        theirs = llama_quantize(source, tmp_path / "out.gguf", kind, importance)
        assert theirs is not None
        assert theirs.metadata["general.file_type"].value == FILE_TYPES[kind]
        ours = chosen(kind, model, backwards, importance is not None)
        assert ours == types_of(theirs), kind
        assert list(ours) == list(theirs.tensors)


OVERRIDES: list[list[tuple[str, str]]] = [
    [("attn_v", "q8_0")],
    [("ATTN_V", "q6_K"), ("attn", "F16")],
    [(r"blk\.[0-3]\.ffn_down", "Q4_0"), ("ffn_(down|up)", "iq4_nl"), ("output", "BF16")],
    [("token_embd", "q4_k"), (r"[^X]4\.attn_v\.weight$", "f32")],
    [("norm|attn_q", "IQ3_S"), ("^blk.7", "MXFP4")],
    [("^blk.0.attn_[qk]", "TQ1_0"), ("^blk.1.(?=attn)", "TQ2_0")],
]


@pytest.mark.parametrize("overrides", OVERRIDES)
@pytest.mark.parametrize("width", [256, 96, 80])
def test_overridden_types_equal_llama_quantizes(tmp_path: Path, width: int, overrides: list[tuple[str, str]]) -> None:
    model = replace(SMALL, n_layers=9)
    shapes = tensor_shapes(model, (width, 256, 96), False, False)
    source = write_model(tmp_path / "f32.gguf", model, random_arrays(2, shapes))
    for kind in ("Q4_K_M", "Q4_K_S", "Q3_K_M", "Q8_0", "IQ4_XS"):
        theirs = llama_quantize(source, tmp_path / "out.gguf", kind, overrides=overrides)
        assert chosen(kind, model, shapes, overrides=overrides) == types_of(theirs)


@pytest.mark.parametrize("kind", TENSOR_TYPES)
def test_rows_that_a_quant_block_does_not_divide_fall_back(tmp_path: Path, kind: str) -> None:
    shapes = tensor_shapes(SMALL, (96, 80, 288), True, False)
    source = write_model(tmp_path / "f32.gguf", SMALL, random_arrays(2, shapes))
    theirs = llama_quantize(source, tmp_path / "out.gguf", "Q8_0", overrides=[(".", kind)])
    assert chosen("Q8_0", SMALL, shapes, overrides=[(".", kind)]) == types_of(theirs)


def test_tensors_that_are_not_quantised_do_not_count(tmp_path: Path) -> None:
    model = replace(SMALL, n_layers=4)
    shapes = tensor_shapes(model, (256, 256, 256), False, False)
    shapes |= {
        "blk.0.attn_v.weight": (1, 256), "blk.1.ffn_down.weight": (1, 256), "per_layer_token_embd.weight": (2, 256),
        "blk.0.shortconv.conv.weight": (2, 256), "position_embd.weight": (2, 256), "blk.0.attn_v.extra": (2, 256),
        "blk.2.attn_kv_b.weight": (2, 256), "blk.3.ffn_down_shexp.weight": (2, 256), "blk.0.odd": (2, 256),
        "blk.10.attn_v.weight": (2, 256),
    }  # fmt: skip
    shapes |= {f"a.0.{part.strip('.')}.b{'' if part.endswith('weight') else '.weight'}": (2, 256) for part in _KEPT}
    shapes |= {f"a.{part if part.endswith('weight') else part + '.weight'}": (2, 256) for part in _KEPT}
    source = write_model(tmp_path / "f32.gguf", model, random_arrays(3, shapes))
    for kind in FILE_TYPES:
        theirs = llama_quantize(source, tmp_path / "out.gguf", kind)
        assert chosen(kind, model, shapes) == types_of(theirs), kind


@pytest.mark.parametrize("kind", list(FILE_TYPES))
def test_bytes_equal_those_quantised_from_float32(tmp_path: Path, kind: str) -> None:
    model = ModelShape(architecture="llama", n_layers=2, n_heads=4, n_kv_heads=4, n_experts=3)
    shapes = tensor_shapes(model, (256, 288, 512), False, False)
    arrays = random_arrays(4, shapes)
    source = write_model(tmp_path / "f32.gguf", model, arrays)
    theirs = llama_quantize(source, tmp_path / "out.gguf", kind)
    assert theirs is not None
    raw = theirs.path.read_bytes()
    for name, held in choose_types(kind, model, shapes).items():
        placed, values = theirs.tensors[name], arrays[name]
        encoded = np.empty(placed.nbytes, np.uint8)
        from_float32(held, values.reshape(-1, values.shape[-1]), encoded)
        assert raw[placed.offset :][: placed.nbytes] == encoded.tobytes(), name


def test_file_types_equal_llama_cpps() -> None:
    lib = llama()
    for kind, number in FILE_TYPES.items():
        prefix = "ALL" if kind == "F32" else "MOSTLY"
        assert getattr(lib, f"LLAMA_FTYPE_{prefix}_{kind}") == number


def test_model_shape_from_metadata() -> None:
    model = ModelShape(architecture="llama", n_layers=9, n_heads=8, n_kv_heads=2, n_experts=8)
    assert model_shape("llama", model_metadata(model)) == model
    dense = {"olmo.block_count": uint32(80), "olmo.attention.head_count": uint32(4)}
    assert model_shape("olmo", dense) == ModelShape(architecture="olmo", n_layers=80, n_heads=4, n_kv_heads=4)
    assert model_shape("olmo", dense, layers_70b=80).is_70b
    assert not model_shape("olmo", dense, layers_70b=80, grouped_70b=True).is_70b
    assert not model_shape("olmo", dense).is_70b
    varied = dense | {"olmo.attention.head_count_kv": array("UINT32", [2, 4])}
    assert model_shape("olmo", varied).heads_per_kv == 2
    assert ModelShape(architecture="rwkv7", n_layers=2, n_heads=0, n_kv_heads=0).heads_per_kv == 0
    with pytest.raises(CheckpointError, match=r"llama\.block_count is None"):
        model_shape("llama", {})
    with pytest.raises(CheckpointError, match=r"olmo\.expert_count is 'eight'"):
        model_shape("olmo", dense | {"olmo.expert_count": string("eight")})


def test_an_unknown_output_type_gets_a_suggestion(quick: tuple[ModelShape, dict[str, tuple[int, ...]]]) -> None:
    with pytest.raises(InputError, match=r"unknown output type 'q4_k'\. Did you mean Q4_K_S or Q4_K_M"):
        choose_types("q4_k", *quick)


REFUSALS = [
    (("attn_v", "Q4_KM"), r"tensor type attn_v=Q4_KM: unknown type 'Q4_KM'\. Did you mean Q4_K"),
    (("attn_v", "I32"), r"unknown type 'I32'"),
    (("attn_(v", "Q4_K"), r"tensor type attn_\(v=Q4_K: the pattern is not a valid regular expression: missing \)"),
    (("(?i)attn_v", "Q4_K"), r"must be an ECMAScript regular expression"),
    (("(?<!k)_v", "Q4_K"), r"must be an ECMAScript regular expression"),
    (("attn_vv.weight", "Q4_K"), r"the pattern matches no quantised tensor\. Did you mean attn_v\.weight"),
    (("output_norm", "Q4_K"), r"the pattern matches no quantised tensor"),
]


@pytest.mark.parametrize(("override", "told"), REFUSALS)
def test_bad_overrides_are_refused(
    quick: tuple[ModelShape, dict[str, tuple[int, ...]]], override: tuple[str, str], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        choose_types("Q4_K_M", *quick, overrides=[override])


def test_overrides_of_unquantised_output_are_refused(quick: tuple[ModelShape, dict[str, tuple[int, ...]]]) -> None:
    with pytest.raises(InputError, match=r"requires a quantised output type; BF16 is not"):
        choose_types("BF16", *quick, overrides=[("attn_v", "Q8_0")])


def test_experts_outside_the_layers_are_refused(tmp_path: Path) -> None:
    model = ModelShape(architecture="llama", n_layers=2, n_heads=4, n_kv_heads=4, n_experts=8)
    for name in ("blk.2.ffn_down_exps.weight", "ffn_up_exps.weight"):
        shapes = tensor_shapes(model, (256, 256, 256), False, False) | {name: (8, 2, 256)}
        source = write_model(tmp_path / "f32.gguf", model, random_arrays(5, shapes))
        assert llama_quantize(source, tmp_path / "out.gguf", "Q4_K_M") is None
        with pytest.raises(CheckpointError, match=rf"tensor {name} does not belong to any of the model's 2 layers"):
            choose_types("Q4_K_M", model, shapes)


def test_parse_override_splits_at_the_first_equals_sign() -> None:
    assert parse_override("blk.(?=1)=q8_0") == ("blk.(?", "1)=q8_0")
    assert parse_override("attn_v=q8_0") == ("attn_v", "q8_0")
    for text in ("attn_v", "=q8_0", "attn_v="):
        with pytest.raises(InputError, match=r"is not PATTERN=TYPE"):
            parse_override(text)
