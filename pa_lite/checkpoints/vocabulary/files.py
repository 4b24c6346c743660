"""Read and check the files that describe a tokenizer, once for everything that uses them."""

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
    """A cache of parsed files for both sides of a pair, whose files mostly have the same content."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[object, Any]] = {}  # per name only the last result, to save memory

    def made(self, name: str, key: object, compute: Callable[[], Any]) -> Any:
        """Return the result of `compute`, cached for the last key under this name."""
        if name not in self._made or self._made[name][0] != key:
            self._made.pop(name, None)
            self._made[name] = key, compute()
        return self._made[name][1]

    def definition(self, path: Path) -> tuple[bytes, dict[str, Any]]:
        """Return the digest of a tokenizer.json, and what `read_definition` returns, which must not be changed."""
        key = content_digest(path)
        return key, self.made("definition", key, lambda: read_definition(path))

    def model(self, path: Path) -> SentencePieceModel:
        """Return what `read_sentencepiece` returns for a tokenizer.model; it must not be changed."""
        found: SentencePieceModel = self.made("model", content_digest(path), lambda: read_sentencepiece(path))
        return found


@dataclass(frozen=True, kw_only=True)
class TokenizerFiles:
    """The tokenizer files of a checkpoint: tokenizer.json and tokenizer_config.json ({} if missing), and config.json.

    In `definition` the vocab is TrainedTokens and the merges are Merges. `config` is config.json, `generation`
    generation_config.json; `architecture` is the name of the model's class in transformers, `size` the number of rows
    of the embedding. `seen` caches parsed files; `digest` identifies the content of tokenizer.json. With
    `ignores_model`, a tokenizer.model is ignored.
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
        """Return whether there is a tokenizer.model that counts."""
        return not self.ignores_model and (self.folder / MODEL).is_file()

    @property
    def rules(self) -> TokenizerRules:
        """Return the tokenizer rules of the family; for an unknown family, the usual ones."""
        family = FAMILIES.get(self.architecture)
        return TokenizerRules() if family is None else family.tokenizer

    @property
    def where(self) -> Path:
        return self.folder / (DEFINITION if self.definition else MODEL)

    @property
    def known_by(self) -> tuple[object, ...]:
        """Return the cache key of the tokens if no tokenizer.model is read; mostly the same for both sides of a pair.

        Of tokenizer.json it covers everything, of the other files only the added tokens that `settle` returned.
        """
        added = hashlib.sha256(repr(self.added_tokens()).encode("utf-8")).digest()
        return self.digest, added, self.size, self.architecture

    @property
    def model(self) -> Mapping[str, Any]:
        """Return `model` of tokenizer.json: vocabulary and merges."""
        return self.definition.get("model") or {}

    def added_tokens(self) -> list[AddedToken]:
        """Return `added_tokens` of tokenizer.json. Raises CheckpointError for one without text or id."""
        entries, where = self.definition.get("added_tokens") or [], self.folder / DEFINITION
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise CheckpointError(f"{where}: broken tokenizer definition: added_tokens is not a list of tables.")
        return [_added(entry, entry.get("id"), where) for entry in entries]

    def decoder_tokens(self) -> list[AddedToken] | None:
        """Return `added_tokens_decoder` of tokenizer_config.json; None if missing, as in newer files."""
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
    """Return whether an added token is a control token: marked as special, or with the text of one."""
    return token.special or looks_special(token.text)


def trained_tokens(files: TokenizerFiles) -> TrainedTokens:
    """Return `vocab` of tokenizer.json, text -> id. Raises CheckpointError unless ids are different integers."""
    vocab = files.model.get("vocab")
    if not isinstance(vocab, TrainedTokens) or vocab.fault:
        raise CheckpointError(f"{files.where}: broken tokenizer definition: vocab is not a table of token ids.")
    if not vocab.are_ids_different:
        raise CheckpointError(f"{files.where}: broken tokenizer definition: two tokens have the same id.")
    return vocab


def merge_pairs(files: TokenizerFiles) -> Merges:
    """Return the BPE merges in order of rank. Raises CheckpointError for a merge without two parts."""
    merges = files.model.get("merges")
    if not isinstance(merges, Merges):
        raise CheckpointError(f"{files.where}: broken tokenizer definition: the merges are missing.")
    if merges.fault is not None:
        raise CheckpointError(
            f"{files.where}: broken tokenizer definition: {merges.fault} is not a merge of two parts."
        )
    return merges


def read_optional(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, {} if the file does not exist. Raises CheckpointError for a broken file."""
    return read_json(path) if path.is_file() else {}


def content_digest(path: Path) -> bytes:
    """Return the SHA-256 of a file's content, empty if it does not exist. Raises CheckpointError."""
    if not path.is_file():
        return b""
    digest = hashlib.sha256()
    with json_errors(path):
        if (size := size_of(path)) > MAX_JSON:
            raise ValueError(f"{size} bytes are over the limit")
        with open_regular(path) as f:
            while piece := f.read(1 << 18):
                digest.update(piece)
    return digest.digest()


def read_definition(path: Path, piece: int = PIECE) -> dict[str, Any]:
    """Return a tokenizer.json with vocab as TrainedTokens and merges as Merges; {} if the file does not exist.

    `piece` is the number of bytes to parse at a time. Raises CheckpointError for a broken file.
    """
    if not path.is_file():
        return {}
    cuts: dict[Cut, Sink] = {
        (("model", "vocab"), b"{"): TokensSink(), (("model", "vocab"), b"["): Sink(),
        (("model", "merges"), b"["): MergesSink(), (("added_tokens",), b"["): ListSink(),
    }  # fmt: skip
    return read_large_json(path, cuts, piece)


def read_settings(path: Path, piece: int = PIECE) -> dict[str, Any]:
    """Return a tokenizer_config.json, {} if it does not exist. Raises CheckpointError for a broken file."""
    if not path.is_file():
        return {}
    return read_large_json(path, {(("added_tokens_decoder",), b"{"): ObjectSink()}, piece)


def read_files(folder: Path, config: Mapping[str, Any], seen: Seen | None = None) -> TokenizerFiles:
    """Read the tokenizer files of a checkpoint folder; `config` has vocab_size and the architecture.

    A tokenizer.json with the same content as one in `seen` is not parsed again. Raises CheckpointError for broken JSON
    and for an invalid vocab_size.
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
