"""What an lm-eval run is asked for, and what a task's generation settings mean here. Needs no lm-eval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pa_lite.engine.generation import GenerationOptions
from pa_lite.errors import InputError, nearest
from pa_lite.tasks.spec import split_names

Seeds = tuple[int | None, int | None, int | None, int | None]
SEEDS: Seeds = (0, 1234, 1234, 1234)  # lm-eval's: of random, numpy, torch, and the drawing of exemplars
BOOTSTRAP_ITERS = 100_000  # lm-eval's default
_PARALLEL = 16  # texts generated at a time where nobody says
MAX_GEN_TOKS = 256  # lm-eval's default
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first that is given counts


@dataclass(frozen=True, kw_only=True)
class HarnessOptions:
    """lm-eval's common options, by its names; lm-eval checks them when they are used.

    `limit` is a count of items of each task, or below 1 a share; `samples` gives each task's items by number instead.
    `gen_kwargs` go before what tasks say. `use_cache` begins the name of a file of answers; `cache_requests` is true,
    refresh or delete. `output_path` is a folder, or a .json file whose name gets the time.
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
        """Take names, folders and a seed as single values, too. Raises InputError for names that are not strings."""
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
    """What a task's generation_kwargs ask for, by lm-eval's rules.

    Without do_sample, or with it false, the likeliest token is taken; if it is left out, a temperature above 0 means
    sampling. A sampled text's temperature is 1 if none is given. `eos`, the text of that token, ends a text too. Raises
    InputError for a key that this engine does not have, or a value out of range. Source: lm-eval,
    `normalize_gen_kwargs`, `handle_stop_sequences`.
    """
    try:
        return _generation_options({k: v for k, v in kwargs.items() if v is not None}, eos, seed, parallel)
    except InputError as e:
        raise InputError(f"gen_kwargs: {e}") from e


def _generation_options(kwargs: Mapping[str, Any], eos: str, seed: int, parallel: int) -> GenerationOptions:
    known = {"until", "stop", *_LENGTHS, "do_sample", "temperature", "top_p", "top_k", "min_p", "num_beams"}
    for key in kwargs:
        if key not in known:
            raise InputError(f"{key} is not known here.{nearest(key, known)}")
    if kwargs.get("num_beams", 1) != 1:
        raise InputError(f"num_beams is {kwargs['num_beams']}; there is no beam search here: leave it at 1.")
    sampled = kwargs.get("do_sample")
    if sampled not in (None, True, False):
        raise InputError(f"do_sample is {sampled!r}, but must be true or false.")
    temperature = _number(kwargs, "temperature", 1.0 if sampled else 0.0)
    length = next((k for k in _LENGTHS if k in kwargs), _LENGTHS[0])
    stops = [*_texts(kwargs, "until"), *_texts(kwargs, "stop"), eos]
    return GenerationOptions(
        max_tokens=_count(kwargs, length, MAX_GEN_TOKS),
        temperature=0.0 if sampled is False else temperature,
        top_p=_number(kwargs, "top_p", 1.0),
        min_p=_number(kwargs, "min_p", 0.0),
        top_k=_count(kwargs, "top_k", 0),
        seed=seed,
        stop=tuple(dict.fromkeys(s for s in stops if s)),
        parallel=parallel,
    )


def _texts(kwargs: Mapping[str, Any], key: str) -> list[str]:
    value = kwargs.get(key, [])
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(t, str) for t in texts):
        raise InputError(f"{key} is {value!r}, but must be a text or a list of texts.")
    return list(texts)


def _number(kwargs: Mapping[str, Any], key: str, default: float) -> float:
    value = kwargs.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{key} is {value!r}, but must be a number.")
    return float(value)


def _count(kwargs: Mapping[str, Any], key: str, default: int) -> int:
    value = _number(kwargs, key, default)
    if value != int(value):
        raise InputError(f"{key} is {kwargs[key]!r}, but must be a whole number.")
    return int(value)


def texts_at_a_time(batch_size: int | str | None, most: int | None) -> int:
    """Return how many texts are generated at a time. Raises InputError for what is neither a number nor auto."""
    if batch_size is None or str(batch_size).split(":")[0] == "auto":
        return min(_PARALLEL, most or _PARALLEL)
    if not str(batch_size).isdecimal():
        raise InputError(f"batch_size is {batch_size!r}, but must be a number or auto.")
    return int(batch_size)


def modern_names(words: Mapping[str, Any]) -> dict[str, Any]:
    """Return model_args with today's names: the weight type was called `kind` in 0.1.0."""
    return {("type" if name == "kind" else name): value for name, value in words.items()}
