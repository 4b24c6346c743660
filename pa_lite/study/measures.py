"""What a study measures along lam: the names, labels and colours that tables and charts give it, and their order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Measure:
    """`group` names it in tables of numbers, `label` in charts and sentences, `column` above a column in percent.

    `colour` is the same on light and dark paper; `marker` is matplotlib's, so that lines differ without colours, too.
    `items` is what a report calls the items that it is an average of, `count` how it counts those of a series.
    """

    group: str
    label: str
    column: str
    colour: str
    marker: str
    items: str = ""
    count: str = ""


FEW_SHOT = Measure(
    group="few-shot", label="few-shot accuracy", column="few-shot %", colour="#1f77d0", marker="o",
    items="few-shot items", count="{name} {n}",
)  # fmt: skip
FOLLOWING = Measure(
    group="following", label="instructions followed", column="followed %", colour="#e0701a", marker="s",
    items="instructions", count="{name}, {n} prompts, greedy, strict",
)  # fmt: skip
PREFERRED = Measure(
    group="preferred", label="preferred over the reference", column="preferred %", colour="#8a4fc4", marker="^",
    items="preferences", count="{name}, {n} instructions",
)  # fmt: skip
CONTROLLED = Measure(
    group="preferred, length-controlled", label="preferred, length-controlled", column="length-controlled %",
    colour="#2f8f6b", marker="D",
)  # fmt: skip
MEASURES = (FEW_SHOT, FOLLOWING, PREFERRED, CONTROLLED)
