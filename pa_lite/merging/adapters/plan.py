"""Plan an adapter from headers: the matrices that it carries, and what stays at the centre."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pa_lite.checkpoints.adapters.names import EMBEDDING, OUTPUT, families_of
from pa_lite.checkpoints.checkpoint import Checkpoint
from pa_lite.errors import InputError, MismatchError
from pa_lite.ggml.kernels import TensorType, tensor_type
from pa_lite.merging.adapters.low_rank import factor_bytes
from pa_lite.merging.lams import read_lam
from pa_lite.merging.memory import parse_bytes, planned_bytes
from pa_lite.merging.plan import DEFAULT_TYPE, MergePlan, PlanOptions, TensorPlan, plan_merge

FACTOR_TYPES = ("F16", "F32")
DEFAULT_RANK = 64
BATCH_VALUES = 1 << 21  # values of the difference in memory at a time: enough rows for a fast product
_SPREAD = 4  # with a size, no tensor gets a rank beyond this multiple of the rank that all could have
# the matrices that llama.cpp's graphs multiply with `build_lora_mm`, in the architectures of the table
_CARRIED = re.compile(
    r"(token_embd|output|blk\.\d+\.(attn_(q|k|v|qkv|output)|ffn_(gate|up|down)(_exps|_shexp)?|ffn_gate_inp))\.weight"
)


@dataclass(frozen=True, kw_only=True)
class AdapterOptions:
    """How the difference of a pair becomes an adapter.

    `rank` is that of every tensor (0: 64), or `size` is the largest file, in bytes, and tensors get ranks by their
    singular values. `center` is the lam of the base file that is written too (None: none is; the adapter's base is the
    pair's base), of the type `type`; `untie` gives that file an output matrix, so that the adapter can carry a tied
    embedding. `passes` is how often the pair is read: an even number. `factors` is the type of the factors, F16 or F32.
    `max_memory` bounds the process, in bytes, 0 for no bound. `force` overwrites existing files.
    """

    rank: int = 0
    size: int = 0
    center: float | None = None
    type: str = DEFAULT_TYPE
    untie: bool = False
    passes: int = 4
    factors: str = "F16"
    seed: int = 0
    max_memory: int = 0
    force: bool = False

    def __post_init__(self) -> None:
        """Accept sizes such as `200M`, and types in any case. Raises InputError for values that cannot be used."""
        object.__setattr__(self, "size", parse_bytes(self.size))
        object.__setattr__(self, "max_memory", parse_bytes(self.max_memory))
        object.__setattr__(self, "factors", str(self.factors).upper())
        if self.center is not None:
            object.__setattr__(self, "center", read_lam(self.center, extrapolate=False))
        if self.rank < 0 or (self.rank and self.size):
            raise InputError(
                f"rank {self.rank} must be at least 1." if self.rank < 0 else "give either a rank or a size, not both."
            )
        if self.passes < 2 or self.passes % 2 or self.passes > 20:
            raise InputError(f"passes is {self.passes}, but must be an even number from 2 to 20.")
        if self.factors not in FACTOR_TYPES:
            raise InputError(f"factors of type {self.factors!r} are not possible: choose F16 or F32.")
        if self.untie and self.center is None:
            raise InputError("an untied base must be written first: add a center (--center 0.6).")


@dataclass(frozen=True, kw_only=True)
class Carried:
    """A tensor that the adapter carries: `n` matrices [rows, columns], more than one if experts are stacked.

    `rank` is the largest that is computed.
    """

    tensor: TensorPlan
    rank: int

    @property
    def n(self) -> int:
        return math.prod(self.tensor.shape[:-2])

    @property
    def rows(self) -> int:
        return self.tensor.shape[-2]

    @property
    def columns(self) -> int:
        return self.tensor.shape[-1]

    @property
    def most(self) -> int:
        """The full rank."""
        return min(self.rows, self.columns)

    @property
    def unit(self) -> int:
        """The numbers that one rank takes in the file."""
        return self.n * (self.rows + self.columns)


@dataclass(frozen=True, kw_only=True)
class AdapterPlan:
    """An adapter for `I - B`: what it carries, and what stays at the centre. `merge` plans the base file."""

    merge: MergePlan
    options: AdapterOptions
    carried: tuple[Carried, ...]
    left_out: tuple[TensorPlan, ...]
    remarks: tuple[str, ...]

    @property
    def center(self) -> float:
        return self.options.center or 0.0

    @property
    def factor_type(self) -> TensorType:
        return tensor_type(self.options.factors)

    @property
    def computed_bytes(self) -> int:
        """The bytes of all factors that are computed."""
        return self.factor_type.nbytes(1) * sum(c.rank * c.unit for c in self.carried)


def plan_adapter(base: Checkpoint, instruct: Checkpoint, options: AdapterOptions | None = None) -> AdapterPlan:
    """Plan the adapter of a pair. Raises what `plan_merge` raises; MismatchError for vocabularies that differ without a
    center; InputError for a rank that no matrix has or that needs more than the allowed memory, which names the largest
    that fits, and for a size that is too small.
    """
    options = options or AdapterOptions()
    is_written = options.center is not None
    if options.untie:
        base, instruct = _untied(base), _untied(instruct)
    plan = plan_merge(base, instruct, PlanOptions(type=options.type))
    if not is_written and any(t.maps is not None for t in plan.tensors):
        raise MismatchError(
            f"the vocabularies of {base.path} and {instruct.path} differ, and an adapter cannot change a vocabulary. "
            "Write a base file that has instruct's: --center 0.6."
        )
    # with a file of ours, the output is tied where the plan has none; otherwise where the base has none
    is_tied = OUTPUT not in {t.name for t in plan.tensors} or not (is_written or OUTPUT in base.tensors)
    skipped = {EMBEDDING, OUTPUT} if is_tied else set()
    matrices, left_out = [], []
    for tensor in plan.tensors:
        if tensor.base is None:
            continue  # a copy of instruct's, such as rotary factors, is the same at every lam
        if _CARRIED.fullmatch(tensor.name) and tensor.name not in skipped:
            matrices.append(Carried(tensor=tensor, rank=0))
        else:
            left_out.append(tensor)
    if not matrices:
        raise InputError(f"{instruct.path}: has no matrix that llama.cpp's adapters can change.")
    carried = tuple(replace(c, rank=min(c.most, rank)) for c, rank in _ranks(plan, matrices, options))
    remarks = [*plan.remarks, *plan.doubts] if is_written else [*plan.choices, *_settings(base, instruct)]
    return AdapterPlan(
        merge=plan, options=options, carried=carried, left_out=tuple(left_out),
        remarks=(*remarks, *_costs(left_out, options, is_tied)),
    )  # fmt: skip


def _untied(side: Checkpoint) -> Checkpoint:
    """Return a checkpoint with an output matrix. Raises InputError where llama.cpp can only tie it."""
    if OUTPUT in side.tensors:
        return side
    if not any(family.names.get("lm_head.weight") for family in families_of(side)):
        raise InputError(
            f"{side.path}: llama.cpp cannot separate the output matrix from the embedding in this architecture "
            f"({side.architecture}). Leave --untie out."
        )
    return replace(side, tensors={**side.tensors, OUTPUT: replace(side.tensors[EMBEDDING], name=OUTPUT)})


def _ranks(plan: MergePlan, matrices: Sequence[Carried], options: AdapterOptions) -> list[tuple[Carried, int]]:
    """Return the rank to compute for each matrix. Raises InputError as `plan_adapter` does."""
    most = max(c.most for c in matrices)
    if options.rank > most:
        raise InputError(f"rank {options.rank} exceeds the dimensions of every matrix: the full rank is {most}.")
    rank = options.rank or DEFAULT_RANK
    if options.size:
        each = tensor_type(options.factors).nbytes(1) * sum(c.unit for c in matrices)
        if options.size < each:
            raise InputError(f"--size {options.size / 1e6:g}M is not enough: rank 1 takes {each / 1e6:.3g}M.")
        rank = min(most, _SPREAD * options.size // each)
    if options.max_memory:
        fitting = _largest(lambda r: _peak(plan, matrices, r) <= options.max_memory, most)
        if not fitting:
            needed = math.ceil(_peak(plan, matrices, 1) * 1.05 / 1e6)
            raise InputError(f"--max-memory {options.max_memory / 1e6:.0f}M is not enough: rank 1 needs {needed}M.")
        if fitting < rank and not options.size:
            raise InputError(
                f"rank {rank} needs {_peak(plan, matrices, rank) / 1e6:.0f}M, which exceeds --max-memory "
                f"{options.max_memory / 1e6:.0f}M. The largest rank that fits is {fitting}."
            )
        rank = min(rank, fitting)
    return [(c, rank) for c in matrices]


def _peak(plan: MergePlan, matrices: Sequence[Carried], rank: int) -> int:
    """Return an upper bound of the process's peak memory in bytes, if `rank` is that of every matrix."""
    largest = max(factor_bytes(min(rank, c.most), c.rows, c.columns) for c in matrices)
    return planned_bytes(plan, 1) + largest + 4 * BATCH_VALUES


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest number up to `most` that fits, 0 if none does; smaller ones fit, too."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _settings(base: Checkpoint, instruct: Checkpoint) -> list[str]:
    """Return a remark if instruct's rotary or context settings differ: a base of the user's keeps its own."""
    start = f"{base.architecture}."
    keys = sorted(key for key in base.metadata.keys() | instruct.metadata.keys() if key.startswith(start))
    values = [[c.metadata[key].value if key in c.metadata else None for c in (base, instruct)] for key in keys]
    differing = [key for key, (ours, theirs) in zip(keys, values, strict=True) if ours != theirs]
    if not differing:
        return []
    return [
        f"base and instruct differ in {', '.join(differing)}: the base file keeps its own (--center has instruct's)"
    ]


def _costs(left_out: Sequence[TensorPlan], options: AdapterOptions, is_tied: bool) -> list[str]:
    """Return remarks on what stays at the centre, and why."""
    where = f"stay at lam {options.center or 0:g}"
    small = [t for t in left_out if t.name not in (EMBEDDING, OUTPUT)]
    out = [f"{len(small)} norms, biases and other small tensors {where}: adapters cannot carry them"] if small else []
    if is_tied:
        out.append(
            f"the embedding, to which the output is tied, {where.replace('stay', 'stays')}: llama.cpp aborts with an "
            "adapter on it"
        )
    return out
