"""What llama.cpp fixes for an architecture and GGUF cannot say: settings of config.json that must be just so.

A check raises CheckpointError for a model that llama.cpp would compute wrongly; where only long texts suffer it warns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pa_lite.checkpoints.config import Config

Check = Callable[[Config], Iterator[str]]
FULL, SLIDING = "full_attention", "sliding_attention"


def must_be(key: str, *allowed: Any) -> Check:
    """The value, if given, is one of these."""

    def check(config: Config) -> Iterator[str]:
        value = config.get(key)
        if value is not None and value not in allowed:
            raise config.refuse(key, f"llama.cpp computes this architecture with {_show(allowed)} alone")
        yield from ()

    return check


def must_be_given(key: str, value: Any) -> Check:
    """The value is given, as transformers would otherwise take another."""

    def check(config: Config) -> Iterator[str]:
        if config.get(key) != value:
            raise config.refuse(key, f"llama.cpp computes this architecture with {_show((value,))} alone")
        yield from ()

    return check


def _show(values: tuple[Any, ...]) -> str:
    return " or ".join("none" if value == [] else repr(value) for value in values)


def whole_heads(config: Config) -> Iterator[str]:
    """llama.cpp takes the size of a head from the embedding's and the number of heads."""
    size = config.count("hidden_size") // config.count("num_attention_heads")
    if config.get("head_dim") not in (None, size):
        raise config.refuse("head_dim", f"llama.cpp computes this architecture with {size} alone")
    yield from ()


def attention_scale(layers_27b: int) -> Check:
    """Gemma's attention is scaled by the size of a head, and in the model of so many layers by embedding / heads."""

    def check(config: Config) -> Iterator[str]:
        expected = config.count("head_dim")
        if config.count("num_hidden_layers") == layers_27b:
            expected = config.count("hidden_size") // config.count("num_attention_heads")
        if config.number("query_pre_attn_scalar") != expected:
            raise config.refuse("query_pre_attn_scalar", f"llama.cpp computes this model with {expected} alone")
        yield from ()

    return check


def _layers_are(config: Config, key: str, expected: Callable[[int], Any]) -> bool:
    """Whether a list with a value for each layer is as expected, or is not given."""
    values = config.get(key)
    if not isinstance(values, list):
        return values is None
    return len(values) == config.count("num_hidden_layers") and all(v == expected(i) for i, v in enumerate(values))


def every_nth_layer_full(n: int) -> Check:
    """Every n-th layer sees the whole text, the others a window: as list of layers or as pattern, if given."""

    def check(config: Config) -> Iterator[str]:
        if not _layers_are(config, "layer_types", lambda i: FULL if (i + 1) % n == 0 else SLIDING):
            raise config.refuse(
                "layer_types", f"in llama.cpp the last of {n} layers has full attention, the others not"
            )
        for key in ("sliding_window_pattern", "_sliding_window_pattern"):
            yield from must_be(key, n)(config)

    return check


def only_full_layers(config: Config) -> Iterator[str]:
    """No layer has a window."""
    if not _layers_are(config, "layer_types", lambda _: FULL):
        raise config.refuse("layer_types", "llama.cpp computes all layers of this architecture with full attention")
    yield from must_be("use_sliding_window", False)(config)


def every_fourth_without_rope(config: Config) -> Iterator[str]:
    """SmolLM3's layers without rotary positions are fixed in llama.cpp."""
    if not _layers_are(config, "no_rope_layers", lambda i: int((i + 1) % 4 != 0)):
        raise config.refuse("no_rope_layers", "llama.cpp leaves out rotary positions in every 4th layer")
    yield from must_be("no_rope_layer_interval", 4)(config)


def window_is_lost(config: Config) -> Iterator[str]:
    """A window in all layers, which llama.cpp does not keep to in this architecture."""
    window = config.get("sliding_window")
    if window is None:
        return
    if config.count("sliding_window") < config.count("max_position_embeddings"):
        yield (
            f"{config.where}: sliding_window {window} has no place in GGUF: beyond {window} tokens llama.cpp's answers "
            "are not transformers'"
        )


def must_be_absent(key: str) -> Check:
    """The value is not given: models that have it are of another kind."""

    def check(config: Config) -> Iterator[str]:
        if config.get(key) is not None:
            raise config.refuse(key, "llama.cpp computes this architecture without it")
        yield from ()

    return check
