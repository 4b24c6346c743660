"""`python -m tools.bench serve`: the server, against llama-server, and several lams at a time against one.

Both servers have the same F16 file, the same number of threads and sequences, and run all the time; a round measures
them in turn with the same requests. Prompts are ids, greedy, and no two are equal, so that no server reuses tokens. The
weights are random, in the shapes of SmolLM2-135M: such a model does not end its answers, so all have the same length.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import pa_lite
from tools.bench.pair import SIZES, make_pair
from tools.bench.runs import BenchError, Row, machine, median_ratio, show, write_json
from tools.bench.streams import Group, in_turn, together
from tools.servers import Server, Words, free_port, pa_lite_server, running

_VOCAB = 49152
_PARALLEL = 16
_LENGTH = 512  # tokens of a sequence
_LAMS = (0.3, 0.6, 0.9)
Bodies = list[dict[str, Any]]


def ours(
    model: Sequence[str | Path], options: argparse.Namespace, *more: str
) -> contextlib.AbstractContextManager[Server]:
    """Return our server of a model."""
    return pa_lite_server(
        *model, "--threads", str(options.threads), "--parallel", str(_PARALLEL), "--n-ctx", str(_LENGTH), "--no-probe",
        *more,
    )  # fmt: skip


def theirs(file: Path, options: argparse.Namespace) -> contextlib.AbstractContextManager[Server]:
    """Return llama-server with the same file, threads and sequences."""
    port = free_port()
    command: Words = [
        options.llama_server, "--model", file, "--host", "127.0.0.1", "--port", str(port), "--threads",
        str(options.threads), "--threads-batch", str(options.threads), "--parallel", str(_PARALLEL), "--ctx-size",
        str(_PARALLEL * _LENGTH), "--no-warmup",
    ]  # fmt: skip
    return running(command, port)


class Prompts:
    """Prompts of random ids, no two of which begin alike."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def bodies(self, n: int, length: int, max_tokens: int, model: str = "") -> Bodies:
        """Return requests with prompts of `length` ids."""
        named = {"model": model} if model else {}
        return [
            {"prompt": self._rng.integers(300, _VOCAB, length).tolist(), "max_tokens": max_tokens, "temperature": 0,
             "cache_prompt": False, **named}
            for _ in range(n)
        ]  # fmt: skip


def against(file: Path, options: argparse.Namespace, prompts: Prompts) -> list[Row]:
    """Compare with llama-server: throughput of 1, 4 and 16 streams, the time to the first token with 4, and memory."""
    speeds: dict[tuple[str, int], list[float]] = {}
    firsts: dict[str, list[float]] = {}
    with ours([file], options) as our_server, theirs(file, options) as their_server:
        servers = {"pa-lite": our_server, "llama-server": their_server}
        for server in servers.values():
            together(server.port, prompts.bodies(2, 16, 8))
        for number in range(1, options.repeat + 1):
            for n in (1, 4, 16):
                bodies = prompts.bodies(n, 32, options.max_tokens)
                for name, server in _turns(servers, number):
                    speeds.setdefault((name, n), []).append(_run(server, bodies, options).speed)
            bodies = prompts.bodies(4, 256, 16)
            for name, server in _turns(servers, number):
                group = together(server.port, bodies)
                firsts.setdefault(name, []).append(statistics.median(reply.first for reply in group.replies))
            _say(f"round {number}: " + ", ".join(f"{k[0]} {k[1]}: {v[-1]:.0f} t/s" for k, v in speeds.items()))
        extra = _beside(our_server)
    rows = []
    for n in (1, 4, 16):
        mine, peer = speeds["pa-lite", n], speeds["llama-server", n]
        ratio = median_ratio(mine, peer)
        streams = "stream" if n == 1 else "streams"
        rows += [
            Row(f"llama-server, {n} {streams} of {options.max_tokens} tokens", peer, unit="t/s"),
            Row("pa-lite over it", mine, None, ratio, ">= 0.95x", ratio >= 0.95, "t/s"),
        ]
    slower = median_ratio(firsts["pa-lite"], firsts["llama-server"])
    return [
        *rows,
        Row("llama-server, 4 streams, time to the first token", firsts["llama-server"]),
        Row("pa-lite over it", firsts["pa-lite"], None, slower, "<= 1.1x", slower <= 1.1),
        Row("memory without weights and contexts", (extra / 1e6,), target="<= 150", met=extra <= 150e6, unit="MB"),
    ]


def _turns(servers: Mapping[str, Server], number: int) -> list[tuple[str, Server]]:
    """Return the servers in an order that alternates from round to round."""
    listed = list(servers.items())
    return listed if number % 2 else listed[::-1]


def _run(server: Server, bodies: Bodies, options: argparse.Namespace) -> Group:
    group = together(server.port, bodies)
    for reply in group.replies:
        if reply.n < options.max_tokens - 8:  # a chunk may have two tokens, where a character takes both
            raise BenchError(f"an answer has {reply.n} tokens instead of {options.max_tokens}.")
    return group


