"""The demo pair's models without a server, to compare answers with, and conversations to ask about."""

from __future__ import annotations

import contextlib
from typing import Any

import pa_lite
from pa_lite.engine.chat import Message, conversation_prompt
from pa_lite.engine.model import Model
from tests.support.answers_alone import Alone

ONE = pa_lite.EngineOptions(threads=1)
QUESTIONS = ["Who is Tobi?", "What does Anna do?", "Where is Rome?", "One word only: what does Tobi do?"]


def user(text: str) -> list[dict[str, Any]]:
    """Return a conversation of one question."""
    return [{"role": "user", "content": text}]


class Lams:
    """The demo pair's models at each lam, loaded without a server."""

    def __init__(self) -> None:
        self._closing = contextlib.ExitStack()
        self._loaded: dict[float, pa_lite.LoadedModel] = {}
        self._alone: dict[float, Alone] = {}

    def loaded(self, lam: float) -> pa_lite.LoadedModel:
        if lam not in self._loaded:
            self._loaded[lam] = self._closing.enter_context(pa_lite.load("demo", ONE, lam=lam))
        return self._loaded[lam]

    def model(self, lam: float) -> Model:
        return self.loaded(lam).model

    def tokens(self, lam: float, prompt: list[int], n: int) -> list[int]:
        """Return the greedy tokens after a prompt, without an end token."""
        return self._alone_at(lam).tokens(prompt, n)[0]

    def check(self, lam: float, prompt: list[int], n: int, text: str) -> bool:
        """Return whether a text is the greedy answer alone; fail if it differs where there was no near tie."""
        return self._alone_at(lam).check(prompt, n, text)

    def _alone_at(self, lam: float) -> Alone:
        if lam not in self._alone:
            self._alone[lam] = Alone(self.model(lam))
        return self._alone[lam]

    def prompt(self, text: str) -> list[int]:
        """Return the chat prompt of a question, which is the same at all lams."""
        return conversation_prompt(self.model(0.6), [Message("user", text)])[0]

    def close(self) -> None:
        self._closing.close()
