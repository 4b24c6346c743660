"""Answers as server-sent events, sent while they are generated."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pa_lite.engine.answer_text import Generation
from pa_lite.engine.answers import Piece
from pa_lite.serving.server.errors import ApiError, ClientGone, internal, to_bytes
from pa_lite.serving.server.logprobs import Texts, tokens_in
from pa_lite.serving.server.work import Work

_PING = b": waiting\n\n"  # a comment: clients ignore it, proxies see that the connection is alive
_DONE = b"data: [DONE]\n\n"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

Document = Mapping[str, Any]


class Chunks(Protocol):
    """Makes the chunks of a stream: those before the first text, those of a new piece, and those of an end."""

    def first(self) -> AsyncIterator[Sequence[Document]]: ...

    def piece(self, index: int, piece: Piece, texts: Texts) -> Iterable[Document]: ...

    def end(self, index: int, result: Generation) -> Iterable[Document]: ...

    def last(self) -> Iterable[Document]: ...


class EventStream(Response):
    """A response that streams the chunks of a request's work, and closes the work."""

    def __init__(self, work: Work, chunks: Chunks) -> None:
        super().__init__(headers=_HEADERS, media_type="text/event-stream")
        del self.headers["content-length"]
        self._work, self._chunks = work, chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the last one, or until the client is gone.

        An error becomes an event, too, because the status was sent before.
        """

        async def put(data: bytes, is_last: bool = False) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": not is_last})

        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                await self._stream(put)
                end = b""
            except ApiError as e:
                end = _event(e.document)
            except ClientGone:
                return
            except Exception as e:  # noqa: BLE001 - a bug: the client gets an event instead of a broken stream
                end = _event(internal(e).document)
            await put(end + _DONE, is_last=True)
        finally:
            self._work.close()

    async def _stream(self, put: Callable[[bytes], Awaitable[None]]) -> None:
        """Put the chunks of what is new each time that something is, and a sign of life after a while without."""
        work, chunks = self._work, self._chunks
        async for documents in chunks.first():
            await put(b"".join(map(_event, documents)) or _PING)
        running = list(range(len(work.answers)))
        while running:
            work.check()
            ended = [i for i in running if work.answers[i].is_done]  # before their last pieces are taken
            pieces = {i: piece for i in running if (piece := work.answers[i].take())}
            if not ended and not pieces:
                if not await work.changed():
                    await put(_PING)
                continue
            texts: Texts = {}
            if tokens := tokens_in(e for piece in pieces.values() for e in piece.logprobs):
                texts = await work.loaded.vocabulary.texts(tokens)
            out: list[Document] = []
            for i in running:
                if i in pieces:
                    work.note_text()
                    out += chunks.piece(i, pieces[i], texts)
                if i in ended:
                    out += chunks.end(i, work.answers[i].result(0))
            if ended:
                running = [i for i in running if i not in ended]
            if out:
                await put(b"".join(map(_event, out)))
        if last := list(chunks.last()):
            await put(b"".join(map(_event, last)))


def _event(document: Document) -> bytes:
    return b"data: " + to_bytes(document) + b"\n\n"
