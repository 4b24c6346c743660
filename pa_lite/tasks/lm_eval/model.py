"""pa-lite's engine as an lm-eval model (extra `harness`): `lm_eval.simple_evaluate(model=PaLiteLM("demo@0.7"), ...)`.

Importing this module registers the model, so `simple_evaluate(model="pa-lite", model_args="model=demo@0.7")` works.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pa_lite.engine.answer_text import Generation
from pa_lite.engine.chat import ChatRenderer
from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.chat_template import chat_facts, measured_options
from pa_lite.engine.generation import GenerationOptions, generate
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.model_reference import REFERENCE_TYPE, ModelLike, open_model
from pa_lite.engine.reasoning import ReasoningFormat
from pa_lite.engine.requests import Request, begins_with_bos, make_requests, rolling_requests
from pa_lite.engine.scoring import score_requests
from pa_lite.errors import EngineError, InputError, nearest
from pa_lite.progress import Progress, part_of, silent
from pa_lite.tasks.lm_eval.answers import ENDING, Answers
from pa_lite.tasks.lm_eval.config import not_installed
from pa_lite.tasks.lm_eval.options import generation_options, modern_names, texts_at_a_time
from pa_lite.untrusted.portions import portions

try:
    from lm_eval._cli.utils import key_val_to_dict
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError as e:
    raise not_installed(e) from e

_Result = TypeVar("_Result")
_NOT_WORDS = ("chat", "progress")  # arguments that cannot be given as text
_log = logging.getLogger(__name__)
# characters of requests that are tokenized at a time; fewer if the answers of each portion are written to a file
_PORTION, _KEPT_PORTION = 8_000_000, 400_000


class _Call:
    """One of lm-eval's calls: the arguments of requests without a kept answer, and their answers so far."""

    def __init__(
        self,
        request_type: str,
        arguments: list[Any],
        keep: Callable[[tuple[Any, ...], Any], None],
        progress: Progress,
    ) -> None:
        """Start without answers; `keep` writes an answer to a file for later runs."""
        self.request_type, self.arguments, self.results = request_type, arguments, dict[int, Any]()
        self._keep, self._progress = keep, progress

    def add(self, i: int, answer: Any, lasts: bool = True) -> None:
        """Add the answer to request i, and write it to a file if `lasts`."""
        self.results[i] = answer
        if lasts:
            self._keep(self.arguments[i], answer)

    def progress(self, of: int | None = None) -> Progress:
        """Return the progress of the next requests: `of` requests if it is reported in other steps."""
        before = len(self.results)

        def step(phase: str, done: int, total: int, unit: str) -> None:
            report(phase, done * of // total if of is not None and total else done, total, unit)

        report = part_of(self._progress, self.request_type, before, len(self.arguments), "requests")
        return report if of is None else step


@register_model("pa-lite")
class PaLiteLM(LM):  # type: ignore[misc]
    """An lm-eval model: loglikelihoods with shared prefixes decoded once, texts generated in one batch.

    Prompts are tokenized as by lm-eval's `hf` models: control tokens written in them, as by chat templates, are parsed;
    BOS is added once if the vocabulary says so; requests longer than the context are cut on the left. A rolling
    loglikelihood is that of the text after the prefix token (BOS, else EOS), without a second BOS to predict.
    `n_truncated` counts the requests cut so far. A context manager; `close` frees what it opened.
    """

    def __init__(
        self,
        model: ModelLike | Model,
        *,
        n_ctx: int = 0,
        threads: int = 0,
        gpu_layers: int | str = "auto",
        probe: bool = True,
        type: str = REFERENCE_TYPE,
        seed: int = 0,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        progress: Progress | None = None,
        chat: ChatOptions | None = None,
    ) -> None:
        """Open `FILE.gguf` or `PAIR@LAM`, or use an open model, which stays open.

        `n_ctx`, `threads`, `gpu_layers` and `probe` are those of EngineOptions and `type` is the type a pair is merged
        to; they apply only to a model opened here. `seed` is for sampled texts. `batch_size` is how many texts are
        generated at a time: a number or `auto`, at most `max_batch_size`; loglikelihoods are packed as the cache
        allows. `device` is lm-eval's: `cpu` keeps all layers off the GPU. `progress` counts the requests of each call.
        `chat` has the template's arguments and date; unset ones get their defaults when the template is first used.
        Raises PaLiteError.
        """
        super().__init__()
        self.seed, self.progress = seed, silent if progress is None else progress
        self.parallel = texts_at_a_time(batch_size, max_batch_size)
        self.n_truncated = 0
        self._closing = contextlib.ExitStack()
        self._renderer: ChatRenderer | None = None
        self._chat_options, self._is_chat = chat, False
        self._answers: Answers | None = None
        self.reference = model.label if isinstance(model, Model) else str(model)
        if isinstance(model, Model):
            self.model = model
        else:
            layers = 0 if device == "cpu" else gpu_layers
            options = EngineOptions(threads=threads, gpu_layers=layers, n_ctx=n_ctx, probe=probe)
            self.model = self._closing.enter_context(open_model(model, options, type))

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> PaLiteLM:
        """Create the model from lm-eval's model_args. Raises InputError for unknown arguments."""
        words = {**arg_dict, **{k: v for k, v in (additional_config or {}).items() if v is not None}}
        words = modern_names(words)
        cls.check_args(words)
        if not isinstance(words.get("model"), str):
            raise InputError(
                "model_args: the model is missing: add model=FILE.gguf or model=PAIR@LAM, such as demo@0.7."
            )
        return cls(**words)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> PaLiteLM:
        """Create the model from a string such as `model=demo@0.7,n_ctx=2048`."""
        return cls.create_from_arg_obj(key_val_to_dict(arg_string), additional_config)

    @classmethod
    def check_args(cls, words: Iterable[str]) -> None:
        """Raise InputError for the name of an unknown argument in model_args."""
        known = [name for name in list(inspect.signature(cls.__init__).parameters)[1:] if name not in _NOT_WORDS]
        for word in words:
            if word not in known:
                raise InputError(f"model_args: unknown argument {word!r}.{nearest(word, known)}")

    def __enter__(self) -> PaLiteLM:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the model if it was opened here, the template's process, and the files of answers."""
        if self._renderer is not None:
            self._renderer.close()
        if self.cache_hook.dbdict is not None:
            self.cache_hook.dbdict.close()
        self._closing.close()

    def keep_answers(self, prefix: Path) -> Path:
        """Keep answers in a file and reuse those in it; return its path: `prefix` and a hash of the settings.

        Settings of the chat template need no hash: they are part of the prompts. Raises OutputError (see `Answers`),
        and CheckpointError if the model cannot be identified.
        """
        path = prefix.with_name(f"{prefix.name}_{self.answers_key()[:16]}_{self.model.max_length}{ENDING}")
        self._answers = self._closing.enter_context(Answers(path, self.answers_key()))
        return path

    def _answer(
        self, request_type: str, requests: Sequence[Any], is_silent: bool, compute: Callable[[_Call], None]
    ) -> list[Any]:
        """Return kept and computed answers in the order of the requests; texts are checked before any are computed."""
        known = [
            None if self._answers is None else self._answers.get(request_type, request.args) for request in requests
        ]
        rest = [request for request, answer in zip(requests, known, strict=True) if answer is None]
        for number, request in enumerate(rest, 1):
            named = [getattr(request, name, None) for name in ("task_name", "doc_id")]
            where = f"request {number}" if None in named else f"task {named[0]}: document {named[1]}"
            text = "".join(word for word in request.args if isinstance(word, str))
            self.model.check_text(text, f"{where}: its text", parse_special=True)

        def keep(arguments: tuple[Any, ...], answer: Any) -> None:
            self.cache_hook.add_partial(request_type, arguments, answer)
            if self._answers is not None:
                self._answers.add(request_type, arguments, answer)

        call = _Call(request_type, [request.args for request in rest], keep, silent if is_silent else self.progress)
        compute(call)
        made = iter(call.results[i] for i in range(len(rest)))
        return [next(made) if answer is None else answer for answer in known]

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return (ln p in nats, whether greedy decoding gives it) of each (context, continuation), in order.

        Raises InputError for a continuation without tokens, EngineError for one longer than the context.
        """
        return self._answer("loglikelihood", requests, disable_tqdm, self._loglikelihood)

    def _loglikelihood(self, call: _Call) -> None:
        pairs = call.arguments
        for portion in self._portions(pairs):
            of_context: dict[str, list[int]] = {}
            for i in portion:
                of_context.setdefault(pairs[i][0], []).append(i)
            indices = [i for members in of_context.values() for i in members]
            made = [
                request
                for context, members in of_context.items()
                for request in make_requests(self.model, context, [pairs[i][1] for i in members], parse_special=True)
            ]
            scores = score_requests(self.model, made, call.progress())
            self._count_cut(sum(s.truncated for s in scores), len(pairs))
            for i, score in zip(indices, scores, strict=True):
                call.add(i, (score.logprob, score.is_greedy))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return ln p in nats of each whole text, in order, from windows that predict each token once."""
        return self._answer("loglikelihood_rolling", requests, disable_tqdm, self._rolling)

    def _rolling(self, call: _Call) -> None:
        for portion in self._portions(call.arguments):
            windows = [rolling_requests(self.model, call.arguments[i][0], parse_special=True) for i in portion]
            flat: list[Request] = [w for of_text in windows for w in of_text]
            scores = iter(score_requests(self.model, flat, call.progress(len(portion))))
            for i, of_text in zip(portion, windows, strict=True):
                call.add(i, sum(next(scores).logprob for _ in of_text))

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the model's continuation of each context, cut before the first stop string, in order.

        Requests with the same settings run together. Sampled texts are not kept for later runs. Raises InputError for
        unknown settings and for those that leave no room for the context.
        """
        return self._answer("generate_until", requests, disable_tqdm, self._generate)

    def _generate(self, call: _Call) -> None:
        contexts = [context for context, _ in call.arguments]
        settings = [self.generation_options(kwargs) for _, kwargs in call.arguments]
        groups: dict[GenerationOptions, list[int]] = {}
        for i, options in enumerate(settings):
            groups.setdefault(replace(options, max_tokens=1), []).append(i)
        for options, members in groups.items():
            for portion in self._portions([(contexts[i],) for i in members]):
                indices = [members[i] for i in portion]
                prompts = [self._prompt(contexts[i], settings[i].max_tokens) for i in indices]
                self._count_cut(sum(is_cut for _, is_cut in prompts), len(contexts))

                def keep(at: int, made: Generation, indices: Sequence[int] = indices) -> None:
                    call.add(indices[at], self._decoded(made.text), lasts=not settings[indices[at]].temperature)

                limits = [settings[i].max_tokens for i in indices]
                ids = [p for p, _ in prompts]
                reasoning = self._reasoning([contexts[i] for i in indices])
                generate(self.model, ids, options, call.progress(), keep, limits, indices, reasoning=reasoning)

    def generation_options(self, kwargs: Mapping[str, Any]) -> GenerationOptions:
        """Return the options for generation_kwargs. Raises InputError for invalid ones, and if they leave no room."""
        options = generation_options(kwargs, self.model.special_text("eos"), self.seed, self.parallel)
        if options.max_tokens >= self.model.max_length:
            raise InputError(
                f"max_gen_toks is {options.max_tokens}, but the context of {self.model.name} is "
                f"{self.model.max_length} tokens. Use fewer (--gen_kwargs max_gen_toks=N)."
            )
        return options

    def _reasoning(self, contexts: Sequence[str]) -> list[ReasoningFormat] | None:
        """Return how to remove reasoning from the output of each context; None without a chat template."""
        if not self._is_chat:
            return None
        known = self._chat().reasoning()
        return [
            replace(known, opened=next((m for m in known.markers if text.rstrip().endswith(m.start)), None))
            for text in contexts
        ]

    def _prompt(self, context: str, max_tokens: int) -> tuple[list[int], bool]:
        """Return a context's ids, cut on the left to leave room for max_tokens, and whether they were cut."""
        tokens = self.model.tokenize(context, not begins_with_bos(self.model, context), parse_special=True)
        if not tokens:
            if self.model.prefix_token is None:
                raise EngineError(f"{self.model.label}: has neither BOS nor EOS, so an empty context is not possible.")
            tokens = [self.model.prefix_token]
        room = self.model.max_length - max_tokens
        return tokens[-room:], len(tokens) > room

    def _decoded(self, text: str) -> str:
        """Return a generated text as decoded by transformers: without the space that SentencePiece adds first."""
        metadata = self.model.header.metadata
        tokenizer_model, adds_space = (metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "add_space_prefix"))
        is_sentencepiece = tokenizer_model is not None and tokenizer_model.value == "llama"
        return text.removeprefix(" ") if is_sentencepiece and (adds_space is None or adds_space.value) else text

    def _portions(self, texts: Sequence[tuple[str, ...]]) -> Iterator[list[int]]:
        """Yield indices of requests in bounded portions, sorted by text so that shared prefixes are together."""
        size = _PORTION if self.cache_hook.dbdict is None and self._answers is None else _KEPT_PORTION
        return portions(sorted(range(len(texts)), key=lambda i: texts[i]), lambda i: sum(map(len, texts[i])), size)

    def _count_cut(self, n: int, total: int) -> None:
        if n:
            self.n_truncated += n
            _log.warning("%d of %d requests were cut on the left to %d tokens.", n, total, self.model.max_length)

    @property
    def max_length(self) -> int:
        return self.model.max_length

    @property
    def tokenizer_name(self) -> str:
        """The key of this model's prompts in lm-eval's cache of requests: its name and a hash.

        The hash covers the template, its arguments and date, and the text of a rendered message.
        """
        chat = self._chat()
        made = [chat.template, self.apply_chat_template([{"role": "user", "content": "x"}])]
        made += [self.model.special_text(token) for token in ("bos", "eos")]
        known = json.dumps([made, chat_facts(chat.template, chat.options, self.model.name)], sort_keys=True)
        return f"{self.model.name.replace('/', '__')}-{hashlib.sha256(known.encode('ascii')).hexdigest()[:12]}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Choose a template (True for the model's own) and return its text. Raises InputError if there is none."""
        if chat_template is False:
            return None
        if self._renderer is not None:
            self._renderer.close()
        self._renderer, self._is_chat = self._new_renderer("" if chat_template is True else chat_template), True
        return self._renderer.template

    def _new_renderer(self, name: str = "") -> ChatRenderer:
        renderer = ChatRenderer(self.model, name)
        renderer.options = measured_options(renderer.template, self._chat_options, self.model.name)
        return renderer

    @property
    def chat_facts(self) -> dict[str, Any]:
        """The facts that determine rendered prompts (see `chat_facts` of the engine); empty without a chat template."""
        return chat_facts(self._chat().template, self._chat().options, self.model.name) if self._is_chat else {}

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a conversation with the template, up to the start of an answer or within the last message.

        As in lm-eval, a template that raises an error is rendered again without system messages. Raises EngineError if
        that fails too.
        """
        messages = [(m["role"], m["content"]) for m in chat_history]
        try:
            return self._chat().render(messages, not add_generation_prompt)
        except EngineError as e:
            without = [m for m in messages if m[0] != "system"]
            if len(without) == len(messages):
                raise
            _log.warning("%s Retrying without the system message.", e)
            return self._chat().render(without, not add_generation_prompt)

    def _chat(self) -> ChatRenderer:
        if self._renderer is None:
            self._renderer = self._new_renderer()
        return self._renderer

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the model's weights (see `checkpoints.fingerprint`); empty if it cannot be computed."""
        return self.model.known_by()[0]

    @property
    def identity(self) -> str:
        """The identity of the model, with tokenizer and settings (`Model.identity`); empty if it cannot be computed."""
        return self.model.known_by()[1]

    def answers_key(self) -> str:
        """Return a hash of everything except requests that determines answers: model, llama.cpp, settings and seed.

        Raises CheckpointError if the model cannot be identified.
        """
        decides = [dict(self.model.inputs()), self.model.max_length, self.seed]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode("ascii")).hexdigest()

    def get_model_info(self) -> dict[str, Any]:
        """Return the model's entries in lm-eval's results."""
        sizes: dict[str, int] = {}
        for tensor in self.model.header.tensors.values():
            sizes[tensor.type.name] = sizes.get(tensor.type.name, 0) + math.prod(tensor.shape)
        return {
            "model_num_parameters": sum(sizes.values()),
            "model_dtype": max(sizes, key=lambda name: sizes[name]),
            "model_revision": self.reference,
            "model_sha": self.fingerprint,
        }
