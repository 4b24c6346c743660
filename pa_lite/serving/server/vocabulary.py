"""Texts of tokens, and tokens of texts, for requests: computed in threads, because a move may hold the vocabulary."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pa_lite.errors import PaLiteError
from pa_lite.serving.host import Host
from pa_lite.serving.server.errors import ApiError, bad_request

_MOST = 50_000  # tokens whose texts are kept


class TokenText(NamedTuple):
    """The text of a token, and its bytes; control tokens have a name in the vocabulary as text, and no bytes.

    The text of bytes that are not UTF-8 is written as OpenAI does: `bytes:\\xe2\\x80`. `is_end` is set for tokens that
    end a generation.
    """

    text: str
    raw: bytes
    is_end: bool


class Vocabulary:
    """The vocabulary of a host, with a cache of the texts of tokens. For one event loop."""

    def __init__(self, host: Host) -> None:
        """Read the size and the special tokens."""
        self._host = host
        self._texts: dict[int, TokenText] = {}
        with host.models.vocabulary() as model:
            self.size: int = model.n_vocab
            self.bos, self.eos = model.special_text("bos"), model.special_text("eos")
            self.adds_special = bool(model.tokenize("", True))  # BOS or EOS, to each text

    async def texts(self, tokens: Iterable[int]) -> Mapping[int, TokenText]:
        """Return the texts of tokens, among others."""
        if len(self._texts) > _MOST:
            self._texts = {}
        texts = self._texts  # others may use it meanwhile
        missing = set(tokens) - texts.keys()
        if missing:
            texts.update(await asyncio.to_thread(self._read, missing))
        return texts

    def _read(self, tokens: Iterable[int]) -> dict[int, TokenText]:
        with self._host.models.vocabulary() as model:
            pieces = {token: model.piece(token) for token in tokens}
            return {
                token: TokenText(_text_of(raw) if raw else model.token_text(token), raw, model.is_end(token))
                for token, raw in pieces.items()
            }

    async def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens together."""
        texts = await self.texts(tokens)
        return b"".join(texts[token].raw for token in tokens).decode("utf-8", "replace")

    async def ids(self, text: str, add_special: bool, where: str, parse_special: bool = False) -> list[int]:
        """Return the ids of a text; see `Host.tokenize`. Raises the HTTP error 400 for one that has none."""
        try:
            return await asyncio.to_thread(self._host.tokenize, text, add_special, parse_special)
        except PaLiteError as e:
            raise bad_request(e, where) from e

    def check(self, tokens: Sequence[int], where: str) -> None:
        """Raise the HTTP error 400 for an id that the vocabulary does not have."""
        wrong = next((token for token in tokens if not 0 <= token < self.size), None)
        if wrong is not None:
            shown = str(wrong) if wrong.bit_length() < 64 else "a number of more than 63 bits"
            raise ApiError(400, f"{where}: {shown} is not a token id; ids are from 0 to {self.size - 1}.", param=where)


def _text_of(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
