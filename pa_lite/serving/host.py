"""A model that answers conversations and prompts from any thread; for a pair, each request may name its lam.

The chat, the comparison of lams and the server use it: a `Host` renders prompts, and a `Runner` thread generates.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pa_lite.alpaca.outputs import generator_name
from pa_lite.engine.answers import Answer, GenerationRequest
from pa_lite.engine.chat import conversation_prompt
from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.chat_template import MEMORY, WORKER, has_template
from pa_lite.engine.conversation import Message
from pa_lite.engine.fixed_model import FixedModel
from pa_lite.engine.generation_options import GenerationOptions
from pa_lite.engine.model_reference import REFERENCE_TYPE, ModelLike, open_scheduled, resolve_model
from pa_lite.engine.options import EngineOptions
from pa_lite.engine.prompt_scores import ScoringJob
from pa_lite.engine.reasoning import ReasoningFormat
from pa_lite.engine.resident_models import ResidentModels, ResidentOptions
from pa_lite.engine.runner import Runner
from pa_lite.errors import InputError
from pa_lite.progress import Progress
from pa_lite.untrusted.sandbox import LimitedProcess

LENGTH = 8192  # tokens of a conversation, by default; fewer if the model was trained on fewer


@dataclass(frozen=True)
class Prompt:
    """A prompt as token ids, and how to find reasoning in its answer (None: everything is text)."""

    tokens: Sequence[int]
    reasoning: ReasoningFormat | None = None


class Host:
    """A model in memory, or several of a pair, which generates in a separate thread. Any thread may call it."""

    def __init__(self, models: ResidentModels | FixedModel, name: str) -> None:
        """Start the thread. `name` is the pair's name, or the file's without folder and ending."""
        self.models, self.name = models, name
        self._runner = Runner(models)
        self._template, self._rendering = LimitedProcess(WORKER, MEMORY), threading.Lock()

    @property
    def lam(self) -> float | None:
        """The lam of requests that name none; None for a model from a file."""
        return self.models.default_lam

    @property
    def is_pair(self) -> bool:
        """Whether requests may name a lam."""
        return self.models.default_lam is not None

    @property
    def length(self) -> int:
        """The largest number of tokens of a prompt and its answer together."""
        return self.models.length

    def rounded(self, lam: float | str) -> float:
        """Return the lam of the model that answers requests for `lam`. Raises InputError for a bad one."""
        if isinstance(self.models, FixedModel):
            raise InputError(f"{self.name}: the lam of a GGUF file is fixed. Leave lam {lam} out.")
        return self.models.rounded(lam)

    @property
    def is_alive(self) -> bool:
        """Whether the thread that generates runs."""
        return self._runner.is_alive

    def has_template(self) -> bool:
        """Return whether the model has a chat template; without one, turns are `Instruction: ... Response:`."""
        with self.models.vocabulary() as model:
            return has_template(model)

    def prompt(self, messages: Sequence[Message], chat: ChatOptions | None = None) -> Prompt:
        """Return the prompt of a conversation; raises what `conversation_prompt` raises."""
        with self._rendering, self.models.vocabulary() as model:
            return Prompt(*conversation_prompt(model, messages, chat, self._template))

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Return the ids of a text, with the BOS that the vocabulary asks for unless `add_special` is off.

        Control tokens that the text spells stay text, unless `parse_special` is set.
        """
        with self.models.vocabulary() as model:
            return model.tokenize(text, add_special, parse_special)

    def room(self, prompt: Prompt) -> int:
        """Return how many new tokens fit after a prompt. Raises InputError if none does."""
        room = self.length - len(prompt.tokens)
        if room < 1:
            raise InputError(
                f"the prompt has {len(prompt.tokens)} tokens, which fill the context of {self.name} ({self.length} "
                "tokens). Shorten it, or allow a longer context (--n-ctx)."
            )
        return room

    def start(
        self,
        prompt: Prompt,
        options: GenerationOptions | None = None,
        *,
        lam: float | str | None = None,
        logprobs: int | None = None,
        stream: int = 0,
        on_change: Callable[[], None] | None = None,
        streams: bool = True,
    ) -> Answer:
        """Queue a prompt and return its answer at once; the answer is limited to the rest of the context.

        `lam` is rounded to two decimals (None: the host's). `logprobs`, `stream`, `on_change` and `streams` are as for
        `GenerationRequest` and `Answer`. Raises InputError for a prompt that leaves no room, an empty one, and a bad
        lam.
        """
        options = options or GenerationOptions()
        chosen = replace(options, max_tokens=min(options.max_tokens, self.room(prompt)))
        request = GenerationRequest(
            prompt=prompt.tokens, options=chosen, stream=stream, reasoning=prompt.reasoning, logprobs=logprobs
        )
        return self.models.submit(request, lam, on_change, streams)

    def score(
        self,
        prompts: Sequence[Sequence[int]],
        n_top: int = 0,
        *,
        lam: float | str | None = None,
        on_change: Callable[[], None] | None = None,
    ) -> ScoringJob:
        """Queue prompts (token ids) whose tokens are to be scored, with the `n_top` most likely ones; return the job.

        Raises InputError for prompts that are empty or exceed `length`, and for a bad lam.
        """
        return self.models.score(prompts, n_top, lam, on_change)

    def move(self, lam: float | str) -> float | None:
        """Bring a model to a lam before requests name it. Return the seconds that it took, None if there was one.

        Raises InputError for a bad lam and for a model from a file; EngineError if no model can be moved there.
        """
        chosen = self.rounded(lam)
        if chosen in self.models.lams:
            return None
        started = time.monotonic()
        answer = self.start(Prompt(self.tokenize(".")), GenerationOptions(max_tokens=1), lam=chosen, streams=False)
        try:
            answer.result()
        finally:
            answer.cancel()
        return time.monotonic() - started

    def close(self, wait: float = 0.0) -> None:
        """Cancel all answers and stop; answers have `wait` seconds to become complete. Later calls do nothing."""
        self._runner.close(wait)
        with self._rendering:
            self._template.close()


@contextlib.contextmanager
def open_host(
    model: ModelLike,
    residents: ResidentOptions | None = None,
    engine: EngineOptions | None = None,
    weight_type: str = REFERENCE_TYPE,
    progress: Progress | None = None,
) -> Iterator[Host]:
    """Load a model, or a pair at the lam where requests start by default, and host it until the end of the block.

    `progress` gets the bytes of a download. Raises what `open_scheduled` raises.
    """
    reference = resolve_model(model)
    name = reference.pair.name if reference.pair is not None else generator_name(str(reference))
    with open_scheduled(reference, residents, engine, weight_type, progress) as models:
        host = Host(models, name)
        try:
            yield host
        finally:
            host.close()
