"""How the API's keywords become option objects: an option class holds the only defaults, and None stands for them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
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
from pa_lite.ggml.quant_types import parse_override, type_name
from pa_lite.merging.lams import parse_lams, read_lam, read_lams
from pa_lite.merging.memory import parse_bytes
from pa_lite.merging.schedule import Schedule, read_schedule

__all__ = [
    "REFERENCE_TYPE",
    "ChatOptions",
    "Date",
    "EngineOptions",
    "HubReference",
    "Lams",
    "Location",
    "ModelLike",
    "ModelRef",
    "Names",
    "Pair",
    "PairLike",
    "Progress",
    "Schedule",
    "fill",
    "model_type",
    "parse_bytes",
    "parse_date",
    "parse_lams",
    "parse_override",
    "parse_template_args",
    "path_of",
    "read_lam",
    "read_lams",
    "read_schedule",
    "renamed",
    "resolve_model",
    "resolve_pair",
]  # fmt: skip

Progress = Callable[[int, int], None]
PairLike = str | Pair | tuple[str | Location, str | Location]
Names = str | Sequence[str]
Lams = float | str | Sequence[float]
Date = str | day
T = TypeVar("T")


def fill(kind: type[T], words: Mapping[str, Any], base: T | None = None) -> T:
    """Return options of a class: those of `base`, or its defaults, with what of `words` is not None in their place.

    Only words that are names of the class's fields count. Raises InputError for values that the class refuses, and for
    a `base` of another class.
    """
    assert is_dataclass(kind)
    if base is not None and not isinstance(base, kind):
        raise InputError(f"{base!r:.80} is not {kind.__name__}: give the options' fields as keywords instead.")
    given = {f.name: words[f.name] for f in fields(kind) if words.get(f.name) is not None}
    if base is None:
        made: T = kind(**given)
        return made
    return replace(base, **given) if given else base


def model_type(text: str | None) -> str:
    """Return the weight type that a pair's model is merged to, in upper case; None is F16."""
    return REFERENCE_TYPE if text is None else type_name(text)


def path_of(where: str | Path | None) -> Path | None:
    return None if where is None else Path(where)


def renamed(old: str, new: str) -> None:
    """Warn of a spelling that works for one more version."""
    warnings.warn(f"{old} is now {new}; the old spelling goes with the next version.", DeprecationWarning, stacklevel=3)
