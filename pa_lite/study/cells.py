"""The cells of a study, each identified by everything that determines its numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One workload at one lam and weight type; `inputs` is everything that determines its numbers, as JSON values.

    `kind` is `task`, `text`, `follow`, `answers`, `wins`, `calibration`, `instruct` or `agreement`.
    """

    lam: float
    type: str
    kind: str
    name: str
    n_items: int
    inputs: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The SHA-256 of all fields, in hex."""
        whole = [self.lam, self.type, self.kind, self.name, self.n_items, self.inputs]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class StoredCell:
    """A cell as stored: the number of items finished so far, and its summary once all are finished."""

    key: str
    lam: float
    type: str
    kind: str
    name: str
    n_items: int
    n_done: int
    inputs: Mapping[str, Any]
    environment: Mapping[str, Any]
    started: float
    seconds: float
    summary: Mapping[str, Any] | None

    @property
    def seeds(self) -> int:
        """The number of draws of exemplars; items are numbered draw by draw."""
        seeds: int = {**self.inputs.get("work", {}), **(self.summary or {})}.get("seeds", 1)
        return seeds

    def is_whole(self) -> bool:
        """Return whether the key matches the values. A lam may have been given as an integer."""
        lams = (self.lam, int(self.lam)) if self.lam.is_integer() else (self.lam,)
        cells = (
            Cell(lam=lam, type=self.type, kind=self.kind, name=self.name, n_items=self.n_items, inputs=self.inputs)
            for lam in lams
        )
        return any(cell.key == self.key for cell in cells)
