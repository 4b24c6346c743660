"""Merge end to end: name inputs and outputs, plan, stream, and write GGUF files that are complete or absent."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pa_lite.checkpoints import Location, open_pair
from pa_lite.checkpoints.checkpoint import vocabulary_bytes
from pa_lite.checkpoints.pairs import Pair, resolve_pair
from pa_lite.errors import CheckpointError, InputChangedError, InputError, OutputError
from pa_lite.ggml.container import read_gguf_header
from pa_lite.ggml.kernels import prepare
from pa_lite.merging.lams import format_lam
from pa_lite.merging.memory import check_memory, is_streamed, parse_bytes
from pa_lite.merging.nonfinite import Nonfinite
from pa_lite.merging.output_file import PartialFile, partial_files
from pa_lite.merging.plan import Layout, MergePlan, PlanOptions, plan_merge
from pa_lite.merging.stream import Target, run_stream
from pa_lite.progress import Progress
from pa_lite.system.atomic import check_space, check_target, existing_parent, write_errors
from pa_lite.system.byte_source import is_remote
from pa_lite.system.machine import cores
from pa_lite.untrusted.safe_names import file_name

_log = logging.getLogger(__name__)
_HEADER_ROOM = 1 << 20  # bytes; a header without its vocabulary is far smaller
_LONGEST_STEM = 50  # characters
_RECORD_SECONDS = 0.3  # a killed merge repeats at most this much work
_KEPT = "what is merged is kept. Free some space and continue with --resume."


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Options of writing. `threads` 0 means one for each core; `force` overwrites existing files.

    `resume` continues an interrupted merge and keeps partial files if this one is interrupted. `verify` reads the
    output back and compares it with a second computation. `max_memory` bounds the process, in bytes, 0 for no bound.
    With `stream`, checkpoints on the Hub are read from there, without a copy on the disk. `extrapolate` allows lams
    outside [0, 1].
    """

    threads: int = 0
    force: bool = False
    resume: bool = False
    verify: bool = False
    max_memory: int = 0
    stream: bool = False
    extrapolate: bool = False

    def __post_init__(self) -> None:
        """Accept a bound such as `256M` as a string. Raises InputError for one that is not a size."""
        object.__setattr__(self, "max_memory", parse_bytes(self.max_memory))


def resolve_inputs(
    base: str | Location | None,
    instruct: str | Location | None,
    pair: str | Pair | tuple[str | Location, str | Location] | None,
) -> tuple[Location, Location]:
    """Return the locations of base and instruct: those given, or those of a pair, `demo` by default.

    `base` without `instruct` is the name of a registered pair. Raises InputError for a single location, for two
    locations and a pair at once, and for an unknown pair.
    """
    if pair is not None and not (base is None and instruct is None):
        raise InputError("give either BASE and INSTRUCT or a pair (--pair), not both.")
    if base is not None and instruct is not None and _is_number(instruct):
        known = f"{base} {instruct}" if _is_number(base) else f"{instruct}"
        raise InputError(f"{instruct} is a number, not a checkpoint: write lams as --lam {known.replace(' ', ',')}.")
    if base is not None and instruct is not None:
        found = resolve_pair((base, instruct))
    elif instruct is not None:
        raise InputError("give both BASE and INSTRUCT, or a pair (--pair NAME).")
    elif base is not None:
        found = resolve_pair(str(base))
    else:
        found = resolve_pair("demo" if pair is None else pair)
    return found.base, found.instruct


def _is_number(text: object) -> bool:
    try:
        return not isinstance(text, Path) and isinstance(float(str(text)), float) and not Path(str(text)).exists()
    except ValueError:
        return False


def name_outputs(plan: MergePlan, lams: Sequence[float], output: str | Path | None) -> list[tuple[float, Path]]:
    """Return the file of each lam: `output`, or `<instruct name>-pa<lam>-<TYPE>.gguf` in that or the current folder.

    Spaces of the model's name become `-`.
    A string that ends in a separator is a folder, and with several lams so is any name that does not end in .gguf; it
    need not exist. Raises InputError without a lam, and for several lams and one file.
    """
    if not lams:
        raise InputError("no lam is given: write e.g. --lam 0.7.")
    if str(output) == "-":
        raise InputError("a GGUF file cannot be written to the standard output: name a file with -o.")
    folder = Path() if output is None else Path(output)
    is_folder = folder.is_dir() or str(output).endswith(("/", os.sep))
    if len(lams) > 1 and not is_folder:
        if folder.suffix.lower() == ".gguf" or os.path.lexists(folder):
            raise InputError(f"{len(lams)} lams cannot be written to one file. Name a folder with -o, or omit it.")
        is_folder = True
    if not is_folder:
        return [(lams[0], folder)]
    stem = file_name(re.sub(" +", "-", plan.instruct.name), _LONGEST_STEM, "merged")
    return [(lam, folder / f"{stem}-pa{format_lam(lam)}-{plan.type}.gguf") for lam in lams]


