"""Model references: a GGUF file, or `PAIR@LAM`, which is merged in memory for as long as it is used."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pa_lite.checkpoints import open_checkpoints
from pa_lite.checkpoints.hub.repositories import PREFIX
from pa_lite.checkpoints.locations import find_model, unknown_file
from pa_lite.checkpoints.pairs import all_pairs, find_pair
from pa_lite.engine.in_memory import InMemoryModel
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.probe import probe_file
from pa_lite.errors import CheckpointError, InputError, PaLiteError
from pa_lite.merging.lams import format_lam, parse_lams
from pa_lite.merging.plan import PlanOptions, plan_merge
from pa_lite.untrusted.file_kind import Content, content_of

_log = logging.getLogger(__name__)
# F16 and not merge's Q8_0: scores of quantised activations move by tenths of a nat with the batch's shape
REFERENCE_TYPE = "F16"


@dataclass(frozen=True)
class Reference:
    """Where a model comes from: a file, or a pair's name and lam."""

    file: Path | None = None
    pair: str = ""
    lam: float = 0.0

    def __str__(self) -> str:
        return str(self.file) if self.file else f"{self.pair}@{format_lam(self.lam)}"


def parse_reference(text: str) -> Reference:
    """Read a GGUF file's path, under any name, a folder's that holds one GGUF model, or `PAIR@LAM`.

    A registered pair at a lam goes before a file of that name in the current folder, which `./PAIR@LAM` names. Raises
    InputError for anything else, an unknown pair, or a missing file; CheckpointError for a file that is not GGUF.
    """
    pair, at, lam = text.rpartition("@")
    path = Path(text)
    if at and not _is_path(pair) and (not path.exists() or _is_pair(pair, lam)):
        find_pair(pair)
        lams = parse_lams(lam)
        if len(lams) != 1:
            raise InputError(f"{text!r} names {len(lams)} lams; a model reference has one, e.g. {pair}@0.7.")
        if path.is_file():
            _log.warning("%s is the pair %s at lam %s; the file of that name is ./%s.", text, pair, lam, text)
        return Reference(pair=pair, lam=lams[0])
    if path.is_dir():
        return Reference(file=_in_folder(path))
    if not path.is_file():
        if path.exists():
            raise InputError(f"{text!r} is a device, socket or pipe, not a model file: name a file.")
        raise InputError(f"{text!r} is not a model: neither a file that exists nor PAIR@LAM such as demo@0.7.")
    return Reference(file=_checked(path))


def _is_path(pair: str) -> bool:
    """Whether what stands before an @ can only belong to a file's path."""
    return not pair.startswith(PREFIX) and ("/" in pair or "\\" in pair)


def _is_pair(pair: str, lam: str) -> bool:
    """Whether the two parts of a name that also is a file's name a registered pair and a lam."""
    try:
        return pair in all_pairs() and bool(parse_lams(lam))
    except InputError:
        return False


def _in_folder(folder: Path) -> Path:
    """The GGUF file that a folder stands for. Raises InputError for a folder with a checkpoint that is not GGUF yet."""
    found = find_model(folder)
    if found.is_dir():
        raise InputError(
            f"{folder}: holds safetensors, and models run as GGUF. Merge it into a file (pa-lite merge BASE INSTRUCT), "
            "or convert it with llama.cpp's convert_hf_to_gguf.py."
        )
    return _checked(found)


def _checked(path: Path) -> Path:
    """The path, if it is that of a GGUF file. Raises CheckpointError that says what it is instead."""
    try:
        content = content_of(path)
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be read: {e.strerror}.") from e
    if content.is_gguf:
        return path
    raise _not_gguf(path, content)


def _not_gguf(path: Path, content: Content) -> PaLiteError:
    if content.is_safetensors:
        return InputError(
            f"{path}: is a safetensors file, and models run as GGUF. Merge its folder into a file (pa-lite merge BASE "
            "INSTRUCT), or convert it with llama.cpp's convert_hf_to_gguf.py."
        )
    return unknown_file(path)


@contextlib.contextmanager
def open_model(text: str, options: EngineOptions | None = None, kind: str = REFERENCE_TYPE) -> Iterator[Model]:
    """The model that a reference names, loaded; a pair is merged as type `kind` and gone at the end.

    A file is first checked, and unless the options say otherwise tried in a process of its own (`probe_file`). Raises
    InputError for a bad reference and what merging, trying and loading raise.
    """
    reference = parse_reference(text)
    options = options or EngineOptions()
    if reference.file is not None:
        if options.probe:
            probe_file(reference.file)
        with Model(reference.file, options) as model:
            yield model
        return
    pair = find_pair(reference.pair)
    base, instruct = open_checkpoints([pair.base, pair.instruct])
    plan = plan_merge(base, instruct, PlanOptions(type=kind))
    for remark in plan.choices:
        _log.warning("%s", remark)
    with InMemoryModel(plan, reference.lam, options, reference.pair) as moved:
        yield moved.model
