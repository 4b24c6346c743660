"""Read config.json of any transformers version into one form; values are looked up by name and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pa_lite.errors import CheckpointError

_MAX_COUNT = 2**31  # far above any real count; GGUF could store twice as much
_SMALLEST, _LARGEST = 1.2e-38, 3.4e38  # of float32, in which GGUF stores numbers
_RENAMED = {"num_experts": "num_local_experts"}  # before transformers 5 -> since then
# settings of a wrapper that override its text_config
_OF_THE_ROOT = ("architectures", *(f"{role}_token_id" for role in ("bos", "eos", "unk", "sep", "pad")))


@dataclass(frozen=True)
class Config:
    """A model's settings; `where` names the file in errors. A null counts as not given."""

    values: Mapping[str, Any]
    where: str

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def number(self, key: str) -> float:
        """Return a positive number that float32 can hold. Raises CheckpointError."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _SMALLEST < value < _LARGEST:
            raise CheckpointError(f"{self.where}: {key} is {value!r}, but must be a positive number.")
        return value

    def count(self, key: str) -> int:
        """Return a positive integer. Raises CheckpointError."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _MAX_COUNT:
            raise CheckpointError(f"{self.where}: {key} is {value!r}, but must be a positive integer.")
        return value

    def table(self, key: str) -> dict[str, Any]:
        """Return a JSON object, empty when not given. Raises CheckpointError."""
        value = self.get(key)
        if value is not None and not isinstance(value, dict):
            raise CheckpointError(f"{self.where}: {key} is {value!r}, but must be a JSON object.")
        return dict(value or {})

    def refuse(self, key: str, why: str) -> CheckpointError:
        """Return the error for a value that cannot be converted to GGUF."""
        return CheckpointError(f"{self.where}: {key} is {self.get(key)!r}, but {why}.")


def read_config(raw: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> Config:
    """Return the settings of the text model, with the defaults of its family for those not given.

    A wrapper's `text_config` overrides the root, except for class names and ids of special tokens that the root has.
    The number of key-value heads defaults to that of query heads. Raises CheckpointError for a broken `text_config`.
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
