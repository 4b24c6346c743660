"""Chat prompts: the model's own template, rendered in a sandboxed process, or a plain form for models without one.

A user's text is only ever text: a control token spelled out in it, such as an end of turn, is not read as one.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pa_lite.engine.model import Model
from pa_lite.errors import EngineError, InputError, nearest
from pa_lite.limited import LimitedProcess

_WORKER = "pa_lite.engine.template_worker"
_MEMORY = 512 << 20  # bytes beyond what the worker holds when it starts to render
_SECONDS = 5  # of processor time
_PROMPTS_A_SECOND = 200  # far fewer than any template in use renders: more time for many prompts
_CHARACTERS = 200_000  # of one rendered text, beyond four times what goes in
_MARK = "\ue000\ue0a7\ue001"  # private characters that stand for a user's text, to see what is the template's own

Message = tuple[str, str]  # role, content


@dataclass(frozen=True)
class _Template:
    """A chat template and the texts of the tokens that it may name."""

    text: str
    bos: str
    eos: str


def has_template(model: Model) -> bool:
    """Whether a model brings a chat template; without one, prompts are in the plain form."""
    return "tokenizer.chat_template" in model.header.metadata


def chat_prompts(
    model: Model, instructions: Sequence[str], system: str = "", systems: Sequence[str] | None = None
) -> list[list[int]]:
    """Return the token ids of each instruction as the user's only turn, ready for the assistant's answer.

    `system` is the caller's system prompt, none when empty (a template may have its own). `systems` are system prompts
    of the instructions' own, an empty one standing for the caller's. The rendered text brings its own BOS, or none: the
    ids are those of transformers' `apply_chat_template`, except that control tokens spelled out in an instruction stay
    text. In the caller's system prompt they are control tokens; in an instruction's own they are refused. A model
    without a template gets `Instruction: ...\\n\\nResponse:`, the system prompt and an empty line before it, and the
    BOS that its vocabulary asks for. Raises InputError for an instruction that is not valid text or a system prompt
    that is refused, EngineError when the template fails, drops the instruction or the system prompt, or exceeds its
    limits of time, memory or length.
    """
    used = [s or system for s in systems] if systems is not None else [system] * len(instructions)
    for number, (text, before) in enumerate(zip(instructions, used, strict=True), 1):
        try:
            (text + before).encode("utf-8")
        except UnicodeEncodeError as e:
            raise InputError(f"prompt {number}, or the system prompt, is not valid text: {e.reason}.") from e
    if not has_template(model):
        plain = [f"Instruction: {text}\n\nResponse:" for text in instructions]
        return [model.tokenize(f"{s}\n\n{text}" if s else text) for s, text in zip(used, plain, strict=True)]
    if not instructions:
        return []
    for number, before in enumerate(systems or (), 1):
        if before and _controls(model, before):
            raise InputError(f"prompt {number}: its system prompt spells out a control token of the model. Remove it.")
    source = model.header.metadata["tokenizer.chat_template"]
    template = _Template(str(source.value), model.special_text("bos"), model.special_text("eos"))
    framed = list(dict.fromkeys(used))  # a frame for each system prompt comes before the instructions
    turns = [*zip(framed, [_MARK] * len(framed), strict=True), *zip(used, instructions, strict=True)]
    conversations = tuple(_conversation(*turn) for turn in turns)
    seconds = _SECONDS + len(conversations) // _PROMPTS_A_SECOND
    try:
        rendered = _render(template, conversations, seconds)
        if not all(_MARK in frame for frame in rendered[: len(framed)]):
            raise EngineError("it leaves out what the user says")
        lost = {frame for s, frame in zip(framed, rendered, strict=False) if s.strip() not in frame}
        if lost and _render(template, (_conversation("", _MARK),), seconds)[0] in lost:
            raise EngineError("it leaves out the system prompt; write that into the prompts instead")
        frames = {s: (frame, _controls(model, frame)) for s, frame in zip(framed, rendered, strict=False)}
        texts = zip(used, instructions, rendered[len(framed) :], strict=True)
        return [_tokens(model, instruction, text, *frames[s]) for s, instruction, text in texts]
    except EngineError as e:
        raise EngineError(f"{model.path}: its chat template fails: {e}.") from e


def _conversation(system: str, text: str) -> tuple[Message, ...]:
    return (("system", system), ("user", text)) if system else (("user", text),)


def _tokens(model: Model, instruction: str, text: str, frame: str, own: Sequence[int]) -> list[int]:
    """Token ids of a rendered text; where it has other control tokens than its frame, the instruction's become text."""
    tokens = model.tokenize(text, add_special=False, parse_special=True)
    if [t for t in tokens if model.is_control(t)] == own or not _controls(model, instruction):
        return tokens  # or the template itself chose other ones for this text
    tokens = _as_text(model, frame, text, own)
    if [t for t in tokens if model.is_control(t)] != own:
        raise EngineError(f"its own control tokens cannot be told from those spelled out in {instruction[:60]!r}")
    return tokens


