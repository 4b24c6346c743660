"""Merging: files at one lam or several, a preview of them, and how far two checkpoints are apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

from pa_lite.api.options import Lams, Location, Pair, PairLike, Progress, fill, path_of, renamed
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
    max_memory: int | str | None = None, stream: bool | None = None,
    plan: PlanOptions | None = None, options: MergeOptions | None = None, progress: Progress | None = None,
) -> Path: ...  # fmt: skip
@overload
def merge(
    base: str | Location | Pair | None, instruct: str | Location | None, lam: Sequence[float], *,
    type: str | None = None, output: str | Path | None = None, pair: PairLike | None = None,
    schedule: str | Schedule | None = None, vocab: str | None = None, imatrix: str | Path | None = None,
    tensor_types: str | Sequence[str | tuple[str, str]] | None = None, allow_nonfinite: bool | None = None,
    threads: int | None = None, force: bool | None = None, resume: bool | None = None, verify: bool | None = None,
    max_memory: int | str | None = None, stream: bool | None = None,
    plan: PlanOptions | None = None, options: MergeOptions | None = None, progress: Progress | None = None,
) -> list[Path]: ...  # fmt: skip
@overload
def merge(
    base: str | Location | Pair | None = None, instruct: str | Location | None = None, *, lam: Sequence[float],
    type: str | None = None, output: str | Path | None = None, pair: PairLike | None = None,
    schedule: str | Schedule | None = None, vocab: str | None = None, imatrix: str | Path | None = None,
    tensor_types: str | Sequence[str | tuple[str, str]] | None = None, allow_nonfinite: bool | None = None,
    threads: int | None = None, force: bool | None = None, resume: bool | None = None, verify: bool | None = None,
    max_memory: int | str | None = None, stream: bool | None = None,
    plan: PlanOptions | None = None, options: MergeOptions | None = None, progress: Progress | None = None,
) -> list[Path]: ...  # fmt: skip
@overload
def merge(
    base: str | Location | Pair | None = None, instruct: str | Location | None = None, *, lam: str,
    type: str | None = None, output: str | Path | None = None, pair: PairLike | None = None,
    schedule: str | Schedule | None = None, vocab: str | None = None, imatrix: str | Path | None = None,
    tensor_types: str | Sequence[str | tuple[str, str]] | None = None, allow_nonfinite: bool | None = None,
    threads: int | None = None, force: bool | None = None, resume: bool | None = None, verify: bool | None = None,
    max_memory: int | str | None = None, stream: bool | None = None,
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
    plan: PlanOptions | None = None,
    options: MergeOptions | None = None,
    progress: Progress | None = None,
    lams: Sequence[float] | None = None,
) -> Path | list[Path]:
    """Write M(lam) of base and instruct as a GGUF file; return its path, or a list of paths for several lams.

    `base` and `instruct` are locations (a folder, a file, `org/name[@revision]` on the Hub); `base` alone, or `pair`,
    names a registered pair, by default `demo`. `lam` is a number, several, or a string such as `"0:1:0.1"`; a string
    that names one lam gives one path. `output` is a file (for one lam) or a folder that exists; by default files get
    names in the working folder. The other keywords are the fields of `PlanOptions` (what the result is) and
    `MergeOptions` (how it is written), whose defaults None stands for; `plan` and `options` are such objects, which
    keywords change. `progress` gets the bytes done. Raises PaLiteError.
    """
    words = locals()
    if lams is not None:
        renamed("merge(lams=...)", "lam=...")
        lam = tuple(lams)
    line = read_lams(lam)
    chosen, how = fill(PlanOptions, words, plan), fill(MergeOptions, words, options)
    paths = merge_checkpoints(*_inputs(base, instruct, pair), line, chosen, path_of(output), how, progress)
    return paths[0] if _is_single(lam, line) else paths


def _is_single(lam: Lams, lams: Sequence[float]) -> bool:
    return len(lams) == 1 if isinstance(lam, str) else not isinstance(lam, Iterable)


def _inputs(
    base: str | Location | Pair | None, instruct: str | Location | None, pair: PairLike | None
) -> tuple[Location, Location]:
    if not isinstance(base, Pair):
        return resolve_inputs(base, instruct, pair)
    if instruct is not None:
        raise InputError("base is a pair already, and instruct names another side. Give one of them.")
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
    plan: PlanOptions | None = None,
    options: MergeOptions | None = None,
) -> Preview:
    """Return what `merge` with the same arguments would do: types, sizes, memory, disk, every mismatch. Writes nothing.

    Raises PaLiteError.
    """
    words = locals()
    chosen, how = fill(PlanOptions, words, plan), fill(MergeOptions, words, options)
    return preview_merge(*_inputs(base, instruct, pair), read_lams(lam), chosen, path_of(output), how)


def diff(
    base: str | Location | Pair | None = None,
    instruct: str | Location | None = None,
    *,
    pair: PairLike | None = None,
    threads: int | None = None,
    stream: bool | None = None,
    progress: Progress | None = None,
) -> Diff:
    """Return how far instruct is from base, by tensor group, layer and tensor: |I - B| / |B|, and the cosine.

    The two are named as in `merge`. Rows that only one side has do not count. `progress` gets the values
    done. Raises PaLiteError.
    """
    how = fill(MergeOptions, locals())
    return diff_checkpoints(*_inputs(base, instruct, pair), how.threads, progress, how.stream)
