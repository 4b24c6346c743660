"""The measures of a study, in display order, with their names, labels and colours in tables and charts."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A measure's names: `group` in tables of numbers, `label` in charts and sentences, `column` for percentages.

    `colour` is the same in light and dark mode; `marker` is a matplotlib marker, so that lines also differ without
    colour. `items` names the averaged items in a report, `count` is the format of their number.
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
CONTROLLED_MINIMAL = replace(  # without AlpacaEval's instruction difficulties: another estimate, so another name
    CONTROLLED, group="preferred, length-controlled (minimal)", label="preferred, length-controlled (minimal)",
    column="length-controlled (minimal) %",
)  # fmt: skip
MEASURES = (FEW_SHOT, FOLLOWING, PREFERRED, CONTROLLED, CONTROLLED_MINIMAL)
