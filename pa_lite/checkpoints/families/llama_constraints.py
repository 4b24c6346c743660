"""Check settings of config.json that llama.cpp fixes for an architecture and that GGUF has no key for.

A check raises CheckpointError for a model that llama.cpp would compute wrongly. It returns a warning for a model that
is wrong only for long prompts, else None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pa_lite.checkpoints.config import Config

Check = Callable[[Config], str | None]
FULL, SLIDING = "full_attention", "sliding_attention"


def must_be(key: str, *allowed: Any, given: bool = False) -> Check:
    """Return a check that a setting has one of the `allowed` values or is not given.

    With `given` it must be given, because transformers' default differs. Without allowed values it must not be given:
    models that have it are of another kind.
    """
    shown = " or ".join("none" if value == [] else repr(value) for value in allowed)
    why = f"llama.cpp computes this architecture {f'only with {shown}' if allowed else 'without it'}"

    def check(config: Config) -> None:
        value = config.get(key)
        if value not in allowed and (given or value is not None):
            raise config.refuse(key, why)

    return check


def whole_heads(config: Config) -> None:
    """Check that a head's size is embedding / heads, from which llama.cpp derives it."""
    size = config.count("hidden_size") // config.count("num_attention_heads")
    must_be("head_dim", size)(config)


def no_grouped_heads(config: Config) -> None:
    """Check that there are as many key and value heads as query heads."""
    must_be("num_key_value_heads", config.count("num_attention_heads"))(config)


def attention_scale(layers_27b: int) -> Check:
    """Return a check of Gemma's attention scale: the head size, or embedding / heads in the model with `layers_27b`."""

    def check(config: Config) -> None:
        expected = config.count("head_dim")
        if config.count("num_hidden_layers") == layers_27b:
            expected = config.count("hidden_size") // config.count("num_attention_heads")
        if config.number("query_pre_attn_scalar") != expected:
            raise config.refuse("query_pre_attn_scalar", f"llama.cpp computes this model only with {expected}")

    return check


def _layers_are(config: Config, key: str, expected: Callable[[int], Any]) -> bool:
    """Return whether a list with one value per layer is as expected or not given."""
    values = config.get(key)
    if not isinstance(values, list):
        return values is None
    return len(values) == config.count("num_hidden_layers") and all(v == expected(i) for i, v in enumerate(values))


def every_nth_layer_full(n: int) -> Check:
    """Return a check that every n-th layer has full attention and the others a window, as layer list or pattern."""

    def check(config: Config) -> None:
        if not _layers_are(config, "layer_types", lambda i: FULL if (i + 1) % n == 0 else SLIDING):
            raise config.refuse(
                "layer_types", f"in llama.cpp the last of {n} layers has full attention, the others do not"
            )
        for key in ("sliding_window_pattern", "_sliding_window_pattern"):
            must_be(key, n)(config)

    return check


def only_full_layers(config: Config) -> None:
    """Check that no layer has a window."""
    if not _layers_are(config, "layer_types", lambda _: FULL):
        raise config.refuse("layer_types", "llama.cpp computes all layers of this architecture with full attention")
    must_be("use_sliding_window", False)(config)


def every_fourth_without_rope(config: Config) -> None:
    """Check that every 4th layer has no rotary positions, which llama.cpp fixes for SmolLM3."""
    if not _layers_are(config, "no_rope_layers", lambda i: int((i + 1) % 4 != 0)):
        raise config.refuse("no_rope_layers", "llama.cpp omits rotary positions in every 4th layer")
    must_be("no_rope_layer_interval", 4)(config)


def window_is_lost(config: Config) -> str | None:
    """Return a warning for a window in all layers, which llama.cpp ignores in this architecture."""
    window = config.get("sliding_window")
    if window is None or config.count("sliding_window") >= config.count("max_position_embeddings"):
        return None
    return (
        f"{config.where}: sliding_window {window} cannot be stored in GGUF: beyond {window} tokens llama.cpp's "
        "results differ from transformers'"
    )
