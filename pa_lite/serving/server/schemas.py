"""What requests contain: their fields, types and bounds. Unknown fields are errors.

Fields that OpenAI's clients send and that change nothing here are accepted and ignored; fields that would change the
answer in a way that is not supported are accepted only with the value that changes nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from pa_lite.engine.conversation import Message, read_messages
from pa_lite.errors import PaLiteError
from pa_lite.serving.server.options import (
    MAX_ANSWERS,
    MAX_LOGPROBS,
    MAX_MESSAGES,
    MAX_N,
    MAX_PROMPTS,
    MAX_STOP_CHARACTERS,
    MAX_STOPS,
)

_MAX_TOKENS = 1 << 31
_MAX_SEED = 1 << 63
# field -> the values that change nothing
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "best_of": (1,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
Ids = list[int]


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


def _stops(value: Any) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise ValueError("stop: it must be a string or a list of strings.")
    if len(stops) > MAX_STOPS:
        raise ValueError(f"stop: {len(stops)} strings; the limit is {MAX_STOPS}.")
    if any(not 1 <= len(text) <= MAX_STOP_CHARACTERS for text in stops):
        raise ValueError(f"stop: a string must have 1 to {MAX_STOP_CHARACTERS} characters.")
    return tuple(stops)


_STOP_TEXT = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARACTERS}
Stop = Annotated[
    tuple[str, ...],
    PlainValidator(_stops),
    WithJsonSchema(
        {"anyOf": [_STOP_TEXT, {"type": "array", "items": _STOP_TEXT, "maxItems": MAX_STOPS}, {"type": "null"}]}
    ),
]


class StreamOptions(_Fields):
    """Options of a stream: with `include_usage`, its last chunk has the usage."""

    include_usage: bool = False
    include_obfuscation: bool = False  # ignored


class GeneratingFields(_Fields):
    """What both kinds of completions have. Without `model`, the served model at its lam answers."""

    model: str | None = Field(None, max_length=512)
    lam: float | None = Field(None, ge=-10, le=10)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=MAX_N)
    stop: Stop = ()
    seed: int | None = Field(None, ge=-_MAX_SEED, lt=_MAX_SEED)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, lt=_MAX_TOKENS)
    min_p: float | None = Field(None, ge=0, le=1)
    # accepted only with the value that changes nothing
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    presence_penalty: float | None = Field(None, ge=0, le=0)
    repetition_penalty: float | None = Field(None, ge=1, le=1)
    logit_bias: dict[str, float] | None = Field(None, max_length=0)
    # ignored
    user: str | None = None
    cache_prompt: bool | None = None  # of llama.cpp; tokens are always kept for prompts that continue them

    @field_validator(*_NEUTRAL, mode="before", check_fields=False)
    @classmethod
    def _check_neutral(cls, value: Any, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        if value is not None and value not in _NEUTRAL[name]:
            raise ValueError(f"{name}: {value!r:.40} is not supported here. Leave it out.")
        return value

    @model_validator(mode="after")
    def _check(self) -> GeneratingFields:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only allowed with stream: true.")
        return self


def _messages(value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise ValueError("messages: it must be a list with at least one message.")
    if len(value) > MAX_MESSAGES:
        raise ValueError(f"messages: {len(value)} messages; the limit is {MAX_MESSAGES}.")
    try:
        return read_messages([_message(entry, f"messages[{i}]") for i, entry in enumerate(value)])
    except PaLiteError as e:
        raise ValueError(f"messages: {e}") from e


def _message(entry: Any, where: str) -> Any:
    """Return a message with the keys of `read_messages`: OpenAI's other keys are dropped where they are empty."""
    if not isinstance(entry, dict):
        return entry
    message = {key: value for key, value in entry.items() if key not in _EMPTY or value not in (None, [], {})}
    if message.get("role") == "developer":
        message["role"] = "system"
    if "reasoning_content" in message:
        message.setdefault("reasoning", message.pop("reasoning_content") or "")
    if message.get("reasoning", "") is None:
        del message["reasoning"]
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and part.get("type") not in ("text", None):
            raise ValueError(f"{where}: a part has the type {part['type']!r:.40}, but only text is supported.")
    return message


