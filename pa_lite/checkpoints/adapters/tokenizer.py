"""The vocabulary of a base with an adapter: the adapter's tokenizer and chat template where its folder has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pa_lite.checkpoints.checkpoint import Checkpoint, Vocabulary
from pa_lite.checkpoints.config import read_config
from pa_lite.checkpoints.families.family import Family
from pa_lite.checkpoints.safetensors_file import read_json
from pa_lite.checkpoints.vocabulary import read_vocabulary
from pa_lite.checkpoints.vocabulary.chat_templates import chat_templates
from pa_lite.checkpoints.vocabulary.files import DEFINITION, MODEL, SETTINGS, Seen, read_settings
from pa_lite.errors import CheckpointError


def vocabulary_loader(folder: Path, base: Checkpoint, family: Family, size: int) -> Callable[..., Vocabulary]:
    """Return the function that reads the vocabulary of a base with the adapter in a folder.

    `size` is the number of rows of the embedding. A GGUF base keeps its vocabulary, because its settings are not those
    of transformers; only the chat template is the adapter's.
    """

    def load(seen: Seen | None = None) -> Vocabulary:
        has_tokenizer = any((folder / name).is_file() for name in (DEFINITION, MODEL))
        if base.is_gguf or (not has_tokenizer and size == base.tensors["token_embd.weight"].rows):
            return _with_template(base.load_vocabulary(seen), folder)
        base_folder = base.path if base.path.is_dir() else base.path.parent
        raw = read_json(base_folder / "config.json")
        config = {**read_config(raw, family.defaults, str(base_folder / "config.json")).values, "vocab_size": size}
        if not has_tokenizer:
            return _with_template(read_vocabulary(base_folder, config, seen), folder)
        try:
            found = read_vocabulary(folder, config, seen)
        except CheckpointError as e:
            raise CheckpointError(
                f"{e} The embedding has {size} rows. To use the base's tokenizer, remove the adapter's tokenizer files."
            ) from e
        return found

    return load


def _with_template(vocabulary: Vocabulary, folder: Path) -> Vocabulary:
    """Return a vocabulary with the chat templates of a folder, if it has any."""
    templates, remarks = chat_templates(folder, read_settings(folder / SETTINGS))
    if not templates:
        return vocabulary
    kept = {key: e for key, e in vocabulary.metadata.items() if not key.startswith("tokenizer.chat_template")}
    return replace(vocabulary, metadata={**kept, **templates}, remarks=(*vocabulary.remarks, *remarks))
