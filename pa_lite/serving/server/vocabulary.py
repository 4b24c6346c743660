"""Texts of tokens, and tokens of texts, for requests: computed in threads, because a move may hold the vocabulary."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from pa_lite.errors import PaLiteError
from pa_lite.serving.host import Host
from pa_lite.serving.server.errors import ApiError, bad_request

_MOST = 50_000  # tokens whose bytes are kept


class Vocabulary:
    """The vocabulary of a host, with a cache of the bytes of tokens. For one event loop."""

    def __init__(self, host: Host) -> None:
        """Read the size and the special tokens."""
        self._host = host
        self._pieces: dict[int, bytes] = {}
        with host.models.vocabulary() as model:
            self.size: int = model.n_vocab
            self.bos, self.eos = model.special_text("bos"), model.special_text("eos")

    async def pieces(self, tokens: Iterable[int]) -> Mapping[int, bytes]:
        """Return the bytes of tokens, among others."""
        if len(self._pieces) > _MOST:
            self._pieces = {}
        pieces = self._pieces  # others may use it meanwhile
        missing = set(tokens) - pieces.keys()
        if missing:
            pieces.update(await asyncio.to_thread(self._read, missing))
        return pieces

    def _read(self, tokens: Iterable[int]) -> dict[int, bytes]:
        with self._host.models.vocabulary() as model:
            return {token: model.piece(token) for token in tokens}

    async def ids(self, text: str, add_special: bool, where: str) -> list[int]:
        """Return the ids of a text. Raises the HTTP error 400 for one that the tokenizer cannot take."""
        try:
            return await asyncio.to_thread(self._host.tokenize, text, add_special)
        except PaLiteError as e:
            raise bad_request(e, where) from e

    def check(self, tokens: Sequence[int], where: str) -> None:
        """Raise the HTTP error 400 for an id that the vocabulary does not have."""
        wrong = next((token for token in tokens if not 0 <= token < self.size), None)
        if wrong is not None:
            shown = str(wrong) if wrong.bit_length() < 64 else "a number of more than 63 bits"
            raise ApiError(400, f"{where}: {shown} is not a token id; ids are from 0 to {self.size - 1}.", param=where)
