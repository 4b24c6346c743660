"""The cells of a study: what is measured, identified by all that decides its numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cell:
    """One task, or the instructions, at one lam: `inputs` is all that decides its numbers, as JSON values.

    `kind` is `task`, `follow`, `answers` or `wins`; `type` the weights' type.
    """

    lam: float
    type: str
    kind: str
    name: str
    n_items: int
    inputs: Mapping[str, Any]

    @property
    def key(self) -> str:
        """SHA-256, hex, of everything above."""
        whole = [self.lam, self.type, self.kind, self.name, self.n_items, self.inputs]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class StoredCell:
    """A cell as the file has it: items finished so far, and its summary once all are."""

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

    def is_whole(self) -> bool:
        """Return whether the key is that of a cell with these values: a lam may have been given as an integer."""
        lams = (self.lam, int(self.lam)) if self.lam.is_integer() else (self.lam,)
        cells = (Cell(lam, self.type, self.kind, self.name, self.n_items, self.inputs) for lam in lams)
        return any(cell.key == self.key for cell in cells)
