"""Resolve and open model references: a GGUF file, or a pair at a lam, which is merged in memory while it is used."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pa_lite.checkpoints import Location, open_pair
from pa_lite.checkpoints.hub.references import PREFIX
from pa_lite.checkpoints.locations import find_model, unknown_file
from pa_lite.checkpoints.pairs import Pair, all_pairs, find_pair, resolve_pair
from pa_lite.engine.options import EngineOptions
from pa_lite.errors import CheckpointError, InputError, PaLiteError, nearest
from pa_lite.merging.lams import parse_lams, read_lam
from pa_lite.merging.plan import PlanOptions, plan_merge
from pa_lite.progress import Progress
from pa_lite.untrusted.file_kind import FileStart, content_of

if TYPE_CHECKING:  # naming a model starts no llama.cpp
    from pa_lite.engine.fixed_model import FixedModel
    from pa_lite.engine.in_memory import InMemoryModel
    from pa_lite.engine.model import Model
    from pa_lite.engine.resident_models import ResidentModels, ResidentOptions
    from pa_lite.merging.plan import MergePlan

_log = logging.getLogger(__name__)
# F16, not merge's Q8_0: with quantised activations, scores depend on the shape of a batch by tenths of a nat
REFERENCE_TYPE = "F16"


@dataclass(frozen=True, kw_only=True)
class ModelRef:
    """Where a model comes from: a GGUF file, or a pair at a lam. `text` is its name in results."""

    file: Path | None = None
    pair: Pair | None = None
    lam: float = 0.0
    text: str = ""

    def __str__(self) -> str:
        return self.text or (f"{self.pair.name}@{self.lam:g}" if self.pair is not None else str(self.file))


ModelLike = str | Path | ModelRef | Pair | tuple[str | Location, str | Location]


def resolve_model(model: ModelLike, lam: float | str | None = None, extrapolate: bool = False) -> ModelRef:
    """Return the reference to a model: `FILE.gguf`, `PAIR@LAM`, or a pair (a name, or base and instruct) with `lam`.

    A GGUF file may have any name, and a folder with one GGUF model stands for it. A registered pair at a lam is
    preferred to a file of that name in the current folder, which `./PAIR@LAM` names. Raises InputError for anything
    else: an unknown pair, a pair without a lam, a file with one, a missing file, without `extrapolate` a lam outside
    [0, 1]; CheckpointError for a file that is not GGUF.
    """
    if isinstance(model, ModelRef):
        if lam is None:
            return model
        if model.pair is None:
            raise _fixed(str(model))
        return ModelRef(pair=model.pair, lam=read_lam(lam, extrapolate))
    if isinstance(model, Path):
        if lam is not None:
            raise _fixed(str(model))
        return _file_reference(model, str(model))
    if lam is not None:
        if isinstance(model, str) and _has_lam(model):
            raise InputError(f"{model!r} already has a lam, and lam {lam} is given too. Leave one of them out.")
        if isinstance(model, str) and model not in all_pairs() and Path(model).exists():
            raise _fixed(model)
        return ModelRef(pair=resolve_pair(model), lam=read_lam(lam, extrapolate))
    if not isinstance(model, str):
        found = resolve_pair(model)
        if isinstance(model, Pair) and model.name in all_pairs():
            raise _without_lam(found.name)
        raise InputError(f"two checkpoints are a pair, and a model needs a lam: add --lam 0.6 ({found.name}).")
    return _parse(model, extrapolate)


def parse_reference(text: str) -> ModelRef:
    """Return the reference to a model that is given as one string; see `resolve_model`."""
    return resolve_model(text)


def pair_reference(text: str) -> ModelRef | None:
    """Return the reference `PAIR@LAM` of a registered pair; None for any other string.

    Raises InputError for a pair without a lam.
    """
    if _has_lam(text):
        return _parse(text, extrapolate=True)
    if not Path(text).exists() and text in all_pairs():
        raise _without_lam(text)
    return None


def _parse(text: str, extrapolate: bool) -> ModelRef:
    pair, at, lam = text.rpartition("@")
    path = Path(text)
    if at and not _is_path(pair) and (not path.exists() or _is_pair(pair, lam)):
        found = find_pair(pair)
        lams = parse_lams(lam, extrapolate)
        if len(lams) != 1:
            raise InputError(f"{text!r} has {len(lams)} lams; a model reference has one, e.g. {pair}@0.7.")
        if path.is_file():
            _log.warning(
                "%s means the pair %s at lam %s; for the file of that name, write ./%s.", text, pair, lam, text
            )
        return ModelRef(pair=found, lam=lams[0], text=text)
    if not path.exists() and text in all_pairs():
        raise _without_lam(text)
    return _file_reference(path, text)


def _file_reference(path: Path, text: str) -> ModelRef:
    if path.is_dir():
        return ModelRef(file=_in_folder(path), text=text)
    if not path.is_file():
        if path.exists():
            raise InputError(f"{text!r} is a device, socket or pipe, not a model file. Name a file.")
        close = nearest(text, all_pairs())
        meant = close if "Did you mean" in close else ""
        raise InputError(f"{text!r} is not a model: neither a file that exists nor PAIR@LAM such as demo@0.7.{meant}")
    return ModelRef(file=_checked(path), text=text)


def _has_lam(text: str) -> bool:
    pair, at, lam = text.rpartition("@")
    return bool(at) and _is_pair(pair, lam)


def _without_lam(name: str) -> InputError:
    return InputError(f"{name!r} is a pair, and a model needs a lam: write {name}@0.6, or add --lam 0.6.")


def _fixed(text: str) -> InputError:
    return InputError(f"{text}: is a file, and only pairs have a lam. Leave the lam out, or name a pair.")


def _is_path(pair: str) -> bool:
    """Return whether the text before an @ can only be part of a file's path."""
    return not pair.startswith(PREFIX) and ("/" in pair or "\\" in pair)


