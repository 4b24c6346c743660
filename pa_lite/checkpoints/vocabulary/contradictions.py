"""Resolve contradictions between tokenizer files as transformers 5 does, with a remark for each choice.

Measured with transformers 5.24. llama.cpp's converter differs: it prefers tokenizer.model, always reads
added_tokens.json, and only uses the first end token of config.json.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pa_lite.checkpoints.vocabulary.byte_level_bpe import is_byte_level_bpe
from pa_lite.checkpoints.vocabulary.files import (
    DEFINITION,
    MODEL,
    SETTINGS,
    AddedToken,
    TokenizerFiles,
    content_digest,
    merge_pairs,
    read_optional,
    token_text,
    trained_tokens,
)
from pa_lite.checkpoints.vocabulary.sentencepiece import is_sentencepiece
from pa_lite.checkpoints.vocabulary.sentencepiece_model import SentencePieceModel
from pa_lite.checkpoints.vocabulary.tokens import NORMAL
from pa_lite.checkpoints.vocabulary.trained import Merges
from pa_lite.errors import CheckpointError
from pa_lite.ggml.packed import PackedNumbers

_MAP, _ADDED, _GENERATION = "special_tokens_map.json", "added_tokens.json", "generation_config.json"
_NAMED = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_LISTS = ("additional_special_tokens", "extra_special_tokens")


def settle(files: TokenizerFiles) -> tuple[TokenizerFiles, list[str]]:
    """Return the files as transformers reads them, and a remark for each choice between two that differ.

    Raises CheckpointError, naming both files, where transformers' choice depends on the tokenizer's class.
    """
    remarks: list[str] = []
    files = _follow_special_tokens_map(files, remarks)
    files = _choose_vocabulary(files, remarks)
    if files.decoder_tokens() is None:
        files = _with_legacy_tokens(files)
    elif not files.has_model:
        files = _with_decoder_tokens(files, remarks)
    return _settle_ends(files, remarks), remarks


def _follow_special_tokens_map(files: TokenizerFiles, remarks: list[str]) -> TokenizerFiles:
    """Take special tokens from special_tokens_map.json if there is no added_tokens_decoder, which replaced it."""
    if files.decoder_tokens() is not None:
        return files
    named = {k: v for k, v in read_optional(files.folder / _MAP).items() if k in (*_NAMED, *_LISTS)}
    for key in _NAMED:
        ours, theirs = token_text(files.settings.get(key)), token_text(named.get(key))
        if ours is not None and theirs is not None and ours != theirs:
            remarks.append(
                f"{files.folder}: {key} is {ours!r} in {SETTINGS} and {theirs!r} in {_MAP}; using the latter, as "
                "transformers does"
            )
    return replace(files, settings={**files.settings, **named}) if named else files


def _choose_vocabulary(files: TokenizerFiles, remarks: list[str]) -> TokenizerFiles:
    """Ignore tokenizer.model if tokenizer.json disagrees with it. If they agree, its scores are used."""
    if not files.has_model or not files.model:
        return files
    if is_byte_level_bpe(files):
        return files  # its tokenizer.model is tiktoken's
    if not is_sentencepiece(files):
        raise CheckpointError(
            f"{files.folder}: {DEFINITION}, which transformers uses, has a {files.model.get('type', 'BPE')} "
            f"vocabulary that cannot be converted, and {MODEL} another. Use both files of one checkpoint."
        )
    replaced = frozenset(token.id for token in (*files.added_tokens(), *(files.decoder_tokens() or ())))
    path = files.folder / MODEL
    key = (files.digest, content_digest(path), replaced)
    difference = files.seen.made("difference", key, lambda: _difference(files, files.seen.model(path), replaced))
    if difference is None:
        return files
    remarks.append(
        f"{files.folder}: {DEFINITION} and {MODEL} disagree ({difference}); using {DEFINITION}, as transformers does"
    )
    return replace(files, ignores_model=True)


def _difference(files: TokenizerFiles, model: SentencePieceModel, replaced: Collection[int]) -> str | None:
    """Return the first difference between tokenizer.json and tokenizer.model in tokens or merge order, else None.

    Tokens that are `replaced` by added ones do not count.
    """
    trained, texts = trained_tokens(files), model.texts
    differing, is_held = len(texts), np.zeros(len(texts), np.bool_)
    ours, more = "", None  # description of the token that differs; the first that is only in tokenizer.json
    for raw, i in zip(trained.all_encoded(), PackedNumbers(trained.ids), strict=True):
        if 0 <= i < len(texts):
            is_held[i] = True
            if i < differing and raw != texts[i] and not _is_that_byte(raw, texts[i]) and i not in replaced:
                differing, ours = i, repr(raw.decode())
        elif i >= len(texts) and more is None and i not in replaced:
            more = i, raw.decode()
    missing = next((i for i in np.flatnonzero(~is_held).tolist() if i not in replaced), differing)
    if missing < differing:
        differing, ours = missing, "not in it"
    if differing < len(texts):
        return f"token {differing} is {texts[differing].decode()!r} in {MODEL} and {ours} in {DEFINITION}"
    if more is not None:
        return f"token {more[0]}, {more[1]!r}, is only in {DEFINITION}"
    return _difference_of_order(merge_pairs(files), model)


def _is_that_byte(raw: bytes, piece: bytes) -> bool:
    """Return whether a token is the character of a byte piece; Gemma-2's tokenizer.json has a tab for <0x09>."""
    return len(raw) == 1 and piece == b"<0x%02X>" % raw[0]


