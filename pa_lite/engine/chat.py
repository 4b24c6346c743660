"""Build chat prompts with the model's chat template, rendered in a sandbox, or a plain form for models without one.

Text of users stays text: if it spells a control token, such as an end of turn, it is not read as that token.
"""

from __future__ import annotations

import contextlib
import functools
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.chat_template import KEY, MEMORY, SECONDS, WORKER, template_of, template_use
from pa_lite.engine.conversation import PLAIN_ROLES, Turn, as_dict, check_turns, with_hidden, with_texts
from pa_lite.engine.conversation import Message as Message  # exported with the functions that take it
from pa_lite.engine.hidden_tokens import HiddenTokens, controls_in
from pa_lite.engine.model import Model
from pa_lite.engine.reasoning import Markers, ReasoningFormat, find_markers, opened_by
from pa_lite.errors import EngineError, InputError, TextError, nearest
from pa_lite.untrusted.portions import portions
from pa_lite.untrusted.sandbox import LimitedProcess

T = TypeVar("T")

_SECONDS = SECONDS  # of processor time for one conversation
_PROMPTS_A_SECOND = 200  # the time limit grows at this rate; published templates are far faster
_CHARACTERS = 200_000  # limit of one rendered text, in addition to four times its input
_PORTION, _PORTION_CHARACTERS = 2000, 2_000_000  # prompts sent to the process at a time, and their characters
_CACHED = 1_000_000  # characters of the conversations of a call up to which the rendered texts are cached
_MADE, _MADE_PER_CHARACTER = 50_000_000, 4  # limit of all rendered characters of a call: this, and 4 times the input
_MARK = "\ue000\ue0a7\ue001"  # private characters in place of a user's text, to find what the template adds


@dataclass(frozen=True)
class _Template:
    """A chat template, and the texts of the BOS and EOS tokens for it."""

    text: str
    bos: str
    eos: str


@dataclass(frozen=True)
class ChatPrompts:
    """Prompts as token ids (32-bit arrays), and the reasoning format of each; both in the order of the requests.

    `faults` has, by index, the reason why a prompt cannot be tokenised; such a prompt has no tokens.
    """

    tokens: list[array[int]]
    reasoning: list[ReasoningFormat]
    faults: Mapping[int, str] = field(default_factory=dict)


def reasoning_format(model: Model, template: str | None) -> ReasoningFormat:
    """Return the reasoning markers in a model's template and vocabulary, `<think>` if there are none.

    Raises EngineError for a template that cannot be parsed.
    """
    words = template_use(template, model.label).words
    markers = find_markers(lambda word: word in words or _in_vocabulary(model, word))
    spelled = {
        token: model.token_text(token)
        for m in markers
        for word in (m.start, m.end, *m.dropped)
        for token in controls_in(model, word)
    }
    return ReasoningFormat(markers, None, spelled)


