"""Chat prompts: the model's own template, rendered in a sandboxed process, or a plain form for models without one.

A user's text is only ever text: a control token spelled out in it, such as an end of turn, is not read as one.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.chat_template import KEY, MEMORY, SECONDS, WORKER, template_of, template_use
from pa_lite.engine.model import Model
from pa_lite.engine.reasoning import Markers, ReasoningFormat, find_markers, opened_by
from pa_lite.errors import EngineError, InputError, TextError, nearest
from pa_lite.limited import LimitedProcess

T = TypeVar("T")

_SECONDS = SECONDS  # of processor time for a conversation
_PROMPTS_A_SECOND = 200  # far fewer than any template in use renders: more time for many prompts
_CHARACTERS = 200_000  # of one rendered text, beyond four times what goes in
_PORTION, _PORTION_CHARACTERS = 2000, 2_000_000  # prompts sent to the process at a time, and their characters
_MADE, _MADE_PER_CHARACTER = 50_000_000, 4  # characters of all prompts of a call, beyond 4 times what goes in
_MARK = "\ue000\ue0a7\ue001"  # private characters that stand for a user's text, to see what is the template's own
_HIDDEN = re.compile("\ue000\ue0a7([\ue100-\uf8ff])\ue001")  # stands for a control token that a user's text spells
_FIRST_HIDDEN, _MOST_HIDDEN = 0xE100, 0xF8FF - 0xE100


class Message(NamedTuple):
    """One turn; `reasoning` is what an assistant's turn had before its answer, for templates that show it again."""

    role: str
    content: str
    reasoning: str = ""


Turn = Message | tuple[str, str]  # a role and its content do


@dataclass(frozen=True)
class _Template:
    """A chat template and the texts of the tokens that it may name."""

    text: str
    bos: str
    eos: str


@dataclass(frozen=True)
class ChatPrompts:
    """Prompts as token ids, and of each how reasoning is found in what follows it. In the order of the requests.

    `faults` says, by index, why a prompt cannot be tokenised; it has no tokens.
    """

    tokens: list[list[int]]
    reasoning: list[ReasoningFormat]
    faults: Mapping[int, str] = field(default_factory=dict)


def reasoning_format(model: Model, template: str | None) -> ReasoningFormat:
    """Return how the model's reasoning is found: the markers of its template and its vocabulary, `<think>` by default.

    Raises EngineError for a template that cannot be parsed.
    """
    words = template_use(template, model.label).words
    markers = find_markers(lambda word: word in words or _in_vocabulary(model, word))
    spelled = {
        token: model.token_text(token)
        for m in markers
        for word in (m.start, m.end, *m.dropped)
        for token in _controls(model, word)
    }
    return ReasoningFormat(markers, None, spelled)


def _in_vocabulary(model: Model, word: str) -> bool:
    """Whether a marker is a token, or starts with a control token."""
    tokens = model.tokenize(word, add_special=False, parse_special=True)
    return bool(tokens) and (
        (len(tokens) == 1 and model.token_text(tokens[0]) == word)
        or (model.is_control(tokens[0]) and word.startswith(model.token_text(tokens[0])))
    )


