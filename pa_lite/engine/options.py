"""How llama.cpp is to run: the only defaults, and which of them decide a result."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pa_lite.errors import InputError

# How pa-lite asks models and reads what they answer. Raise it when a change of its code gives other results from the
# same inputs: what an earlier method made is made again. (The version number would do so at every release.)
METHOD = 2
_FREE = ("threads", "probe")  # options that move no number; every other one counts


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How llama.cpp runs: `threads` 0 takes one for each core that other programs leave free, measured as it goes.

    `cache_type` is F16, F32, or "auto": F32 for scoring, where an F16 cache lets the shape of a batch move a score four
    times as far, F16 for all else. `n_batch` is the tokens of a batch at most; on a CPU scoring takes fewer.

    `gpu_layers` is how many layers lie on the GPU: -1 all of them, "auto" all that fit, which is tried. `n_ctx` bounds
    the tokens of a request; 0 leaves it to the length that the model was trained with.

    Flash attention is off by default: it is up to a sixth faster, but lets the shape of a batch move a score by some
    hundredths of a nat.

    `probe` is whether a file that is opened by reference is first tried in a process of its own, unless it was before.
    """

    threads: int = 0
    gpu_layers: int | str = "auto"
    flash_attention: bool = False
    cache_type: str = "auto"
    n_batch: int = 512
    n_ctx: int = 0
    probe: bool = True

    def __post_init__(self) -> None:
        """Take the cache's type in any case."""
        if isinstance(self.cache_type, str) and self.cache_type != "auto":
            object.__setattr__(self, "cache_type", self.cache_type.upper())

    @property
    def inputs(self) -> dict[str, Any]:
        """Return what of it can move a number, by name: other values make another result."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE}


def check_options(options: EngineOptions) -> None:
    """Raise InputError for a value that llama.cpp cannot run with."""
    if options.cache_type not in ("auto", "F16", "F32"):
        raise InputError(f"cache type {options.cache_type!r} is neither auto nor F16 nor F32.")
    layers = options.gpu_layers
    if layers != "auto" and (not isinstance(layers, int) or layers < -1):
        raise InputError(f"gpu_layers is {layers!r}, but must be auto, -1 (all) or a number of layers.")
    if options.n_ctx < 0 or options.n_batch < 1:
        raise InputError(
            f"n_ctx is {options.n_ctx}, n_batch {options.n_batch}: neither may be less than 0, nor n_batch 0."
        )
