"""Tokenizer folders for tests, with changes to any file, and the values read from them, by short key."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.vocabulary import read_vocabulary
from tests.support import tiny
from tests.support.vocabularies import PieceFacts, sentencepiece_model

Change = Callable[[dict[str, Any]], Any]

BYTES: list[PieceFacts] = [(f"<0x{b:02X}>", 0.0, 6) for b in range(256)]
WORDS: list[PieceFacts] = [("▁t", -0.0, 1), ("he", -1.0, 1), ("▁the", -2.0, 1), ("▁▁", -3.0, 1), ("▁", -4.0, 1),
                           ("t", -5.0, 1), ("h", -6.0, 1), ("e", -7.0, 1)]  # fmt: skip
PIECES: list[PieceFacts] = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *BYTES, *WORDS]
SIZE = len(PIECES)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), "utf-8")


def change_json(path: Path, change: Change) -> None:
    document = json.loads(path.read_text("utf-8"))
    change(document)
    write_json(path, document)


def read(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return the vocabulary's values by key, without `tokenizer.ggml.`."""
    found = read_vocabulary(folder, config)
    return {key.removeprefix("tokenizer.ggml."): entry.value for key, entry in found.metadata.items()}


def byte_level(
    folder: Path, tokenizer: Change | None = None, settings: Change | None = None, **config: Any
) -> dict[str, Any]:
    """Return what is read from the tiny byte-level BPE tokenizer after changes to its files."""
    tiny.write_tokenizer(folder)
    for name, change in (("tokenizer.json", tokenizer), ("tokenizer_config.json", settings)):
        if change is not None:
            change_json(folder / name, change)
    return read(folder, {**tiny.CONFIG, **config})


def sentencepiece(
    folder: Path,
    settings: dict[str, Any] | None = None,
    pieces: Iterable[PieceFacts] = PIECES,
    architecture: str = "LlamaForCausalLM",
    size: int = SIZE,
    **config: Any,
) -> dict[str, Any]:
    """Return what is read from a tokenizer.model of 256 bytes and a few words, with the other files in the folder."""
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(pieces))
    if settings is not None:
        write_json(folder / "tokenizer_config.json", settings)
    return read(folder, {"architectures": [architecture], "vocab_size": size, **config})


def definition(
    pieces: Iterable[PieceFacts] = PIECES, merges: Iterable[str] = ("▁ t", "h e", "▁t he")
) -> dict[str, Any]:
    """Return the tokenizer.json of such a tokenizer.model."""
    steps = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    return {
        "added_tokens": [{"id": i, "content": t, "special": True} for i, t in enumerate(("<unk>", "<s>", "</s>"))],
        "normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": None, "post_processor": None,
        "model": {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "merges": list(merges),
                  "vocab": {t: i for i, (t, *_) in enumerate(pieces)}},
    }  # fmt: skip