def chat_prompts(
    model: Model,
    instructions: Sequence[str],
    options: ChatOptions | None = None,
    systems: Sequence[str] | None = None,
    ends_reasoning: bool = False,
    keep_faulty: bool = False,
) -> ChatPrompts:
    """Return the prompt of each instruction as the user's only turn, ready for the assistant's answer.

    `systems` are system prompts of the instructions' own, an empty one standing for that of the options. The rendered
    text brings its own BOS, or none: the ids are those of transformers' `apply_chat_template`, except that control
    tokens spelled out in an instruction or in its own system prompt stay text (not so in the options' system prompt,
    which is the caller's). A model without a template gets `Instruction: ...\\n\\nResponse:`, the system prompt and an
    empty line before it, and the BOS that its vocabulary asks for. With `ends_reasoning`, reasoning that the template
    opens is closed again, so that the answer comes next. Raises InputError for text that is not valid
    Unicode, TextError for a prompt that the model's tokenizer cannot take (with `keep_faulty`, `faults` has it
    instead), EngineError when the template fails, drops the instruction or the system prompt, or exceeds its limits of
    time, memory or length.
    """
    options = options or ChatOptions()
    own = [s or options.system for s in systems] if systems is not None else [options.system] * len(instructions)
    for number, (system, text) in enumerate(zip(own, instructions, strict=True), 1):
        try:
            (system + text).encode("utf-8")
        except UnicodeEncodeError as e:
            raise InputError(f"prompt {number}, or its system prompt, is not valid text: {e.reason}.") from e
    source = template_of(model)
    reasoning = reasoning_format(model, source)
    making = _Making(keep_faulty)
    if source is None:
        before = [f"{system}\n\n" if system else "" for system in own]
        plain = making.each(
            lambda i: model.tokenize(f"{before[i]}Instruction: {instructions[i]}\n\nResponse:"), range(len(own))
        )
        return ChatPrompts([plain.get(i, []) for i in range(len(own))], [reasoning] * len(own), making.faults)
    if not instructions:
        return ChatPrompts([], [])
    template = _Template(source, model.special_text("bos"), model.special_text("eos"))
    hidden = _Hidden(model)

    def conversation(i: int) -> tuple[Message, ...]:
        system = own[i] if own[i] == options.system else hidden.hide(own[i])
        return _conversation(system, hidden.hide(instructions[i]))

    try:
        opened = _check_frames(template, set(own), options, reasoning)
        safe = making.each(conversation, range(len(own)))
        texts = dict(zip(safe, _render(template, tuple(safe.values()), _settings(options)), strict=True))
        ends = {s: f"\n{m.end}\n\n" if ends_reasoning and m is not None else "" for s, m in opened.items()}
        tokens = making.each(lambda i: hidden.tokens(texts[i] + ends[own[i]]), texts)
    except EngineError as e:
        raise EngineError(f"{model.label}: its chat template fails: {e}.") from e
    formats = [replace(reasoning, opened=None if ends[s] else opened[s]) for s in own]
    return ChatPrompts([tokens.get(i, []) for i in range(len(own))], formats, making.faults)


class _Making:
    """Makes something of each prompt, and keeps track of those whose text cannot be tokenised."""

    def __init__(self, keep_faulty: bool) -> None:
        """Note such prompts in `faults`, by index, or raise TextError for the first, naming its number."""
        self._keep_faulty = keep_faulty
        self.faults: dict[int, str] = {}

    def each(self, make: Callable[[int], T], indices: Iterable[int]) -> dict[int, T]:
        """Return what `make` makes of each prompt that can be tokenised, by index."""
        made = {}
        for i in indices:
            try:
                made[i] = make(i)
            except TextError as e:
                if not self._keep_faulty:
                    raise TextError(e.fault, f"prompt {i + 1}") from e
                self.faults[i] = e.fault
        return made


def _conversation(system: str, text: str) -> tuple[Message, ...]:
    return (Message("system", system), Message("user", text)) if system else (Message("user", text),)


def _check_frames(
    template: _Template, systems: set[str], options: ChatOptions, reasoning: ReasoningFormat
) -> dict[str, Markers | None]:
    """Return of each system prompt which reasoning the prompt opens. Raises EngineError for content that is dropped."""
    order = ["", *sorted(systems - {""})]
    frames = _render(template, tuple(_conversation(s, _MARK) for s in order), _settings(options))
    for system, frame in zip(order, frames, strict=True):
        if _MARK not in frame:
            raise EngineError("it leaves out what the user says")
        if system and frame == frames[0] and system.strip() not in frame:  # a template may say the same by itself
            raise EngineError("it leaves out the system prompt")
    return {s: opened_by(frame.rpartition(_MARK)[2], reasoning.markers) for s, frame in zip(order, frames, strict=True)}


