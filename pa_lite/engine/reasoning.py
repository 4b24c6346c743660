"""Separates what a model writes while it reasons from its answer, in whole texts or as a text grows. Runs no model.

Reasoning is what stands between a start and an end marker at the very start of a turn. Further blocks that follow
directly belong to it; a marker that comes up later, within the answer, is part of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class Markers:
    """The texts that enclose reasoning; `dropped` are texts of the format that may follow and belong to nothing."""

    start: str
    end: str
    dropped: tuple[str, ...] = ()


DEFAULT = Markers("<think>", "</think>")
# as the chat templates and vocabularies of published models spell them
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
_PORTION = 1 << 12  # characters of a whole text that are split at a time: the work is then linear
_COMMON = "<|end|>"  # also ends turns of models that do not reason: no evidence of a format


def find_markers(holds: Callable[[str], bool]) -> tuple[Markers, ...]:
    """Return the known formats of which `holds` says that the template or vocabulary has a marker; else the default."""
    found = [m for m in MARKERS if holds(m.start) or (m.end != _COMMON and holds(m.end))]
    return tuple(found) or (DEFAULT,)


def opened_by(prompt: str, markers: Sequence[Markers]) -> Markers | None:
    """Return the format whose start marker the end of a prompt leaves open, so that the turn starts with reasoning.

    `prompt` is what a template writes after the last message.
    """
    last = max(markers, key=lambda m: prompt.rfind(m.start))
    at = prompt.rfind(last.start)
    return last if at >= 0 and last.end not in prompt[at + len(last.start) :] else None


class Split(NamedTuple):
    """A text's reasoning and its answer, or what was added to each."""

    reasoning: str
    answer: str


@dataclass(frozen=True)
class ReasoningFormat:
    """How one prompt's reasoning is found: the formats, the one that the prompt opened, and control tokens to spell.

    `spelled` has the text of each control token that markers are written with; llama.cpp gives such tokens no text.
    """

    markers: tuple[Markers, ...] = (DEFAULT,)
    opened: Markers | None = None
    spelled: Mapping[int, str] = field(default_factory=dict)

    def splitter(self) -> ReasoningSplitter:
        """Return a splitter for one turn."""
        return ReasoningSplitter(self.markers, self.opened, tuple(self.spelled.values()))


class ReasoningSplitter:
    """Splits a turn that arrives in pieces. What `feed` and `finish` return adds up to the reasoning and the answer.

    A block ends at the first end marker, unless it held further start markers: then what follows is reasoning as far
    as one more end marker comes for each. Until that is known, and while a marker may be under way, text is held back;
    the work is linear in the text. Several blocks are joined by an empty line. Spaces around blocks are dropped.
    """

    def __init__(
        self, markers: Sequence[Markers] = (DEFAULT,), opened: Markers | None = None, silent: Sequence[str] = ()
    ) -> None:
        """`opened` is a format whose start the prompt held. `silent` are texts to drop where they are not markers."""
        self._markers, self._silent = tuple(markers), tuple(silent)
        self._block: Markers | None = opened  # whose block is open
        self._last = opened or DEFAULT  # the newest block's
        self._step: Callable[[], bool] = self._lead if opened is None else self._inside
        self._held = ""  # not yet known what it is
        self._parked: list[str] = []  # before it: a turn's first spaces, or what follows a block that may go on
        self._seen = opened is not None  # a block or dropped text: the answer starts after the spaces that follow
        self._is_blank = True  # nothing but spaces in this block so far
        self._has_reasoning = False
        self._owed = 0  # start markers within a block that had no end marker yet
        self._out: list[list[str]] = [[], []]

    @property
    def in_reasoning(self) -> bool:
        """Whether a block is open: a turn that ends now never ended its reasoning."""
        return self._block is not None

    @property
    def in_answer(self) -> bool:
        """Whether the answer has started: nothing that follows is a marker."""
        return self._step == self._answer

    @property
    def end(self) -> str:
        """The marker that ends the open block, empty when none is open."""
        return self._block.end if self._block is not None else ""

    def feed(self, text: str) -> Split:
        """Take the next piece; returns what is now known to be reasoning and answer."""
        self._held += text
        while self._held and self._step():
            pass
        return self._take()

    def finish(self) -> Split:
        """Return what was held back: the turn is over."""
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
        """Before the answer: a block or a text to drop may start. Returns whether to look again."""
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
        """What is held, and whatever follows, is the answer; spaces between a block and it are dropped."""
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
        """Within a block: look for its end, or another start."""
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
        elif not self._is_blank:  # a start that the prompt or the model wrote twice is none within the block
            self._reason(word)
            self._owed += 1
        return True

    def _closed(self) -> None:
        """An end marker came: the block is over, or may be if starts within it are still owed their ends."""
        self._block = None
        self._step = self._pending if self._owed else self._lead

    def _pending(self) -> bool:
        """After a block with starts within it: one more end marker makes all before it reasoning."""
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
    """How many characters at a text's end may be the start of one of the words."""
    most = min(len(text), max(map(len, words)) - 1)
    return next((n for n in range(most, 0, -1) if any(w.startswith(text[-n:]) for w in words)), 0)


class WholeSplit(NamedTuple):
    """A whole turn's reasoning and answer, and whether the reasoning ended (also where there was none)."""

    reasoning: str
    answer: str
    ended: bool


def split_reasoning(text: str) -> WholeSplit:
    """Split a whole turn that another program wrote, by any known format; without reasoning the answer is the text.

    Where the turn has an end marker and no start before it, the prompt held the start: what stands before the end is
    reasoning.
    """
    markers = [m for m in MARKERS if not m.start[0].isalpha() or m.end in text]  # plain words may start an answer
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
