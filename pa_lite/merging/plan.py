"""Plan a merge from headers alone: decide the type, shape and sources of each output tensor."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pa_lite.checkpoints.checkpoint import Checkpoint, TensorSource, Vocabulary
from pa_lite.checkpoints.families.family import Architecture
from pa_lite.checkpoints.families.table import ARCHITECTURES
from pa_lite.checkpoints.fingerprint import fingerprint, header_inputs, identity
from pa_lite.checkpoints.vocabulary.tokens import name_for_llama_cpp
from pa_lite.errors import InputError, MismatchError, nearest
from pa_lite.ggml.container import PlacedHeader, gguf_header
from pa_lite.ggml.gguf_tables import QUANTIZATION_VERSION, Keys
from pa_lite.ggml.imatrix import assign_importance, read_imatrix
from pa_lite.ggml.kernels import FloatArray, TensorType
from pa_lite.ggml.metadata import Metadata, boolean, float32, string, uint32
from pa_lite.ggml.quant_types import FILE_TYPES, choose_types, model_shape, parse_override, type_name
from pa_lite.merging.align import (
    TOKEN_ROWS,
    RowMaps,
    align_vocabularies,
    check_sizes,
    compare_settings,
    pair_tensors,
    swapped,
)
from pa_lite.merging.description import describe_sources
from pa_lite.merging.groups import group_of, layer_of
from pa_lite.merging.schedule import Schedule, read_schedule
from pa_lite.system.byte_source import ByteSource, Stamp, is_remote
from pa_lite.system.installed import installed_version
from pa_lite.system.machine import peak_bytes

DEFAULT_TYPE = "Q8_0"
_NO_SCHEDULE = Schedule()
RECIPE = "pa_lite.recipe"  # the metadata key of an output for `MergePlan.recipe`


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """The output's type, lam schedule, vocabulary (whose), importance matrix, and types by pattern.

    `tensor_types` holds (regular expression on the tensor's name, ggml type) in the order of the command line. `force`
    merges even where the two networks compute differently, and takes instruct's settings. `allow_nonfinite` keeps NaN,
    infinities and values that rounding makes infinite in tensors of type F32, F16 and BF16. Quantised types always
    reject them, because a quant block cannot represent them.
    """

    type: str = DEFAULT_TYPE
    schedule: Schedule = _NO_SCHEDULE
    vocab: str = "instruct"
    imatrix: Path | None = None
    tensor_types: tuple[tuple[str, str], ...] = ()
    force: bool = False
    allow_nonfinite: bool = False

    def __post_init__(self) -> None:
        """Accept a type in any case, and schedule, path and tensor types as strings. Raises InputError."""
        given = (self.tensor_types,) if isinstance(self.tensor_types, str) else self.tensor_types
        overrides = tuple(parse_override(entry) if isinstance(entry, str) else tuple(entry) for entry in given)
        object.__setattr__(self, "type", type_name(self.type))
        object.__setattr__(self, "tensor_types", overrides)
        object.__setattr__(self, "schedule", read_schedule(self.schedule))
        if self.imatrix is not None:
            object.__setattr__(self, "imatrix", Path(self.imatrix))


@dataclass(frozen=True, kw_only=True)
class TensorPlan:
    """One output tensor: its type, and the two tensors that it is interpolated from.

    `base` None copies instruct's; `constant` holds fixed values instead of both. `maps` aligns rows by token.
    `importance` weights the columns in quantisation: float32 [matrices, columns], 1 matrix unless experts are stacked.
    """

    name: str
    type: TensorType
    shape: tuple[int, ...]
    base: TensorSource | None = None
    instruct: TensorSource | None = None
    constant: npt.NDArray[np.float32] | None = None
    maps: RowMaps | None = None
    importance: FloatArray | None = None

    @property
    def n_values(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.type.nbytes(self.n_values)

    @property
    def sides(self) -> tuple[TensorSource, ...]:
        """The tensors that values are read from: base's and instruct's, only instruct's, or none."""
        return tuple(side for side in (self.base, self.instruct) if side is not None)

    @property
    def is_shared(self) -> bool:
        """Whether instruct is base with an adapter's changes, or without any, in the same order of rows."""
        if self.base is None or self.instruct is None or self.maps is not None or self.base.changes:
            return False
        return self.instruct.is_stored_as(self.base)

    @property
    def shift(self) -> float:
        """The number added to interpolated values: the shift of both sides, or 0 where they differ."""
        shifts = {side.shift for side in self.sides}
        return shifts.pop() if len(shifts) == 1 else 0.0


@dataclass(frozen=True, kw_only=True)
class MergePlan:
    """A merge of base and instruct for any lam; `at` gives the output at one lam.

    `peak` is the process's peak memory during planning, in bytes; 0 if an earlier peak was higher. `swap` is why base
    and instruct may be swapped, empty if nothing says so.
    """

    base: Checkpoint
    instruct: Checkpoint
    options: PlanOptions
    tensors: tuple[TensorPlan, ...]
    vocabulary: Vocabulary
    remarks: tuple[str, ...] = ()
    peak: int = 0
    swap: str = ""

    @property
    def type(self) -> str:
        """The output type's name."""
        return self.options.type

    @property
    def choices(self) -> tuple[str, ...]:
        """One line for each choice between files that contradict each other."""
        return (*self.base.remarks, *self.instruct.remarks, *self.vocabulary.remarks)

    @functools.cached_property
    def doubts(self) -> tuple[str, ...]:
        """Remarks on what is probably a mistake: the sides are swapped, or are the same model."""
        is_local = not any(map(is_remote, self.files))
        is_same = self.base.path == self.instruct.path or (is_local and self.fingerprints[0] == self.fingerprints[1])
        same = "base and instruct are the same model: every lam gives that model"
        return (*((self.swap,) if self.swap else ()), *((same,) if is_same else ()))

    @functools.cached_property
    def n_values(self) -> int:
        """The number of parameters of an output."""
        return sum(t.n_values for t in self.tensors)

    @property
    def tensor_infos(self) -> dict[str, tuple[TensorType, tuple[int, ...]]]:
        """Type and shape of each output tensor, in file order."""
        return {t.name: (t.type, t.shape) for t in self.tensors}

    @property
    def data_bytes(self) -> int:
        """Bytes of tensor data in one output, without header and padding."""
        return sum(t.nbytes for t in self.tensors)

    @functools.cached_property
    def files(self) -> Mapping[ByteSource, Stamp | None]:
        """Every file that weights are read from, with its stamp when the header was read."""
        sources = (source for t in self.tensors for side in t.sides for source in side.sources)
        return {p.path: p.stamp for source in sources for p in source.pieces}

    @functools.cached_property
    def n_layers(self) -> int:
        """The number of layers."""
        return 1 + max((layer_of(t.name) or 0 for t in self.tensors), default=0)

    @functools.cached_property
    def fingerprints(self) -> tuple[str, str]:
        """The fingerprints of base and instruct."""
        return fingerprint(self.base), fingerprint(self.instruct)

    @functools.cached_property
    def recipe(self) -> str:
        """SHA-256 (hex) of how every tensor is made, without lam and schedule. The header does not show this.

        It covers which tensors are interpolated, copied or taken from the configuration, how rows are aligned by token
        (which depends on base's tokenizer), types, and the importance of columns.
        """
        digest = hashlib.sha256()
        for t in self.tensors:
            sides = [None if s is None else [s.stored_name, s.heads, s.shift] for s in (t.base, t.instruct)]
            digest.update(json.dumps([t.name, t.type.name, t.shape, *sides]).encode("ascii"))
            aligned = (t.maps.base, t.maps.instruct) if t.maps is not None else (None, None)
            for values in (t.constant, *aligned, t.importance):
                digest.update(b"none" if values is None else f"{values.dtype} {values.shape}".encode("ascii"))
                if values is not None:
                    digest.update(values.tobytes())
        return digest.hexdigest()

    @functools.cached_property
    def header_inputs(self) -> dict[str, str]:
        """The metadata of an output that can change a prompt or a logit; the same at every lam."""
        return header_inputs(self.instruct.architecture, self.at(0.0).metadata)

    def at(self, lam: float, schedule: Schedule | None = None) -> Layout:
        """Return the output at a lam, by the plan's schedule or by another.

        Raises InputError for a schedule with layers that the model does not have.
        """
        schedule = self.options.schedule if schedule is None else schedule
        schedule.check(self.n_layers)
        return Layout(plan=self, lam=lam, schedule=schedule)

    def by_group(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Return (group, type) -> (number of tensors, bytes) of one output."""
        out: dict[tuple[str, str], tuple[int, int]] = {}
        for t in self.tensors:
            key = (group_of(t.name), t.type.name)
            n, size = out.get(key, (0, 0))
            out[key] = (n + 1, size + t.nbytes)
        return out

    def size_label(self) -> str:
        """Return the number of parameters, such as `8.0B`; for experts the size with one expert, such as `8x7.2B`."""
        experts = [t for t in self.tensors if "_exps." in t.name]
        if not experts:
            return _rounded(self.n_values)
        n = experts[0].shape[0]
        stacked = sum(t.n_values for t in experts)
        return f"{n}x{_rounded(self.n_values - stacked + stacked // n)}"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One output of a plan, at one lam and schedule: the same for a file and for a model in memory."""

    plan: MergePlan
    lam: float
    schedule: Schedule

    @functools.cached_property
    def lams(self) -> Mapping[str, float]:
        """The lam of each tensor."""
        n_layers = self.plan.n_layers
        return {t.name: self.schedule.lam_of(t.name, self.lam, n_layers) for t in self.plan.tensors}

    @functools.cached_property
    def identity(self) -> str:
        """SHA-256 (hex) of all that decides the output's prompts and logits: metadata, weights, types and lams."""
        plan = self.plan
        return identity(plan.header_inputs, *plan.fingerprints, plan.recipe, list(self.lams.values()))

    @functools.cached_property
    def file(self) -> PlacedHeader:
        """The header's bytes, the position of each tensor, and the size of the file."""
        return gguf_header(self.plan.instruct.architecture, self.metadata, self.plan.tensor_infos)

    @functools.cached_property
    def metadata(self) -> Metadata:
        """All metadata of the output, provenance included, except `general.architecture`."""
        plan = self.plan
        architecture = plan.instruct.architecture
        general: Metadata = {
            Keys.General.TYPE: string("model"),
            Keys.General.NAME: string(
                name_for_llama_cpp(f"{plan.instruct.name} pa {self.lam:g}", architecture, plan.vocabulary)
            ),
            Keys.General.SIZE_LABEL: string(plan.size_label()),
            **describe_sources(plan.base, plan.instruct),
            Keys.General.FILE_TYPE: uint32(FILE_TYPES[plan.type]),
            Keys.General.QUANTIZATION_VERSION: uint32(QUANTIZATION_VERSION),
        }
        provenance: Metadata = {
            "pa_lite.version": string(installed_version("pa-lite")),
            "pa_lite.llama_cpp_python_version": string(installed_version("llama-cpp-python")),
            "pa_lite.lam": float32(self.lam),
            "pa_lite.base.fingerprint": string(plan.fingerprints[0]),
            "pa_lite.instruct.fingerprint": string(plan.fingerprints[1]),
            "pa_lite.vocabulary": string(plan.options.vocab),
            RECIPE: string(plan.recipe),
        }
        if self.schedule.rules:
            provenance["pa_lite.schedule"] = string(self.schedule.text)
        if plan.options.allow_nonfinite:
            provenance["pa_lite.allow_nonfinite"] = boolean(True)
        if plan.options.imatrix is not None:
            provenance["pa_lite.imatrix"] = string(plan.options.imatrix.name)
        out = {**general, **plan.instruct.metadata, **plan.vocabulary.metadata, **provenance}
        size_key = Keys.LLM.VOCAB_SIZE.format(arch=architecture)
        if size_key in out:
            out[size_key] = uint32(len(plan.vocabulary.tokens))
        if plan.options.vocab == "base":  # the template uses instruct's tokens
            out = {key: entry for key, entry in out.items() if not key.startswith("tokenizer.chat_template")}
        return out


def _rounded(n: float) -> str:
    scale, unit = next((s, u) for s, u in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")) if n >= s or u == "K")
    value = n / scale
    return f"{value:.0f}{unit}" if value >= 10 else f"{value:.1f}{unit}"


def plan_merge(base: Checkpoint, instruct: Checkpoint, options: PlanOptions | None = None) -> MergePlan:
    """Plan the merge of base and instruct.

    Raises MismatchError, naming the first tensor and both shapes, when architecture or size differ or, without `force`,
    the networks compute differently; InputError for an unknown type, pattern or layer; CheckpointError when the
    vocabulary to write is unusable.
    """
    options = options or PlanOptions()
    if options.type not in FILE_TYPES:
        raise InputError(f"unknown output type {options.type!r}.{nearest(options.type, FILE_TYPES)}")
    if base.architecture != instruct.architecture:
        raise MismatchError(
            f"architectures differ: {base.path} is {base.architecture}, {instruct.path} is {instruct.architecture}. "
            "Merge only a model and its fine-tune."
        )
    earlier_peak = peak_bytes()
    # 1. match tensors and, where the vocabularies differ, their rows
    check_sizes(base, instruct)
    vocabulary, maps, templates = align_vocabularies(base, instruct, options.vocab)
    pairs, remarks = pair_tensors(base, instruct, maps, options.force)
    remarks += [*base.remarks, *instruct.remarks, *vocabulary.remarks]
    remarks += [*instruct.warnings, *compare_settings(base, instruct, options.force)]
    remarks += [maps.summary(options.vocab)] if maps is not None else []
    # 2. output shapes: instruct's, with one row for each token of the written vocabulary
    n_tokens = len(vocabulary.tokens)
    shapes = {
        name: (n_tokens, *right.shape[1:]) if name in TOKEN_ROWS else right.shape for name, (_, right) in pairs.items()
    }
    shapes |= {name: values.shape for name, values in instruct.constants.items()}
    # 3. the type of each tensor and the order of tensors, as llama-quantize chooses them
    imatrix = _imatrix(options, shapes)
    facts = ARCHITECTURES.get(instruct.architecture, Architecture())
    model = model_shape(
        instruct.architecture, instruct.metadata, instruct.path,
        layers_70b=facts.layers_70b, grouped_70b=facts.grouped_70b,
    )  # fmt: skip
    types = choose_types(options.type, model, shapes, bool(imatrix), options.tensor_types)
    importance = assign_importance(imatrix, types, shapes)
    # 4. the sources of each tensor: both sides, only instruct, or values of the configuration
    tensors = []
    for name, tensor_type in types.items():
        left, right = pairs.get(name, (None, None))
        tensors.append(
            TensorPlan(
                name=name,
                type=tensor_type,
                shape=shapes[name],
                base=left,
                instruct=right,
                constant=instruct.constants.get(name) if right is None else None,
                maps=maps if name in TOKEN_ROWS else None,
                importance=importance.get(name),
            )
        )
    peak = peak_bytes()
    peak = peak if peak > earlier_peak else 0
    plan = MergePlan(
        base=base,
        instruct=instruct,
        options=options,
        tensors=tuple(tensors),
        vocabulary=vocabulary,
        remarks=tuple(remarks),
        peak=peak,
        swap="" if instruct.is_adapter else swapped(base, instruct, templates) or "",
    )
    options.schedule.check(plan.n_layers)
    return plan


def _imatrix(options: PlanOptions, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, FloatArray]:
    """Read the importance matrix, empty by default. Raises InputError when it has none of the model's tensors."""
    if options.imatrix is None:
        return {}
    found = read_imatrix(options.imatrix)
    if not found.keys() & shapes.keys():
        raise InputError(f"{options.imatrix}: has no tensor of this model. Compute the matrix from this model.")
    return found