def _beside(server: Server) -> int:
    """Return the bytes of our server without what it planned for weights, caches and compute buffers."""
    planned = server.get("/pa-lite/state")["memory"]
    return server.memory - int(planned["weights"]) - int(planned["context"])


def several(pair: Path, options: argparse.Namespace, prompts: Prompts) -> list[Row]:
    """Compare three resident lams with one: 16 streams against a third of them, and one stream with lams in turn."""
    spread, third, turns, alone = list[float](), list[float](), list[float](), list[float]()
    sides = [pair / "base", pair / "instruct"]
    n = options.max_tokens
    with ours([*map(str, sides), "--lam", "0.6"], options, "--max-memory", "16G") as server:
        name = server.get("/pa-lite/state")["name"]
        together(server.port, [body for lam in _LAMS for body in prompts.bodies(1, 16, 8, f"{name}@{lam}")])
        for number in range(1, options.repeat + 1):
            bodies = prompts.bodies(16, 32, n)
            mixed = [{**body, "model": f"{name}@{_LAMS[i % 3]}"} for i, body in enumerate(bodies)]
            few = [{**body, "model": f"{name}@0.6"} for body in prompts.bodies(5, 32, n)]
            single = [{**body, "model": f"{name}@0.6"} for body in prompts.bodies(6, 32, n)]
            rotated = [{**body, "model": f"{name}@{_LAMS[i % 3]}"} for i, body in enumerate(prompts.bodies(6, 32, n))]
            spread.append(_run(server, mixed, options).speed)
            third.append(_run(server, few, options).speed)
            turns.append(in_turn(server.port, rotated).speed)
            alone.append(in_turn(server.port, single).speed)
            _say(f"round {number}: three lams {spread[-1]:.0f}, a third {third[-1]:.0f}, in turn {turns[-1]:.0f} t/s")
    of_third, of_one = median_ratio(spread, third), median_ratio(turns, alone)
    return [
        Row("5 streams of one lam", third, unit="t/s"),
        Row(
            "16 streams over three resident lams, over it", spread, None, of_third, ">= 0.95x", of_third >= 0.95, "t/s"
        ),
        Row("one stream of one lam", alone, unit="t/s"),
        Row("one stream, lams in turn, over it", turns, None, of_one, ">= 0.9x", of_one >= 0.9, "t/s"),
    ]


def moving(pair: Path, options: argparse.Namespace, prompts: Prompts) -> list[Row]:
    """Measure what a move costs when only one model is in memory: the delay of a first token at another lam."""
    sides = [pair / "base", pair / "instruct"]
    still, moved = list[float](), list[float]()
    with ours([*map(str, sides), "--lam", "0.6"], options, "--models", "1") as server:
        name = server.get("/pa-lite/state")["name"]
        for i in range(2 * options.repeat + 1):
            for times, lam in ((moved, _LAMS[i % 3]), (still, _LAMS[i % 3])):
                group = together(server.port, prompts.bodies(1, 32, 4, f"{name}@{lam}"))
                times.append(group.replies[0].first)
    costs = [a - b for a, b in zip(moved[1:], still[1:], strict=True)]
    return [
        Row("time to the first token at the lam in memory", still[1:]),
        Row("a move to another lam adds", costs),
    ]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def prepare(folder: Path) -> tuple[Path, Path]:
    """Make the pair and its merged file, unless they are there; return them."""
    pair, file = folder / "serve-135m", folder / "serve-135m-F16.gguf"
    if not pair.is_dir():
        _say("making the pair")
        make_pair(pair, replace(SIZES["135m"]), _VOCAB)
    if not file.is_file():
        pa_lite.merge(pair / "base", pair / "instruct", lam=0.6, type="F16", output=file)
    return pair, file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    folder = Path(tempfile.gettempdir()) / "pa-lite-bench"
    parser.add_argument("--llama-server", type=Path, metavar="FILE", help="llama.cpp's server (default: on PATH)")
    parser.add_argument("--work", type=Path, default=folder, metavar="DIR", help=f"folder for the pair ({folder})")
    parser.add_argument("--repeat", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="threads (default: 2)")
    parser.add_argument("--max-tokens", type=int, default=128, help="new tokens of each stream (default: 128)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and the machine's facts there")


def run(options: argparse.Namespace) -> None:
    """Measure everything in turn, print the table, write the JSON file."""
    options.llama_server = options.llama_server or shutil.which("llama-server")
    pair, file = prepare(options.work)
    facts, prompts = machine(None), Prompts()
    if options.llama_server is None:
        _say("llama-server was not found: only lams are compared. Name it with --llama-server.")
    rows = [] if options.llama_server is None else against(file, options, prompts)
    rows += [*several(pair, options, prompts), *moving(pair, options, prompts)]
    show(rows)
    if options.json is not None:
        write_json(options.json, vars(options), facts, rows, [])