def _in_vocabulary(model: Model, word: str) -> bool:
    """Return whether a marker is a token, or starts with a control token."""
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
    """Return a prompt for each instruction, with it as the user's only turn, ready for the assistant's answer.

    `systems` has a system prompt for each instruction; an empty one means that of the options. The ids are those of
    transformers' `apply_chat_template`, and BOS is added only by the template. One difference: control tokens that an
    instruction or its system prompt spells out stay text (but not in the options' system prompt, which the caller
    chose). A model without a template gets the system prompt, an empty line, `Instruction: ...\\n\\nResponse:`, and the
    BOS that its vocabulary asks for. With `ends_reasoning`, reasoning that the template opens is closed again, so that
    the answer follows.

    Raises InputError for text that is not valid Unicode, TextError for a prompt that the model's tokenizer cannot take
    (with `keep_faulty` it is listed in `faults` instead), EngineError when the template fails, drops the instruction or
    the system prompt, or exceeds its limits of time, memory or length.
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
            lambda i: array("i", model.tokenize(f"{before[i]}Instruction: {instructions[i]}\n\nResponse:")),
            range(len(own)),
        )
        return ChatPrompts([plain.get(i, array("i")) for i in range(len(own))], [reasoning] * len(own), making.faults)
    if not instructions:
        return ChatPrompts([], [])
    template = _Template(source, model.special_text("bos"), model.special_text("eos"))
    hidden = HiddenTokens(model)

    def size(i: int) -> int:
        return len(own[i]) + len(instructions[i])

    def conversation(i: int) -> tuple[Message, ...]:
        system = own[i] if own[i] == options.system else hidden.hide(own[i])
        return _conversation(system, hidden.hide(instructions[i]))

    tokens: dict[int, array[int]] = {}
    with _template_errors(model):
        opened = _check_frames(template, set(own), options, reasoning)
        ends = {s: f"\n{m.end}\n\n" if ends_reasoning and m is not None else "" for s, m in opened.items()}
        with _Rendering(template, _settings(options), len(own)) as rendering:
            for portion in portions(range(len(own)), size, _PORTION_CHARACTERS, _PORTION):
                safe = making.each(conversation, portion)
                texts = dict(zip(safe, rendering.texts(tuple(safe.values())), strict=True))
                tokens |= making.each(lambda i: array("i", hidden.tokens(texts[i] + ends[own[i]])), texts)  # noqa: B023
    formats = [replace(reasoning, opened=None if ends[s] else opened[s]) for s in own]
    return ChatPrompts([tokens.get(i, array("i")) for i in range(len(own))], formats, making.faults)


class _Making:
    """Computes something for each prompt, and handles prompts whose text cannot be tokenised."""

    def __init__(self, keep_faulty: bool) -> None:
        """Collect such prompts in `faults`, by index, with `keep_faulty`; else raise TextError for the first."""
        self._keep_faulty = keep_faulty
        self.faults: dict[int, str] = {}

    def each(self, make: Callable[[int], T], indices: Iterable[int]) -> dict[int, T]:
        """Return the results of `make` for the prompts that can be tokenised, by index."""
        made = {}
        for i in indices:
            try:
                made[i] = make(i)
            except TextError as e:
                if not self._keep_faulty:
                    raise TextError(e.fault, f"prompt {i + 1}") from e
                self.faults[i] = e.fault
        return made


def conversation_prompt(
    model: Model,
    messages: Sequence[Turn],
    options: ChatOptions | None = None,
    process: LimitedProcess | None = None,
) -> tuple[list[int], ReasoningFormat]:
    """Return the prompt (token ids) of a conversation, ready for the assistant's next turn, and its reasoning format.

    Control tokens that a message or a template argument spells out stay text, as in `chat_prompts`; the options' system
    prompt, which the caller chose, comes first. Tools are the template argument `tools`. A model without a template
    gets turns of `Instruction: ...` and `Response: ...`. `process` renders the template (by default one is started for
    the call). Raises InputError for no messages, a last message of the assistant, two system prompts, and text that is
    not valid Unicode; EngineError when the template fails, or drops the last message or the system prompt.
    """
    options, turns = options or ChatOptions(), [Message(*turn) for turn in messages]
    check_turns(turns, options)
    source = template_of(model)
    reasoning = reasoning_format(model, source)
    if source is None:
        parts = [options.system, *(f"{PLAIN_ROLES.get(t.role, '')}{t.content}" for t in turns)]
        return model.tokenize("\n\n".join(filter(None, [*parts, "Response:"]))), reasoning
    template = _Template(source, model.special_text("bos"), model.special_text("eos"))
    hidden = HiddenTokens(model)
    with _template_errors(model):
        safe = tuple(with_hidden(t, hidden.hide) for t in turns)
        options = replace(options, template_args=with_texts(dict(options.template_args), hidden.hide))
        first = (Message("system", options.system),) if options.system else ()
        marked = (*safe[:-1], safe[-1]._replace(content=_MARK))
        conversations, settings = ((*first, *safe), (*first, *marked), marked), _settings(options)
        if process is None:
            text, frame, bare = _render(template, conversations, settings)
        else:
            text, frame, bare = _ask(process, template, conversations, settings)
        if _MARK not in frame:
            raise EngineError("it leaves out the last message")
        if first and frame == bare and options.system.strip() not in frame:
            raise EngineError("it leaves out the system prompt")
        opened = opened_by(frame.rpartition(_MARK)[2], reasoning.markers)
        return hidden.tokens(text), replace(reasoning, opened=opened)


@contextlib.contextmanager
def _template_errors(model: Model) -> Iterator[None]:
    try:
        yield
    except EngineError as e:
        raise EngineError(f"{model.label}: its chat template fails: {e}.") from e


def _conversation(system: str, text: str) -> tuple[Message, ...]:
    return (Message("system", system), Message("user", text)) if system else (Message("user", text),)


def _check_frames(
    template: _Template, systems: set[str], options: ChatOptions, reasoning: ReasoningFormat
) -> dict[str, Markers | None]:
    """Return which reasoning the template opens for each system prompt. Raises EngineError if it drops content."""
    order = ["", *sorted(systems - {""})]
    opened: dict[str, Markers | None] = {}
    first = ""
    with _Rendering(template, _settings(options), len(order)) as rendering:
        for portion in portions(order, len, _PORTION_CHARACTERS, _PORTION):
            frames = rendering.texts(tuple(_conversation(s, _MARK) for s in portion))
            first = first or frames[0]
            for system, frame in zip(portion, frames, strict=True):
                if _MARK not in frame:
                    raise EngineError("it leaves out what the user says")
                # the same frame is fine if the template itself contains that system prompt
                if system and frame == first and system.strip() not in frame:
                    raise EngineError("it leaves out the system prompt")
                opened[system] = opened_by(frame.rpartition(_MARK)[2], reasoning.markers)
    return opened


def _settings(options: ChatOptions) -> str:
    """Return the template's arguments and the date (None: the real time) as JSON."""
    day = None if options.date is None else options.date.isoformat()
    return json.dumps({"arguments": dict(options.template_args), "date": day})


