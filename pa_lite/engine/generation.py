"""Generate from a list of prompts in batches, on a scheduler that the caller's thread steps."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pa_lite.engine.answer_text import Generation
from pa_lite.engine.answers import Answer, GenerationRequest, Piece, too_long
from pa_lite.engine.generation_options import MAX_PARALLEL, GenerationOptions
from pa_lite.engine.model import Model
from pa_lite.engine.reasoning import ReasoningFormat
from pa_lite.engine.scheduler import Scheduler, SchedulerOptions
from pa_lite.errors import InputError
from pa_lite.progress import Progress

__all__ = ["MAX_PARALLEL", "GeneratedTokens", "Generation", "GenerationOptions", "generate", "generate_tokens"]


def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions | None = None,
    progress: Progress | None = None,
    on_done: Callable[[int, Generation], None] | None = None,
    limits: Sequence[int] | None = None,
    streams: Sequence[int] | None = None,
    reasoning: Sequence[ReasoningFormat] | None = None,
    on_piece: Callable[[int, Piece], None] | None = None,
) -> list[Generation]:
    """Continue every prompt (token ids); return the results in the order of the prompts.

    `limits` has a max_tokens for each prompt. `streams` has the number of each prompt's random stream, by default its
    index; to generate a list in several calls, pass the indices in the whole list. `on_done` gets (index, generation)
    as each prompt is finished, in any order, and before that `on_piece` (index, piece) as its text grows; `progress`
    gets the answers finished and, after each step, the tokens generated so far (with total 0). `reasoning` has the
    reasoning format of each prompt (see `chat_prompts`), which separates reasoning from the answer; without it,
    everything is text.

    The same call on the same machine returns the same texts. Other values of `parallel`, another order, or other
    prompts in the list change the shape of llama.cpp's batches, and with it the rounding of logits: by up to 0.03 with
    F16 weights, 1e-4 with F32, more with quantised ones. Random numbers do not depend on it, so a text only changes
    where two tokens are that close, or where a random number falls that close to the boundary between them.

    Raises InputError before any work for a prompt without tokens, or one that with its limit exceeds
    `model.max_length`; EngineError when there is no memory for even one sequence, and during the work for a model that
    computes NaN. Ctrl-C stops it within one node of llama.cpp's graph.
    """
    chosen = options or GenerationOptions()
    answers = _answers(model, prompts, chosen, progress, on_done, limits, streams, reasoning, on_piece)
    return [answer.result() for answer in answers]


@dataclass(frozen=True)
class GeneratedTokens:
    """The continuation of a prompt, and its token ids with the one that ended the model's turn, if it did."""

    generation: Generation
    tokens: tuple[int, ...]


def generate_tokens(
    model: Model,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions | None = None,
    progress: Progress | None = None,
    reasoning: Sequence[ReasoningFormat] | None = None,
) -> list[GeneratedTokens]:
    """Continue every prompt as `generate` does, and return the tokens as well."""
    answers = _answers(model, prompts, options or GenerationOptions(), progress, reasoning=reasoning, logprobs=0)
    found = []
    for answer in answers:
        made = tuple(entry.token for entry in answer.take().logprobs)
        end = () if answer.end_token is None else (answer.end_token,)
        found.append(GeneratedTokens(answer.result(), made + end))
    return found


def _answers(
    model: Model,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions,
    progress: Progress | None,
    on_done: Callable[[int, Generation], None] | None = None,
    limits: Sequence[int] | None = None,
    streams: Sequence[int] | None = None,
    reasoning: Sequence[ReasoningFormat] | None = None,
    on_piece: Callable[[int, Piece], None] | None = None,
    logprobs: int | None = None,
) -> list[Answer]:
    """Return the complete answers, in the order of the prompts; see `generate`."""
    limits = [options.max_tokens] * len(prompts) if limits is None else list(limits)
    streams = range(len(prompts)) if streams is None else streams
    assert len(limits) == len(streams) == len(prompts)
    assert reasoning is None or len(reasoning) == len(prompts)
    _check(model, prompts, limits)
    if not prompts:
        return []

    def request(i: int) -> GenerationRequest:
        own = options if limits[i] == options.max_tokens else replace(options, max_tokens=limits[i])
        form = None if reasoning is None else reasoning[i]
        return GenerationRequest(prompt=held[i], options=own, stream=streams[i], reasoning=form, logprobs=logprobs)

    held = [p if isinstance(p, array) else array("i", p) for p in prompts]  # lists take eight times the memory
    length = max(len(p) + n for p, n in zip(prompts, limits, strict=True))
    n_parallel = min(options.parallel, len(prompts))
    chosen = SchedulerOptions(parallel=n_parallel, length=length, prompt_tokens=0, keeps=False)
    with Scheduler(model, chosen) as scheduler:
        # sorted, so that neighbours share long prefixes
        order = sorted(range(len(prompts)), key=lambda i: held[i])
        answers = {scheduler.submit(request(i), streams=on_piece is not None): i for i in order}
        _run(scheduler, answers, progress, on_done, on_piece)
    return sorted(answers, key=answers.__getitem__)


def _run(
    scheduler: Scheduler,
    answers: dict[Answer, int],
    progress: Progress | None,
    on_done: Callable[[int, Generation], None] | None,
    on_piece: Callable[[int, Piece], None] | None,
) -> None:
    """Step until all answers are complete."""
    n_made = n_done = 0
    with scheduler.interruptible():
        while scheduler.is_busy:
            step = scheduler.step()
            n_made += step.n_tokens
            if on_piece is not None:
                for answer, i in answers.items():
                    if piece := answer.take():
                        on_piece(i, piece)
            ended = [(answers[answer], answer.result()) for answer in step.ended]
            n_done += len(ended)
            if progress is not None:
                progress("generate", n_made, 0, "tokens")
            for i, result in ended:
                if on_done is not None:
                    on_done(i, result)
            if progress is not None and ended:
                progress("generate", n_done, len(answers), "answers")


def _check(model: Model, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> None:
    for number, (prompt, limit) in enumerate(zip(prompts, limits, strict=True), 1):
        if not prompt:
            raise InputError(f"prompt {number} has no tokens.")
        if limit < 1:
            raise InputError(f"the token limit of prompt {number} is {limit}; it must be at least 1.")
        if len(prompt) + limit > model.max_length:
            raise too_long(model.name, f"prompt {number}", len(prompt), limit, model.max_length)
