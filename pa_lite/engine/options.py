"""Options of llama.cpp, and which of them affect results."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pa_lite.errors import InputError

# The version of how pa-lite prompts models and reads their answers. Increase it when a change of code gives other
# results from the same inputs; results of earlier versions are then measured again.
METHOD = 2
_FREE = ("threads", "probe")  # options that do not affect results; all others do


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How llama.cpp runs.

    `threads` 0 uses one thread for each core that other programs leave free, measured during the work.

    `gpu_layers` is the number of layers on the GPU: -1 for all, "auto" for as many as fit (found by trying).

    `flash_attention` None is on for chats and servers, where many answers are up to a third faster with it and an F16
    cache, and off for everything else: it makes scores depend on the shape of a batch by a few hundredths of a nat.

    `cache_type` is F16, F32, or "auto": F32 for scoring and lists of prompts, F16 for everything else. With an F16
    cache, scores depend four times as much on the shape of a batch.

    `n_batch` is the largest number of tokens in a batch; scoring on a CPU uses fewer. `n_ctx` limits the tokens of a
    request; 0 is the length that the model was trained with.

    With `probe`, a file that is opened by reference is first loaded in a separate process, once for each file.
    """

    threads: int = 0
    gpu_layers: int | str = "auto"
    flash_attention: bool | None = None
    cache_type: str = "auto"
    n_batch: int = 512
    n_ctx: int = 0
    probe: bool = True

    def __post_init__(self) -> None:
        """Accept the cache type in upper or lower case."""
        if isinstance(self.cache_type, str) and self.cache_type != "auto":
            object.__setattr__(self, "cache_type", self.cache_type.upper())

    @property
    def inputs(self) -> dict[str, Any]:
        """The options that affect results, by name."""
        found = {name: value for name, value in asdict(self).items() if name not in _FREE}
        return {**found, "flash_attention": bool(self.flash_attention)}


def check_options(options: EngineOptions) -> None:
    """Raise InputError for a value that llama.cpp cannot run with."""
    if options.cache_type not in ("auto", "F16", "F32"):
        raise InputError(f"cache type {options.cache_type!r} is not auto, F16 or F32.")
    layers = options.gpu_layers
    if layers != "auto" and (not isinstance(layers, int) or layers < -1):
        raise InputError(f"gpu_layers is {layers!r}, but must be auto, -1 (all) or a number of layers.")
    if options.n_ctx < 0 or options.n_batch < 1:
        raise InputError(
            f"n_ctx is {options.n_ctx} and n_batch {options.n_batch}: n_ctx must be at least 0, n_batch at least 1."
        )