def _controls(model: Model, text: str) -> list[int]:
    """The control tokens in a text, in order."""
    return [t for t in model.tokenize(text, add_special=False, parse_special=True) if model.is_control(t)]


def _as_text(model: Model, frame: str, text: str, own: Sequence[int]) -> list[int]:
    """Token ids of a rendered text in which only the frame's control tokens, `own`, are read as such.

    What stands between two of them goes to the tokenizer in one piece, as it would anyway. The frame has `_MARK` where
    the text has what the template made of the user's words; empty when it is otherwise, which the caller finds wrong.
    """
    before, mark, after = frame.partition(_MARK)
    if not (mark and text.startswith(before) and text.endswith(after) and len(text) >= len(before) + len(after)):
        return []
    spelled = {token: model.token_text(token) for token in own}
    pattern = re.compile("|".join(re.escape(s) for s in sorted(set(spelled.values()), key=len, reverse=True)) or "(?!)")
    ids = {s: token for token, s in spelled.items()}
    inner = text[len(before) : len(text) - len(after)]
    out: list[int] = []
    raw = ""
    for part, is_users in ((before, False), (inner, True), (after, False)):
        at = 0
        for found in [] if is_users else pattern.finditer(part):
            out += _plain(model, raw + part[at : found.start()], not out)
            out.append(ids[found.group()])
            raw, at = "", found.end()
        raw += part[at:]
    return out + _plain(model, raw, not out)


def _plain(model: Model, text: str, is_start: bool) -> list[int]:
    return model.tokenize(text, add_special=False, parse_special=False, is_start=is_start) if text else []


@functools.lru_cache(maxsize=4)
def _render(template: _Template, conversations: tuple[tuple[Message, ...], ...], seconds: int) -> tuple[str, ...]:
    """Each conversation's text, by `template_worker`. Raises EngineError with what went wrong, without a full stop."""
    with LimitedProcess(_WORKER, _MEMORY) as process:
        return tuple(process.ask(_request(template, conversations), seconds)["texts"])


def _request(
    template: _Template, conversations: Sequence[Sequence[Message]], add_generation_prompt: bool = True
) -> dict[str, Any]:
    """What the worker is asked."""
    return {
        "template": template.text, "bos": template.bos, "eos": template.eos,
        "conversations": [[{"role": r, "content": c} for r, c in messages] for messages in conversations],
        "add_generation_prompt": add_generation_prompt, "characters": _CHARACTERS,
    }  # fmt: skip


def _find_template(model: Model, name: str) -> _Template:
    """A model's chat template: its only one or its default, or another that it has under a name."""
    metadata, key = model.header.metadata, "tokenizer.chat_template"
    names = [k.removeprefix(f"{key}.") for k in metadata if k.startswith(f"{key}.")]
    if name not in ("", "default"):
        if name not in names:
            raise InputError(f"{model.path}: has no chat template {name!r}.{nearest(name, ['default', *names])}")
        key = f"{key}.{name}"
    if key not in metadata:
        raise InputError(f"{model.path}: has no chat template.{nearest(name, names) or ' Do without one.'}")
    return _Template(str(metadata[key].value), model.special_text("bos"), model.special_text("eos"))


class ChatRenderer:
    """A model's chat template for conversations that come one at a time: its process stays up until `close`."""

    def __init__(self, model: Model, name: str = "") -> None:
        """`name` chooses among several templates. Raises InputError when the model has none, or none of that name."""
        self._template = _find_template(model, name)
        self._path = model.path
        self._process = LimitedProcess(_WORKER, _MEMORY)

    @property
    def template(self) -> str:
        """The template's own text."""
        return self._template.text

    def render(self, messages: Sequence[Message], continues: bool = False) -> str:
        """A conversation's text, ready for the assistant's answer; or, if it `continues`, cut behind the last message.

        Raises EngineError when the template fails, or exceeds its limits of time, memory or length. Source:
        transformers, `apply_chat_template` with add_generation_prompt or continue_final_message.
        """
        if continues:
            role, content = messages[-1]
            messages = [*messages[:-1], (role, f"{content}{_MARK} ")]
        try:
            (text,) = self._process.ask(_request(self._template, [messages], not continues), _SECONDS)["texts"]
            return _before_mark(text) if continues else text
        except EngineError as e:
            raise EngineError(f"{self._path}: its chat template fails: {e}.") from e

    def close(self) -> None:
        """End the process; more than once does no harm."""
        self._process.close()


def _before_mark(text: str) -> str:
    """What stands before the mark; its blank is gone where the template strips messages, so the message's go too."""
    at = text.rfind(_MARK)
    if at < 0:
        raise EngineError("it leaves out the last message, which is to be continued")
    return text[:at] if text.startswith(f"{_MARK} ", at) else text[:at].rstrip()
