"""Merging at one or several values of lam, previewing a merge, and measuring the distance of two checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

from pa_lite.api.options import Lams, Location, Pair, PairLike, Progress, fill, renamed
from pa_lite.errors import InputError
from pa_lite.merging.diff import Diff, Distance, diff_checkpoints
from pa_lite.merging.lams import read_lams
from pa_lite.merging.plan import PlanOptions
from pa_lite.merging.preview import Preview, preview_merge
from pa_lite.merging.schedule import Schedule
from pa_lite.merging.write import MergeOptions, merge_checkpoints, resolve_inputs

__all__ = ["Diff", "Distance", "MergeOptions", "PlanOptions", "Preview", "diff", "merge", "preview"]

DEFAULT_LAM = 0.7


@overload
def merge(
    base: str | Location | Pair | None = None, instruct: str | Location | None = None, lam: float = DEFAULT_LAM, *,
    type: str | None = None, output: str | Path | None = None, pair: PairLike | None = None,
    schedule: str | Schedule | None = None, vocab: str | None = None, imatrix: str | Path | None = None,
    tensor_types: str | Sequence[str | tuple[str, str]] | None = None, allow_nonfinite: bool | None = None,
    threads: int | None = None, force: bool | None = None, resume: bool | None = None, verify: bool | None = None,
    max_memory: int | str | None = None, stream: bool | None = None, extrapolate: bool | None = None,
    plan: PlanOptions | None = None, options: MergeOptions | None = None, progress: Progress | None = None,
) -> Path: ...  # fmt: skip
@overload
def merge(
    base: str | Location | Pair | None, instruct: str | Location | None, lam: Sequence[float], *,
    type: str | None = None, output: str | Path | None = None, pair: PairLike | None = None,
    schedule: str | Schedule | None = None, vocab: str | None = None, imatrix: str | Path | None = None,
    tensor_types: str | Sequence[str | tuple[str, str]] | None = None, allow_nonfinite: bool | None = None,
    threads: int | None = None, force: bool | None = None, resume: bool | None = None, verify: bool | None = None,
    max_memory: int | str | None = None, stream: bool | None = None, extrapolate: bool | None = None,
    plan: PlanOptions | None = None, options: MergeOptions | None = None, progress: Progress | None = None,
) -> list[Path]: ...  # fmt: skip
@overload
def merge(
    base: str | Location | Pair | None = None, instruct: str | Location | None = None, *, lam: Sequence[float],
    type: str | None = None, output: str | Path | None = None, pair: PairLike | None = None,
    schedule: str | Schedule | None = None, vocab: str | None = None, imatrix: str | Path | None = None,
    tensor_types: str | Sequence[str | tuple[str, str]] | None = None, allow_nonfinite: bool | None = None,
    threads: int | None = None, force: bool | None = None, resume: bool | None = None, verify: bool | None = None,
    max_memory: int | str | None = None, stream: bool | None = None, extrapolate: bool | None = None,
    plan: PlanOptions | None = None, options: MergeOptions | None = None, progress: Progress | None = None,
) -> list[Path]: ...  # fmt: skip
@overload
def merge(
    base: str | Location | Pair | None = None, instruct: str | Location | None = None, *, lam: str,
    type: str | None = None, output: str | Path | None = None, pair: PairLike | None = None,
    schedule: str | Schedule | None = None, vocab: str | None = None, imatrix: str | Path | None = None,
    tensor_types: str | Sequence[str | tuple[str, str]] | None = None, allow_nonfinite: bool | None = None,
    threads: int | None = None, force: bool | None = None, resume: bool | None = None, verify: bool | None = None,
    max_memory: int | str | None = None, stream: bool | None = None, extrapolate: bool | None = None,
    plan: PlanOptions | None = None, options: MergeOptions | None = None, progress: Progress | None = None,
) -> Path | list[Path]: ...  # fmt: skip
@overload
def merge(
    base: str | Location | Pair | None = None, instruct: str | Location | None = None, *, lams: Sequence[float],
    plan: PlanOptions | None = None, options: MergeOptions | None = None, output: str | Path | None = None,
    pair: PairLike | None = None, progress: Progress | None = None,
) -> list[Path]: ...  # fmt: skip
def merge(
    base: str | Location | Pair | None = None,
    instruct: str | Location | None = None,
    lam: Lams = DEFAULT_LAM,
    *,
    type: str | None = None,
    output: str | Path | None = None,
    pair: PairLike | None = None,
    schedule: str | Schedule | None = None,
    vocab: str | None = None,
    imatrix: str | Path | None = None,
    tensor_types: str | Sequence[str | tuple[str, str]] | None = None,
    allow_nonfinite: bool | None = None,
    threads: int | None = None,
    force: bool | None = None,
    resume: bool | None = None,
    verify: bool | None = None,
    max_memory: int | str | None = None,
    stream: bool | None = None,
    extrapolate: bool | None = None,
    plan: PlanOptions | None = None,
    options: MergeOptions | None = None,
    progress: Progress | None = None,
    lams: Sequence[float] | None = None,
) -> Path | list[Path]:
    """Write M(lam) = (1 - lam) base + lam instruct as a GGUF file; return its path, or a list for several lams.

    `base` and `instruct` are locations (a folder, a file, `org/name[@revision]` on the Hub); `base` alone, or `pair`,
    names a registered pair, by default `demo`. `lam` is a number, a sequence, or a string such as `"0:1:0.1"`; a string
    with one value returns one path. `output` is a file (for one lam), or a folder, which is created where the name
    ends in a separator or there are several lams; by default files are named automatically in the working folder. The
    other keywords are the fields of `PlanOptions` (what is computed) and `MergeOptions` (how it is written), and
    override those of `plan` and `options`; None keeps the default. `progress` gets the bytes done. Raises PaLiteError.
    """
    words = locals()
    if lams is not None:
        renamed("merge(lams=...)", "lam=...")
        lam = tuple(lams)
    chosen, how = fill(PlanOptions, words, plan), fill(MergeOptions, words, options)
    line = read_lams(lam, how.extrapolate)
    paths = merge_checkpoints(*pair_locations(base, instruct, pair), line, chosen, output, how, progress)
    return paths[0] if _is_single(lam, line) else paths


def _is_single(lam: Lams, lams: Sequence[float]) -> bool:
    return len(lams) == 1 if isinstance(lam, str) else not isinstance(lam, Iterable)


def pair_locations(
    base: str | Location | Pair | None, instruct: str | Location | None, pair: PairLike | None
) -> tuple[Location, Location]:
    """Return the locations of base and instruct that these arguments of `merge` name. Raises InputError."""
    if not isinstance(base, Pair):
        return resolve_inputs(base, instruct, pair)
    if instruct is not None:
        raise InputError("base is already a pair: leave out instruct.")
    return resolve_inputs(None, None, base)


def preview(
    base: str | Location | Pair | None = None,
    instruct: str | Location | None = None,
    lam: Lams = DEFAULT_LAM,
    *,
    type: str | None = None,
    output: str | Path | None = None,
    pair: PairLike | None = None,
    schedule: str | Schedule | None = None,
    vocab: str | None = None,
    imatrix: str | Path | None = None,
    tensor_types: str | Sequence[str | tuple[str, str]] | None = None,
    allow_nonfinite: bool | None = None,
    threads: int | None = None,
    force: bool | None = None,
    resume: bool | None = None,
    verify: bool | None = None,
    max_memory: int | str | None = None,
    stream: bool | None = None,
    extrapolate: bool | None = None,
    plan: PlanOptions | None = None,
    options: MergeOptions | None = None,
) -> Preview:
    """Return what `merge` would do with the same arguments: types, sizes, memory, disk space, every mismatch.

    Writes nothing. Raises PaLiteError.
    """
    words = locals()
    chosen, how = fill(PlanOptions, words, plan), fill(MergeOptions, words, options)
    return preview_merge(*pair_locations(base, instruct, pair), read_lams(lam, how.extrapolate), chosen, output, how)


def diff(
    base: str | Location | Pair | None = None,
    instruct: str | Location | None = None,
    *,
    pair: PairLike | None = None,
    threads: int | None = None,
    stream: bool | None = None,
    progress: Progress | None = None,
) -> Diff:
    """Return the distance |I - B| / |B| and the cosine of instruct and base, by tensor group, layer and tensor.

    `base`, `instruct` and `pair` are as in `merge`. Vocabulary rows that only one side has are left out. `progress`
    gets the values done. Raises PaLiteError.
    """
    how = fill(MergeOptions, locals())
    return diff_checkpoints(*pair_locations(base, instruct, pair), how.threads, progress, how.stream)
