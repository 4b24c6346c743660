"""Turn the API's keywords into option objects. The option classes hold all defaults; a keyword of None keeps them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from datetime import date as day
from pathlib import Path
from typing import Any, TypeVar

from pa_lite.checkpoints import Location
from pa_lite.checkpoints.hub.references import HubReference
from pa_lite.checkpoints.pairs import Pair, resolve_pair
from pa_lite.engine.chat_options import ChatOptions, parse_date, parse_template_args
from pa_lite.engine.model_reference import REFERENCE_TYPE, ModelLike, ModelRef, resolve_model
from pa_lite.engine.options import EngineOptions
from pa_lite.errors import InputError
from pa_lite.ggml.quant_types import FILE_TYPES, parse_override, type_name
from pa_lite.merging.lams import parse_lams, read_lam, read_lams
from pa_lite.merging.memory import parse_bytes
from pa_lite.merging.schedule import Schedule, read_schedule
from pa_lite.progress import Progress

__all__ = [
    "REFERENCE_TYPE", "WEIGHT_TYPES", "ChatOptions", "Date", "EngineOptions", "HubReference", "Lams", "Location",
    "ModelLike", "ModelRef", "Names", "Pair", "PairLike", "Progress", "Schedule", "fill", "model_type", "parse_bytes",
    "parse_date", "parse_lams", "parse_override", "parse_template_args", "path_of", "read_lam", "read_lams",
    "read_schedule", "renamed", "resolve_model", "resolve_pair",
]  # fmt: skip

WEIGHT_TYPES = tuple(FILE_TYPES)
PairLike = str | Pair | tuple[str | Location, str | Location]
Names = str | Sequence[str]
Lams = float | str | Sequence[float]
Date = str | day
T = TypeVar("T")


def fill(options_type: type[T], words: Mapping[str, Any], base: T | None = None) -> T:
    """Return `base`, or the default options of a class, with the values of `words` that are not None.

    `words` may have more keys than the class has fields. Raises InputError for values that the class rejects, and if
    `base` is of another class.
    """
    assert is_dataclass(options_type)
    if base is not None and not isinstance(base, options_type):
        raise InputError(f"{base!r:.80} is not {options_type.__name__}: give its fields as keywords.")
    given = {f.name: words[f.name] for f in fields(options_type) if words.get(f.name) is not None}
    if base is None:
        made: T = options_type(**given)
        return made
    return replace(base, **given) if given else base


def model_type(text: str | None) -> str:
    """Return the weight type for merging a pair in memory, in upper case; by default F16."""
    return REFERENCE_TYPE if text is None else type_name(text)


def path_of(where: str | Path | None) -> Path | None:
    return None if where is None else Path(where)


def renamed(old: str, new: str) -> None:
    """Warn about a spelling that works for one more version."""
    text = f"{old} is now {new}; the old spelling will be removed in the next version."
    warnings.warn(text, DeprecationWarning, stacklevel=3)
