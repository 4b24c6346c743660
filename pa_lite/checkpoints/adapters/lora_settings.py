"""Read and check adapter_config.json: which adapters can be applied, and each module's scale.

The rules are those of the package peft (0.21): `LoraConfig`, `LoraLayer.update_layer` and `get_pattern_key`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.adapters.patterns import first_matches
from pa_lite.checkpoints.config import Config
from pa_lite.checkpoints.locations import ADAPTER_SETTINGS
from pa_lite.checkpoints.safetensors_file import read_json
from pa_lite.errors import CheckpointError
from pa_lite.sanitize import short_line

_MERGE = (
    "Merge it with peft (PeftModel.from_pretrained, merge_and_unload, save_pretrained), and name the merged model's "
    "folder instead"
)
# settings that make an adapter something else than base + scale * B A, or change the base too -> its name
_VARIANTS = {
    "use_dora": "DoRA", "use_qalora": "QALoRA", "alora_invocation_tokens": "activated LoRA (aLoRA)",
    "layer_replication": "LoRA with replicated layers", "use_bdlora": "BD-LoRA", "arrow_config": "Arrow",
    "kasa_config": "KaSA", "monteclora_config": "MonteCLoRA", "velora_config": "VeLoRA",
    "megatron_config": "a Megatron LoRA",
}  # fmt: skip
# the start of init_lora_weights -> the name of a method that changes the base before training
_INITS = {"pissa": "PiSSA", "olora": "OLoRA", "corda": "CorDA", "loftq": "LoftQ", "lora_ga": "LoRA-GA"}
_PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica")
_TEXT_TASKS = ("CAUSAL_LM", "FEATURE_EXTRACTION")
# settings of LoraConfig that do not change the weights of a finished adapter, or that are read below
_KNOWN = frozenset((
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias", "lora_dropout", "lora_ga_config", "megatron_core",
    "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision",
    "runtime_config", "target_modules", "target_parameters", "task_type", "trainable_token_indices", "use_rslora",
    "version", *_VARIANTS,
))  # fmt: skip
_MOST_RANK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """The settings of a LoRA adapter that decide its weights; `path` is adapter_config.json.

    `base_name` is the base that the adapter was trained on, as its author called it. `token_rows` are the trained
    tokens by the name of their module, by "" for the input embedding. `remarks` name settings that were ignored.
    """

    path: Path
    rank: int
    alpha: float
    is_rank_stabilised: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    target_modules: tuple[str, ...]
    target_parameters: tuple[str, ...]
    modules_to_save: tuple[str, ...]
    excluded_modules: tuple[str, ...]
    layers: frozenset[int] | None
    token_rows: Mapping[str, tuple[int, ...]]
    ties_weights: bool
    has_pattern_targets: bool
    base_name: str
    remarks: tuple[str, ...]

    def ranks_and_scales(self, keys: Sequence[str]) -> list[tuple[int, float]]:
        """Return the rank and the scale of each module or parameter. Raises CheckpointError for a bad pattern."""
        where = str(self.path)
        ranks = first_matches(list(self.rank_pattern), keys, f"{where}: rank_pattern")
        alphas = first_matches(list(self.alpha_pattern), keys, f"{where}: alpha_pattern")
        out = []
        for i, key in enumerate(keys):
            rank = self.rank_pattern.get(ranks[i] or "", self.rank)
            alpha = self.alpha_pattern.get(alphas[i] or "", self.alpha)
            scale = alpha / (math.sqrt(rank) if self.is_rank_stabilised else rank)
            if not math.isfinite(scale):
                raise CheckpointError(f"{where}: the scale of {key} is {scale}. Fetch the adapter again.")
            out.append((rank, scale))
        return out


def read_lora_settings(folder: Path) -> LoraSettings:
    """Return the settings of a LoRA adapter. Raises CheckpointError for any other adapter, naming its kind."""
    path = folder / ADAPTER_SETTINGS
    if not path.is_file():
        raise CheckpointError(f"{folder}: the adapter has no {ADAPTER_SETTINGS}, which has its scale. Fetch it too.")
    raw = read_json(path)
    _check_kind(raw, path)
    settings = Config(raw, str(path))
    targets, excluded = raw.get("target_modules"), raw.get("exclude_modules")
    unknown = sorted(key for key, value in raw.items() if key not in _KNOWN and value not in (None, False, [], {}, ""))
    remarks = [f"{path}: unknown settings were ignored: {', '.join(unknown[:5])}"] if unknown else []
    return LoraSettings(
        path=path,
        rank=_rank(raw.get("r", 8), "r", path),
        alpha=_number(raw.get("lora_alpha", 8), "lora_alpha", path),
        is_rank_stabilised=_flag(raw, "use_rslora", path),
        rank_pattern={key: _rank(v, f"rank_pattern {key!r}", path) for key, v in _table(settings, "rank_pattern")},
        alpha_pattern={key: _number(v, f"alpha_pattern {key!r}", path) for key, v in _table(settings, "alpha_pattern")},
        target_modules=_names(targets, "target_modules", path) if not isinstance(targets, str) else (),
        target_parameters=_names(raw.get("target_parameters"), "target_parameters", path),
        modules_to_save=_names(raw.get("modules_to_save"), "modules_to_save", path),
        excluded_modules=_names(excluded, "exclude_modules", path) if not isinstance(excluded, str) else (),
        layers=_layers(raw.get("layers_to_transform"), path),
        token_rows=_token_rows(raw.get("trainable_token_indices"), path),
        ties_weights=_flag(raw, "ensure_weight_tying", path),
        has_pattern_targets=isinstance(targets, str) or isinstance(excluded, str) or bool(raw.get("layers_pattern")),
        base_name=base if isinstance(base := raw.get("base_model_name_or_path"), str) else "",
        remarks=tuple(remarks),
    )


def _check_kind(raw: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError unless the adapter is plain LoRA for a language model."""
    kind = raw.get("peft_type")
    if kind != "LORA":
        shown = short_line(str(kind))[:40] if kind is not None else "of unknown kind (no peft_type)"
        raise CheckpointError(f"{path}: the adapter is {shown}, and pa-lite applies LoRA only. {_MERGE}.")
    for key, name in _VARIANTS.items():
        if raw.get(key) not in (None, False, [], {}):
            raise CheckpointError(f"{path}: the adapter is {name} ({key}), and pa-lite applies plain LoRA. {_MERGE}.")
    init = raw.get("init_lora_weights", True)
    for start, name in _INITS.items():
        if isinstance(init, str) and init.lower().startswith(start):
            raise CheckpointError(
                f"{path}: the adapter was initialised with {name}, which changes the base too. Save it again as plain "
                "LoRA (peft: save_pretrained with path_initial_model_for_weight_conversion), or merge it with peft."
            )
    if not isinstance(init, bool) and init not in _PLAIN_INITS and init is not None:
        raise CheckpointError(
            f"{path}: init_lora_weights is {str(init)[:40]!r}, which may change the base too. {_MERGE}."
        )
    task = raw.get("task_type")
    if task is not None and task not in _TEXT_TASKS:
        raise CheckpointError(f"{path}: the adapter is for {str(task)[:40]!r}, not for a language model (CAUSAL_LM).")


