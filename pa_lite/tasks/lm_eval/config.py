"""Options of a run, read with lm-eval's own parser and configuration (extra `harness`).

All options of lm-eval's command are accepted, including a YAML file (--config), except those that would log to a
service or run a data set's code.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from pa_lite.errors import InputError, nearest
from pa_lite.tasks.lm_eval.options import BOOTSTRAP_ITERS, HarnessOptions, generation_options

_ELSEWHERE = "pa-lite only writes result files; upload those with the service's own tools"
_REFUSED = {
    **dict.fromkeys(("wandb_args", "wandb_config_args", "trackio_args", "hf_hub_log_args"), _ELSEWHERE),
    "trust_remote_code": "pa-lite does not run code that comes with data sets",
}


def not_installed(error: ImportError) -> InputError:
    """Return the error for a missing or broken lm-eval."""
    missing = (error.name or "").split(".")[0] == "lm_eval"
    return InputError(
        f"lm-eval {'is not installed' if missing else f'cannot be imported ({error})'}. "
        "Install it with: pip install 'pa-lite[harness]'."
    )


class _Parser(argparse.ArgumentParser):
    """A parser without --help that raises its errors."""

    def __init__(self, *words: Any, **more: Any) -> None:
        super().__init__(*words, **{**more, "add_help": False})

    def error(self, message: str) -> NoReturn:
        """Raise argparse's error, without the names of the Python functions that parse values."""
        raise argparse.ArgumentError(
            None, re.sub(r"invalid (?:functools|try_parse|<).* value: ", "invalid value: ", message)
        )


def lm_eval_parser() -> argparse.ArgumentParser:
    """Return the parser of `lm-eval run` with pa-lite's additional spellings; it raises `argparse.ArgumentError`.

    Raises InputError if lm-eval is not installed.
    """
    try:
        from lm_eval._cli.run import Run
    except ImportError as e:
        raise not_installed(e) from e
    commands = argparse.ArgumentParser().add_subparsers(parser_class=_Parser)
    Run.create(commands)
    parser: argparse.ArgumentParser = commands.choices["run"]
    parser.conflict_handler = "resolve"
    group = parser.add_argument_group("pa-lite's spellings")
    for name in _REFUSED:
        group.add_argument(f"--{name}", nargs="*", action="append", help=argparse.SUPPRESS)
    group.add_argument("--include_path", action="append", metavar="<path>", help="as above; repeatable")
    group.add_argument("--shots", dest="num_fewshot", type=int, metavar="<n>", help="as --num_fewshot")
    group.add_argument("--system", dest="system_instruction", metavar="<text>", help="as --system_instruction")
    group.add_argument(
        "--parallel", dest="batch_size", default=argparse.SUPPRESS, metavar="<n>|auto",
        help="as --batch_size: texts generated at a time (default: auto)",
    )  # fmt: skip
    return parser


