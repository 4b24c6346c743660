"""Make an adapter end to end: plan, factors, ranks, the adapter's file, and the base file at the centre."""

from __future__ import annotations

import logging
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pa_lite.checkpoints import Location, open_pair
from pa_lite.checkpoints.readers import Readers
from pa_lite.errors import InputError
from pa_lite.ggml.gguf_tables import Keys
from pa_lite.ggml.metadata import Metadata, float32, string, uint32
from pa_lite.merging.adapters.differences import Differences, norm2_of
from pa_lite.merging.adapters.factor_store import FactorStore
from pa_lite.merging.adapters.low_rank import DoubleArray, Factors, factorise
from pa_lite.merging.adapters.plan import AdapterOptions, AdapterPlan, Carried, plan_adapter
from pa_lite.merging.adapters.ranks import ranks_for
from pa_lite.merging.description import describe_sources
from pa_lite.merging.groups import GROUPS, group_of
from pa_lite.merging.write import MergeOptions, check_targets, write_merge
from pa_lite.progress import Counter, Progress
from pa_lite.system.atomic import check_space, check_target, whole_file, write_errors
from pa_lite.system.installed import installed_version

_log = logging.getLogger(__name__)
CENTER = "pa_lite.center"  # the metadata key of the lam at which an adapter's base is
_ALIGNMENT_ROOM = 64  # bytes of padding that two factors may take


@dataclass(frozen=True, kw_only=True)
class AdapterGroup:
    """A group of tensors: its share of the squared norm of I - B, and the share of that which the adapter carries.

    `ranks` are the lowest and the highest of its tensors in the adapter; both are 0 if it carries none.
    """

    group: str
    share: float
    carried: float
    ranks: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class WrittenAdapter:
    """An adapter's file, and the base file at the centre if one was written; sizes in bytes.

    `carried` is the share of the squared norm of I - B that the adapter carries.
    """

    path: Path
    base: Path | None
    center: float
    size: int
    ranks: Mapping[str, int]
    carried: float
    groups: tuple[AdapterGroup, ...]
    remarks: tuple[str, ...]


def base_path(output: Path, options: AdapterOptions) -> Path | None:
    """Return the path of the base file for an adapter's: `dial.gguf` has `dial-base-Q8_0.gguf`, with a center."""
    return None if options.center is None else output.with_name(f"{output.stem}-base-{options.type.upper()}.gguf")


def write_adapter(
    base: Location,
    instruct: Location,
    output: Path,
    options: AdapterOptions | None = None,
    progress: Progress | None = None,
) -> WrittenAdapter:
    """Write the difference of a pair as a GGUF LoRA adapter and, with a center, the base file for it.

    Checkpoints on the Hub are downloaded first. `progress` gets the bytes of that, the values read for the factors, and
    the bytes of the base file. Each file is complete or absent. Raises what `plan_adapter` and `write_merge` raise,
    OutputError for a target that exists or cannot be written, InputError if base and instruct are the same.
    """
    options = options or AdapterOptions()
    if output.suffix.lower() != ".gguf":
        raise InputError(f"{output}: an adapter is a GGUF file: name it with the ending .gguf.")
    center_path = base_path(output, options)
    for path in filter(None, (output, center_path)):
        check_target(path, options.force)
    plan = plan_adapter(*open_pair(base, instruct, progress=progress), options)
    how = MergeOptions(force=options.force, max_memory=options.max_memory)
    check_targets(plan.merge, [output, *([center_path] if center_path else [])], how)
    check_space(output.parent, 2 * plan.computed_bytes)
    for remark in plan.remarks:
        _log.warning("%s", remark)
    with write_errors(output.parent), tempfile.TemporaryFile(dir=output.parent) as kept:
        store = FactorStore(kept, plan.factor_type)
        squares, norms = _compute(plan, store, progress)
        ranks = _choose(plan, store, squares)
        if not any(ranks.values()):
            raise InputError("base and instruct do not differ in any matrix: there is no adapter to write.")
        placed = store.header(plan.merge.instruct.architecture, _metadata(plan), _by_name(plan), ranks)
        with whole_file(output) as file:
            store.write(file, placed, ranks)
    if center_path is not None:
        write_merge(plan.merge, [(plan.center, center_path)], how, progress)
    kept_norms = {name: float(values[: ranks[name]].sum()) for name, values in squares.items()}
    return WrittenAdapter(
        path=output,
        base=center_path,
        center=plan.center,
        size=placed.size,
        ranks={name: rank for name, rank in ranks.items() if rank},
        carried=_share(sum(kept_norms.values()), sum(norms.values())),
        groups=tuple(_groups(norms, kept_norms, ranks)),
        remarks=plan.remarks,
    )


