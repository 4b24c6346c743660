"""Choose each tensor's type as llama-quantize does: mixtures as tables, by names, shapes and the model's size.

The rules are those of llama.cpp's `src/llama-quant.cpp`, without the exceptions for Falcon and GLM-5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pa_lite.errors import CheckpointError, InputError, nearest
from pa_lite.ggml.gguf_tables import Keys, file_type
from pa_lite.ggml.kernels import TYPE_IDS, TensorType, tensor_type
from pa_lite.ggml.metadata import Metadata

# output type -> general.file_type (enum llama_ftype of llama.h)
FILE_TYPES: dict[str, int] = {
    name: file_type(name)
    for name in (
        "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S",
        "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS",
    )
}  # fmt: skip
# types that --tensor-type accepts: those that ggml can quantise to
TENSOR_TYPES: tuple[str, ...] = tuple(t for t in TYPE_IDS if t not in ("F64", "I8", "I16", "I32", "I64"))

# matrices with these parts in their names are never quantised; most models only have norms and routers
_KEPT = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj",
    "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight", "attn_rel_b.weight",
    *(f"time_mix_{part}.weight" for part in ("first", "w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1", "g2",
                                             "decay_w1", "decay_w2", "lerp_fused")),
    ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger",
    "a.rvq.codebook", "mm.a.code_embd",
)  # fmt: skip
_KEPT_WHOLE = ("position_embd.weight", "token_types.weight")
EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
_OUTPUT = "output.weight"
# part of a tensor's name -> its category; the first match counts
_CATEGORIES = {
    "attn_qkv.weight": "attn_v", "attn_kv_b.weight": "attn_v", "attn_v.weight": "attn_v", "attn_k.weight": "attn_k",
    "attn_output.weight": "attn_output", "ffn_up": "ffn", "ffn_gate": "ffn", "ffn_down": "ffn_down",
}  # fmt: skip
# type -> replacement where its quant block does not divide the row; if that does not fit either, F16
_FALLBACKS = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The sizes that the mixtures depend on; heads are those of the first layer, and 0 experts means a dense model.

    `layers_70b` is the number of layers of what llama-quantize calls the architecture's 70B, 0 if it has none;
    `grouped_70b` says whether that model has fewer key than query heads.
    """

    architecture: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    n_experts: int = 0
    layers_70b: int = 0
    grouped_70b: bool = False

    @property
    def heads_per_kv(self) -> int:
        """Return the number of query heads per key and value head, rounded down; 0 without attention."""
        return self.n_heads // self.n_kv_heads if self.n_kv_heads else 0

    @property
    def is_70b(self) -> bool:
        return 0 < self.layers_70b == self.n_layers and (self.n_heads != self.n_kv_heads or not self.grouped_70b)


def model_shape(
    architecture: str,
    metadata: Metadata,
    where: object = "the model",
    *,
    layers_70b: int = 0,
    grouped_70b: bool = False,
) -> ModelShape:
    """Return a model's shape from its GGUF keys and its architecture's 70B; `where` names the model in errors.

    Raises CheckpointError for a key that is missing or not a non-negative integer.
    """

    def count(key: str, default: int | None) -> int:
        key = key.format(arch=architecture)
        entry = metadata.get(key)
        value = default if entry is None else entry.value
        if isinstance(value, list) and value:
            value = value[0]
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise CheckpointError(f"{where}: its key {key} is {value!r}, not a non-negative integer.")
        return value

    heads = count(Keys.Attention.HEAD_COUNT, 0)
    return ModelShape(
        architecture=architecture,
        n_layers=count(Keys.LLM.BLOCK_COUNT, None),
        n_heads=heads,
        n_kv_heads=count(Keys.Attention.HEAD_COUNT_KV, heads),
        n_experts=count(Keys.LLM.EXPERT_COUNT, 0),
        layers_70b=layers_70b,
        grouped_70b=grouped_70b,
    )


@dataclass(frozen=True, kw_only=True)
class _TensorIndex:
    """Tensor i of n in its category, and the other inputs of a rule."""

    i: int
    n: int
    heads_per_kv: int
    has_imatrix: bool


_Rule = tuple[Callable[[_TensorIndex], bool], str]


def _always(_place: _TensorIndex) -> bool:
    return True


def _grouped(place: _TensorIndex) -> bool:
    return place.heads_per_kv >= 4


def _outer(place: _TensorIndex) -> bool:
    """Return whether a tensor is in the first or last eighth, or every third between."""
    eighth = place.n // 8
    return place.i < eighth or place.i >= 7 * place.n // 8 or (place.i - eighth) % 3 == 2


def _first(count: int) -> Callable[[_TensorIndex], bool]:
    return lambda place: place.i < count


