"""pa-lite's engine as a model of lm-eval (extra `harness`): `lm_eval.simple_evaluate(model=PaLiteLM("demo@0.7"), ...)`.

Importing this module registers it, so that `simple_evaluate(model="pa-lite", model_args="model=demo@0.7")` finds it.
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
_NOT_WORDS = ("chat", "progress")  # arguments that no text can give
_log = logging.getLogger(__name__)
# characters of requests whose tokens are held at a time, and fewer where each portion's answers are kept in a file
_PORTION, _KEPT_PORTION = 8_000_000, 400_000


class _Call:
    """One of lm-eval's calls: the arguments of requests that have no answer yet, and their answers as they come."""

    def __init__(
        self,
        request_type: str,
        arguments: list[Any],
        keep: Callable[[tuple[Any, ...], Any], None],
        progress: Progress,
    ) -> None:
        """`keep` writes an answer down for later runs."""
        self.request_type, self.arguments, self.results = request_type, arguments, dict[int, Any]()
        self._keep, self._progress = keep, progress

    def add(self, i: int, answer: Any, lasts: bool = True) -> None:
        """Take an answer; one that lasts is written down."""
        self.results[i] = answer
        if lasts:
            self._keep(self.arguments[i], answer)

    def progress(self, of: int | None = None) -> Progress:
        """Return the progress of the next requests: of `of` requests, where it is reported in other steps."""
        before = len(self.results)

        def step(phase: str, done: int, total: int, unit: str) -> None:
            report(phase, done * of // total if of is not None and total else done, total, unit)

        report = part_of(self._progress, self.request_type, before, len(self.arguments), "requests")
        return report if of is None else step


@register_model("pa-lite")
class PaLiteLM(LM):  # type: ignore[misc]
    """A model that lm-eval can ask: loglikelihoods with shared prefixes decoded once, texts generated in one batch.

    Texts are read as lm-eval's `hf` models read them: control tokens spelled out in them are such, as a chat template's
    must be; BOS comes as the vocabulary has it, once; what is longer than the context is cut at the left. A rolling
    loglikelihood is of the text behind the prefix token alone (BOS, else EOS), without a second BOS to predict.
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
        """Open `FILE.gguf` or `PAIR@LAM`, or take a model that is open and stays so.

        `n_ctx`, `threads`, `gpu_layers`, `probe` as EngineOptions has them, `type` the type a pair is merged to; these
        are for a model opened here. `seed` draws sampled texts. `batch_size` is how many texts are generated at a time:
        a number or `auto`, at most `max_batch_size`; loglikelihoods are packed as the cache allows. `device` is what
        lm-eval calls it: `cpu` keeps every layer off the GPU. `progress` gets the requests done of each
        call. `chat` has the template's arguments and date; what it leaves open is settled when the template is first
        used. Raises PaLiteError.
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
        """Make one from lm-eval's model_args. Raises InputError for unknown arguments."""
        words = {**arg_dict, **{k: v for k, v in (additional_config or {}).items() if v is not None}}
        words = modern_names(words)
        cls.check_args(words)
        if not isinstance(words.get("model"), str):
            raise InputError("model_args: name the model: model=FILE.gguf or model=PAIR@LAM, such as demo@0.7.")
        return cls(**words)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> PaLiteLM:
        """Make one from `model=demo@0.7,n_ctx=2048`."""
        return cls.create_from_arg_obj(key_val_to_dict(arg_string), additional_config)

    @classmethod
    def check_args(cls, words: Iterable[str]) -> None:
        """Raise InputError for the name of an argument that model_args cannot have."""
        known = [name for name in list(inspect.signature(cls.__init__).parameters)[1:] if name not in _NOT_WORDS]
        for word in words:
            if word not in known:
                raise InputError(f"model_args: {word} is not known.{nearest(word, known)}")

    def __enter__(self) -> PaLiteLM:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model if it was opened here, the template's process, and the files of answers."""
        if self._renderer is not None:
            self._renderer.close()
        if self.cache_hook.dbdict is not None:
            self.cache_hook.dbdict.close()
        self._closing.close()

    def keep_answers(self, begin: Path) -> Path:
        """Keep answers in a file, and take up those that it has; return its path: `begin` and what decides the answers.

        What the chat template gets is part of the prompts, and so of the requests. Raises OutputError, see `Answers`,
        and CheckpointError when the model cannot be told from others.
        """
        path = begin.with_name(f"{begin.name}_{self.answers_key()[:16]}_{self.model.max_length}{ENDING}")
        self._answers = self._closing.enter_context(Answers(path, self.answers_key()))
        return path

    def _answer(
        self, request_type: str, requests: Sequence[Any], is_silent: bool, compute: Callable[[_Call], None]
    ) -> list[Any]:
        """Answers in order: those that are kept, and the others computed, whose texts are checked before any work."""
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
        """(ln p in nats, whether greedy decoding gives it) of each (context, continuation), in order.

        Raises InputError for a continuation without tokens, EngineError for one longer than the context.
        """
        return self._answer("loglikelihood", requests, disable_tqdm, self._loglikelihood)

    def _loglikelihood(self, call: _Call) -> None:
        pairs = call.arguments
        for portion in self._portions(pairs):
            behind: dict[str, list[int]] = {}
            for i in portion:
                behind.setdefault(pairs[i][0], []).append(i)
            places = [i for members in behind.values() for i in members]
            made = [
                request
                for context, members in behind.items()
                for request in make_requests(self.model, context, [pairs[i][1] for i in members], parse_special=True)
            ]
            scores = score_requests(self.model, made, call.progress())
            self._count_cut(sum(s.truncated for s in scores), len(pairs))
            for i, score in zip(places, scores, strict=True):
                call.add(i, (score.logprob, score.is_greedy))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """ln p in nats of each whole text, in order, in windows that predict each token once."""
        return self._answer("loglikelihood_rolling", requests, disable_tqdm, self._rolling)

    def _rolling(self, call: _Call) -> None:
        for places in self._portions(call.arguments):
            windows = [rolling_requests(self.model, call.arguments[i][0], parse_special=True) for i in places]
            flat: list[Request] = [w for of_text in windows for w in of_text]
            scores = iter(score_requests(self.model, flat, call.progress(len(places))))
            for i, of_text in zip(places, windows, strict=True):
                call.add(i, sum(next(scores).logprob for _ in of_text))

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model goes on with behind each context, cut before the first stop string, in order.

        Requests with the same settings run together. Sampled texts are not kept for later runs. Raises InputError for
        settings that are not known or leave the context no room.
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
                places = [members[i] for i in portion]
                prompts = [self._prompt(contexts[i], settings[i].max_tokens) for i in places]
                self._count_cut(sum(is_cut for _, is_cut in prompts), len(contexts))

                def keep(at: int, made: Generation, places: Sequence[int] = places) -> None:
                    call.add(places[at], self._decoded(made.text), lasts=not settings[places[at]].temperature)

                limits = [settings[i].max_tokens for i in places]
                ids = [p for p, _ in prompts]
                reasoning = self._reasoning([contexts[i] for i in places])
                generate(self.model, ids, options, call.progress(), keep, limits, places, reasoning=reasoning)

    def generation_options(self, kwargs: Mapping[str, Any]) -> GenerationOptions:
        """What generation_kwargs ask of this model. Raises InputError for nonsense and for what leaves no room."""
        options = generation_options(kwargs, self.model.special_text("eos"), self.seed, self.parallel)
        if options.max_tokens >= self.model.max_length:
            raise InputError(
                f"max_gen_toks is {options.max_tokens}, but {self.model.name} holds {self.model.max_length} tokens in "
                "all. Ask for fewer (--gen_kwargs max_gen_toks=N)."
            )
        return options

    def _reasoning(self, contexts: Sequence[str]) -> list[ReasoningFormat] | None:
        """How each context's reasoning is found where a chat template made them; it is not part of what is returned."""
        if not self._is_chat:
            return None
        known = self._chat().reasoning()
        return [
            replace(known, opened=next((m for m in known.markers if text.rstrip().endswith(m.start)), None))
            for text in contexts
        ]

    def _prompt(self, context: str, max_tokens: int) -> tuple[list[int], bool]:
        """A context's ids, cut at the left so that max_tokens fit behind them, and whether they were cut."""
        tokens = self.model.tokenize(context, not begins_with_bos(self.model, context), parse_special=True)
        if not tokens:
            if self.model.prefix_token is None:
                raise EngineError(f"{self.model.label}: has neither BOS nor EOS to begin a text with.")
            tokens = [self.model.prefix_token]
        room = self.model.max_length - max_tokens
        return tokens[-room:], len(tokens) > room

    def _decoded(self, text: str) -> str:
        """A generated text as transformers decodes it: SentencePiece's own blank before the first word is dropped."""
        metadata = self.model.header.metadata
        tokenizer_model, has_blank = (metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "add_space_prefix"))
        is_sentencepiece = tokenizer_model is not None and tokenizer_model.value == "llama"
        return text.removeprefix(" ") if is_sentencepiece and (has_blank is None or has_blank.value) else text

    def _portions(self, texts: Sequence[tuple[str, ...]]) -> Iterator[list[int]]:
        """Yield places of requests in bounded portions, alphabetic neighbours together: these share prefixes."""
        size = _PORTION if self.cache_hook.dbdict is None and self._answers is None else _KEPT_PORTION
        return portions(sorted(range(len(texts)), key=lambda i: texts[i]), lambda i: sum(map(len, texts[i])), size)

    def _count_cut(self, n: int, total: int) -> None:
        if n:
            self.n_truncated += n
            _log.warning("%d of %d requests were cut at the left to %d tokens.", n, total, self.model.max_length)

    @property
    def max_length(self) -> int:
        return self.model.max_length

    @property
    def tokenizer_name(self) -> str:
        """Return what tells this model's prompts from others' in lm-eval's cache of requests: its name and a hash.

        The hash covers the template, what it is given (date, arguments) and what it makes of a message: tokens that it
        names.
        """
        chat = self._chat()
        made = [chat.template, self.apply_chat_template([{"role": "user", "content": "x"}])]
        made += [self.model.special_text(token) for token in ("bos", "eos")]
        known = json.dumps([made, chat_facts(chat.template, chat.options, self.model.name)], sort_keys=True)
        return f"{self.model.name.replace('/', '__')}-{hashlib.sha256(known.encode('ascii')).hexdigest()[:12]}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Choose a template, True for the model's own, and return its text. Raises InputError when there is none."""
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
        """What decides how prompts are put into the chat template (see `chat_facts` of the engine); empty without."""
        return chat_facts(self._chat().template, self._chat().options, self.model.name) if self._is_chat else {}

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the template writes it, ready for an answer, or within its last message.

        As lm-eval has it, a template that refuses is asked again without system messages. Raises EngineError when it
        fails then too.
        """
        messages = [(m["role"], m["content"]) for m in chat_history]
        try:
            return self._chat().render(messages, not add_generation_prompt)
        except EngineError as e:
            without = [m for m in messages if m[0] != "system"]
            if len(without) == len(messages):
                raise
            _log.warning("%s Trying without the system message.", e)
            return self._chat().render(without, not add_generation_prompt)

    def _chat(self) -> ChatRenderer:
        if self._renderer is None:
            self._renderer = self._new_renderer()
        return self._renderer

    @property
    def fingerprint(self) -> str:
        """Tells the model's weights from others (see `checkpoints.fingerprint`); empty when it cannot be taken."""
        return self.model.known_by()[0]

    @property
    def identity(self) -> str:
        """Return what tells the model from others that may answer otherwise (`Model.identity`); empty as above."""
        return self.model.known_by()[1]

    def answers_key(self) -> str:
        """Return what decides the answers beside the requests, hashed: the model, llama.cpp, settings and the seed.

        Raises CheckpointError when the model cannot be told from others.
        """
        decides = [dict(self.model.inputs()), self.model.max_length, self.seed]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode("ascii")).hexdigest()

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval's results say of a model."""
        sizes: dict[str, int] = {}
        for tensor in self.model.header.tensors.values():
            sizes[tensor.type.name] = sizes.get(tensor.type.name, 0) + math.prod(tensor.shape)
        return {
            "model_num_parameters": sum(sizes.values()),
            "model_dtype": max(sizes, key=lambda name: sizes[name]),
            "model_revision": self.reference,
            "model_sha": self.fingerprint,
        }
