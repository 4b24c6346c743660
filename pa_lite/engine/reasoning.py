"""Separate a model's reasoning from its answer, in whole texts or piece by piece. Runs no model.

Reasoning is a block between a start and an end marker at the very start of a turn. Further blocks that follow directly
belong to it; a marker that appears later, in the answer, is part of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class Markers:
    """The texts that enclose reasoning; `dropped` are texts of the format that may follow it and are left out."""

    start: str
    end: str
    dropped: tuple[str, ...] = ()


DEFAULT = Markers("<think>", "</think>")
# markers in the chat templates and vocabularies of published models
MARKERS = (
    DEFAULT,
    Markers("<thinking>", "</thinking>"),
    Markers("<reasoning>", "</reasoning>"),
    Markers("<thought>", "</thought>"),
    Markers("<seed:think>", "</seed:think>"),
    Markers("<mm:think>", "</mm:think>"),
    Markers("<think:opensource>", "</think:opensource>"),
    Markers("[THINK]", "[/THINK]"),
    Markers("◁think▷", "◁/think▷"),
    Markers("<|START_THINKING|>", "<|END_THINKING|>"),
    Markers("<|begin_of_thought|>", "<|end_of_thought|>", ("<|begin_of_solution|>",)),
    Markers("<|inner_prefix|>", "<|inner_suffix|>"),
    Markers("<|channel>thought", "<channel|>"),
    Markers(
        "<|channel|>analysis<|message|>", "<|end|>",
        ("<|start|>assistant", "<|channel|>final<|message|>", "<|channel|>commentary<|message|>"),
    ),
    Markers("<|think|>", "<|end|>", ("<|begin|>assistant", "<|content|>")),
    Markers("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
)  # fmt: skip
_PORTION = 1 << 12  # characters of a whole text that are split at a time, which makes the work linear
_COMMON = "<|end|>"  # also ends turns of models without reasoning, so it does not identify a format


def find_markers(holds: Callable[[str], bool]) -> tuple[Markers, ...]:
    """Return the known formats with a marker for which `holds` returns true; else the default format."""
    found = [m for m in MARKERS if holds(m.start) or (m.end != _COMMON and holds(m.end))]
    return tuple(found) or (DEFAULT,)


def opened_by(prompt: str, markers: Sequence[Markers]) -> Markers | None:
    """Return the format of a block that the end of a prompt leaves open, so that the turn starts with reasoning.

    `prompt` is what a template writes after the last message. Return None if no block is open.
    """
    last = max(markers, key=lambda m: prompt.rfind(m.start))
    at = prompt.rfind(last.start)
    return last if at >= 0 and last.end not in prompt[at + len(last.start) :] else None


class Split(NamedTuple):
    """Reasoning and answer of a text, or what a piece adds to each."""

    reasoning: str
    answer: str


@dataclass(frozen=True)
class ReasoningFormat:
    """How to find the reasoning after one prompt: possible markers, and the format that the prompt opened, if any.

    `spelled` has the texts of the control tokens in markers, for which llama.cpp returns no text.
    """

    markers: tuple[Markers, ...] = (DEFAULT,)
    opened: Markers | None = None
    spelled: Mapping[int, str] = field(default_factory=dict)

    def splitter(self) -> ReasoningSplitter:
        """Return a splitter for one turn."""
        return ReasoningSplitter(self.markers, self.opened, tuple(self.spelled.values()))


class ReasoningSplitter:
    """Splits a turn that arrives in pieces. What `feed` and `finish` return adds up to the reasoning and the answer.

    A block ends at the first end marker. If it contained further start markers, it continues up to one more end marker
    for each, if these follow. Text is held back until that is known, and while it may be part of a marker. The work is
    linear in the text. Several blocks are joined by an empty line. Spaces around blocks are dropped.
    """

    def __init__(
        self, markers: Sequence[Markers] = (DEFAULT,), opened: Markers | None = None, silent: Sequence[str] = ()
    ) -> None:
        """Start a turn. `opened` is a format that the prompt opened; `silent` are texts to drop from the answer."""
        self._markers, self._silent = tuple(markers), tuple(silent)
        self._block: Markers | None = opened  # the format of the open block
        self._last = opened or DEFAULT  # the format of the newest block
        self._step: Callable[[], bool] = self._lead if opened is None else self._inside
        self._held = ""  # the newest text, not classified yet
        self._parked: list[str] = []  # text before it: a turn's first spaces, or after a block that may continue
        self._seen = opened is not None  # after a block or dropped text, spaces before the answer are dropped
        self._is_blank = True  # only spaces in this block so far
        self._has_reasoning = False
        self._owed = 0  # start markers inside the block whose end markers are missing so far
        self._out: list[list[str]] = [[], []]

    @property
    def in_reasoning(self) -> bool:
        """Whether a block is open."""
        return self._block is not None

    @property
    def in_answer(self) -> bool:
        """Whether the answer has started, after which there are no markers."""
        return self._step == self._answer

    @property
    def end(self) -> str:
        """The marker that ends the open block, empty if none is open."""
        return self._block.end if self._block is not None else ""

    def feed(self, text: str) -> Split:
        """Add a piece; return what is now known to be reasoning and answer."""
        self._held += text
        while self._held and self._step():
            pass
        return self._take()

    def finish(self) -> Split:
        """End the turn, and return the text that was held back."""
        if self._step == self._inside:
            self._reason(self._held)
        elif self._step != self._answer:
            self._begin_answer()
            self._say(self._held)
        self._held = ""
        return self._take()

    def _take(self) -> Split:
        out, self._out = self._out, [[], []]
        return Split("".join(out[0]), "".join(out[1]))

    def _lead(self) -> bool:
        """Handle text before the answer: a block or a dropped text may start. Return whether to look again."""
        text = self._held.lstrip()
        self._parked.append(self._held[: len(self._held) - len(text)])
        self._held = text
        if not text:
            return False
        for markers in self._markers:
            if text.startswith(markers.start):
                self._open(markers)
                return True
            for dropped in markers.dropped:
                if text.startswith(dropped):
                    self._held, self._seen = text[len(dropped) :], True
                    return True
        if any(t.startswith(text) for m in self._markers for t in (m.start, *m.dropped)):
            return False
        self._begin_answer()
        return True

    def _begin_answer(self) -> None:
        """Start the answer with the held text, without spaces after a block."""
        text = "".join((*self._parked, self._held))
        self._held = text.lstrip() if self._seen else text
        self._parked.clear()
        self._step = self._answer

    def _open(self, markers: Markers) -> None:
        self._held = self._held[len(markers.start) :]
        self._block, self._last, self._step = markers, markers, self._inside
        self._parked.clear()
        self._seen = self._is_blank = True
        self._owed = 0

    def _inside(self) -> bool:
        """Handle text inside a block: look for its end, or another start. Return whether to look again."""
        assert self._block is not None
        start, end, text = self._block.start, self._block.end, self._held
        places = [(at, word) for word in (start, end) if (at := text.find(word)) >= 0]
        if not places:
            keep = _open_end(text, (start, end))
            self._reason(text[: len(text) - keep])
            self._held = text[len(text) - keep :]
            return False
        at, word = min(places)
        self._reason(text[:at])
        self._held = text[at + len(word) :]
        if word == end:
            self._closed()
        elif not self._is_blank:  # a start marker right at the start of a block is a repetition
            self._reason(word)
            self._owed += 1
        return True

    def _closed(self) -> None:
        """End the block, unless start markers inside it lack their end markers: then it may continue."""
        self._block = None
        self._step = self._pending if self._owed else self._lead

    def _pending(self) -> bool:
        """Handle text after a block with inner starts: one more end marker makes all text before it reasoning."""
        end, text = self._last.end, self._held
        at = text.find(end)
        if at < 0:
            keep = _open_end(text, (end,))
            self._parked.append(text[: len(text) - keep])
            self._held = text[len(text) - keep :]
            return False
        self._reason("".join((end, *self._parked, text[:at])))
        self._held = text[at + len(end) :]
        self._parked.clear()
        self._owed -= 1
        if not self._owed:
            self._step = self._lead
        return True

    def _answer(self) -> bool:
        self._say(self._held)
        self._held = ""
        return False

    def _reason(self, text: str) -> None:
        if self._is_blank:
            text = text.lstrip()
            if text:
                text = f"\n\n{text}" if self._has_reasoning else text
                self._is_blank, self._has_reasoning = False, True
        if text:
            self._out[0].append(text)

    def _say(self, text: str) -> None:
        for word in self._silent:
            text = text.replace(word, "")
        self._out[1].append(text)


def _open_end(text: str, words: Sequence[str]) -> int:
    """Return how many characters at the end of a text may be the start of one of the words."""
    most = min(len(text), max(map(len, words)) - 1)
    return next((n for n in range(most, 0, -1) if any(w.startswith(text[-n:]) for w in words)), 0)


class WholeSplit(NamedTuple):
    """Reasoning and answer of a whole turn, and whether the reasoning ended (true if there was none)."""

    reasoning: str
    answer: str
    ended: bool


def split_reasoning(text: str) -> WholeSplit:
    """Split a whole turn that another program generated, by any known format; without reasoning, all is the answer.

    If the turn has an end marker without a start before it, the prompt had the start, so the text before the end marker
    is reasoning.
    """
    markers = [m for m in MARKERS if not m.start[0].isalpha() or m.end in text]  # a start in plain words is ambiguous
    opened = next((m for m in markers if m.end != _COMMON and 0 <= text.find(m.end) < _first(text, m.start)), None)
    splitter = ReasoningSplitter(markers, opened)
    parts = [splitter.feed(text[at : at + _PORTION]) for at in range(0, len(text), _PORTION)]
    ended = not splitter.in_reasoning
    parts.append(splitter.finish())
    reasoning, answer = ("".join(p[i] for p in parts) for i in (0, 1))
    return WholeSplit(reasoning.strip(), answer, ended)


def _first(text: str, word: str) -> int:
    at = text.find(word)
    return len(text) if at < 0 else at