_EMPTY = ("refusal", "audio", "function_call", "annotations", "tool_calls")  # keys that may be there if empty
_ROLES = ["system", "developer", "user", "assistant", "tool"]
_TEXT_PART = {
    "type": "object", "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}  # fmt: skip
_MESSAGE = {
    "type": "object",
    "properties": {
        "role": {"enum": _ROLES},
        "content": {
            "anyOf": [{"type": "string"}, {"type": "array", "items": _TEXT_PART, "minItems": 1}, {"type": "null"}]
        },
        "name": {"type": "string"},
        "reasoning_content": {"type": "string"},
        "tool_call_id": {"type": "string"},
        "tool_calls": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["role"],
}
Messages = Annotated[
    list[Message],
    PlainValidator(_messages),
    WithJsonSchema({"type": "array", "items": _MESSAGE, "minItems": 1, "maxItems": MAX_MESSAGES}),
]


class ResponseFormat(_Fields):
    """The form of an answer: only text is supported."""

    type: Literal["text"]


class ChatRequest(GeneratingFields):
    """A conversation to continue. `chat_template_kwargs` are variables for the chat template."""

    messages: Messages
    max_tokens: int | None = Field(None, ge=1, lt=_MAX_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, lt=_MAX_TOKENS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    chat_template_kwargs: dict[str, Any] | None = Field(None, max_length=64)
    tools: list[dict[str, Any]] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto"] | None = None
    response_format: ResponseFormat | None = None
    # ignored
    parallel_tool_calls: bool | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    modalities: list[Literal["text"]] | None = None

    @model_validator(mode="after")
    def _check_chat(self) -> ChatRequest:
        limits = {n for n in (self.max_tokens, self.max_completion_tokens) if n is not None}
        if len(limits) > 1:
            raise ValueError("max_tokens and max_completion_tokens are both given and differ: leave one of them out.")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs: requires logprobs: true.")
        return self


def _prompts(value: Any) -> list[str] | list[Ids]:
    """Return a list of prompts: texts, or token ids. Their range is checked by who knows the vocabulary."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise ValueError("prompt: it must be a string, a list of strings, a list of token ids, or lists of token ids.")
    if all(isinstance(each, str) for each in value):
        found: list[Any] = value
    elif all(type(each) is int for each in value):
        found = [value]
    elif all(isinstance(each, list) and all(type(i) is int for i in each) for each in value):
        found = value
    else:
        raise ValueError("prompt: a list must have only strings, only token ids, or only lists of token ids.")
    if len(found) > MAX_PROMPTS:
        raise ValueError(f"prompt: {len(found)} prompts; the limit is {MAX_PROMPTS}.")
    return found


_ID = {"type": "integer", "minimum": 0}
_ID_LIST = {"type": "array", "items": _ID, "minItems": 1}
Prompts = Annotated[
    list[str] | list[Ids],
    PlainValidator(_prompts),
    WithJsonSchema({
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_PROMPTS},
            _ID_LIST,
            {"type": "array", "items": _ID_LIST, "minItems": 1, "maxItems": MAX_PROMPTS},
        ]
    }),
]  # fmt: skip


class CompletionRequest(GeneratingFields):
    """Prompts to continue, without a chat template: one or several texts, or lists of token ids."""

    prompt: Prompts
    max_tokens: int | None = Field(None, ge=0, lt=_MAX_TOKENS)
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: bool | None = None
    # accepted only with the value that changes nothing
    best_of: int | None = Field(None, ge=1, le=1)
    suffix: str | None = Field(None, max_length=0)

    @model_validator(mode="after")
    def _check_completion(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 requires echo: true.")
        if (n := len(self.prompt) * (self.n or 1)) > MAX_ANSWERS:
            raise ValueError(f"{len(self.prompt)} prompts with n {self.n} are {n} answers; the limit is {MAX_ANSWERS}.")
        return self


class TokenizeRequest(_Fields):
    """A text to tokenize, as `prompt` (as vLLM) or `content` (as llama.cpp), or the prompt of a conversation.

    Special tokens (BOS) are added to a prompt, and to content only if `add_special` says so. Control tokens that a text
    spells are read as such, as both programs do, unless `parse_special` is false; in completions they stay text.
    """

    model: str | None = Field(None, max_length=512)
    prompt: str | None = None
    content: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = None
    add_special: bool | None = None
    parse_special: bool = True
    with_pieces: bool | None = None
    return_token_strs: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(None, max_length=64)

    @model_validator(mode="after")
    def _check(self) -> TokenizeRequest:
        if sum(value is not None for value in (self.prompt, self.content, self.messages)) != 1:
            raise ValueError("give one of prompt, content and messages.")
        return self


class DetokenizeRequest(_Fields):
    """Token ids whose text is wanted."""

    model: str | None = Field(None, max_length=512)
    tokens: list[Annotated[int, Field(ge=0)]] = Field(max_length=1 << 20)
