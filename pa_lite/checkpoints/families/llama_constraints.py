"""What llama.cpp fixes for an architecture and GGUF cannot say: settings of config.json that must be just so.

A check raises CheckpointError for a model that llama.cpp would compute wrongly, and returns a warning, or None, for one
where only long texts suffer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pa_lite.checkpoints.config import Config

Check = Callable[[Config], str | None]
FULL, SLIDING = "full_attention", "sliding_attention"


def must_be(key: str, *allowed: Any, given: bool = False) -> Check:
    """The value is one of these, or not given; with `given` it must be, as transformers would otherwise take another.

    Without any that are allowed, the value must not be given: models that have it are of another kind.
    """
    shown = " or ".join("none" if value == [] else repr(value) for value in allowed)
    why = f"llama.cpp computes this architecture {f'with {shown} alone' if allowed else 'without it'}"

    def check(config: Config) -> None:
        value = config.get(key)
        if value not in allowed and (given or value is not None):
            raise config.refuse(key, why)

    return check


def whole_heads(config: Config) -> None:
    """llama.cpp takes the size of a head from the embedding's and the number of heads."""
    size = config.count("hidden_size") // config.count("num_attention_heads")
    must_be("head_dim", size)(config)


def attention_scale(layers_27b: int) -> Check:
    """Gemma's attention is scaled by the size of a head, and in the model of so many layers by embedding / heads."""

    def check(config: Config) -> None:
        expected = config.count("head_dim")
        if config.count("num_hidden_layers") == layers_27b:
            expected = config.count("hidden_size") // config.count("num_attention_heads")
        if config.number("query_pre_attn_scalar") != expected:
            raise config.refuse("query_pre_attn_scalar", f"llama.cpp computes this model with {expected} alone")

    return check


def _layers_are(config: Config, key: str, expected: Callable[[int], Any]) -> bool:
    """Whether a list with a value for each layer is as expected, or is not given."""
    values = config.get(key)
    if not isinstance(values, list):
        return values is None
    return len(values) == config.count("num_hidden_layers") and all(v == expected(i) for i, v in enumerate(values))


def every_nth_layer_full(n: int) -> Check:
    """Every n-th layer sees the whole text, the others a window: as list of layers or as pattern, if given."""

    def check(config: Config) -> None:
        if not _layers_are(config, "layer_types", lambda i: FULL if (i + 1) % n == 0 else SLIDING):
            raise config.refuse(
                "layer_types", f"in llama.cpp the last of {n} layers has full attention, the others not"
            )
        for key in ("sliding_window_pattern", "_sliding_window_pattern"):
            must_be(key, n)(config)

    return check


def only_full_layers(config: Config) -> None:
    """No layer has a window."""
    if not _layers_are(config, "layer_types", lambda _: FULL):
        raise config.refuse("layer_types", "llama.cpp computes all layers of this architecture with full attention")
    must_be("use_sliding_window", False)(config)


def every_fourth_without_rope(config: Config) -> None:
    """SmolLM3's layers without rotary positions are fixed in llama.cpp."""
    if not _layers_are(config, "no_rope_layers", lambda i: int((i + 1) % 4 != 0)):
        raise config.refuse("no_rope_layers", "llama.cpp leaves out rotary positions in every 4th layer")
    must_be("no_rope_layer_interval", 4)(config)


def window_is_lost(config: Config) -> str | None:
    """A window in all layers, which llama.cpp does not keep to in this architecture."""
    window = config.get("sliding_window")
    if window is None or config.count("sliding_window") >= config.count("max_position_embeddings"):
        return None
    return (
        f"{config.where}: sliding_window {window} has no place in GGUF: beyond {window} tokens llama.cpp's answers "
        "are not transformers'"
    )
