"""What chat completions and completions have in common: options, the frame of documents, reasons for an end."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any

from pa_lite.engine.answer_text import Generation
from pa_lite.engine.generation_options import GenerationOptions
from pa_lite.serving.host import Host
from pa_lite.serving.server.errors import ApiError
from pa_lite.serving.server.model_names import model_name
from pa_lite.serving.server.schemas import GeneratingFields

ALL = (1 << 31) - 1  # tokens: the rest of the context
_SEEDS = 1 << 64


def generation_options(body: GeneratingFields, max_tokens: int) -> GenerationOptions:
    """Return the options of a request. Decoding is greedy by default; a sampled answer has a random seed by default."""
    temperature, seed = body.temperature or 0.0, body.seed
    if seed is None:
        seed = secrets.randbelow(_SEEDS) if temperature else 0
    return GenerationOptions(
        max_tokens=max_tokens, temperature=temperature, seed=seed % _SEEDS, stop=body.stop,
        top_p=1.0 if body.top_p is None else body.top_p, top_k=body.top_k or 0, min_p=body.min_p or 0.0,
    )  # fmt: skip


def check_length(host: Host, n: int, where: str, room: int = 1) -> None:
    """Raise the HTTP error 400, with the numbers, for a prompt of n tokens that does not leave room in the context."""
    if n + room > host.length:
        left = f", of which {room} must be left for the answer" if room else ""
        raise ApiError(
            400, f"{where} has {n} tokens; the context of {host.name} has {host.length}{left}. Shorten it, or start "
            "the server with a larger --n-ctx.",
            param=where, code="context_length_exceeded",
        )  # fmt: skip
    if n == 0:
        raise ApiError(400, f"{where} has no tokens.", param=where)


def finish_reason(result: Generation) -> str:
    """Return why an answer ended, in OpenAI's words: length, or stop (its end or a stop string)."""
    return "length" if result.reason == "length" else "stop"


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What all documents of a response share; `lam` is None for a model from a file."""

    kind: str
    id: str
    created: int
    model: str
    lam: float | None

    @staticmethod
    def of(host: Host, kind: str, prefix: str, lam: float | None) -> Frame:
        """Return the frame of a new response."""
        return Frame(
            kind=kind, id=f"{prefix}-{secrets.token_hex(12)}", created=int(time.time()), model=model_name(host, lam),
            lam=lam,
        )  # fmt: skip

    def document(self, choices: list[dict[str, Any]], usage: Any = None, is_chunk: bool = False) -> dict[str, Any]:
        """Return a document with choices; a chunk has the object's name with `.chunk` where OpenAI's has."""
        kind = f"{self.kind}.chunk" if is_chunk and self.kind == "chat.completion" else self.kind
        document = {
            "id": self.id, "object": kind, "created": self.created, "model": self.model, "lam": self.lam,
            "choices": choices,
        }  # fmt: skip
        return document if usage is None else {**document, "usage": usage}
