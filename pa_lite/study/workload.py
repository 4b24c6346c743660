"""Workloads: what is measured in a cell, and how items are run, their records read, and their values summarised.

`run` turns items into records, which are stored as JSON; `decode` turns a stored record into a typed result; `value` is
the result's number in an average; `summary` describes a finished cell. Code that runs, loads, exports or reports a
study uses these methods and never distinguishes the workloads.

A chunk is always run as a whole, so that the same items share a batch and records do not depend on where a run was
stopped and resumed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from pa_lite.engine.model import Model
from pa_lite.progress import Progress
from pa_lite.statistics import standard_error
from pa_lite.study.judges import Judge
from pa_lite.study.measures import Measure
from pa_lite.study.records import FinishedItem, Record, read_result

_R = TypeVar("_R", bound=FinishedItem)
CHARACTERS = 4  # of a token, about
GENERATED = 4  # a generated token costs about as much as this many tokens of a prompt


class Workload(ABC, Generic[_R]):
    """A task, instruction set, text or set of judged pairs. Model and `facts` (JSON values) determine every record.

    `kind` is its name in the results file, `activity` that in progress; `measure` is the measure that its values belong
    to, if any; `judge`, if any, runs it instead of the study's model. Without `is_along_lam` it is run once, not at
    every lam. With `is_weighted`, items count by `weight`. `summary_version` increases when `summary` gives more or
    other values, so that finished cells of older versions get a new summary from their records.
    """

    kind: ClassVar[str]
    activity: ClassVar[str]
    result: ClassVar[type[Any]]
    measure: ClassVar[Measure | None] = None
    summary_version: ClassVar[int] = 1
    is_along_lam: ClassVar[bool] = True
    is_weighted: ClassVar[bool] = False
    name: str

    @property
    def judge(self) -> Judge | None:
        return None

    @property
    @abstractmethod
    def n_items(self) -> int:
        """The number of items."""

    @property
    @abstractmethod
    def facts(self) -> Mapping[str, Any]:
        """Everything that, with the model, determines the records."""

    @property
    @abstractmethod
    def tokens_of_item(self) -> float:
        """The approximate number of tokens that an item takes, each generated one counted as several."""

    @abstractmethod
    def check(self, model: Model) -> None:
        """Raise TextError, naming the item, for a text that the model's tokenizer cannot encode."""

    @abstractmethod
    def run(self, model: Model, items: Sequence[int], progress: Progress | None = None) -> dict[int, Record]:
        """Return the items' records, by number. Raises what scoring and generating raise.

        `progress` gets the requests or answers done of these items.
        """

    @classmethod
    def decode(cls, record: Any) -> _R:
        """Return a stored record as a typed result. Raises ValueError for one that `run` cannot have made."""
        result: _R = read_result(cls.result, record)
        return result

    @staticmethod
    @abstractmethod
    def value(result: _R) -> float:
        """Return a result's value in the average, in [0, 1] or the measure's unit; NaN where it has none."""

    @staticmethod
    def weight(_result: _R) -> float:
        """Return how much a result counts in the average, the same at every lam."""
        return 1.0

    @property
    def mean_weight(self) -> float:
        """The mean weight of all items."""
        return 1.0

    @classmethod
    def measures(cls) -> Mapping[str, Measure]:
        """Return the measures of `values`, by the same names."""
        return {} if cls.measure is None else {cls.kind: cls.measure}

    @classmethod
    def values(cls, result: _R) -> Mapping[str, float]:
        """Return all values of a result by name: that of `value`, and those of other measures."""
        return {cls.kind: cls.value(result)}

    def summary(self, results: Sequence[_R]) -> dict[str, Any]:
        """Return the summary of a finished cell's results, as JSON values; `version` is that of the summary."""
        values = [value for value in map(self.value, results) if value == value]
        average = float(np.mean(values)) if values else float("nan")
        spread = {"value": average, "stderr": standard_error(values)}
        return {"version": self.summary_version, "n": len(values), **spread}

    def is_current(self, summary: Mapping[str, Any]) -> bool:
        """Return whether a stored summary has what `summary` would give now."""
        return bool(summary.get("version", 1) >= self.summary_version)


def chunks(n_items: int, size: int) -> Iterator[range]:
    """Divide items into chunks of `size`; the division depends on nothing else."""
    for start in range(0, n_items, size):
        yield range(start, min(n_items, start + size))