def _difference_of_order(merges: Merges, model: SentencePieceModel) -> str | None:
    """Return the first merge whose piece has a higher score than the piece of the merge before, else None."""
    normal = np.flatnonzero(model.types == NORMAL)
    hashes = np.fromiter((hash(model.texts[i]) for i in PackedNumbers(normal)), np.int64, len(normal))
    order = np.argsort(hashes, kind="stable")
    hashes, normal = hashes[order], normal[order]
    last, former = math.inf, b""
    for made, _ in merges.batches():
        wanted = np.fromiter(map(hash, made), np.int64, len(made))
        firsts, ends = np.searchsorted(hashes, wanted), np.searchsorted(hashes, wanted, "right")
        found = np.full(len(made), -1, np.int64)
        for k in np.flatnonzero(firsts < ends).tolist():  # more than one only if two texts have the same hash
            same = (i for i in normal[firsts[k] : ends[k]].tolist() if model.texts[i] == made[k])
            found[k] = next(same, -1)
        hits = np.flatnonzero(found >= 0)
        if not len(hits):
            continue
        scores = np.concatenate([[last], model.scores[found[hits]].astype(np.float64)])
        rising = np.flatnonzero(scores[1:] > scores[:-1])
        if len(rising):
            k = int(rising[0])
            before = made[hits[k - 1]] if k else former
            return (
                f"{made[hits[k]].decode()!r} is merged after {before.decode()!r} in {DEFINITION} and before it in "
                f"{MODEL}"
            )
        last, former = float(scores[-1]), made[hits[-1]]
    return None


def _with_legacy_tokens(files: TokenizerFiles) -> TokenizerFiles:
    """Add the tokens of added_tokens.json (the layout of 2023, where other files say which are special).

    Tokens with a role and additional special tokens are special, those of special_tokens_map.json too, although
    transformers 5 ignores these: user text must not be able to spell them. Entries of tokenizer.json take precedence.
    """
    path = files.folder / _ADDED
    found = read_optional(path)
    if not found:
        return files
    if not all(text and type(i) is int and i >= 0 for text, i in found.items()):
        raise CheckpointError(f"{path}: is not a table of token ids.")
    special = {token_text(files.settings.get(key)) for key in _NAMED}
    for key in _LISTS:
        listed = files.settings.get(key)
        special |= set(map(token_text, listed if isinstance(listed, list) else ()))
    own = {token.text: token for token in files.added_tokens()}
    _check_ids(files, own, {text: AddedToken(i, text, False) for text, i in found.items()}, _ADDED)
    added = [
        {"id": i, "content": text, "special": text in special} for text, i in found.items() if text not in own
    ]  # fmt: skip
    return _with_added(files, [*(files.definition.get("added_tokens") or []), *added])


