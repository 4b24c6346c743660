"""The files that describe a tokenizer, read and checked once for all that is made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.families.family import TokenizerRules
from pa_lite.checkpoints.families.table import FAMILIES
from pa_lite.checkpoints.safetensors_file import MAX_JSON, json_errors, read_json
from pa_lite.checkpoints.vocabulary.large_json import (
    PIECE,
    Cut,
    ListSink,
    ObjectSink,
    Sink,
    read_large_json,
)
from pa_lite.checkpoints.vocabulary.sentencepiece_model import SentencePieceModel, read_sentencepiece
from pa_lite.checkpoints.vocabulary.tokens import MAX_TOKENS, looks_special
from pa_lite.checkpoints.vocabulary.trained import Merges, MergesSink, TokensSink, TrainedTokens
from pa_lite.errors import CheckpointError
from pa_lite.system.byte_source import size_of
from pa_lite.system.opening import open_regular

DEFINITION, SETTINGS, MODEL = "tokenizer.json", "tokenizer_config.json", "tokenizer.model"


@dataclass(frozen=True)
class AddedToken:
    """A token that was added to the trained vocabulary."""

    id: int
    text: str
    special: bool


class Seen:
    """What was read for one side of a pair, for the other side, whose files mostly have the same content."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[object, Any]] = {}  # of each kind the last one: two take twice the memory

    def made(self, name: str, key: object, compute: Callable[[], Any]) -> Any:
        """Return what `compute` makes, once for equal keys of one kind that follow each other."""
        if name not in self._made or self._made[name][0] != key:
            self._made.pop(name, None)
            self._made[name] = key, compute()
        return self._made[name][1]

    def definition(self, path: Path) -> tuple[bytes, dict[str, Any]]:
        """Return a tokenizer.json as `read_definition` does, not to be changed, behind what its content is known by."""
        key = content_digest(path)
        return key, self.made("definition", key, lambda: read_definition(path))

    def model(self, path: Path) -> SentencePieceModel:
        """Return a tokenizer.model as `read_sentencepiece` does. It is not to be changed."""
        found: SentencePieceModel = self.made("model", content_digest(path), lambda: read_sentencepiece(path))
        return found


@dataclass(frozen=True)
class TokenizerFiles:
    """A checkpoint's tokenizer: tokenizer.json, tokenizer_config.json (both {} when missing), config.json's say.

    In `definition` the vocab is TrainedTokens and the merges are Merges. `config` is config.json as it stands,
    `generation` generation_config.json; `architecture` is transformers' name of the model's class, `size` the number of
    rows of the embedding. `seen` holds what was parsed so far, and by `digest` tokenizer.json is known from others.
    `ignores_model` leaves a tokenizer.model aside.
    """

    folder: Path
    definition: Mapping[str, Any]
    settings: Mapping[str, Any]
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    architecture: str
    size: int
    seen: Seen
    digest: bytes
    ignores_model: bool = False

    @property
    def has_model(self) -> bool:
        """Whether there is a tokenizer.model to be read."""
        return not self.ignores_model and (self.folder / MODEL).is_file()

    @property
    def rules(self) -> TokenizerRules:
        """What the family's entry says of its tokenizer; of an unknown family, what holds for most."""
        family = FAMILIES.get(self.architecture)
        return TokenizerRules() if family is None else family.tokenizer

    @property
    def where(self) -> Path:
        return self.folder / (DEFINITION if self.definition else MODEL)

    @property
    def known_by(self) -> tuple[object, ...]:
        """What the tokens are made of where no tokenizer.model is read: the same for both sides of most pairs.

        Of tokenizer.json all counts, and of the other files only what `settle` made of the added tokens.
        """
        added = hashlib.sha256(repr(self.added_tokens()).encode("utf-8")).digest()
        return self.digest, added, self.size, self.architecture

    @property
    def model(self) -> Mapping[str, Any]:
        """tokenizer.json's vocabulary and merges."""
        return self.definition.get("model") or {}

    def added_tokens(self) -> list[AddedToken]:
        """tokenizer.json's `added_tokens`. Raises CheckpointError for one without a text or id."""
        entries, where = self.definition.get("added_tokens") or [], self.folder / DEFINITION
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise CheckpointError(f"{where}: broken tokenizer definition: added_tokens is not a list of tables.")
        return [_added(entry, entry.get("id"), where) for entry in entries]

    def decoder_tokens(self) -> list[AddedToken] | None:
        """tokenizer_config.json's `added_tokens_decoder`; None when it has none, as newer ones do not."""
        entries = self.settings.get("added_tokens_decoder")
        if entries is None:
            return None
        where = self.folder / SETTINGS
        if not isinstance(entries, dict) or not all(key.isdecimal() for key in entries):
            raise CheckpointError(f"{where}: added_tokens_decoder is not a table of token ids.")
        return [_added(entry, int(key), where) for key, entry in entries.items()]