def parse_words(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Return the parsed options. Raises `argparse.ArgumentError`, also for options that are not supported here."""
    try:
        found = parser.parse_intermixed_args(words)
    except (TypeError, ValueError, RecursionError, MemoryError) as e:  # for values that Python cannot parse
        raise argparse.ArgumentError(None, f"a value cannot be parsed ({type(e).__name__})") from e
    for fault in _faults(vars(found)):
        parser.error(fault)
    if not found.tasks and not found.config:
        parser.error("no tasks are given: name them with --tasks")
    return found


def _faults(values: Mapping[str, Any]) -> Iterator[str]:
    for name, why in _REFUSED.items():
        if values.get(name):
            yield f"--{name} is not supported: {why}"
    shots, samples = values.get("num_fewshot"), values.get("samples")
    if shots is not None and shots < 0:
        yield f"--num_fewshot is {shots}, but must be 0 or more"
    if samples is not None and not isinstance(samples, str) and not _are_samples(samples):
        yield '--samples must be JSON like {"TASK": [0, 1, 2]}, or the name of a file with that'


def _are_samples(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(v, list | tuple) and all(type(i) is int and i >= 0 for i in v) for v in value.values()
    )


@functools.cache
def _config_class() -> Any:
    try:
        from lm_eval.config.evaluate_config import EvaluatorConfig
    except ImportError as e:
        raise not_installed(e) from e

    @dataclass(slots=True, kw_only=True)
    class HarnessConfig(EvaluatorConfig):  # type: ignore[misc]
        """lm-eval's configuration with this engine's defaults."""

        model: str = "pa-lite"
        batch_size: int | str = "auto"
        device: str | None = None
        bootstrap_iters: int = BOOTSTRAP_ITERS

    return HarnessConfig


def read_config(words: argparse.Namespace) -> Any:
    """Return lm-eval's EvaluatorConfig for parsed options and the YAML file of --config. Raises InputError."""
    config_class = _config_class()
    try:
        if path := getattr(words, "config", None):
            known = [field.name for field in fields(config_class)]
            for key in config_class.load_yaml_config(path):
                if key not in known:
                    raise InputError(f"{path}: has the unknown key {key!r:.80}.{nearest(str(key), known)}")
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the contents of a YAML file
            config = config_class.from_cli(words)
        _check(config)
    except (ValueError, TypeError, OSError, RecursionError) as e:
        raise InputError(f"lm-eval cannot read the options: {str(e).rstrip('.')}.") from e
    return config


def evaluator_config(options: Any) -> Any:
    """Return the configuration for HarnessOptions or lm-eval's EvaluatorConfig. Raises InputError."""
    config_class = _config_class()
    if isinstance(options, config_class):
        return options
    if not isinstance(options, HarnessOptions | config_class.__base__):
        raise InputError(f"{options!r:.80} is not HarnessOptions: pass the options as keyword arguments instead.")
    own = {"model": "pa-lite", "config": None}  # the file of --config was already read
    words = {**{field.name: getattr(options, field.name) for field in fields(options)}, **own}
    if isinstance(options, HarnessOptions):
        from lm_eval._cli.utils import key_val_to_dict, request_caching_arg_to_dict

        words["seed"] = words.pop("seeds")
        try:
            words["cache_requests"] = request_caching_arg_to_dict(options.cache_requests)
            for name in ("gen_kwargs", "metadata"):
                if isinstance(words[name], str):
                    words[name] = key_val_to_dict(words[name])
        except (argparse.ArgumentTypeError, ValueError) as e:
            raise InputError(f"{e}.") from e
    return read_config(argparse.Namespace(**words))


def _check(config: Any) -> None:
    """Normalise tasks, folders and paths. Raises InputError for values that lm-eval does not check."""
    config.tasks = _strings(config.tasks, "tasks", ",")
    config.include_path = _strings(config.include_path or [], "include_path")
    for fault in _faults({field.name: getattr(config, field.name) for field in fields(config)}):
        raise InputError(f"{fault}.")
    if isinstance(config.samples, str):
        raise InputError(f"{config.samples!r:.80} is neither a JSON object nor a file that contains one (--samples).")
    if config.model != "pa-lite":
        raise InputError(
            f"the model is {config.model!r:.80}, but only pa-lite's engine is available: name a model as MODEL."
        )
    limit = config.limit
    if limit is not None and not (limit > 0 and (limit < 1 or float(limit).is_integer())):
        raise InputError(f"limit is {limit}, but must be a number of items, or a fraction below 1.")
    if any(seed is not None and not 0 <= seed < 1 << 32 for seed in config.seed or ()):
        raise InputError(f"seed is {config.seed}, but seeds must be integers from 0 to 2**32 - 1.")
    generation_options(config.gen_kwargs)


def _strings(value: Any, name: str, separator: str | None = None) -> list[str]:
    listed = [value] if isinstance(value, str | Path) else list(value)
    if not all(isinstance(each, str | Path) for each in listed):
        raise InputError(f"{name} must be strings, not {value!r:.80}.")
    parts: Sequence[str] = [
        part for each in listed for part in (str(each).split(separator) if separator else [str(each)])
    ]
    return [part.strip() for part in parts if part.strip()]