class _Rendering:
    """The process that renders the prompts of one call, a portion at a time. A context manager."""

    def __init__(self, template: _Template, settings: str, n: int) -> None:
        """Prepare for a call with `n` prompts."""
        self._template, self._settings, self._n = template, settings, n
        self._process = LimitedProcess(WORKER, MEMORY)
        self._done, self._room = 0, _MADE

    def __enter__(self) -> _Rendering:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.close()

    def texts(self, conversations: tuple[tuple[Message, ...], ...]) -> tuple[str, ...]:
        """Return the text of each conversation. Raises EngineError, whose message has no full stop."""
        source = len(self._template.text + self._settings)
        given = sum(map(_length, conversations))
        if len(conversations) == self._n and given + source <= _CACHED:
            texts = _render(self._template, conversations, self._settings)
        else:
            texts = _ask(self._process, self._template, conversations, self._settings)
        self._done += len(texts)
        self._room += _MADE_PER_CHARACTER * (given + source * len(texts)) - sum(map(len, texts))
        if self._room < 0:
            raise EngineError(
                f"the first {self._done} of {self._n} prompts exceed the limit for all prompts together: {_MADE} "
                f"characters, and {_MADE_PER_CHARACTER} times the template and messages of each"
            )
        return texts


@functools.lru_cache(maxsize=4)
def _render(template: _Template, conversations: tuple[tuple[Message, ...], ...], settings: str) -> tuple[str, ...]:
    """Return the texts of a few conversations, cached because a study renders the same ones at every lam."""
    with LimitedProcess(WORKER, MEMORY) as process:
        return _ask(process, template, conversations, settings)


def _ask(
    process: LimitedProcess, template: _Template, conversations: Sequence[tuple[Message, ...]], settings: str
) -> tuple[str, ...]:
    seconds = _SECONDS + len(conversations) // _PROMPTS_A_SECOND
    return tuple(process.ask(_request(template, conversations, settings), seconds)["texts"])


def _length(conversation: Iterable[Message]) -> int:
    return sum(len(part) for message in conversation for part in message)


def _request(
    template: _Template, conversations: Iterable[Iterable[Turn]], settings: str, add_generation_prompt: bool = True
) -> dict[str, Any]:
    """Return the request for the template worker."""
    return {
        "template": template.text, "bos": template.bos, "eos": template.eos, **json.loads(settings),
        "conversations": [[as_dict(Message(*turn)) for turn in messages] for messages in conversations],
        "add_generation_prompt": add_generation_prompt, "characters": _CHARACTERS,
    }  # fmt: skip


def _find_template(model: Model, name: str) -> _Template:
    """Return a model's chat template: the default one, or the one called `name`."""
    metadata, key = model.header.metadata, KEY
    names = [k.removeprefix(f"{key}.") for k in metadata if k.startswith(f"{key}.")]
    if name not in ("", "default"):
        if name not in names:
            raise InputError(f"{model.label}: has no chat template {name!r}.{nearest(name, ['default', *names])}")
        key = f"{key}.{name}"
    if key not in metadata:
        raise InputError(f"{model.label}: has no chat template.{nearest(name, names) or ' Use plain prompts instead.'}")
    return _Template(str(metadata[key].value), model.special_text("bos"), model.special_text("eos"))


class ChatRenderer:
    """Renders conversations with a model's chat template, one at a time; its process runs until `close`."""

    def __init__(self, model: Model, name: str = "", options: ChatOptions | None = None) -> None:
        """Use the template called `name`. The options' system prompt is not used: messages bring their own.

        Raises InputError when the model has no template, or none of that name.
        """
        self._template = _find_template(model, name)
        self._model, self.options = model, options or ChatOptions()
        self._process = LimitedProcess(WORKER, MEMORY)

    @property
    def template(self) -> str:
        """The template's source text."""
        return self._template.text

    def reasoning(self, messages: Sequence[Turn] = (("user", ""),)) -> ReasoningFormat:
        """Return the reasoning format of the answer to a conversation. Raises what `render` raises."""
        found = reasoning_format(self._model, self.template)
        role, *_ = messages[-1]
        frame = self.render([*messages[:-1], (role, _MARK)])
        return replace(found, opened=opened_by(frame.rpartition(_MARK)[2], found.markers))

    def render(self, messages: Sequence[Turn], continues: bool = False) -> str:
        """Return a conversation's text, ready for the assistant's answer, or cut after the last message (`continues`).

        Raises EngineError when the template fails, or exceeds its limits of time, memory or length. Source:
        transformers, `apply_chat_template` with add_generation_prompt or continue_final_message.
        """
        if continues:
            last = Message(*messages[-1])
            messages = [*messages[:-1], last._replace(content=f"{last.content}{_MARK} ")]
        with _template_errors(self._model):
            request = _request(self._template, [messages], _settings(self.options), not continues)
            (text,) = self._process.ask(request, _SECONDS)["texts"]
            return _before_mark(text) if continues else text

    def close(self) -> None:
        """Stop the child process. Closing twice does no harm."""
        self._process.close()


def _before_mark(text: str) -> str:
    """Return the text before the mark, stripped at the end if the template strips messages (its space is missing)."""
    at = text.rfind(_MARK)
    if at < 0:
        raise EngineError("it leaves out the last message, which is to be continued")
    return text[:at] if text.startswith(f"{_MARK} ", at) else text[:at].rstrip()