def _is_pair(pair: str, lam: str) -> bool:
    """Return whether the parts before and after an @ are a registered pair and a lam."""
    try:
        return pair in all_pairs() and bool(parse_lams(lam))
    except InputError:
        return False


def _in_folder(folder: Path) -> Path:
    """Return the GGUF file in a folder. Raises InputError for a folder with a safetensors checkpoint."""
    found = find_model(folder)
    if found.is_dir():
        raise InputError(
            f"{folder}: has safetensors, but only GGUF can be run. Merge it into a file (pa-lite merge BASE INSTRUCT), "
            "or convert it with llama.cpp's convert_hf_to_gguf.py."
        )
    return _checked(found)


def _checked(path: Path) -> Path:
    """Return the path if it is a GGUF file. Raises CheckpointError or InputError that say what it is instead."""
    try:
        content = content_of(path)
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be read: {e.strerror}.") from e
    if content.is_gguf:
        return path
    raise _not_gguf(path, content)


def _not_gguf(path: Path, content: FileStart) -> PaLiteError:
    if content.is_safetensors:
        return InputError(
            f"{path}: is a safetensors file, but only GGUF can be run. Merge its folder into a file (pa-lite merge "
            "BASE INSTRUCT), or convert it with llama.cpp's convert_hf_to_gguf.py."
        )
    return unknown_file(path)


@contextlib.contextmanager
def open_reference(
    model: ModelLike, options: EngineOptions | None = None, weight_type: str = REFERENCE_TYPE
) -> Iterator[Model | InMemoryModel]:
    """Open a model by reference: a file, or a pair merged as `weight_type`, which can move along the line.

    A file is checked first and, if the options ask for it, loaded in a separate process (`probe_file`). Raises
    InputError for a bad reference, and what merging, probing and loading raise.
    """
    from pa_lite.engine.in_memory import InMemoryModel
    from pa_lite.engine.model import Model
    from pa_lite.engine.probe import probe_file

    reference = resolve_model(model)
    options = options or EngineOptions()
    if reference.file is not None:
        if options.probe:
            probe_file(reference.file)
        with Model(reference.file, options) as loaded:
            yield loaded
        return
    assert reference.pair is not None
    plan = _plan_of(reference.pair, weight_type)
    with InMemoryModel(plan, reference.lam, options, reference.pair.name) as moved:
        yield moved


def _plan_of(pair: Pair, weight_type: str, progress: Progress | None = None) -> MergePlan:
    """Return the plan to merge a pair in memory, and log what was chosen for the user."""
    base, instruct = open_pair(pair.base, pair.instruct, progress=progress)
    plan = plan_merge(base, instruct, PlanOptions(type=weight_type))
    for remark in plan.choices:
        _log.warning("%s", remark)
    return plan


@contextlib.contextmanager
def open_scheduled(
    model: ModelLike,
    residents: ResidentOptions | None = None,
    options: EngineOptions | None = None,
    weight_type: str = REFERENCE_TYPE,
    progress: Progress | None = None,
) -> Iterator[ResidentModels | FixedModel]:
    """Open a model by reference for requests that arrive at any time: a file, or a pair at any lam.

    A pair's first model is at the reference's lam, and all are merged as `weight_type`. Step what this yields, or give
    it to a `Runner`, which closes it before the end of the block. `progress` gets the bytes of a download. Raises what
    `open_reference` and `ResidentModels` raise.
    """
    from pa_lite.engine.fixed_model import FixedModel
    from pa_lite.engine.resident_models import ResidentModels, ResidentOptions

    reference, residents = resolve_model(model), residents or ResidentOptions()
    if reference.pair is None:
        with (
            open_model(reference, options) as loaded,
            FixedModel(loaded, residents.scheduler, str(reference)) as fixed,
        ):
            yield fixed
        return
    plan = _plan_of(reference.pair, weight_type, progress)
    with ResidentModels(plan, reference.lam, residents, options, reference.pair.name) as several:
        yield several


@contextlib.contextmanager
def open_model(
    model: ModelLike, options: EngineOptions | None = None, weight_type: str = REFERENCE_TYPE
) -> Iterator[Model]:
    """Open a model by reference, without moving it along the line; see `open_reference`."""
    from pa_lite.engine.model import Model

    with open_reference(model, options, weight_type) as opened:
        yield opened if isinstance(opened, Model) else opened.model
