"""Keep control tokens that a user's text spells out as text, whatever a chat template does with it."""

from __future__ import annotations

import re

from pa_lite.engine.model import Model
from pa_lite.engine.space_prefix import LongestTokens
from pa_lite.errors import TextError

_START, _END = "\ue000\ue0a7", "\ue001"  # private characters around the one that replaces a control token
_HIDDEN = re.compile(f"{_START}([\ue100-\uf8ff]){_END}")
_FIRST_HIDDEN, _MOST_HIDDEN = 0xE100, 0xF8FF - 0xE100


class HiddenTokens:
    """Replaces control tokens in untrusted texts by private characters while a template is rendered.

    Then all control tokens of the rendered text come from the template, whatever it does with the texts.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._words: list[str] = []
        self._numbers: dict[str, int] = {}

    def hide(self, text: str) -> str:
        """Return the text with its control tokens replaced. Raises TextError for too many different ones."""
        while controls := set(controls_in(self._model, text)):
            found = LongestTokens({word: t for t in controls if (word := self._model.token_text(t))})
            out, at = list[str](), 0
            for start, end, _ in found.find(text):
                out += [text[at:start], self._stand_in(text[start:end])]
                at = end
            if not out:
                raise TextError(f"contains control tokens of the model that cannot be replaced: {text[:60]!r}")
            text = "".join((*out, text[at:]))
        return text

    def _stand_in(self, word: str) -> str:
        number = self._numbers.setdefault(word, len(self._words))
        if number == len(self._words):
            if number == _MOST_HIDDEN:
                del self._numbers[word]
                raise TextError(f"contains more than {_MOST_HIDDEN} different control tokens. Leave some out")
            self._words.append(word)
        return _START + chr(_FIRST_HIDDEN + number) + _END

    def _shown(self, text: str) -> str:
        def word(found: re.Match[str]) -> str:
            at = ord(found[1]) - _FIRST_HIDDEN
            return self._words[at] if at < len(self._words) else found[0]

        return _HIDDEN.sub(word, text)

    def tokens(self, text: str) -> list[int]:
        """Return the ids of a rendered text; replaced tokens become text again, tokenised together with its context."""
        tokens = self._model.tokenize(text, add_special=False, parse_special=True)
        if not self._words or _HIDDEN.search(text) is None:
            return tokens
        out: list[int] = []
        at = 0
        for token in filter(self._model.is_control, tokens):
            start = text.index(word := self._model.token_text(token), at)
            out += [*self._plain(text[at:start], is_start=at == 0), token]
            at = start + len(word)
        return out + self._plain(text[at:], is_start=at == 0)

    def _plain(self, text: str, is_start: bool) -> list[int]:
        if not text:
            return []
        return self._model.tokenize(self._shown(text), add_special=False, parse_special=False, is_start=is_start)


def controls_in(model: Model, text: str) -> list[int]:
    """Return the ids of the control tokens in a text, in order."""
    return [t for t in model.tokenize(text, add_special=False, parse_special=True) if model.is_control(t)]
