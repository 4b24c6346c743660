"""Read the turns of a conversation, check them, and convert them for chat templates. Runs no model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pa_lite.engine.chat_options import ChatOptions
from pa_lite.errors import InputError, nearest
from pa_lite.untrusted.strict_json import parse_json

PLAIN_ROLES = {"user": "Instruction: ", "assistant": "Response: "}  # for models without a template


class Message(NamedTuple):
    """One turn; `reasoning` is the assistant's reasoning before its answer, for templates that include it.

    `name` is the speaker's or the tool's, `tool_calls` the assistant's calls as a JSON document (a list of objects),
    and `tool_call_id` the call that a tool's turn answers.
    """

    role: str
    content: str
    reasoning: str = ""
    name: str = ""
    tool_call_id: str = ""
    tool_calls: str = ""


Turn = Message | tuple[str, str]  # a message, or a role and its content
_KEYS = ("role", "content", "reasoning", "name", "tool_call_id", "tool_calls")
_ROLES = ("system", "user", "assistant", "tool")
_DEEPEST = 32  # nested objects and lists in a tool call


def read_messages(messages: str | Sequence[Mapping[str, Any]]) -> list[Message]:
    """Return the turns of a conversation in OpenAI's form, or the user's only turn.

    `content` is a string or a list of text parts, and may be missing or null next to `tool_calls`. Arguments of a tool
    call that are a JSON object in a string become that object, as templates expect. Raises InputError for unknown keys
    or roles, and content that is not text.
    """
    if isinstance(messages, str):
        return [Message("user", messages)]
    return [_read_message(entry, f"message {number}") for number, entry in enumerate(messages, 1)]


def _read_message(entry: Any, where: str) -> Message:
    if not isinstance(entry, Mapping):
        raise InputError(f"{where} is not an object with 'role' and 'content'.")
    for key in entry:
        if key not in _KEYS:
            raise InputError(f"{where} has the unknown key {key!r:.80}.{nearest(str(key), _KEYS)}")
    calls = entry.get("tool_calls") or []
    values = {key: entry.get(key, "") for key in _KEYS}
    values["content"] = _text_of(entry.get("content", "" if calls else None), bool(calls))
    values["tool_calls"] = _read_calls(calls, where)
    for key in ("name", "tool_call_id"):
        values[key] = "" if values[key] is None else values[key]
    if not all(isinstance(value, str) for value in values.values()):
        raise InputError(f"{where}: 'role' and 'content' must be strings, and so must all but 'tool_calls'.")
    if values["role"] not in _ROLES:
        raise InputError(f"{where} has the unknown role {values['role']!r:.80}.{nearest(values['role'], _ROLES)}")
    return Message(**values)


def _text_of(content: Any, has_calls: bool) -> Any:
    """Return the text of a message's content, or anything but a string if it is not text."""
    if content is None:
        return "" if has_calls else None
    if isinstance(content, list) and content:
        parts = [p["text"] for p in content if isinstance(p, Mapping) and p.get("type") == "text" and "text" in p]
        is_text = len(parts) == len(content) and all(isinstance(p, str) for p in parts)
        return "".join(parts) if is_text else None
    return content


def _read_calls(calls: Any, where: str) -> str:
    """Return tool calls as a JSON document, "" for none."""
    if not calls:
        return ""
    if not isinstance(calls, Sequence) or not all(isinstance(call, Mapping) for call in calls):
        raise InputError(f"{where}: 'tool_calls' must be a list of objects.")
    try:
        return json.dumps([_with_parsed_arguments(call) for call in calls], ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as e:
        raise InputError(f"{where}: 'tool_calls' is not JSON: {e}.") from e


def _with_parsed_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return dict(call)
    try:
        arguments = parse_json(function["arguments"])
    except ValueError:
        return dict(call)
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else dict(call)


def with_texts(value: Any, change: Callable[[str], str], depth: int = _DEEPEST) -> Any:
    """Return a JSON value with every string in it changed, names of objects included.

    Raises InputError for a value that is nested too deeply.
    """
    if isinstance(value, str):
        return change(value)
    if depth == 0:
        raise InputError(f"a tool call or template argument is nested more than {_DEEPEST} levels deep.")
    if isinstance(value, Mapping):
        return {change(str(k)): with_texts(v, change, depth - 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [with_texts(v, change, depth - 1) for v in value]
    return value


def with_hidden(message: Message, hide: Callable[[str], str]) -> Message:
    """Return a message with `hide` applied to every text that it brings into a template, except its role."""
    calls = json.dumps(with_texts(json.loads(message.tool_calls), hide)) if message.tool_calls else ""
    return Message(
        message.role, hide(message.content), hide(message.reasoning), hide(message.name), hide(message.tool_call_id),
        calls,
    )  # fmt: skip


def check_turns(turns: Sequence[Message], options: ChatOptions) -> None:
    """Raise InputError for no turns, an assistant's last turn, two system prompts, and text that is not valid."""
    if not turns:
        raise InputError("the conversation has no messages.")
    if turns[-1].role == "assistant":
        raise InputError("the last message is the assistant's, so there is nothing to answer. Add a user's message.")
    if options.system and turns[0].role == "system":
        raise InputError("there are two system prompts: the first message and the option. Leave one of them out.")
    for number, turn in enumerate(turns, 1):
        try:
            "".join(turn).encode("utf-8")
        except UnicodeEncodeError as e:
            raise InputError(f"message {number} is not valid text: {e.reason}.") from e


def as_dict(message: Message) -> dict[str, Any]:
    """Return a message as templates read it, with reasoning under each name that published templates use."""
    out: dict[str, Any] = {"role": message.role, "content": message.content}
    for key in ("name", "tool_call_id"):
        if value := getattr(message, key):
            out[key] = value
    if message.tool_calls:
        out["tool_calls"] = json.loads(message.tool_calls)
    if message.reasoning:
        out |= dict.fromkeys(("reasoning_content", "thinking", "reasoning"), message.reasoning)
    return out