def _creates_folder(outputs: Sequence[tuple[float, Path]], output: str | Path | None) -> bool:
    """Return whether the outputs are in a folder that `output` names and that does not exist yet."""
    return output is not None and outputs[0][1] != Path(output) and not os.path.lexists(output)


@contextlib.contextmanager
def _folder_for(outputs: Sequence[tuple[float, Path]], output: str | Path | None) -> Iterator[None]:
    """Create the folder that `output` names, if any; after an error it is removed if it is empty."""
    if not _creates_folder(outputs, output):
        yield
        return
    folder = outputs[0][1].parent
    with write_errors(folder.parent):
        folder.mkdir(parents=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise


def merge_checkpoints(
    base: Location,
    instruct: Location,
    lams: Sequence[float],
    plan_options: PlanOptions | None = None,
    output: str | Path | None = None,
    options: MergeOptions | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Open, plan and write one GGUF file for each lam. Return the files in the order of lams.

    `output` is as for `name_outputs`; a folder is created if it does not exist.

    Checkpoints on the Hub are downloaded first unless `options.stream` is set; `progress` gets the bytes of that,
    then of the merge. Raises as open_checkpoints, plan_merge, name_outputs and write_merge do.
    """
    options = options or MergeOptions()

    def prepare_plan(stream: bool) -> MergePlan:
        left, right = open_pair(base, instruct, stream, progress)
        return plan_merge(left, right, plan_options)

    plan = prepare_plan(stream=True)  # from headers: errors appear before gigabytes are downloaded
    if not options.stream and is_streamed(plan):
        if not options.resume:
            check_outputs(plan, lams, output, options)
        plan = prepare_plan(stream=False)
    for remark in (*plan.remarks, *plan.doubts):
        _log.warning("%s", remark)
    outputs = name_outputs(plan, lams, output)
    with _folder_for(outputs, output):
        write_merge(plan, outputs, options, progress)
    return [path for _, path in outputs]


def write_merge(
    plan: MergePlan,
    outputs: Sequence[tuple[float, Path]],
    options: MergeOptions | None = None,
    progress: Progress | None = None,
) -> None:
    """Write one GGUF file for each (lam, path), reading the inputs once.

    Each file is written under a temporary name next to its target; all are synced and renamed when they are complete.
    After any error, Ctrl-C included, temporary files are removed (kept with `resume`) and targets are unchanged.
    `progress` gets the bytes done. Raises OutputError when a target exists or cannot be written, CheckpointError for a
    broken input, InputChangedError (which keeps nothing) for an input that changed since its header was read,
    InputError when max_memory is too small.
    """
    options = options or MergeOptions()
    if options.resume:
        outputs = [(lam, path) for lam, path in outputs if not _is_finished(plan.at(lam), path)]
        if not outputs:
            return
    check_targets(plan, [path for _, path in outputs], options)
    use = check_memory(plan, options.threads or cores(), options.max_memory)
    for tensor_type in {t.type for t in plan.tensors}:
        prepare(tensor_type)
    layouts = [plan.at(lam) for lam, _ in outputs]
    files = [
        PartialFile(path, layout.file.header, layout.file.size, _digest(layout), options.resume)
        for (_, path), layout in zip(outputs, layouts, strict=True)
    ]
    disk_full = (_KEPT,) if options.resume else ()
    with write_errors(outputs[0][1].parent, *disk_full), partial_files(files):
        for file in files:
            check_target(file.target, options.force)  # again: another process may have finished just now
        targets = [
            Target(
                file=file.file,
                lams=layout.lams,
                tensors=layout.file.tensors,
                done=file.done,
                nonfinite=Nonfinite() if plan.options.allow_nonfinite else None,
            )
            for file, layout in zip(files, layouts, strict=True)
        ]
        try:
            with _Recorder(files) as recorder:
                run_stream(plan.tensors, targets, use.threads, progress, recorder, read_ahead=use.read_ahead)
            for file in files:
                file.finish()
            if options.verify:
                for target in targets:
                    target.file.forget_cache()
                again = [replace(t, done=frozenset(), nonfinite=t.nonfinite and Nonfinite()) for t in targets]
                run_stream(plan.tensors, again, use.threads, progress, verify=True, read_ahead=use.read_ahead)
        except InputChangedError:
            for file in files:
                file.discard()
            raise
    for (_, path), target in zip(outputs, targets, strict=True):
        if target.nonfinite is not None and (summary := target.nonfinite.summary()):
            earlier = "; values that an earlier run wrote are not counted" if target.done else ""
            _log.warning("%s: %s%s", path.name, summary, earlier)


def _digest(layout: Layout) -> str:
    """Return a digest of all that decides a file's content. The header has inputs, lam, schedule and versions.

    The header's fingerprints cover only samples of the weights, so the stamps of the input files are added.
    """
    digest = hashlib.sha256()
    for part in layout.file.header.parts:
        digest.update(part)
    stamps = (f"{f.etag if is_remote(f) else stamp}" for f, stamp in layout.plan.files.items())
    digest.update("\n".join(sorted(stamps)).encode())
    return digest.hexdigest()


def _is_finished(layout: Layout, path: Path) -> bool:
    """Return whether a target exists and is what this merge would write."""
    if not path.is_file():
        return False
    try:
        header = read_gguf_header(path)
    except CheckpointError:
        return False
    metadata = {k: v for k, v in header.metadata.items() if k != "general.architecture"}
    infos = {name: (t.type, t.shape) for name, t in header.tensors.items()}
    return metadata == layout.metadata and infos == layout.plan.tensor_infos


class _Recorder:
    """A context manager that syncs complete tensors and adds them to the journals while others are merged.

    A separate thread does this, so the disk is busy from the start and no worker waits for it.
    """

    def __init__(self, files: Sequence[PartialFile]) -> None:
        self._files = files
        self._waiting: list[str] = []
        self._lock, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._error: OSError | None = None

    def __enter__(self) -> _Recorder:
        self._thread.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *rest: object) -> None:
        self._end.set()
        self._thread.join()
        if exc_type is None and self._error is not None:
            raise self._error
        if exc_type is not None and self._error is None:
            with contextlib.suppress(OSError):  # keep complete tensors even if the merge failed at once
                self._record()

    def __call__(self, name: str) -> None:
        with self._lock:
            self._waiting.append(name)

    def _run(self) -> None:
        try:
            while not self._end.wait(_RECORD_SECONDS):
                self._record()
        except OSError as e:
            self._error = e

    def _record(self) -> None:
        with self._lock:
            names, self._waiting = self._waiting, []
        for file in self._files if names else ():
            file.record([n for n in names if n not in file.done])


def check_outputs(plan: MergePlan, lams: Sequence[float], output: str | Path | None, options: MergeOptions) -> None:
    """Raise InputError or OutputError when the outputs of a merge cannot or must not be written."""
    outputs = name_outputs(plan, lams, output)
    if not _creates_folder(outputs, output):
        check_targets(plan, [path for _, path in outputs], options)
        return
    parent = existing_parent(outputs[0][1].parent)
    if not os.access(parent, os.W_OK):
        raise OutputError(f"{parent}: cannot be written, so {output} cannot be created. Write elsewhere with -o.")
    check_space(parent, len(outputs) * output_bytes(plan))


def check_targets(plan: MergePlan, paths: Sequence[Path], options: MergeOptions) -> None:
    """Raise InputError or OutputError when the outputs cannot or must not be written to these paths."""
    if len(set(paths)) != len(paths):
        raise InputError("two lams would be written to the same file.")
    # before Python 3.13, Path.resolve fails for circular links
    inputs = {os.path.realpath(file) for file in plan.files if isinstance(file, Path)}
    for path in paths:
        check_target(path, options.force)
        if os.path.realpath(path) in inputs:
            raise OutputError(f"{path}: is an input of this merge. Name another output with -o.")
    if not options.resume:  # partial files of an interrupted merge have their space already
        check_space(paths[0].parent, len(paths) * output_bytes(plan))


def output_bytes(plan: MergePlan) -> int:
    """Return an upper bound of the bytes that one output takes on the disk."""
    return plan.data_bytes + _HEADER_ROOM + vocabulary_bytes(plan.vocabulary)
