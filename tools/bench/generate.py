"""`python -m tools.bench generate`: batched generation, against llama-cpp-python's sequential chat and bare llama.cpp.

Three ways to answer the same 32 chat prompts take turns in one process, with the weights in the page cache: ours;
`create_chat_completion`, one prompt after another; and a bare loop that replays our batches and cache operations with
`llama_decode`. Tokens a second count only new tokens; the time includes decoding the prompts.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pa_lite.engine.chat import chat_prompts
from pa_lite.engine.context import Context
from pa_lite.engine.generation import GenerationOptions, generate
from pa_lite.engine.model import EngineOptions, Model
from tools.bench.runs import BenchError, Row, machine, median_ratio, show, write_json
from tools.bench.score import smollm2

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


class Recorder(Model):
    """A model that records the calls on its contexts: (method, arguments), in order, outermost calls only."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        super().__init__(path, options)
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.made: dict[str, Any] = {}

    @contextlib.contextmanager
    def context(self, *args: Any, **named: Any) -> Iterator[Context]:
        """Open a context whose decode, copy, trim and forget are recorded."""
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
    """A llama_batch that is built ahead of time, with the memory that it points to."""

    def __init__(self, lib: Any, tokens: Any, positions: Any, first: Any, last: Any, wanted: Any) -> None:
        n = len(tokens)
        counts = [b - a + 1 for a, b in zip(first, last, strict=True)]
        sequences = [s for a, b in zip(first, last, strict=True) for s in range(a, b + 1)]
        self._arrays = [np.array(a, np.int32) for a in (tokens, positions, counts, sequences)]
        self._wanted = np.array(wanted, np.int8)
        pointers = [a.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)) for a in self._arrays]
        rows, starts = (ctypes.POINTER(ctypes.c_int32) * n)(), np.cumsum([0, *counts[:-1]]).tolist()
        for i, start in enumerate(starts):
            address = self._arrays[3].ctypes.data + 4 * start
            rows[i] = ctypes.cast(address, ctypes.POINTER(ctypes.c_int32))
        self._rows = rows
        logits = self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        self.struct = lib.llama_batch(
            n_tokens=n, token=pointers[0], pos=pointers[1], n_seq_id=pointers[2], seq_id=rows, logits=logits
        )


def replay(model: Recorder) -> float:
    """Return the seconds that llama.cpp alone needs for what was recorded."""
    calls, made = list(model.calls), dict(model.made)
    steps = [(name, Batch(model.lib, *values) if name == "decode" else values) for name, values in calls]
    with Model.context(model, *made.pop("args"), **made) as context:
        lib, handle = model.lib, context.handle
        begin = time.perf_counter()
        for name, what in steps:
            if isinstance(what, Batch):
                if lib.llama_decode(handle, what.struct):
                    raise BenchError("llama.cpp refused a batch that it accepted before.")
                lib.llama_synchronize(handle)
            else:
                getattr(context, name)(*what)
        return time.perf_counter() - begin


def sequential(model: Model, prompt: Sequence[int], n: int) -> tuple[list[int], list[float]]:
    """Return one prompt's greedy tokens, one decode each, and the likeliest logit's lead over the second at each."""
    tokens: list[int] = []
    leads: list[float] = []
    with model.context(len(prompt) + n, cache_type=model.cache_type(True)) as context:
        fed, at = list(prompt), 0
        while len(tokens) < n:
            first = [0] * len(fed)
            context.decode(fed, range(at, at + len(fed)), first, first, [False] * (len(fed) - 1) + [True])
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
    """Return the lead, in logits, where a text first differs from that of the tokens."""
    for k in range(1, len(tokens) + 1):
        if not text.startswith(model.text(tokens[:k]).rstrip("\ufffd")):
            return leads[k - 1]
    return leads[-1]


@dataclass
class Speeds:
    """New tokens a second of each way, by round, and the last round's texts."""

    ours: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    sequential: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    peer_texts: list[str] = field(default_factory=list)