def _early(part: int, has_imatrix: bool | None = None) -> Callable[[_TensorIndex], bool]:
    """Return the rule for the first n // part tensors; with `has_imatrix`, only with (or without) an imatrix."""
    return lambda place: place.i < place.n // part and has_imatrix in (None, place.has_imatrix)


# output type -> the type of tensors without a rule
_BASE_TYPES = {name: name.removesuffix("_S").removesuffix("_M").removesuffix("_L") for name in FILE_TYPES}
# category -> output type -> rules; the first that applies counts, else the base type
_MIXTURES: dict[str, dict[str, tuple[_Rule, ...]]] = {
    "attn_v": {
        "Q2_K": ((_grouped, "Q4_K"), (_always, "Q3_K")),
        "Q3_K_M": ((_first(2), "Q5_K"), (_always, "Q4_K")),
        "Q3_K_L": ((_always, "Q5_K"),),
        "Q4_K_S": ((_first(4), "Q5_K"),),
        "Q4_K_M": ((_outer, "Q6_K"),),
        "Q5_K_M": ((_outer, "Q6_K"),),
        "IQ4_NL": ((_grouped, "Q5_K"),),
        "IQ4_XS": ((_grouped, "Q5_K"),),
    },
    "ffn_down": {
        "Q2_K": ((_always, "Q3_K"),),
        "Q3_K_M": ((_early(16), "Q5_K"), (_always, "Q4_K")),
        "Q3_K_L": ((_always, "Q5_K"),),
        "Q4_K_S": ((_early(8), "Q5_K"),),
        "Q4_K_M": ((_outer, "Q6_K"),),
        "Q5_K_M": ((_outer, "Q6_K"),),
        "IQ4_NL": ((_early(8, has_imatrix=False), "Q5_K"),),
        "IQ4_XS": ((_early(8, has_imatrix=False), "Q5_K"),),
        "Q4_0": ((_early(8, has_imatrix=True), "Q4_1"),),
        "Q5_0": ((_early(8, has_imatrix=True), "Q5_1"),),
    },
    "attn_output": {
        "Q2_K": ((_always, "Q3_K"),),
        "Q3_K_M": ((_always, "Q4_K"),),
        "Q3_K_L": ((_always, "Q5_K"),),
    },
}
# the same for models with eight experts; these take precedence
_EIGHT_EXPERTS: dict[str, dict[str, str]] = {
    "attn_v": dict.fromkeys(FILE_TYPES, "Q8_0"),
    "attn_k": dict.fromkeys(FILE_TYPES, "Q8_0"),
    "attn_output": {
        **{name: _BASE_TYPES[name] for name in FILE_TYPES},
        **dict.fromkeys(("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS"), "Q5_K"),
    },
}


def tensor_order(name: str) -> tuple[int, str]:
    """Return the sort key for llama-quantize's order: tensors without a layer, then layer by layer, by name."""
    layer = re.match(r"blk\.(\d+)", name)
    return (int(layer[1]) if layer else -1, name)