def _by_name(plan: AdapterPlan) -> dict[str, Carried]:
    return {c.tensor.name: c for c in plan.carried}


def _compute(
    plan: AdapterPlan, store: FactorStore, progress: Progress | None
) -> tuple[dict[str, DoubleArray], dict[str, float]]:
    """Store the factors of every tensor. Return the squared singular values of those that the adapter carries (summed
    over stacked matrices), and the squared norm of every tensor's difference.
    """
    passes, merge = plan.options.passes, plan.merge
    total = passes * sum(c.tensor.n_values for c in plan.carried) + sum(t.n_values for t in plan.left_out)
    squares: dict[str, DoubleArray] = {}
    norms: dict[str, float] = {}
    with Readers(merge.files, ()) as readers:
        try:
            differences = Differences(readers, Counter(progress, "adapter", total, "values"))
            for c in plan.carried:
                name = c.tensor.name
                squares[name], norms[name] = np.zeros(c.rank), 0.0
                for index in range(c.n):
                    factors = _factors(differences, c, index, plan.options)
                    store.add(name, factors)
                    squares[name][: factors.rank] += factors.values**2
                    norms[name] += factors.norm2
            norms |= norm2_of(plan.left_out, differences)
        finally:
            readers.check()
    return squares, norms


def _factors(differences: Differences, c: Carried, index: int, options: AdapterOptions) -> Factors:
    # the same numbers whatever other tensors there are
    random = np.random.default_rng([options.seed, zlib.crc32(c.tensor.name.encode()), index])
    return factorise(lambda: differences.read(c.tensor, index), c.rows, c.columns, c.rank, options.passes, random)


def _choose(plan: AdapterPlan, store: FactorStore, squares: Mapping[str, DoubleArray]) -> dict[str, int]:
    """Return the rank of each tensor: all that was computed and is not 0, or what fits into the size."""
    ranks = {name: int(np.count_nonzero(values)) for name, values in squares.items()}
    options, carried = plan.options, _by_name(plan)
    if not options.size:
        return ranks
    ones = {name: min(1, rank) for name, rank in ranks.items()}
    header = store.header(plan.merge.instruct.architecture, _metadata(plan), carried, ones)
    data = sum(t.nbytes for t in header.tensors.values())
    room = options.size - (header.size - data) - _ALIGNMENT_ROOM * len(ranks)
    itemsize = plan.factor_type.nbytes(1)
    chosen = ranks_for(
        {name: values[: ranks[name]] for name, values in squares.items()},
        {name: c.unit for name, c in carried.items()},
        room // itemsize,
    )
    if not any(chosen.values()):
        raise InputError(f"--size {options.size / 1e6:g}M is not enough for any tensor's first rank.")
    n_full = sum(0 < rank == carried[name].rank < carried[name].most for name, rank in chosen.items())
    if n_full:
        _log.warning(
            "%d tensors have the highest rank that was computed, and might use more: raise --max-memory or --size, or "
            "give a --rank", n_full,
        )  # fmt: skip
    return chosen


def _metadata(plan: AdapterPlan) -> Metadata:
    merge, options = plan.merge, plan.options
    return {
        Keys.General.TYPE: string("adapter"),
        Keys.General.NAME: string(f"{merge.instruct.name} minus {merge.base.name}"),
        **describe_sources(merge.base, merge.instruct),
        Keys.Adapter.TYPE: string("lora"),
        Keys.Adapter.LORA_ALPHA: float32(0.0),  # the scale is then the user's own number, whatever the rank
        "pa_lite.version": string(installed_version("pa-lite")),
        CENTER: float32(plan.center),
        "pa_lite.base.fingerprint": string(merge.fingerprints[0]),
        "pa_lite.instruct.fingerprint": string(merge.fingerprints[1]),
        "pa_lite.passes": uint32(options.passes),
        "pa_lite.seed": uint32(options.seed),
    }


def _groups(norms: Mapping[str, float], kept: Mapping[str, float], ranks: Mapping[str, int]) -> Iterator[AdapterGroup]:
    total = sum(norms.values())
    for group in GROUPS:
        names = [name for name in norms if group_of(name) == group]
        if names:
            own, found = sum(norms[name] for name in names), [ranks.get(name, 0) for name in names]
            carried = _share(sum(kept.get(name, 0.0) for name in names), own)
            yield AdapterGroup(group=group, share=_share(own, total), carried=carried, ranks=(min(found), max(found)))


def _share(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole else 0.0
