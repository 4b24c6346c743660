"""Convert the sampling settings of generation_config.json to GGUF metadata, for programs that use them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.safetensors_file import read_json
from pa_lite.errors import CheckpointError
from pa_lite.ggml.gguf_tables import Keys
from pa_lite.ggml.metadata import Field, Metadata, float32, string

GENERATION = "generation_config.json"
# GGUF key -> its type, and the settings to read it from; the first one present counts.
# Source: gguf's Metadata.load, which llama.cpp's converter uses.
_SAMPLING: Mapping[str, tuple[str, tuple[str, ...]]] = {
    Keys.General.SAMPLING_SEQUENCE: ("STRING", ("sequence",)),
    Keys.General.SAMPLING_TOP_K: ("INT32", ("top_k",)),
    Keys.General.SAMPLING_TOP_P: ("FLOAT32", ("top_p",)),
    Keys.General.SAMPLING_MIN_P: ("FLOAT32", ("min_p",)),
    Keys.General.SAMPLING_XTC_PROBABILITY: ("FLOAT32", ("xtc_probability",)),
    Keys.General.SAMPLING_XTC_THRESHOLD: ("FLOAT32", ("xtc_threshold",)),
    Keys.General.SAMPLING_TEMP: ("FLOAT32", ("temperature",)),
    Keys.General.SAMPLING_PENALTY_LAST_N: ("INT32", ("penalty_last_n",)),
    Keys.General.SAMPLING_PENALTY_REPEAT: ("FLOAT32", ("penalty_repeat", "repetition_penalty")),
    Keys.General.SAMPLING_MIROSTAT: ("INT32", ("mirostat",)),
    Keys.General.SAMPLING_MIROSTAT_TAU: ("FLOAT32", ("mirostat_tau",)),
    Keys.General.SAMPLING_MIROSTAT_ETA: ("FLOAT32", ("mirostat_eta",)),
}
_LARGEST = float(2**127)  # float32 holds more; far above any sampling setting


def sampling_metadata(folder: Path) -> Metadata:
    """Return the `general.sampling.*` keys of a checkpoint folder, empty without generation_config.json.

    A setting that is null is left out. Raises CheckpointError, naming file and setting, for a value of the wrong type.
    """
    path = folder / GENERATION
    if not path.is_file():
        return {}
    settings = read_json(path)
    out: Metadata = {}
    for key, (value_type, names) in _SAMPLING.items():
        name = next((n for n in names if n in settings), None)
        if name is not None and settings[name] is not None:
            out[key] = _field(value_type, settings[name], f"{path}: {name}")
    return out


def _field(value_type: str, value: Any, what: str) -> Field:
    if value_type == "STRING" and isinstance(value, str):
        return string(value)
    if value_type != "STRING" and isinstance(value, (int, float)) and not isinstance(value, bool):
        if value_type == "FLOAT32" and abs(value) < _LARGEST:
            return float32(value)
        if value_type == "INT32" and -(2**31) <= value < 2**31 and value == int(value):
            return Field("INT32", int(value))
    expected = {"STRING": "a string", "INT32": "a 32-bit integer", "FLOAT32": "a number"}[value_type]
    raise CheckpointError(f"{what} is {str(value)[:60]!r}, but must be {expected} or null. Correct the file.")
