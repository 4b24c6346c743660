"""`python -m tools.load vanish`: clients are killed at random moments, and nothing of theirs may stay."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time

from tools.load.answers import Memory, Question, ask, learn, left_over
from tools.servers import Server, pa_lite_server

_MOST_GROWTH = 20e6  # bytes
_LONGEST = 1.5  # seconds that a client lives
_AT_ONCE = 4
_CLIENT = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], sys.argv[2].encode(), {"Content-Type": "application/json"})
while True:
    with urllib.request.urlopen(request) as reply:
        while reply.read(1):
            pass
"""


def _start(server: Server, question: Question, rng: random.Random) -> subprocess.Popen[bytes]:
    body = {**question.body, "max_tokens": rng.choice((8, 100, 200)), "stream": rng.random() < 0.7}
    url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
    words = [sys.executable, "-c", _CLIENT, url, json.dumps(body)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the campaign's options."""
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> list[str]:
    """Run the campaign, print its line, and return what was broken."""
    rng, findings, n_checked = random.Random(options.seed), list[str](), 0
    with pa_lite_server("demo", "--parallel", "4", "--n-ctx", "256") as server:
        questions = learn(server, options.seed)
        memory = Memory(server, 1.0)
        for number in range(0, options.rounds, _AT_ONCE):
            clients = [
                _start(server, rng.choice(questions), rng) for _ in range(min(_AT_ONCE, options.rounds - number))
            ]
            for client in clients:
                time.sleep(rng.random() * _LONGEST / _AT_ONCE)
                client.kill()
                client.wait()
            if server.process.poll() is not None:
                findings.append("the server is gone")
                break
            question = rng.choice(questions)
            n_checked += 1
            if not question.fits(ask(server, question.body)["choices"][0]["message"]["content"]):
                findings.append(f"a wrong answer after {number} rounds at {question.lam}")
        memory.stop()
        time.sleep(2)
        findings += left_over(server)
        if memory.growth > _MOST_GROWTH:
            findings.append(f"memory grew by {memory.growth / 1e6:.1f} MB")
    print(
        f"| vanish | {options.rounds} clients killed | {n_checked} answers in between, all right | "
        f"{memory.growth / 1e6:+.1f} MB | {len(findings)} |"
    )
    return findings[:20]