def is_quantized(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether llama-quantize quantises a tensor with this name and numpy shape; ignores leading ones."""
    return (
        any(n > 1 for n in shape[:-1])
        and name.endswith("weight")
        and name not in _KEPT_WHOLE
        and not any(part in name for part in _KEPT)
    )


def _category(name: str) -> str:
    if name == _OUTPUT:
        return "output"
    if name in EMBEDDINGS:
        return "embedding"
    return next((category for part, category in _CATEGORIES.items() if part in name), "")


@dataclass(kw_only=True)
class _Mixture:
    """The state of llama-quantize's walk over a model: how many tensors of a category have a type so far."""

    output_type: str
    model: ModelShape
    has_imatrix: bool
    tied: bool
    n_attn_v: int
    seen: dict[str, int] = field(default_factory=lambda: {"attn_v": 0, "ffn_down": 0})

    def choose(self, name: str, columns: int) -> str:
        """Return the next tensor's type, before any fallback."""
        category, base = _category(name), _BASE_TYPES[self.output_type]
        if category == "output" or (category == "embedding" and self.tied):
            return "Q8_0" if base == "Q8_0" or columns % tensor_type(base).block else "Q6_K"
        if category.startswith("ffn") and self.model.n_experts > 1:
            self._check_layer(name)
        place = self._place(category, name)
        if category in self.seen:
            self.seen[category] += 1
        if self.model.n_experts == 8 and category in _EIGHT_EXPERTS:
            return _EIGHT_EXPERTS[category][self.output_type]
        rules = _MIXTURES.get(category, {}).get(self.output_type, ())
        chosen = next((name for holds, name in rules if holds(place)), base)
        return "Q5_K" if category == "attn_v" and self.model.is_70b and chosen in ("Q3_K", "Q4_K") else chosen

    def _place(self, category: str, name: str) -> _TensorIndex:
        i, n = self.seen.get(category, 0), self.n_attn_v
        if category == "ffn_down":
            # a mixture of experts has several per layer, so count layers
            i, n = (tensor_order(name)[0] if self.model.n_experts > 1 else i), self.model.n_layers
        return _TensorIndex(i=i, n=n, heads_per_kv=self.model.heads_per_kv, has_imatrix=self.has_imatrix)

    def _check_layer(self, name: str) -> None:
        if not 0 <= tensor_order(name)[0] < self.model.n_layers:
            raise CheckpointError(f"tensor {name} does not belong to any of the model's {self.model.n_layers} layers.")


def choose_types(
    output_type: str,
    model: ModelShape,
    tensors: Mapping[str, tuple[int, ...]],
    has_imatrix: bool = False,
    overrides: Sequence[tuple[str, str]] = (),
) -> dict[str, TensorType]:
    """Return the type of every tensor (GGUF name -> numpy shape), in llama-quantize's order.

    `output_type` is one of FILE_TYPES. `overrides` are pairs of a pattern, searched in tensor names, and a tensor type
    in upper or lower case. The first pattern found in the name of a quantised tensor decides; the fallback for its
    quant block still applies. As in llama-quantize, patterns are lowered first (`\\D` becomes `\\d`), and overridden
    tensors do not count where a rule counts layers.
    Raises InputError for an unknown type, a pattern that is invalid or matches no quantised tensor, and for overrides
    when `output_type` is not quantised; CheckpointError for an expert tensor outside the model's layers.
    Source: llama.cpp, `llama_model_quantize` on a file that is all F32.
    """
    if output_type not in FILE_TYPES:
        raise InputError(f"unknown output type {output_type!r}.{nearest(output_type.upper(), FILE_TYPES)}")
    names = sorted(tensors, key=tensor_order)
    quantized = {name for name in names if is_quantized(name, tensors[name])}
    patterns = _compile_overrides(output_type, overrides, quantized)
    n_attn_v = sum(_category(name) == "attn_v" for name in names)
    mixture = _Mixture(
        output_type=output_type, model=model, has_imatrix=has_imatrix, tied=_OUTPUT not in tensors, n_attn_v=n_attn_v
    )
    types = {}
    for name in names:
        if name not in quantized:
            chosen = "F32"
        elif tensor_type(_BASE_TYPES[output_type]).block == 1:
            chosen = output_type
        else:
            columns = tensors[name][-1]
            override = next((held for pattern, held in patterns if pattern.search(name)), None)
            chosen = _fitting(override or mixture.choose(name, columns), columns)
        types[name] = tensor_type(chosen)
    return types


def _fitting(name: str, columns: int) -> str:
    for candidate in (name, _FALLBACKS.get(name, name)):
        if columns % tensor_type(candidate).block == 0:
            return candidate
    return "F16"


def type_name(text: str) -> str:
    """Return a weight type's name in upper case. Raises InputError if it is not a string."""
    if not isinstance(text, str):
        raise InputError(f"type {text!r} is not a string such as 'Q4_K_M'.")
    return text.strip().upper()


def parse_override(text: str) -> tuple[str, str]:
    """Split `PATTERN=TYPE` at the first `=`, as llama-quantize does. Raises InputError if a side is empty."""
    pattern, _, name = text.partition("=")
    if not pattern or not name:
        raise InputError(f"tensor type {text!r} is not PATTERN=TYPE, as in attn_v=q8_0.")
    return pattern, name


# regular expression syntax that Python has beyond ECMAScript, or reads differently
_FOREIGN = re.compile(r"\(\?[^:=!]|\[[.:=]")


def _compile_overrides(
    output_type: str, overrides: Sequence[tuple[str, str]], quantized: Iterable[str]
) -> list[tuple[re.Pattern[str], str]]:
    if overrides and tensor_type(_BASE_TYPES[output_type]).block == 1:
        raise InputError(f"--tensor-type requires a quantised output type; {output_type} is not. Choose another type.")
    compiled = []
    for text, name in overrides:
        where = f"tensor type {text}={name}"
        if name.upper() not in TENSOR_TYPES:
            raise InputError(f"{where}: unknown type {name!r}.{nearest(name.upper(), TENSOR_TYPES)}")
        if _FOREIGN.search(text):
            raise InputError(f"{where}: the pattern must be an ECMAScript regular expression, as in llama.cpp.")
        try:
            pattern = re.compile(text.lower())
        except (re.error, OverflowError, RecursionError) as e:
            raise InputError(f"{where}: the pattern is not a valid regular expression: {e}.") from e
        if not any(pattern.search(tensor) for tensor in quantized):
            known = {re.sub(r"^blk\.\d+\.", "", tensor) for tensor in quantized}
            raise InputError(f"{where}: the pattern matches no quantised tensor.{nearest(text, known)}")
        compiled.append((pattern, name.upper()))
    return compiled