def _with_decoder_tokens(files: TokenizerFiles, remarks: list[str]) -> TokenizerFiles:
    """Take from added_tokens_decoder which added tokens are special, and the tokens missing in tokenizer.json."""
    if not files.model:
        return files
    own = {token.text: token for token in files.added_tokens()}
    decoder = {token.text: token for token in files.decoder_tokens() or () if token.id < files.size}
    _check_ids(files, own, decoder, SETTINGS)
    differing = [text for text, token in decoder.items() if text in own and own[text].special != token.special]
    if differing:
        remarks.append(
            f"{files.folder}: {DEFINITION} and {SETTINGS} disagree on whether {differing[0]!r} is special"
            f"{_and_more(differing)}; using {SETTINGS}, as transformers does"
        )
    entries = []
    for entry in files.definition.get("added_tokens") or []:
        token = decoder.get(entry["content"])
        entries.append(entry if token is None else {**entry, "special": token.special})
    trained = trained_tokens(files)
    last_trained = int(trained.ids.max()) if len(trained) else -1
    following = 1 + max(last_trained, *(token.id for token in own.values()), -1)
    for token in sorted(decoder.values(), key=lambda token: token.id):
        if token.text in own:
            continue
        expected = trained.get(token.text)
        if expected is None:
            expected, following = following, following + 1
        if token.id != expected:
            raise CheckpointError(
                f"{files.folder}: {SETTINGS} gives the token {token.text!r} the id {token.id}, but "
                f"{DEFINITION} gives it {expected}. Use both files of one checkpoint."
            )
        entries.append({"id": token.id, "content": token.text, "special": token.special})
    return _with_added(files, entries)


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _check_ids(
    files: TokenizerFiles, own: Mapping[str, AddedToken], others: Mapping[str, AddedToken], name: str
) -> None:
    """Raise CheckpointError for a token with two ids; which one counts would depend on the tokenizer's class."""
    for text, token in others.items():
        if text in own and own[text].id != token.id:
            raise CheckpointError(
                f"{files.folder}: the token {text!r} has id {own[text].id} in {DEFINITION} and {token.id} in {name}; "
                "transformers' tokenizer classes differ in which they use. Use both files of one checkpoint."
            )


def _with_added(files: TokenizerFiles, entries: list[Any]) -> TokenizerFiles:
    return replace(files, definition={**files.definition, "added_tokens": entries})


def _settle_ends(files: TokenizerFiles, remarks: list[str]) -> TokenizerFiles:
    """Take the end tokens from generation_config.json, else all of config.json's.

    transformers uses generation_config.json even if it names no end token, and then never stops; here config.json's
    end tokens count in that case.
    """
    ours, theirs = (_ids(part.get("eos_token_id"), files.size) for part in (files.config, files.generation))
    if not theirs:
        return replace(files, generation={**files.generation, "eos_token_id": ours}) if ours else files
    if ours and set(ours) != set(theirs):
        remarks.append(
            f"{files.folder}: eos_token_id is {_shown(ours)} in config.json and {_shown(theirs)} in {_GENERATION}; "
            "using the latter, as transformers does"
        )
    return replace(files, config={**files.config, "eos_token_id": [i for i in ours if i in theirs] or theirs})


def _ids(value: Any, size: int) -> list[int]:
    """Return the token ids in an `eos_token_id`, which can be a list."""
    return [i for i in (value if isinstance(value, list) else [value]) if type(i) is int and 0 <= i < size]


def _shown(ids: list[int]) -> str:
    return str(ids[0] if len(ids) == 1 else ids)
