"""Model references: `FILE.gguf`, or `PAIR@LAM`, which is merged in memory for as long as it is used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pa_lite.checkpoints import open_checkpoints
from pa_lite.checkpoints.pairs import find_pair
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.movable import MovableModel
from pa_lite.engine.probe import probe_file
from pa_lite.errors import InputError
from pa_lite.merge.lams import format_lam, parse_lams
from pa_lite.merge.plan import PlanOptions, plan_merge

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
    """Read `FILE.gguf` or `PAIR@LAM`. Raises InputError for anything else, a missing file, an unknown pair."""
    pair, at, lam = text.rpartition("@")
    if at and not Path(text).exists():
        find_pair(pair)
        lams = parse_lams(lam)
        if len(lams) != 1:
            raise InputError(f"{text!r} names {len(lams)} lams; a model reference has one, e.g. {pair}@0.7.")
        return Reference(pair=pair, lam=lams[0])
    if not Path(text).is_file():
        raise InputError(f"{text!r} is no model: neither a file that exists nor PAIR@LAM such as demo@0.7.")
    return Reference(file=Path(text))


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
    plan = plan_merge(base, instruct, PlanOptions(kind))
    with MovableModel(plan, reference.lam, options) as moved:
        yield moved.model