class _Hidden:
    """Control tokens that untrusted texts spell, replaced by private characters while a template is rendered.

    So whatever the template does with a text, the control tokens of the rendered text are the template's own.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._words: list[str] = []
        self._numbers: dict[str, int] = {}

    def hide(self, text: str) -> str:
        """Return the text without control tokens. Raises TextError for more different ones than can be told apart."""
        while controls := set(_controls(self._model, text)):
            words = sorted(filter(None, map(self._model.token_text, controls)), key=len, reverse=True)
            found = re.compile("|".join(map(re.escape, words)) or "(?!)")
            text, n = found.subn(lambda m: self._stand_in(m.group()), text)
            if not n:
                raise TextError(f"spells control tokens that cannot be told from the model's own: {text[:60]!r}")
        return text

    def _stand_in(self, word: str) -> str:
        number = self._numbers.setdefault(word, len(self._words))
        if number == len(self._words):
            if number == _MOST_HIDDEN:
                del self._numbers[word]
                raise TextError(f"spells a control token after {_MOST_HIDDEN} different ones. Leave some out")
            self._words.append(word)
        return _MARK[:2] + chr(_FIRST_HIDDEN + number) + _MARK[2]

    def _shown(self, text: str) -> str:
        def word(found: re.Match[str]) -> str:
            at = ord(found[1]) - _FIRST_HIDDEN
            return self._words[at] if at < len(self._words) else found[0]

        return _HIDDEN.sub(word, text)

    def tokens(self, text: str) -> list[int]:
        """Return the ids of a rendered text; what was hidden is text, in one piece with what stands around it."""
        tokens = self._model.tokenize(text, add_special=False, parse_special=True)
        if not self._words or _HIDDEN.search(text) is None:
            return tokens
        out: list[int] = []
        at = 0
        for token in filter(self._model.is_control, tokens):
            start = text.index(word := self._model.token_text(token), at)
            out += [*self._plain(text[at:start], is_start=at == 0), token]
            at = start + len(word)
        return out + self._plain(text[at:], is_start=at == 0)

    def _plain(self, text: str, is_start: bool) -> list[int]:
        if not text:
            return []
        return self._model.tokenize(self._shown(text), add_special=False, parse_special=False, is_start=is_start)


def _controls(model: Model, text: str) -> list[int]:
    """The control tokens in a text, in order."""
    return [t for t in model.tokenize(text, add_special=False, parse_special=True) if model.is_control(t)]


def _settings(options: ChatOptions) -> str:
    """What a template gets beside messages, as JSON; the date is None where the clock's own counts."""
    day = None if options.date is None else options.date.isoformat()
    return json.dumps({"arguments": dict(options.template_args), "date": day}, sort_keys=True)


@functools.lru_cache(maxsize=4)
def _render(template: _Template, conversations: tuple[tuple[Message, ...], ...], settings: str) -> tuple[str, ...]:
    """Each conversation's text, by `template_worker`. Raises EngineError with what went wrong, without a full stop."""
    room = _MADE + _MADE_PER_CHARACTER * len(template.text + settings) * len(conversations)
    texts: list[str] = []
    with LimitedProcess(WORKER, MEMORY) as process:
        for portion in _portions(conversations):
            seconds = _SECONDS + len(portion) // _PROMPTS_A_SECOND
            texts += process.ask(_request(template, portion, settings), seconds)["texts"]
            room += _MADE_PER_CHARACTER * sum(map(_length, portion)) - sum(map(len, texts[-len(portion) :]))
            if room < 0:
                raise EngineError(
                    f"the first {len(texts)} of {len(conversations)} prompts exceed the limit for all together, "
                    f"which is {_MADE} characters and {_MADE_PER_CHARACTER} times the template and the messages of each"
                )
    return tuple(texts)


def _portions(conversations: Sequence[tuple[Message, ...]]) -> Iterator[list[tuple[Message, ...]]]:
    """Yield the conversations in order, as many at a time as a process with limited memory renders easily."""
    portion: list[tuple[Message, ...]] = []
    held = 0
    for conversation in conversations:
        length = _length(conversation)
        if portion and (len(portion) >= _PORTION or held + length > _PORTION_CHARACTERS):
            yield portion
            portion, held = [], 0
        portion.append(conversation)
        held += length
    if portion:
        yield portion


