"""The measures of a study, in display order, with their names, labels and colours in tables and charts."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A measure's names: `group` in tables of numbers, `label` in charts and sentences, `column` of the values shown.

    Values are shares in [0, 1], shown in percent, of which more is better; with a `unit`, they are positive numbers in
    that unit, of which fewer is better. `step` is the difference that a report says how many items would show.
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
    unit: str = ""
    step: float = 0.02

    @property
    def is_share(self) -> bool:
        """Whether values are shares, shown in percent; more is better then, and fewer otherwise."""
        return not self.unit

    @property
    def axis(self) -> str:
        """What the axis of a chart is called."""
        return self.unit or "percent"

    @property
    def step_in_words(self) -> str:
        """The difference `step` in words."""
        return f"{self.step:g} {self.unit}" if self.unit else f"{100 * self.step:g} points"

    def number(self, value: float, digits: int = 1) -> str:
        """Return a value as a number in percent, with so many digits, or in the unit, with two digits more."""
        return f"{value:.{digits + 2}f}" if self.unit else f"{100 * value:.{digits}f}"

    def told(self, value: float, digits: int = 1) -> str:
        """Return a value as `number` does, with % where it is in percent."""
        return self.number(value, digits) + ("" if self.unit else "%")


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
# measures without labels: stand-ins for the first two
TEXT = Measure(
    group="text", label="bits per byte of text", column="text bits/byte", colour="#0f8a8a", marker="v",
    items="text", count="{name}, {n} windows", unit="bits per byte", step=0.01,
)  # fmt: skip
AGREEMENT = Measure(
    group="agreement", label="agreement with instruct", column="agreed %", colour="#b8860b", marker="P",
    items="prompts", count="{name}, {n} prompts, instruct's greedy answers",
)  # fmt: skip
ANSWERS = Measure(
    group="instruct's answers", label="nats per token of instruct's answers", column="answers nats/token",
    colour="#c2488b", marker="X", unit="nats per token",
)  # fmt: skip
MEASURES = (FEW_SHOT, FOLLOWING, PREFERRED, CONTROLLED, CONTROLLED_MINIMAL, AGREEMENT, TEXT, ANSWERS)