def token_text(token: Any) -> str | None:
    """Return the text of a token in tokenizer_config.json: a string, or a table with `content`; else None."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _added(entry: Any, i: Any, where: Path) -> AddedToken:
    text = token_text(entry) if isinstance(entry, dict) else None
    if type(i) is not int or i < 0 or not text:
        raise CheckpointError(f"{where}: broken tokenizer definition: an added token has no text or no id.")
    return AddedToken(i, text, bool(entry.get("special")))


def is_control(token: AddedToken) -> bool:
    """Whether an added token steers the model: marked as special, or looking so."""
    return token.special or looks_special(token.text)


def trained_tokens(files: TokenizerFiles) -> TrainedTokens:
    """Return tokenizer.json's `vocab`, text -> id. Raises CheckpointError unless each id is an integer of one token."""
    vocab = files.model.get("vocab")
    if not isinstance(vocab, TrainedTokens) or vocab.fault:
        raise CheckpointError(f"{files.where}: broken tokenizer definition: vocab is not a table of token ids.")
    if not vocab.are_ids_different:
        raise CheckpointError(f"{files.where}: broken tokenizer definition: two tokens have one id.")
    return vocab


def merge_pairs(files: TokenizerFiles) -> Merges:
    """Return the BPE merges in order of rank. Raises CheckpointError for a merge that has not two parts."""
    merges = files.model.get("merges")
    if not isinstance(merges, Merges):
        raise CheckpointError(f"{files.where}: broken tokenizer definition: it has no merges.")
    if merges.fault is not None:
        raise CheckpointError(
            f"{files.where}: broken tokenizer definition: {merges.fault} is not a merge of two parts."
        )
    return merges


def read_optional(path: Path) -> dict[str, Any]:
    """The JSON object in a file, {} when there is no such file. Raises CheckpointError for a broken one."""
    return read_json(path) if path.is_file() else {}


def content_digest(path: Path) -> bytes:
    """Return the SHA-256 of a file's content, empty if there is no file. Raises CheckpointError."""
    if not path.is_file():
        return b""
    digest = hashlib.sha256()
    with json_errors(path):
        if (size := size_of(path)) > MAX_JSON:
            raise ValueError(f"{size} bytes are too many")
        with open_regular(path) as f:
            while piece := f.read(1 << 18):
                digest.update(piece)
    return digest.digest()


def read_definition(path: Path, piece: int = PIECE) -> dict[str, Any]:
    """Return a tokenizer.json, its vocab as TrainedTokens and its merges as Merges; or {} if there is no file.

    `piece` is how many bytes are parsed at a time. Raises CheckpointError for a broken file.
    """
    if not path.is_file():
        return {}
    cuts: dict[Cut, Sink] = {
        (("model", "vocab"), b"{"): TokensSink(), (("model", "vocab"), b"["): Sink(),
        (("model", "merges"), b"["): MergesSink(), (("added_tokens",), b"["): ListSink(),
    }  # fmt: skip
    return read_large_json(path, cuts, piece)


def read_settings(path: Path, piece: int = PIECE) -> dict[str, Any]:
    """Return a tokenizer_config.json, {} when there is no such file. Raises CheckpointError for a broken file."""
    if not path.is_file():
        return {}
    return read_large_json(path, {(("added_tokens_decoder",), b"{"): ObjectSink()}, piece)


def read_files(folder: Path, config: Mapping[str, Any], seen: Seen | None = None) -> TokenizerFiles:
    """Read a checkpoint folder's tokenizer files; `config` tells vocab_size and the architecture.

    A tokenizer.json of the same content as one in `seen` is not parsed again.
    Raises CheckpointError for broken JSON and for a vocab_size that no tokenizer has.
    """
    size = config.get("vocab_size")
    if type(size) is not int or not 0 < size <= MAX_TOKENS:
        raise CheckpointError(f"{folder / 'config.json'}: vocab_size is {size!r}, but must be 1 to {MAX_TOKENS}.")
    seen = Seen() if seen is None else seen
    digest, definition = seen.definition(folder / DEFINITION)
    names = config.get("architectures")
    raw = read_optional(folder / "config.json") or config
    nested = raw.get("text_config")
    return TokenizerFiles(
        folder=folder,
        definition=definition,
        settings=read_settings(folder / SETTINGS),
        config={**nested, **raw} if isinstance(nested, dict) else raw,
        generation=read_optional(folder / "generation_config.json"),
        architecture=str(names[0]) if isinstance(names, list) and names else "",
        size=size,
        seen=seen,
        digest=digest,
    )
