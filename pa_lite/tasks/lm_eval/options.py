"""Options of an lm-eval run, and the meaning of a task's generation settings. Does not need lm-eval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pa_lite.engine.generation import GenerationOptions
from pa_lite.errors import InputError
from pa_lite.tasks.spec import split_names
from pa_lite.untrusted.tables import BOOLEAN, Form, are_strings, check_table

Seeds = tuple[int | None, int | None, int | None, int | None]
SEEDS: Seeds = (0, 1234, 1234, 1234)  # lm-eval's defaults for random, numpy, torch and the sampling of exemplars
BOOTSTRAP_ITERS = 100_000  # lm-eval's default
_PARALLEL = 16  # texts generated at a time by default
MAX_GEN_TOKS = 256  # lm-eval's default
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first one given is used


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_NUMBER: Form = _is_number, "a number"
_WHOLE: Form = (lambda value: _is_number(value) and value == int(value)), "an integer"
_STOPS: Form = (
    (lambda value: isinstance(value, str) or are_strings(list(value) if isinstance(value, tuple) else value)),
    "a string or a list of strings",
)
_FORMS: dict[str, Form] = {
    "until": _STOPS, "stop": _STOPS, **dict.fromkeys((*_LENGTHS, "top_k"), _WHOLE), "do_sample": BOOLEAN,
    **dict.fromkeys(("temperature", "top_p", "min_p"), _NUMBER),
    "num_beams": ((lambda value: value == 1), "1, as beam search is not supported"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class HarnessOptions:
    """lm-eval's common options under its names; lm-eval checks them when they are used.

    `limit` is the number of items of each task, or a fraction if below 1; `samples` lists each task's items by index
    instead. `gen_kwargs` override the tasks' settings. `use_cache` is the start of the name of a file of answers;
    `cache_requests` is true, refresh or delete. `output_path` is a folder, or a .json file to whose name the time is
    added.
    """

    tasks: tuple[str, ...]
    num_fewshot: int | None = None
    limit: float | None = None
    samples: Mapping[str, Sequence[int]] | None = None
    seeds: Seeds = SEEDS
    output_path: Path | None = None
    log_samples: bool = False
    predict_only: bool = False
    apply_chat_template: bool | str = False
    fewshot_as_multiturn: bool | None = None
    system_instruction: str | None = None
    include_path: tuple[Path, ...] = ()
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    use_cache: Path | None = None
    cache_requests: str | None = None
    bootstrap_iters: int = BOOTSTRAP_ITERS
    confirm_run_unsafe_code: bool = False

    def __post_init__(self) -> None:
        """Accept single names, folders and seeds. Raises InputError for names that are not strings."""
        self._set(tasks=split_names(self.tasks), output_path=_path(self.output_path), use_cache=_path(self.use_cache))
        folders = (self.include_path,) if isinstance(self.include_path, str | Path) else self.include_path
        self._set(include_path=tuple(map(Path, folders)))
        if isinstance(self.seeds, int):
            self._set(seeds=(self.seeds,) * 4)

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)


def generation_options(
    kwargs: Mapping[str, Any], eos: str = "", seed: int = 0, parallel: int = 16
) -> GenerationOptions:
    """Return the options for a task's generation_kwargs, by lm-eval's rules.

    Decoding is greedy if do_sample is false, or is left out without a temperature above 0. The temperature of sampling
    is 1 by default. `eos`, the text of that token, is also a stop string. Raises InputError for a key that this engine
    does not support, or a value out of range. Source: lm-eval, `normalize_gen_kwargs`, `handle_stop_sequences`.
    """
    given = check_table({k: v for k, v in kwargs.items() if v is not None}, "gen_kwargs", _FORMS)
    sampled = given.get("do_sample")
    texts = [given.get(key, []) for key in ("until", "stop")]
    stops = [text for value in texts for text in ([value] if isinstance(value, str) else value)]
    temperature = given.get("temperature", 1.0 if sampled else 0.0)
    try:
        return GenerationOptions(
            max_tokens=int(next((given[k] for k in _LENGTHS if k in given), MAX_GEN_TOKS)),
            temperature=0.0 if sampled is False else float(temperature),
            top_p=float(given.get("top_p", 1.0)),
            min_p=float(given.get("min_p", 0.0)),
            top_k=int(given.get("top_k", 0)),
            seed=seed,
            stop=tuple(dict.fromkeys(s for s in (*stops, eos) if s)),
            parallel=parallel,
        )
    except InputError as e:
        raise InputError(f"gen_kwargs: {e}") from e


def texts_at_a_time(batch_size: int | str | None, most: int | None) -> int:
    """Return how many texts are generated at a time. Raises InputError if it is neither a number nor auto."""
    if batch_size is None or str(batch_size).split(":")[0] == "auto":
        return min(_PARALLEL, most or _PARALLEL)
    if not str(batch_size).isdecimal():
        raise InputError(f"batch_size is {batch_size!r}, but must be a number or auto.")
    return int(batch_size)


def modern_names(words: Mapping[str, Any]) -> dict[str, Any]:
    """Return model_args with current names: the weight type was called `kind` in 0.1.0."""
    return {("type" if name == "kind" else name): value for name, value in words.items()}
