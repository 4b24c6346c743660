"""What the routes answer, for the OpenAPI description. Responses are built without these classes; tests compare."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ErrorDetails(_Document):
    """What went wrong, where, and what to do."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorDocument(_Document):
    """An error in OpenAI's form."""

    error: ErrorDetails


class CachedTokens(_Document):
    """Tokens of the prompt that did not have to be computed again."""

    cached_tokens: int


class Usage(_Document):
    """Tokens of the prompts and of the answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class LikelyToken(_Document):
    """A token with its ln p at temperature 1."""

    token: str
    logprob: float
    bytes: list[int]


class ChosenToken(LikelyToken):
    """A generated token with the most likely ones at its position."""

    top_logprobs: list[LikelyToken]


class ChatLogprobs(_Document):
    """The logprobs of all generated tokens, those of reasoning included."""

    content: list[ChosenToken]
    refusal: None


class ChatMessage(_Document):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str
    refusal: None
    reasoning_content: str = ""


class ChatChoice(_Document):
    """One answer."""

    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length"]
    logprobs: ChatLogprobs | None


class _Answered(_Document):
    id: str
    created: int
    model: str
    lam: float | None
    usage: Usage


class ChatCompletion(_Answered):
    """Answers to a conversation; `lam` is that of the model that gave them."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class TextLogprobs(_Document):
    """The logprobs of tokens of a text; null for the first token of a prompt, which nothing predicts."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class TextChoice(_Document):
    """One continuation."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: TextLogprobs | None


class Completion(_Answered):
    """Continuations of prompts; `lam` is that of the model that gave them."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class ModelCard(_Document):
    """A model that requests can name."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    lam: float | None


class ModelList(_Document):
    """The models that are listed."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(_Document):
    """The state of a server whose model is loaded."""

    status: Literal["ok", "error"]
    lams: list[float]
    loading_lams: list[float]
    running: int
    waiting: int


class Loading(_Document):
    """The state of a server whose model is being loaded."""

    status: Literal["loading"]


class Memory(_Document):
    """Bytes: of each model its weights and context, of a move, the limit of all (0: none), and what all take."""

    n_models: int
    weights: int
    context: int
    moving: int
    limit: int
    total: int
    description: str


class State(_Document):
    """What a page shows."""

    version: str
    name: str
    is_pair: bool
    lam: float | None
    lams: list[float]
    loading_lams: list[float]
    models: int
    moves_reload: bool
    context_length: int
    has_template: bool
    memory: Memory


class TokenPiece(_Document):
    """A token and its text."""

    id: int
    piece: str


class Tokens(_Document):
    """The token ids of a text."""

    tokens: list[int] | list[TokenPiece]
    count: int
    max_model_len: int
    token_strs: list[str] | None = None


class Text(_Document):
    """The text of token ids, under the names that vLLM and llama.cpp give it."""

    prompt: str
    content: str


class TokenizerInfo(_Document):
    """The special tokens and the chat template."""

    tokenizer_class: str
    bos_token: str | None
    eos_token: str | None
    pad_token: None
    chat_template: str | None
    model_max_length: int


def answers(document: type[BaseModel], streams: bool = False) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's description of a route's responses: a document, or an error."""
    found: dict[str, Any] = {"model": document}
    if streams:
        # OpenAPI 3.1 has no schema for events; each has a chunk as data, and the last one [DONE]
        found["content"] = {"text/event-stream": {}}
    return {200: found, "4XX": {"model": ErrorDocument}, "5XX": {"model": ErrorDocument}}
