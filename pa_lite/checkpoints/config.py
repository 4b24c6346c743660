"""config.json in one form, whatever version of transformers wrote it: values are asked for by name and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pa_lite.errors import CheckpointError

_MOST = 2**31  # no count of a model comes near; GGUF would hold twice as much
_SMALLEST, _LARGEST = 1.2e-38, 3.4e38  # of float32, in which GGUF has its numbers
_RENAMED = {"num_experts": "num_local_experts"}  # before transformers 5 -> since then
# what a wrapper says of the whole, whatever its text_config says
_OF_THE_ROOT = ("architectures", *(f"{role}_token_id" for role in ("bos", "eos", "unk", "sep", "pad")))


@dataclass(frozen=True)
class Config:
    """A model's settings; `where` names them in errors. A null counts as not given."""

    values: Mapping[str, Any]
    where: str

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def number(self, key: str) -> float:
        """A positive number that float32 can hold. Raises CheckpointError."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _SMALLEST < value < _LARGEST:
            raise CheckpointError(f"{self.where}: {key} is {value!r}, but must be a positive number.")
        return value

    def count(self, key: str) -> int:
        """A positive whole number. Raises CheckpointError."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _MOST:
            raise CheckpointError(f"{self.where}: {key} is {value!r}, but must be a positive whole number.")
        return value

    def table(self, key: str) -> dict[str, Any]:
        """A JSON object, empty when not given. Raises CheckpointError."""
        value = self.get(key)
        if value is not None and not isinstance(value, dict):
            raise CheckpointError(f"{self.where}: {key} is {value!r}, but must be a JSON object.")
        return dict(value or {})

    def refuse(self, key: str, why: str) -> CheckpointError:
        """The error for a value that cannot be carried over to GGUF."""
        return CheckpointError(f"{self.where}: {key} is {self.get(key)!r}, but {why}.")


def read_config(raw: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> Config:
    """The settings of the text model, with the defaults of its family for what the file leaves out.

    A wrapper's `text_config` is laid over the root; class names and ids of special tokens are the root's, if it has
    them. The number of key and value heads is that of query heads when not given. Raises CheckpointError for a broken
    `text_config`.
    """
    text = Config(raw, where).table("text_config")
    merged = {**raw, **{key: value for key, value in text.items() if value is not None}}
    merged |= {key: raw[key] for key in _OF_THE_ROOT if raw.get(key) is not None}
    merged.pop("text_config", None)
    given = {key: value for key, value in merged.items() if value is not None}
    values = {**defaults, **given}
    for old, new in _RENAMED.items():
        if old in given:
            values.setdefault(new, given[old])
    values.setdefault("num_key_value_heads", values.get("num_attention_heads"))
    return Config(values, where)
