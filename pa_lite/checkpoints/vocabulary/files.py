"""The files that describe a tokenizer, read and checked once for all that is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.safetensors_file import read_json
from pa_lite.checkpoints.vocabulary.tokens import MAX_TOKENS, looks_special
from pa_lite.errors import CheckpointError

DEFINITION, SETTINGS, MODEL = "tokenizer.json", "tokenizer_config.json", "tokenizer.model"


@dataclass(frozen=True)
class AddedToken:
    """A token that was added to the trained vocabulary."""

    id: int
    text: str
    special: bool


@dataclass(frozen=True)
class TokenizerFiles:
    """A checkpoint's tokenizer: tokenizer.json, tokenizer_config.json (both {} when missing), config.json's say.

    `config` is config.json as it stands, `generation` generation_config.json; `architecture` is transformers' name of
    the model's class, `size` the number of rows of the embedding. `ignores_model` leaves a tokenizer.model aside.
    """

    folder: Path
    definition: Mapping[str, Any]
    settings: Mapping[str, Any]
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    architecture: str
    size: int
    ignores_model: bool = False

    @property
    def has_model(self) -> bool:
        """Whether there is a tokenizer.model to be read."""
        return not self.ignores_model and (self.folder / MODEL).is_file()

    @property
    def where(self) -> Path:
        return self.folder / (DEFINITION if self.definition else MODEL)

    @property
    def model(self) -> Mapping[str, Any]:
        """tokenizer.json's vocabulary and merges."""
        return self.definition.get("model") or {}

    def added_tokens(self) -> list[AddedToken]:
        """tokenizer.json's `added_tokens`. Raises CheckpointError for one without a text or id."""
        entries, where = self.definition.get("added_tokens") or [], self.folder / DEFINITION
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise CheckpointError(f"{where}: broken tokenizer definition: added_tokens is no list of tables.")
        return [_added(entry, entry.get("id"), where) for entry in entries]

    def decoder_tokens(self) -> list[AddedToken] | None:
        """tokenizer_config.json's `added_tokens_decoder`; None when it has none, as newer ones do not."""
        entries = self.settings.get("added_tokens_decoder")
        if entries is None:
            return None
        where = self.folder / SETTINGS
        if not isinstance(entries, dict) or not all(key.isdecimal() for key in entries):
            raise CheckpointError(f"{where}: added_tokens_decoder is no table of token ids.")
        return [_added(entry, int(key), where) for key, entry in entries.items()]


def _added(entry: Any, i: Any, where: Path) -> AddedToken:
    text = entry.get("content") if isinstance(entry, dict) else None
    if type(i) is not int or i < 0 or not isinstance(text, str) or not text:
        raise CheckpointError(f"{where}: broken tokenizer definition: an added token has no text or no id.")
    return AddedToken(i, text, bool(entry.get("special")))


def is_control(token: AddedToken) -> bool:
    """Whether an added token steers the model: marked as special, or looking so."""
    return token.special or looks_special(token.text)


def read_optional(path: Path) -> dict[str, Any]:
    """The JSON object in a file, {} when there is no such file. Raises CheckpointError for a broken one."""
    return read_json(path) if path.is_file() else {}


def read_files(folder: Path, config: Mapping[str, Any]) -> TokenizerFiles:
    """Read a checkpoint folder's tokenizer files; `config` tells vocab_size and the architecture.

    Raises CheckpointError for broken JSON and for a vocab_size that no tokenizer has.
    """
    size = config.get("vocab_size")
    if type(size) is not int or not 0 < size <= MAX_TOKENS:
        raise CheckpointError(f"{folder / 'config.json'}: vocab_size is {size!r}, but must be 1 to {MAX_TOKENS}.")
    names = config.get("architectures")
    raw = read_optional(folder / "config.json") or config
    nested = raw.get("text_config")
    return TokenizerFiles(
        folder=folder,
        definition=read_optional(folder / DEFINITION),
        settings=read_optional(folder / SETTINGS),
        config={**nested, **raw} if isinstance(nested, dict) else raw,
        generation=read_optional(folder / "generation_config.json"),
        architecture=str(names[0]) if isinstance(names, list) and names else "",
        size=size,
    )