def _rank(value: Any, what: str, path: Path) -> int:
    if type(value) is not int or not 0 < value <= _MOST_RANK:
        raise CheckpointError(f"{path}: {what} is {str(value)[:40]!r}, but must be an integer from 1 to {_MOST_RANK}.")
    return value


def _number(value: Any, what: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise CheckpointError(f"{path}: {what} is {str(value)[:40]!r}, but must be a number.")
    return float(value)


def _flag(raw: Mapping[str, Any], key: str, path: Path) -> bool:
    value = raw.get(key)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"{path}: {key} is {str(value)[:40]!r}, but must be true or false.")
    return bool(value)


def _table(settings: Config, key: str) -> list[tuple[str, Any]]:
    return list(settings.table(key).items())


def _names(value: Any, key: str, path: Path) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise CheckpointError(f"{path}: {key} is {str(value)[:40]!r}, but must be a list of names.")
    return tuple(value)


def _layers(value: Any, path: Path) -> frozenset[int] | None:
    found = [value] if type(value) is int else value
    if found is None or found == []:
        return None
    if not isinstance(found, list) or not all(type(n) is int and n >= 0 for n in found):
        raise CheckpointError(f"{path}: layers_to_transform is {str(value)[:40]!r}, but must be numbers of layers.")
    return frozenset(found)


def _token_rows(value: Any, path: Path) -> dict[str, tuple[int, ...]]:
    if value is None:
        return {}
    out = {}
    for name, rows in (value if isinstance(value, dict) else {"": value}).items():
        if not isinstance(rows, list) or not all(type(n) is int and n >= 0 for n in rows) or len(set(rows)) < len(rows):
            raise CheckpointError(f"{path}: trainable_token_indices must be different token ids, or lists of them.")
        out[name] = tuple(rows)
    return out