def measure(model: Recorder, prompts: Sequence[Sequence[int]], options: argparse.Namespace) -> Speeds:
    """Measure the three ways in turn, `options.repeat` times."""
    import llama_cpp

    n, threads = options.max_tokens, options.threads
    peer = llama_cpp.Llama(str(model.path), n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)
    found = Speeds()
    for number in range(1, options.repeat + 1):
        begin = time.perf_counter()
        made = generate(model, prompts, GenerationOptions(max_tokens=n, parallel=options.parallel))
        seconds = time.perf_counter() - begin
        n_tokens = sum(g.n_tokens for g in made)
        found.ours.append(n_tokens / seconds)
        found.bare.append(n_tokens / replay(model))
        begin = time.perf_counter()
        answers = [
            peer.create_chat_completion([{"role": "user", "content": p}], max_tokens=n, temperature=0) for p in PROMPTS
        ]
        seconds = time.perf_counter() - begin
        found.sequential.append(sum(a["usage"]["completion_tokens"] for a in answers) / seconds)
        speeds = ", ".join(f"{way} {getattr(found, way)[-1]:.0f}" for way in ("ours", "bare", "sequential"))
        print(f"round {number}: {speeds} tokens a second", file=sys.stderr, flush=True)
    found.texts = [g.text for g in made]
    found.peer_texts = [a["choices"][0]["message"]["content"] for a in answers]
    peer.close()
    return found


def rows_of(found: Speeds, parallel: int) -> list[Row]:
    """Return the table's lines of the speeds."""
    faster, share = median_ratio(found.ours, found.sequential), median_ratio(found.ours, found.bare)
    return [
        Row("create_chat_completion, one after another", found.sequential, unit="t/s"),
        Row(f"pa-lite, {parallel} at a time, over it", found.ours, None, faster, ">= 2.5x", faster >= 2.5, "t/s"),
        Row("llama_decode, the same batches, no Python", found.bare, unit="t/s"),
        Row("pa-lite over it", found.ours, None, share, ">= 0.95x", share >= 0.95, "t/s"),
    ]


def compare(model: Model, prompts: Sequence[Sequence[int]], found: Speeds, n: int) -> list[Row]:
    """Return how many texts equal those of sequential decoding, and how near a tie the others start to differ."""
    alone = [sequential(model, p, n) for p in prompts]
    expected = [model.text(tokens).rstrip("\ufffd") for tokens, _ in alone]
    pairs = zip(found.texts, expected, strict=True)
    apart = [i for i, (text, twin) in enumerate(pairs) if text.rstrip("\ufffd") != twin]
    same = len(prompts) - len(apart)
    pairs = zip(found.texts, found.peer_texts, strict=True)
    like_peer = sum(text.strip() == other.strip() for text, other in pairs)
    rows = [
        Row(f"texts as by sequential greedy decoding, of {len(prompts)}", (same,), None, None, ">= 30", same >= 30, ""),
        Row(f"texts as by create_chat_completion, of {len(prompts)}", (like_peer,), unit=""),
        Row(
            "lead of the likeliest token, over all steps", np.concatenate([lead for _, lead in alone]).tolist(), unit=""
        ),
    ]
    for i in apart:
        lead = first_lead(model, *alone[i], found.texts[i])
        rows.append(Row(f"  lead where the text of prompt {i + 1} starts to differ", (lead,), unit=""))
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    folder = Path(tempfile.gettempdir()) / "pa-lite-bench"
    parser.add_argument("--model", type=Path, metavar="FILE", help="a chat model (default: SmolLM2-135M-Instruct, F16)")
    parser.add_argument("--work", type=Path, default=folder, metavar="DIR", help=f"folder for that model ({folder})")
    parser.add_argument("--repeat", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="threads (default: 2)")
    parser.add_argument("--parallel", type=int, default=32, help="prompts at a time (default: 32)")
    parser.add_argument("--max-tokens", type=int, default=128, help="new tokens of each (default: 128)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and the machine's facts there")


def run(options: argparse.Namespace) -> None:
    """Measure everything in turn, print the table, write the JSON file."""
    path = options.model or smollm2(options.work)
    facts = machine(None)
    model = Recorder(path, EngineOptions(threads=options.threads))
    with model:
        prompts = chat_prompts(model, PROMPTS).tokens
        found = measure(model, prompts, options)
        rows = [*rows_of(found, options.parallel), *compare(model, prompts, found, options.max_tokens)]
    show(rows)
    if options.json is not None:
        write_json(options.json, vars(options), facts, rows, [])
