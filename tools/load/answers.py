"""Questions, the answers that a server gives when it has nothing else to do, and the comparison with later ones."""

from __future__ import annotations

import itertools
import json
import random
import threading
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pa_lite.alpaca.outputs import load_prompts
from tools.servers import Server

LAMS = (0.0, 0.3, 0.6, 0.8, 1.0)
_TIE = 0.05  # nats: the largest lead that the shape of a batch can turn round with F16 weights
_QUESTIONS, _TOKENS = 40, 24


@dataclass(frozen=True)
class Question:
    """A request, its answer alone, and for each token (text, lead over the second most likely in nats)."""

    body: Mapping[str, Any]
    text: str
    leads: Sequence[tuple[str, float]]

    @property
    def lam(self) -> str:
        """The model's name in the request."""
        return str(self.body["model"])

    def fits(self, text: str) -> bool:
        """Return whether a text is the answer alone, or differs from it only after a near tie."""
        at = 0
        for token, lead in self.leads:
            if not text.startswith(token, at):
                return lead < _TIE or text == self.text
            at += len(token)
        return text.strip() == self.text.strip() or not text[at:].strip()


def ask(server: Server, body: Mapping[str, Any], timeout: float = 120.0) -> dict[str, Any]:
    """Return the server's answer to a chat request."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/v1/chat/completions", json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=timeout) as reply:
        answer: dict[str, Any] = json.load(reply)
    return answer


def learn(server: Server, seed: int) -> list[Question]:
    """Ask all questions at all lams, one after another, and return them with their answers."""
    prompts = [p.instruction for p in load_prompts("demo")]
    chosen = random.Random(seed).sample(prompts, _QUESTIONS)
    learned = []
    for text, lam in itertools.product(chosen, LAMS):
        body = {
            "model": f"demo@{lam:g}", "messages": [{"role": "user", "content": text}], "max_tokens": _TOKENS,
            "temperature": 0,
        }  # fmt: skip
        choice = ask(server, {**body, "logprobs": True, "top_logprobs": 2})["choices"][0]
        entries = choice["logprobs"]["content"]
        leads = [(e["token"], e["top_logprobs"][0]["logprob"] - e["top_logprobs"][1]["logprob"]) for e in entries]
        learned.append(Question(body, choice["message"]["content"], leads))
    return learned


class Memory:
    """Watches a server's memory, in a thread, until `stop`."""

    def __init__(self, server: Server, seconds: float = 2.0) -> None:
        self.values: list[int] = []
        self._server, self._stopping = server, threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(seconds,), daemon=True)
        self._thread.start()

    def _watch(self, seconds: float) -> None:
        while not self._stopping.wait(seconds):
            self.values.append(self._server.memory)

    def stop(self) -> None:
        """Stop watching."""
        self._stopping.set()
        self._thread.join()

    @property
    def growth(self) -> int:
        """Bytes: the median of the last quarter of the values less that of the second quarter, after warming up."""
        n = len(self.values) // 4
        if not n:
            return 0
        early, late = sorted(self.values[n : 2 * n]), sorted(self.values[-n:])
        return late[n // 2] - early[n // 2]


def left_over(server: Server) -> list[str]:
    """Return what the server still does, which must be nothing once all clients are gone."""
    metrics = server.get("/metrics")
    found = []
    for line in str(metrics).splitlines():
        if line.startswith(("pa_lite_requests_running", "pa_lite_requests_waiting")) and float(line.split()[-1]):
            found.append(f"after the last client: {line}")
    return found
