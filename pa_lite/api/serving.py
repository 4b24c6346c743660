"""Chats with a model at any lam, and answers at several lams side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pa_lite.api.models import Texts, as_prompts
from pa_lite.api.options import (
    ChatOptions,
    Date,
    EngineOptions,
    Lams,
    ModelLike,
    Names,
    PairLike,
    Progress,
    fill,
    model_type,
    parse_bytes,
    resolve_pair,
)  # fmt: skip
from pa_lite.engine.generation_options import GenerationOptions
from pa_lite.engine.resident_models import ResidentOptions
from pa_lite.engine.scheduler import SchedulerOptions
from pa_lite.serving.chat_commands import COMMANDS, SETTINGS
from pa_lite.serving.chat_control import ChatControl, Confirmation, Left, Outcome, Said, memory_in_words
from pa_lite.serving.chat_history import ChatHistory
from pa_lite.serving.comparing import Compared, ComparedQuestion, LiveComparisons, open_comparisons
from pa_lite.serving.conversation_session import ChatSession, ChatTurn, ContextFullError, LiveTurn
from pa_lite.serving.host import LENGTH, open_host
from pa_lite.serving.live_answers import ChatAnswer, LiveAnswer, LiveComparison
from pa_lite.serving.start import starting_reference

__all__ = [
    "CHAT_GENERATION", "COMMANDS", "COMPARED_LAMS", "SETTINGS", "ChatAnswer", "ChatControl", "ChatHistory",
    "ChatSession", "ChatTurn", "Compared", "ComparedQuestion", "Confirmation", "ContextFullError", "Left",
    "LiveAnswer", "LiveComparison", "LiveComparisons", "LiveTurn", "Outcome", "Said", "compare", "memory_in_words",
    "open_chat", "start_comparison", "starting_reference",
]  # fmt: skip

CHAT_GENERATION = GenerationOptions(max_tokens=1024)  # of a chat, by default
COMPARED_LAMS = "0,0.5,1"  # by default


@contextlib.contextmanager
def open_chat(
    model: ModelLike,
    options: GenerationOptions | None = None,
    type: str | None = None,
    *,
    lam: float | str | None = None,
    study: str | Path | None = None,
    extrapolate: bool = False,
    engine: EngineOptions | None = None,
    chat: ChatOptions | None = None,
    max_memory: int | str = 0,
    forgets: bool = False,
    progress: Progress | None = None,
) -> Iterator[ChatSession]:
    """Load a model and start a conversation with it; a pair's lam may change between the answers.

    A pair without a lam starts at `lam`, else at the best lam of `study` (a run folder), else at 0.6. `max_memory`
    limits the models in memory (bytes, or `2G`; 0: half of the free memory). With `forgets`, the oldest turns are
    dropped when the context is full; otherwise asking raises ContextFullError. `progress` gets the bytes of a
    download. Raises PaLiteError.
    """
    reference = starting_reference(model, lam, study, extrapolate)
    chosen, limit = engine or EngineOptions(), parse_bytes(str(max_memory))
    residents = ResidentOptions(
        max_memory=limit, extrapolate=extrapolate,
        scheduler=SchedulerOptions(parallel=1, length=chosen.n_ctx or LENGTH, exact=False),
    )  # fmt: skip
    with open_host(reference, residents, chosen, model_type(type), progress) as host:
        yield ChatSession(host, options or CHAT_GENERATION, chat, forgets)


@contextlib.contextmanager
def start_comparison(
    pair: PairLike,
    questions: Texts,
    options: GenerationOptions | None = None,
    type: str | None = None,
    *,
    lams: Lams = COMPARED_LAMS,
    extrapolate: bool = False,
    engine: EngineOptions | None = None,
    chat: ChatOptions | None = None,
    max_memory: int | str = 0,
    progress: Progress | None = None,
) -> Iterator[LiveComparisons]:
    """Start what `compare` does; the answers can be read while they are generated. Raises PaLiteError."""
    with open_comparisons(
        resolve_pair(pair), as_prompts(questions), lams, options or GenerationOptions(), chat or ChatOptions(),
        engine or EngineOptions(), model_type(type), parse_bytes(str(max_memory)), extrapolate, progress,
    ) as live:  # fmt: skip
        yield live


def compare(
    pair: PairLike,
    questions: Texts,
    options: GenerationOptions | None = None,
    type: str | None = None,
    *,
    lams: Lams = COMPARED_LAMS,
    extrapolate: bool = False,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    top_k: int | None = None,
    seed: int | None = None,
    stop: Names | None = None,
    system: str | None = None,
    template_args: Mapping[str, Any] | None = None,
    date: Date | None = None,
    chat: ChatOptions | None = None,
    threads: int | None = None,
    gpu_layers: int | str | None = None,
    flash_attention: bool | None = None,
    cache_type: str | None = None,
    n_batch: int | None = None,
    n_ctx: int | None = None,
    probe: bool | None = None,
    engine: EngineOptions | None = None,
    max_memory: int | str = 0,
    progress: Progress | None = None,
) -> Compared:
    """Answer questions at several lams of a pair: `.questions[0].answers[1].text` is that at the second lam.

    As many models are in memory as `max_memory` allows (bytes, or `2G`; 0: half of the free memory) and answer
    together; the others follow. Each is exactly the model merged at its lam. Keywords are the fields of
    `GenerationOptions`, `ChatOptions` and `EngineOptions`; decoding is greedy unless `temperature` is set, and every
    lam has the same random numbers. `progress` gets the bytes of a download. Raises PaLiteError.
    """
    words = locals()
    with start_comparison(
        pair, questions, fill(GenerationOptions, words, options), type, lams=lams, extrapolate=extrapolate,
        engine=fill(EngineOptions, words, engine), chat=fill(ChatOptions, words, chat), max_memory=max_memory,
        progress=progress,
    ) as live:  # fmt: skip
        return live.result()
