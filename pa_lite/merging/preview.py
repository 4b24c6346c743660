"""Preview a merge: report what it would do without doing it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pa_lite.checkpoints import Location, open_pair
from pa_lite.checkpoints.readers import READ_AHEAD
from pa_lite.errors import InputError, MismatchError, OutputError
from pa_lite.merging.groups import group_of
from pa_lite.merging.memory import MemoryUse, check_memory, planned_bytes
from pa_lite.merging.plan import MergePlan, PlanOptions, plan_merge
from pa_lite.merging.write import MergeOptions, check_outputs, name_outputs, output_bytes
from pa_lite.system.atomic import existing_parent
from pa_lite.system.byte_source import is_remote
from pa_lite.system.machine import cores


@dataclass(frozen=True, kw_only=True)
class PreviewGroup:
    """The tensors of one group and type in each output: their number, bytes, and lams by the schedule."""

    group: str
    type: str
    tensors: int
    bytes: int
    lams: str


@dataclass(frozen=True, kw_only=True)
class PreviewTensor:
    """An output tensor: its type, numpy shape, and lam in each output."""

    name: str
    type: str
    shape: tuple[int, ...]
    lams: tuple[float, ...]


@dataclass(frozen=True)
class PreviewOutput:
    """A file that would be written."""

    lam: float
    path: str


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a merge would do; sizes in bytes. `problems` would stop it, `remarks` would not."""

    problems: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    parameters: int = 0
    groups: tuple[PreviewGroup, ...] = ()
    tensors: tuple[PreviewTensor, ...] = ()
    outputs: tuple[PreviewOutput, ...] = ()
    disk_needed: int = 0
    disk_free: int = 0
    memory: int = 0
    threads: int = 0


def preview_merge(
    base: Location,
    instruct: Location,
    lams: Sequence[float],
    plan_options: PlanOptions | None = None,
    output: str | Path | None = None,
    options: MergeOptions | None = None,
) -> Preview:
    """Plan a merge and report what it would do. Nothing is written; of inputs on the Hub only headers are read.

    Checkpoints that are not a base/instruct pair give a preview that contains only their mismatches. Other errors of
    planning are raised.
    """
    left, right = open_pair(base, instruct, stream=True)
    try:
        plan = plan_merge(left, right, plan_options)
    except MismatchError as e:
        return Preview(problems=e.details)
    options = options or MergeOptions()
    outputs = name_outputs(plan, lams, output)
    problems = []
    use = MemoryUse(options.threads or cores(), READ_AHEAD)
    try:
        check_outputs(plan, lams, output, options)
        use = check_memory(plan, use.threads, options.max_memory)
    except (InputError, OutputError) as e:
        problems.append(str(e))
    layouts = [plan.at(lam) for lam in lams]
    by_group: dict[str, set[float]] = {}
    for layout in layouts:
        for name, lam in layout.lams.items():
            by_group.setdefault(group_of(name), set()).add(lam)
    folder = existing_parent(outputs[0][1].parent)
    return Preview(
        parameters=plan.n_values,
        groups=tuple(
            PreviewGroup(group=group, type=tensor_type, tensors=n, bytes=size, lams=_span(by_group[group]))
            for (group, tensor_type), (n, size) in plan.by_group().items()
        ),
        tensors=tuple(
            PreviewTensor(name=t.name, type=t.type.name, shape=t.shape, lams=tuple(x.lams[t.name] for x in layouts))
            for t in plan.tensors
        ),
        outputs=tuple(PreviewOutput(lam, str(path)) for lam, path in outputs),
        disk_needed=len(outputs) * output_bytes(plan),
        disk_free=shutil.disk_usage(folder).free,
        memory=planned_bytes(plan, use.threads, use.read_ahead),
        threads=use.threads,
        remarks=(*plan.remarks, *plan.doubts, *_fetched(plan, options)),
        problems=tuple(problems),
    )


def _fetched(plan: MergePlan, options: MergeOptions) -> list[str]:
    """Return a remark on weights that are only on the Hub."""
    size = sum(file.size for file in plan.files if is_remote(file)) / 1e6
    if not size:
        return []
    return [f"{size:.0f} MB of weights are {'read from' if options.stream else 'downloaded first from'} the Hub"]


def _span(lams: set[float]) -> str:
    """Return up to four lams as a list, more as a range."""
    shown = sorted(lams)
    return ", ".join(f"{x:g}" for x in shown) if len(shown) <= 4 else f"{shown[0]:g} to {shown[-1]:g}"
