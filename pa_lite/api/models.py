"""Loading a model; scoring, generating, chatting and measuring instruction following with it."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, overload

from pa_lite.alpaca.outputs import (
    Output,
    OutputPiece,
    OutputsTarget,
    Written,
    generate_outputs,
    generator_name,
    load_prompts,
    write_outputs,
)
from pa_lite.alpaca.prompts import Prompt, system_prompts
from pa_lite.alpaca.questions import read_questions
from pa_lite.api.chat import ChatReply, ChatStream, Messages, start_chat
from pa_lite.api.options import (
    ChatOptions,
    Date,
    EngineOptions,
    ModelLike,
    Names,
    Progress,
    fill,
    model_type,
    read_lam,
    resolve_model,
)  # fmt: skip
from pa_lite.engine.chat_template import has_template
from pa_lite.engine.generation_options import GenerationOptions
from pa_lite.engine.growing_scheduler import GrowingScheduler
from pa_lite.engine.in_memory import InMemoryModel
from pa_lite.engine.model import Model
from pa_lite.engine.model_reference import open_reference
from pa_lite.errors import EngineError, InputError
from pa_lite.instructions.following import FollowResult, follow_instructions
from pa_lite.instructions.sets import InstructionSet, find_set
from pa_lite.tasks.draws import score_tasks
from pa_lite.tasks.examples import Examples, find_specs
from pa_lite.tasks.scoring import ScoreOptions, SuiteResult

__all__ = [
    "ChatOptions", "ChatReply", "ChatStream", "EngineOptions", "FollowResult", "GenerationOptions", "InstructionSet",
    "LoadedModel", "Output", "OutputPiece", "Prompt", "ScoreOptions", "SuiteResult", "Texts", "Written", "as_prompts",
    "check_prompts", "find_set", "load", "load_prompts", "read_questions",
]  # fmt: skip

Texts = str | Prompt | Sequence[str | Prompt]


class _Resources:
    """What a loaded model must free: the model itself, after closing the streams that still use it."""

    def __init__(self) -> None:
        self.closing = contextlib.ExitStack()
        self.streams: weakref.WeakSet[ChatStream] = weakref.WeakSet()
        self._scheduler: GrowingScheduler | None = None

    def scheduler(self, model: Model) -> GrowingScheduler:
        """Return the scheduler of chats."""
        if self._scheduler is None:
            self._scheduler = GrowingScheduler(model)
        return self._scheduler

    def rest(self) -> None:
        """Free the memory of finished chats, for other work."""
        if self._scheduler is not None:
            self._scheduler.rest()

    def end_streams(self) -> None:
        """End all chats: their weights are about to change, or to be freed."""
        for stream in list(self.streams):
            stream.close()
        self.streams.clear()
        if self._scheduler is not None:
            self._scheduler.close()
            self._scheduler = None

    def close(self) -> None:
        self.end_streams()
        self.closing.close()


class LoadedModel:
    """A model in memory, returned by `load`. `close`, the end of a `with` block or garbage collection frees it."""

    def __init__(
        self, model: ModelLike, options: EngineOptions | None = None, type: str = "F16", extrapolate: bool = False
    ) -> None:
        """Load the model that a reference names; a pair is merged as `type`. Raises PaLiteError."""
        self._reference, resources = resolve_model(model, None, extrapolate), _Resources()
        self._extrapolate = extrapolate
        self._opened: Model | InMemoryModel | None
        self._opened = resources.closing.enter_context(open_reference(self._reference, options, type))
        self._resources = resources
        self._finalizer = weakref.finalize(self, resources.close)

    def __enter__(self) -> LoadedModel:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<LoadedModel {self.reference}{'' if self._finalizer.alive else ' (closed)'}>"

    def close(self) -> None:
        """Free the model and its memory. Later calls do nothing."""
        self._finalizer()
        self._opened = None

    @property
    def model(self) -> Model:
        """The engine's model. Raises EngineError after `close`."""
        if self._opened is None:
            raise EngineError(f"{self.reference}: the model was closed. Load it again.")
        return self._opened.model if isinstance(self._opened, InMemoryModel) else self._opened

    @property
    def reference(self) -> str:
        """The model's name in results: the file, or `PAIR@LAM`."""
        return str(self._reference)

    @property
    def name(self) -> str:
        """The name in the model's metadata, else its file name."""
        return self.model.name

    @property
    def has_template(self) -> bool:
        """Whether the model has a chat template; without one, prompts are `Instruction: ... Response:`."""
        return has_template(self.model)

    @property
    def lam(self) -> float:
        """The lam of a pair's model. Setting it merges the weights again, in place.

        Raises InputError for a model from a file, and for a lam that is not a number in [0, 1] (with `extrapolate`, in
        [-10, 10]). If merging fails, the model is closed.
        """
        merged = self._moving().model.merged
        assert merged is not None
        return merged.lam

    @lam.setter
    def lam(self, value: float) -> None:
        moving, lam = self._moving(), read_lam(value, self._extrapolate)
        self._resources.end_streams()
        try:
            moving.move(lam)
        except BaseException:
            self.close()  # some weights are of the old lam, some of the new one
            raise
        self._reference = replace(self._reference, lam=lam, text="")

    def _moving(self) -> InMemoryModel:
        self.model  # noqa: B018 - raises once it is closed
        if not isinstance(self._opened, InMemoryModel):
            raise InputError(f"{self.reference}: the lam of a GGUF file is fixed. Load a pair: PAIR@LAM.")
        return self._opened

    def _rested(self) -> Model:
        """Return the engine's model after freeing the memory of finished chats."""
        model = self.model
        self._resources.rest()
        return model

    def score(
        self,
        tasks: Names | None = None,
        options: ScoreOptions | None = None,
        progress: Progress | None = None,
        *,
        examples: Examples | str | Path | None = None,
        shots: int | None = None,
        limit: int | None = None,
        seed: int | None = None,
        split: str | None = None,
        mutual_info: bool | None = None,
        parallel: int | None = None,
        noise_sample: int | None = None,
        seeds: int | None = None,
    ) -> SuiteResult:
        """Score few-shot tasks, suites or task files: one name, several, or a comma-separated string.

        `examples` is a table of your own rows (see `Examples`), which is scored as a task. The other keywords are the
        fields of `ScoreOptions`. `progress` gets the requests done. Raises PaLiteError.
        """
        how, specs = fill(ScoreOptions, locals(), options), find_specs(tasks, examples)
        if not specs:
            raise InputError("no task given: name tasks, or a table of your own (examples).")
        return score_tasks(self._rested(), specs, how, progress)

    def generate(
        self,
        texts: Texts,
        options: GenerationOptions | None = None,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
        stop: Names | None = None,
        parallel: int | None = None,
        system: str | None = None,
        template_args: Mapping[str, Any] | None = None,
        date: Date | None = None,
        chat: ChatOptions | None = None,
        progress: Progress | None = None,
        on_piece: Callable[[OutputPiece], None] | None = None,
    ) -> list[Output]:
        """Answer each text through the model's chat template; return AlpacaEval outputs, with the answer in `.output`.

        A text is the user's turn, never a file name; a single string is one text. `load_prompts` reads those of a file,
        with their own system prompts. Keywords are the fields of `GenerationOptions` and `ChatOptions`; decoding is
        greedy unless `temperature` is set. `progress` gets the answers done, and in between the tokens generated (with
        total 0). `on_piece` gets each answer as it grows: `.index` of the text, `.text`, `.reasoning`, and
        `.finish_reason` at its end. Raises PaLiteError.
        """
        words = locals()
        how, prompts = fill(ChatOptions, words, chat), as_prompts(texts)
        chosen, name = fill(GenerationOptions, words, options), generator_name(self.reference)
        return generate_outputs(self._rested(), prompts, name, chosen, how, progress, on_piece)

    def write_outputs(
        self,
        texts: Texts,
        output: str | Path,
        options: GenerationOptions | None = None,
        *,
        resume: bool = False,
        force: bool = False,
        chat: ChatOptions | None = None,
        progress: Progress | None = None,
    ) -> Written:
        """Answer as `generate` does, and write AlpacaEval's model_outputs file, complete or not at all.

        Finished answers are kept in a journal next to it: `resume` continues a run that was killed. `force` overwrites
        an existing file. Raises PaLiteError.
        """
        target, name = OutputsTarget(Path(output), resume, force), generator_name(self.reference)
        return write_outputs(self._rested(), as_prompts(texts), name, target, options, chat, progress)

    @overload
    def chat(
        self, messages: Messages, options: GenerationOptions | None = None, *, stream: Literal[False] = False,
        max_tokens: int | None = None, temperature: float | None = None, top_p: float | None = None,
        min_p: float | None = None, top_k: int | None = None, seed: int | None = None, stop: Names | None = None,
        system: str | None = None, template_args: Mapping[str, Any] | None = None, date: Date | None = None,
        chat: ChatOptions | None = None,
    ) -> ChatReply: ...  # fmt: skip
    @overload
    def chat(
        self, messages: Messages, options: GenerationOptions | None = None, *, stream: Literal[True],
        max_tokens: int | None = None, temperature: float | None = None, top_p: float | None = None,
        min_p: float | None = None, top_k: int | None = None, seed: int | None = None, stop: Names | None = None,
        system: str | None = None, template_args: Mapping[str, Any] | None = None, date: Date | None = None,
        chat: ChatOptions | None = None,
    ) -> ChatStream: ...  # fmt: skip
    def chat(
        self,
        messages: Messages,
        options: GenerationOptions | None = None,
        *,
        stream: bool = False,
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
    ) -> ChatReply | ChatStream:
        """Generate the next turn of a conversation: `.text`, `.reasoning`, `.finish_reason`, `.messages` to continue.

        `messages` is the user's text, or a list of `{"role": ..., "content": ...}`. With `stream`, the result is an
        iterator over pieces of the text, with the complete turn in `.reply` afterwards. Keywords are the fields of
        `GenerationOptions` and `ChatOptions`; the answer is limited to the rest of the context. Raises PaLiteError.
        """
        words = locals()
        how, chosen = fill(ChatOptions, words, chat), fill(GenerationOptions, words, options)
        started = start_chat(self.model, self._resources.scheduler(self.model), messages, chosen, how)
        self._resources.streams.add(started)
        if stream:
            return started
        for _piece in started:
            pass
        return started.reply

    def follow(
        self,
        instructions: str | Path | InstructionSet = "public",
        limit: int | None = None,
        max_tokens: int | None = None,
        parallel: int | None = None,
        progress: Progress | None = None,
        *,
        seed: int | None = None,
        system: str | None = None,
        template_args: Mapping[str, Any] | None = None,
        date: Date | None = None,
        chat: ChatOptions | None = None,
    ) -> FollowResult:
        """Measure how well verifiable instructions are followed: the set `public`, `demo`, `ifeval`, or a JSONL file.

        `limit` takes an evenly spaced subset; `seed` generates new instructions for the public set. By default
        `max_tokens` is the set's own limit, at most half of the context. `progress` gets the answers done, and in
        between the tokens generated (with total 0). Raises PaLiteError.
        """
        words = locals()
        how, parallel = fill(ChatOptions, words, chat), parallel or GenerationOptions().parallel
        chosen = instructions if isinstance(instructions, InstructionSet) else find_set(str(instructions), seed)
        chosen = chosen.limited(limit)
        tokens = max_tokens or self.model.answer_tokens(chosen.max_tokens)
        listed, ends = chosen.instructions, chosen.must_end
        return follow_instructions(self._rested(), listed, tokens, progress, ends, parallel, how)


