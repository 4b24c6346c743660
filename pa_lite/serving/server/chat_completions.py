"""The route `/v1/chat/completions`: the assistant's next turn in a conversation."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from pa_lite.engine.answer_text import Generation, OuterSpaces
from pa_lite.engine.answers import Piece, TokenLogprob
from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.conversation import Message
from pa_lite.errors import PaLiteError
from pa_lite.serving.host import Prompt
from pa_lite.serving.server.descriptions import ChatCompletion, answers
from pa_lite.serving.server.errors import ApiError, bad_request, json_response
from pa_lite.serving.server.generating import ALL, Frame, check_length, finish_reason, generation_options
from pa_lite.serving.server.loaded import Loaded
from pa_lite.serving.server.logprobs import Texts, chat_logprobs, tokens_in
from pa_lite.serving.server.model_names import lam_of
from pa_lite.serving.server.schemas import ChatRequest
from pa_lite.serving.server.service import service_of
from pa_lite.serving.server.streaming import Document, EventStream
from pa_lite.serving.server.strict_requests import StrictRoute
from pa_lite.serving.server.work import Work

router = APIRouter(route_class=StrictRoute)


@router.post("/v1/chat/completions", responses=answers(ChatCompletion, streams=True))
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Continue a conversation with the assistant's next turn."""
    service = service_of(request)
    loaded = service.loaded
    lam = lam_of(loaded.host, body.model, body.lam)
    template_args = _template_args(loaded, body)
    options = generation_options(body, body.max_completion_tokens or body.max_tokens or ALL)
    work = service.admit(request.receive)
    try:
        prompt = await work.prepare(chat_prompt(loaded, body.messages, template_args))
        n_top = (body.top_logprobs or 0) if body.logprobs else None
        for i in range(body.n or 1):
            work.start(prompt, options, lam=lam, stream=i, logprobs=n_top, streams=bool(body.stream))
        frame = Frame.of(loaded.host, "chat.completion", "chatcmpl", lam)
        if body.stream:
            return EventStream(work, _ChatChunks(work, frame, body, prompt))
        await work.complete()
        response = json_response(frame.document(await _choices(work), work.usage([prompt.tokens])))
    except BaseException:
        work.close()
        raise
    work.close()
    return response


def _template_args(loaded: Loaded, body: ChatRequest) -> dict[str, Any]:
    args = dict(body.chat_template_kwargs or {})
    if body.tools and body.tool_choice != "none":
        if not loaded.takes_tools:
            raise ApiError(400, f"tools: the chat template of {loaded.host.name} does not use them.", param="tools")
        args["tools"] = body.tools
    return args


async def chat_prompt(loaded: Loaded, messages: Sequence[Message], template_args: dict[str, Any]) -> Prompt:
    """Return the prompt of a conversation. Raises the HTTP error 400 if there is none, and if it is too long."""
    try:
        options = ChatOptions(template_args=template_args)
        prompt = await asyncio.to_thread(loaded.host.prompt, messages, options)
    except PaLiteError as e:  # also of the template, which the messages may not suit
        raise bad_request(e, hidden=loaded.label, shown=loaded.host.name) from e
    check_length(loaded.host, len(prompt.tokens), "messages")
    return prompt


async def _choices(work: Work) -> list[dict[str, Any]]:
    """Return the choices of complete answers."""
    pieces = [answer.take() for answer in work.answers]
    texts = await work.loaded.vocabulary.texts(tokens_in(e for piece in pieces for e in piece.logprobs))
    choices = []
    for i, (answer, piece) in enumerate(zip(work.answers, pieces, strict=True)):
        result = answer.result(0)
        message: dict[str, Any] = {"role": "assistant", "content": result.text.strip(), "refusal": None}
        if result.reasoning:
            message["reasoning_content"] = result.reasoning
        has_logprobs = answer.request.logprobs is not None
        choices.append({
            "index": i, "message": message, "finish_reason": finish_reason(result),
            "logprobs": chat_logprobs(piece.logprobs, texts) if has_logprobs else None,
        })  # fmt: skip
    return choices


class _ChatChunks:
    """Makes the chunks of a streamed turn, without white space at both ends of the text, as `model.chat` returns it."""

    def __init__(self, work: Work, frame: Frame, body: ChatRequest, prompt: Prompt) -> None:
        self._work, self._prompt = work, prompt
        self._has_usage = body.stream_options is not None and body.stream_options.include_usage
        self._has_logprobs = bool(body.logprobs)
        self._spaces = [OuterSpaces() for _ in work.answers]
        self._document = functools.partial(frame.document, is_chunk=True)

    def _chunk(
        self, index: int, delta: Document, reason: str | None = None, logprobs: dict[str, Any] | None = None
    ) -> Document:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self._document([choice])

    async def first(self) -> AsyncIterator[Sequence[Document]]:
        """Yield a chunk with the role for each answer."""
        yield [self._chunk(i, {"role": "assistant", "content": ""}) for i in range(len(self._work.answers))]

    def piece(self, index: int, piece: Piece, texts: Texts) -> Iterable[Document]:
        """Yield the chunk of a piece, unless it has nothing to show yet."""
        delta = {}
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        if text := self._spaces[index].feed(piece.text):
            delta["content"] = text
        logprobs = self._logprobs(piece.logprobs, texts)
        if delta or logprobs:
            yield self._chunk(index, delta, logprobs=logprobs)

    def _logprobs(self, entries: Sequence[TokenLogprob], texts: Texts) -> dict[str, Any] | None:
        return chat_logprobs(entries, texts) if self._has_logprobs and entries else None

    def end(self, index: int, result: Generation) -> Iterable[Document]:
        """Yield the last chunk of an answer."""
        yield self._chunk(index, {}, finish_reason(result))

    def last(self) -> Iterable[Document]:
        """Yield the usage, if it was asked for."""
        if self._has_usage:
            yield self._document([], self._work.usage([self._prompt.tokens]))
