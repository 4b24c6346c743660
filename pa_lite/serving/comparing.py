"""Answers to questions at several lams of a pair, computed together as far as the models fit in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pa_lite.alpaca.prompts import Prompt as Question
from pa_lite.alpaca.prompts import system_prompts
from pa_lite.checkpoints.pairs import Pair
from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.conversation import Message
from pa_lite.engine.generation_options import GenerationOptions
from pa_lite.engine.model_reference import ModelRef
from pa_lite.engine.options import EngineOptions
from pa_lite.engine.resident_models import ResidentOptions
from pa_lite.engine.scheduler import SchedulerOptions
from pa_lite.errors import InputError
from pa_lite.merging.lams import read_lams
from pa_lite.progress import Progress
from pa_lite.serving.conversation_session import distinct_lams
from pa_lite.serving.host import LENGTH, Host, open_host
from pa_lite.serving.live_answers import ChatAnswer, LiveComparison

_TEMPLATE_TOKENS = 2048  # what a template may add to a question
_PARALLEL = 4  # questions at a time, at each lam


@dataclass(frozen=True, kw_only=True)
class ComparedQuestion:
    """A question and its answer at each lam, in the order of the lams; `system` is its own system prompt."""

    question: str
    answers: tuple[ChatAnswer, ...]
    system: str = ""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Answers to questions at several lams of a pair."""

    pair: str
    type: str
    lams: tuple[float, ...]
    questions: tuple[ComparedQuestion, ...]

    def document(self) -> dict[str, Any]:
        """Return all answers as a JSON document."""
        return asdict(self)


class LiveComparisons:
    """The comparisons of several questions on one host, all started."""

    def __init__(
        self,
        host: Host,
        questions: Sequence[Question],
        lams: Sequence[float],
        options: GenerationOptions,
        chat: ChatOptions,
        weight_type: str,
    ) -> None:
        """Render all questions, then start all answers. Raises what `Host.prompt` and `Host.start` raise."""
        self.host, self.lams = host, tuple(distinct_lams(host, lams))
        self._questions, self._type = tuple(questions), weight_type
        own = system_prompts(questions, chat.system)
        rendered = [
            host.prompt([*([Message("system", system)] if system else []), Message("user", q.instruction)], chat)
            for q, system in zip(questions, own, strict=True)
        ]
        self.each: list[LiveComparison] = []
        try:
            for question, prompt in zip(questions, rendered, strict=True):
                self.each.append(LiveComparison(host, question.instruction, prompt, options, self.lams))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all answers that are not done."""
        for live in self.each:
            live.stop()

    def result(self) -> Compared:
        """Return all answers, waiting for their end. Raises the error of one that failed; the others are stopped."""
        try:
            questions = tuple(
                ComparedQuestion(question=q.instruction, answers=tuple(live.result()), system=q.system)
                for q, live in zip(self._questions, self.each, strict=True)
            )
        except BaseException:
            self.stop()
            raise
        return Compared(pair=self.host.name, type=self._type, lams=self.lams, questions=questions)


@contextlib.contextmanager
def open_comparisons(
    pair: Pair,
    questions: Sequence[Question],
    lams: Sequence[float | str] | float | str,
    options: GenerationOptions,
    chat: ChatOptions,
    engine: EngineOptions,
    weight_type: str,
    max_memory: int = 0,
    extrapolate: bool = False,
    progress: Progress | None = None,
) -> Iterator[LiveComparisons]:
    """Load a pair at as many of the lams as fit in memory, and start the answers.

    `progress` gets the bytes of a download. Raises InputError, before anything is loaded, for bad lams and no
    questions, and what `open_host` raises.
    """
    chosen = read_lams(lams, extrapolate)
    if not questions or not chosen:
        raise InputError("there is nothing to compare: give questions and lams.")
    system_prompts(questions, chat.system)
    longest = max(len((q.instruction + (q.system or chat.system)).encode("utf-8", "replace")) for q in questions)
    length = min(longest + _TEMPLATE_TOKENS + options.max_tokens, engine.n_ctx or LENGTH)
    residents = ResidentOptions(
        max_memory=max_memory, models=len(chosen), extrapolate=extrapolate,
        scheduler=SchedulerOptions(parallel=min(len(questions), _PARALLEL), length=length),
    )  # fmt: skip
    with open_host(ModelRef(pair=pair, lam=chosen[0]), residents, engine, weight_type, progress) as host:
        live = LiveComparisons(host, questions, chosen, options, chat, weight_type)
        try:
            yield live
        finally:
            live.stop()
