"""Values of GGUF metadata, with their types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pa_lite.ggml.packed import PackedNumbers, PackedTexts


@dataclass(frozen=True)
class Field:
    """One GGUF metadata value: its type (`UINT32`, `STRING`, `ARRAY`, ...), the value, and an array's item type.

    An array is a list, or PackedTexts or PackedNumbers if it has thousands of items.
    """

    type: str
    value: Any
    item: str | None = None


Metadata = dict[str, Field]


def uint32(value: int) -> Field:
    return Field("UINT32", int(value))


def float32(value: float) -> Field:
    return Field("FLOAT32", float(np.float32(value)))


def string(value: str) -> Field:
    return Field("STRING", value)


def boolean(value: bool) -> Field:
    return Field("BOOL", bool(value))


def array(item: str, values: Sequence[Any]) -> Field:
    return Field("ARRAY", values if isinstance(values, PackedTexts | PackedNumbers) else list(values), item)