def _length(conversation: Iterable[Message]) -> int:
    return sum(len(part) for message in conversation for part in message)


def _request(
    template: _Template, conversations: Iterable[Iterable[Turn]], settings: str, add_generation_prompt: bool = True
) -> dict[str, Any]:
    """What the worker is asked."""
    return {
        "template": template.text, "bos": template.bos, "eos": template.eos, **json.loads(settings),
        "conversations": [[_as_dict(Message(*turn)) for turn in messages] for messages in conversations],
        "add_generation_prompt": add_generation_prompt, "characters": _CHARACTERS,
    }  # fmt: skip


def _as_dict(message: Message) -> dict[str, str]:
    """A message as templates read it; reasoning under each name that published templates have for it."""
    out = {"role": message.role, "content": message.content}
    if message.reasoning:
        out |= dict.fromkeys(("reasoning_content", "thinking", "reasoning"), message.reasoning)
    return out


def _find_template(model: Model, name: str) -> _Template:
    """A model's chat template: its only one or its default, or another that it has under a name."""
    metadata, key = model.header.metadata, KEY
    names = [k.removeprefix(f"{key}.") for k in metadata if k.startswith(f"{key}.")]
    if name not in ("", "default"):
        if name not in names:
            raise InputError(f"{model.label}: has no chat template {name!r}.{nearest(name, ['default', *names])}")
        key = f"{key}.{name}"
    if key not in metadata:
        raise InputError(f"{model.label}: has no chat template.{nearest(name, names) or ' Do without one.'}")
    return _Template(str(metadata[key].value), model.special_text("bos"), model.special_text("eos"))


class ChatRenderer:
    """A model's chat template for conversations that come one at a time: its process stays up until `close`."""

    def __init__(self, model: Model, name: str = "", options: ChatOptions | None = None) -> None:
        """`name` chooses among several templates; of the options, the system prompt is left to the messages.

        Raises InputError when the model has no template, or none of that name.
        """
        self._template = _find_template(model, name)
        self._model, self.options = model, options or ChatOptions()
        self._process = LimitedProcess(WORKER, MEMORY)

    @property
    def template(self) -> str:
        """The template's own text."""
        return self._template.text

    def reasoning(self, messages: Sequence[Turn] = (("user", ""),)) -> ReasoningFormat:
        """Return how reasoning is found in the answer to a conversation. Raises what `render` raises."""
        found = reasoning_format(self._model, self.template)
        role, *_ = messages[-1]
        frame = self.render([*messages[:-1], (role, _MARK)])
        return replace(found, opened=opened_by(frame.rpartition(_MARK)[2], found.markers))

    def render(self, messages: Sequence[Turn], continues: bool = False) -> str:
        """Return a conversation's text, ready for the assistant's answer; or, if it `continues`, cut after the last
        message.

        Raises EngineError when the template fails, or exceeds its limits of time, memory or length. Source:
        transformers, `apply_chat_template` with add_generation_prompt or continue_final_message.
        """
        if continues:
            last = Message(*messages[-1])
            messages = [*messages[:-1], last._replace(content=f"{last.content}{_MARK} ")]
        try:
            request = _request(self._template, [messages], _settings(self.options), not continues)
            (text,) = self._process.ask(request, _SECONDS)["texts"]
            return _before_mark(text) if continues else text
        except EngineError as e:
            raise EngineError(f"{self._model.label}: its chat template fails: {e}.") from e

    def close(self) -> None:
        """End the process; more than once does no harm."""
        self._process.close()


def _before_mark(text: str) -> str:
    """What stands before the mark; its space is gone where the template strips messages, so the message's go too."""
    at = text.rfind(_MARK)
    if at < 0:
        raise EngineError("it leaves out the last message, which is to be continued")
    return text[:at] if text.startswith(f"{_MARK} ", at) else text[:at].rstrip()