def as_prompts(texts: Texts) -> list[Prompt]:
    """Return texts as prompts. Raises InputError for anything else."""
    listed = [texts] if isinstance(texts, str | Prompt) else list(texts)
    for number, text in enumerate(listed, 1):
        if not isinstance(text, str | Prompt):
            raise InputError(f"text {number} is {text!r:.80}, which is not a string.")
    return [Prompt(text, "custom") if isinstance(text, str) else text for text in listed]


def check_prompts(prompts: Sequence[Prompt], system: str) -> None:
    """Raise InputError if a prompt has its own system prompt and `system` is a different one."""
    system_prompts(prompts, system)


def load(
    model: ModelLike,
    options: EngineOptions | None = None,
    type: str | None = None,
    *,
    lam: float | str | None = None,
    adapter: str | Path | None = None,
    threads: int | None = None,
    gpu_layers: int | str | None = None,
    flash_attention: bool | None = None,
    cache_type: str | None = None,
    n_batch: int | None = None,
    n_ctx: int | None = None,
    probe: bool | None = None,
    extrapolate: bool = False,
) -> LoadedModel:
    """Load `FILE.gguf`, `PAIR@LAM`, or a pair (a name, or base and instruct) at `lam`.

    A pair is merged in memory as `type` (F16 by default). A file may have a LoRA `adapter`, `dial.gguf@0.6`: of an
    adapter that pa-lite made, the number is the lam of the result, of others the scale. The result can be used as a context manager. Keywords are
    the fields of `EngineOptions`; `extrapolate` allows lams outside [0, 1]. Raises PaLiteError.
    """
    chosen = fill(EngineOptions, locals(), options)
    return LoadedModel(resolve_model(model, lam, extrapolate, adapter), chosen, model_type(type), extrapolate)
