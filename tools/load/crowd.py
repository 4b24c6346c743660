"""`python -m tools.load crowd`: many clients at once; each answer is compared with that of the same request alone."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from tools.load.answers import Memory, Question, ask, learn, left_over
from tools.servers import Server, pa_lite_server

_MOST_GROWTH = 20e6  # bytes
_PATIENCE = 300.0  # seconds that a client waits for one answer


@dataclass
class Tally:
    """What happened: answers by kind, refusals with Retry-After, and findings."""

    answers: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    findings: list[str] = field(default_factory=list)


async def _request(port: int, question: Question, streams: bool) -> tuple[int, str, str]:
    """Return (status, text, model) of one request, read to its end."""
    text = json.dumps({**question.body, "stream": streams}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + text)
        await writer.drain()
        answer = await reader.read()
    finally:
        writer.close()
    head_text, _, rest = answer.partition(b"\r\n\r\n")
    status = int(head_text.split()[1])
    if status != 200:
        return status, "", ""
    if not streams:
        document = json.loads(_unchunked(head_text, rest))
        return status, document["choices"][0]["message"]["content"], document["model"]
    lines = [line[6:] for line in rest.splitlines() if line.startswith(b"data: ")]
    if not lines or lines[-1] != b"[DONE]":
        return 0, "", ""
    chunks = [json.loads(line) for line in lines[:-1]]
    pieces = [c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]]
    return status, "".join(pieces), chunks[0]["model"]


def _unchunked(head: bytes, body: bytes) -> bytes:
    if b"chunked" not in head.lower():
        return body
    out, at = b"", 0
    while size := int(body[at : (end := body.index(b"\r\n", at))], 16):
        out += body[end + 2 : end + 2 + size]
        at = end + 4 + size
    return out


async def _client(port: int, questions: list[Question], until: float, seed: int, tally: Tally) -> None:
    rng = random.Random(seed)
    while time.monotonic() < until:
        question, streams = rng.choice(questions), rng.random() < 0.5
        try:
            request = _request(port, question, streams)
            status, text, model = await asyncio.wait_for(request, _PATIENCE)
        except (OSError, ValueError, asyncio.TimeoutError) as e:
            tally.findings.append(f"a request was lost: {type(e).__name__}: {e}")
            continue
        if status == 429:
            tally.refused += 1
            await asyncio.sleep(rng.random() * 2)
        elif status != 200:
            tally.findings.append(f"status {status} for {question.lam}")
        elif model != question.lam or not question.fits(text):
            tally.findings.append(f"{question.lam} answered {text!r} by {model}, alone {question.text!r}")
        else:
            tally.answers["same" if text.strip() == question.text.strip() else "near tie"] += 1


async def _crowd(server: Server, questions: list[Question], options: argparse.Namespace, tally: Tally) -> None:
    until = time.monotonic() + 60 * options.minutes
    seeds = range(options.seed, options.seed + options.clients)
    await asyncio.gather(*(_client(server.port, questions, until, seed, tally) for seed in seeds))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the campaign's options."""
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> list[str]:
    """Run the campaign, print its line, and return what was broken."""
    tally = Tally()
    with pa_lite_server("demo", "--parallel", "8", "--n-ctx", "256", "--queue", "256") as server:
        questions = learn(server, options.seed)
        memory = Memory(server)
        asyncio.run(_crowd(server, questions, options, tally))
        memory.stop()
        time.sleep(1)
        tally.findings += left_over(server)
        if memory.growth > _MOST_GROWTH:
            tally.findings.append(f"memory grew by {memory.growth / 1e6:.1f} MB")
        if not questions[0].fits(ask(server, questions[0].body)["choices"][0]["message"]["content"]):
            tally.findings.append("the last answer is not the first one")
    answers = ", ".join(f"{n} {kind}" for kind, n in tally.answers.items())
    print(
        f"| crowd | {options.clients} clients, {options.minutes:g} minutes | {answers}, {tally.refused} times 429 | "
        f"{memory.growth / 1e6:+.1f} MB | {len(tally.findings)} |"
    )
    return tally.findings[:20]
