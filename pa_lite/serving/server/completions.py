"""The route `/v1/completions`: texts and token ids to continue, or to score, without a chat template."""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from pa_lite.engine.answer_text import Generation
from pa_lite.engine.answers import Piece, TokenLogprob
from pa_lite.engine.prompt_scores import PromptScore
from pa_lite.serving.host import Prompt
from pa_lite.serving.server.descriptions import Completion, answers
from pa_lite.serving.server.errors import json_response
from pa_lite.serving.server.generating import Frame, check_length, finish_reason, generation_options
from pa_lite.serving.server.logprobs import TextLogprobs, Texts, tokens_in
from pa_lite.serving.server.model_names import lam_of
from pa_lite.serving.server.schemas import CompletionRequest
from pa_lite.serving.server.service import service_of
from pa_lite.serving.server.streaming import Document, EventStream
from pa_lite.serving.server.strict_requests import StrictRoute
from pa_lite.serving.server.vocabulary import Vocabulary
from pa_lite.serving.server.work import Work

router = APIRouter(route_class=StrictRoute)
_MAX_TOKENS = 16  # by default, as OpenAI's


@dataclass(frozen=True)
class _Given:
    """A prompt: its text, and its token ids."""

    text: str
    tokens: Sequence[int]


@router.post("/v1/completions", responses=answers(Completion, streams=True))
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Continue prompts; with `echo` they are part of the text, and with `logprobs` their tokens are scored."""
    service = service_of(request)
    loaded = service.loaded
    lam = lam_of(loaded.host, body.model, body.lam)
    max_tokens = _MAX_TOKENS if body.max_tokens is None else body.max_tokens
    work = service.admit(request.receive)
    try:
        prompts = [await work.prepare(_given(loaded.vocabulary, prompt, bool(body.echo))) for prompt in body.prompt]
        for i, prompt in enumerate(prompts):
            where = "prompt" if len(prompts) == 1 else f"prompt[{i}]"
            check_length(loaded.host, len(prompt.tokens), where, min(1, max_tokens))
        if body.echo and body.logprobs is not None:
            work.score([prompt.tokens for prompt in prompts], body.logprobs, lam)
        if max_tokens and not _is_scored_only(body):
            options = generation_options(body, max_tokens)
            for i in range(len(prompts) * (body.n or 1)):
                given = Prompt(prompts[i // (body.n or 1)].tokens)
                streams = bool(body.stream)
                work.start(given, options, lam=lam, stream=i, logprobs=body.logprobs, streams=streams)
        frame = Frame.of(loaded.host, "text_completion", "cmpl", lam)
        chunks = _TextChunks(work, frame, body, prompts)
        if body.stream:
            return EventStream(work, chunks)
        await work.complete()
        response = json_response(await chunks.whole())
    except BaseException:
        work.close()
        raise
    work.close()
    return response


async def _given(vocabulary: Vocabulary, prompt: str | list[int], with_text: bool) -> _Given:
    """Return a prompt with its ids; to given ids, no BOS is added. Raises the HTTP error 400 for an impossible one."""
    if isinstance(prompt, str):
        return _Given(prompt, await vocabulary.ids(prompt, True, "prompt"))
    vocabulary.check(prompt, "prompt")
    return _Given(await vocabulary.text(prompt) if with_text else "", prompt)


def _is_scored_only(body: CompletionRequest) -> bool:
    """Return whether scoring the prompts gives all that is asked for: up to one further token, the most likely one.

    lm-eval asks so for loglikelihoods.
    """
    is_greedy = not body.temperature and not body.stop
    return body.echo is True and body.logprobs is not None and body.max_tokens in (0, 1) and is_greedy


class _TextChunks:
    """Makes the choices of a request, all at once or as chunks."""

    def __init__(self, work: Work, frame: Frame, body: CompletionRequest, prompts: Sequence[_Given]) -> None:
        self._work, self._frame, self._body, self._prompts = work, frame, body, prompts
        self._n = body.n or 1
        self._logprobs = [self._new_logprobs(0) for _ in range(len(prompts) * self._n)]
        self._n_following = 0

    def _new_logprobs(self, skipped: int) -> TextLogprobs:
        return TextLogprobs(bool(self._body.logprobs), skipped)

    def _choice(self, index: int, text: str, reason: str | None, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _usage(self) -> dict[str, object]:
        prompts = [prompt.tokens for prompt in self._prompts]
        return self._work.usage(prompts, None if self._work.answers else self._n_following)

    async def whole(self) -> dict[str, Any]:
        """Return the document of complete work."""
        echoes = await self._echoes()
        choices = []
        pieces = [answer.take() for answer in self._work.answers]
        texts = await self._work.loaded.vocabulary.texts(tokens_in(e for piece in pieces for e in piece.logprobs))
        for i, (echo, reason, logprobs) in enumerate(echoes):
            text = echo
            if self._work.answers:
                result = self._work.answers[i].result(0)
                text, reason = echo + result.text, finish_reason(result)
                if self._body.logprobs is not None:
                    more = self._part(i, pieces[i].logprobs, texts)
                    logprobs = more if logprobs is None else _joined(logprobs, more)
            choices.append(self._choice(i, text, reason or "length", logprobs))
        return self._frame.document(choices, self._usage())

    async def _echoes(self) -> list[tuple[str, str | None, dict[str, Any] | None]]:
        """Return what each choice has before generated text: text, reason if it ends there, and logprobs."""
        body = self._body
        if not body.echo:
            return [("", None, None)] * len(self._logprobs)
        found: list[tuple[str, str | None, dict[str, Any] | None]] = []
        scores = None if self._work.scores is None else self._work.scores.result(0)
        for i in range(len(self._logprobs)):
            prompt = self._prompts[i // self._n]
            if scores is None:
                found.append((prompt.text, None if self._work.answers else "length", None))
                continue
            found.append(await self._scored(i, prompt, scores[i // self._n]))
        return found

    async def _scored(self, index: int, prompt: _Given, score: PromptScore) -> tuple[str, str | None, dict[str, Any]]:
        """Return the scored prompt of a choice, with the token after it if nothing else is generated."""
        following = self._body.max_tokens == 1 and not self._work.answers
        entries = [*score.tokens, score.following] if following else list(score.tokens)
        tokens = [*prompt.tokens, score.following.token] if following else list(prompt.tokens)
        texts = await self._work.loaded.vocabulary.texts(tokens_in(entries) | set(tokens))
        joined = b"".join(texts[token].raw for token in prompt.tokens).decode("utf-8", "replace")
        skipped = len(joined) - len(prompt.text) if joined.endswith(prompt.text) else 0
        self._logprobs[index] = self._new_logprobs(skipped)
        part = self._logprobs[index].part(tokens, entries, texts)
        if not following:
            return prompt.text, None if self._work.answers else "length", part
        last = texts[score.following.token]
        self._n_following += not last.is_end
        text = "" if last.is_end else codecs.getincrementaldecoder("utf-8")("replace").decode(last.raw)
        return prompt.text + text, "stop" if last.is_end else "length", part

    def _part(self, index: int, entries: Sequence[TokenLogprob], texts: Texts) -> dict[str, Any]:
        return self._logprobs[index].part([entry.token for entry in entries], entries, texts)

    async def first(self) -> AsyncIterator[Sequence[Document]]:
        """Yield the echo of each prompt, once they are scored."""
        while self._work.scores is not None and not self._work.scores.is_done:
            if not await self._work.changed():
                yield []
        if self._body.echo:
            choices = [self._choice(i, *echo) for i, echo in enumerate(await self._echoes())]
            yield [self._frame.document([choice]) for choice in choices]

    def piece(self, index: int, piece: Piece, texts: Texts) -> Iterable[Document]:
        """Yield the chunk of a piece."""
        logprobs = self._part(index, piece.logprobs, texts) if piece.logprobs else None
        yield self._frame.document([self._choice(index, piece.text, None, logprobs)])

    def end(self, index: int, result: Generation) -> Iterable[Document]:
        """Yield the last chunk of an answer."""
        yield self._frame.document([self._choice(index, "", finish_reason(result), None)])

    def last(self) -> Iterable[Document]:
        """Yield the usage, if it was asked for."""
        if self._body.stream_options is not None and self._body.stream_options.include_usage:
            yield self._frame.document([], self._usage())


def _joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return the logprobs of two parts of a text as those of one."""
    return {key: None if first[key] is None else first[key] + second[key] for key in first}
