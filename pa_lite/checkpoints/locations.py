"""Find the model at a location: a folder with weights, or one file, by its content and not by its name."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from pa_lite.checkpoints.gguf_model import part_names
from pa_lite.checkpoints.hub.cache import repository_of, snapshot_of
from pa_lite.checkpoints.hub.references import HubReference, Location, locate, parse_hub
from pa_lite.checkpoints.safetensors_file import read_json
from pa_lite.checkpoints.weight_files import INDEX, SINGLE, WEIGHTS, listed
from pa_lite.errors import CheckpointError, InputError
from pa_lite.ggml.container import OTHER_CONTENTS, gguf_content
from pa_lite.system.byte_source import ByteSource
from pa_lite.untrusted.file_kind import content_of, is_gguf

_MAX_FILES = 10_000  # of a folder whose first bytes are read
ADAPTER_SETTINGS, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_ADAPTER_FILES = (ADAPTER_WEIGHTS, "adapter_model.bin")
_AFTER_BASE = "Give it as the instruct side, after its base: BASE ADAPTER"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_CONVERT = (
    "Use a repository or revision with safetensors files, or convert it: "
    "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW) of transformers"
)
# suffixes of other programs' weights -> what they are
_FOREIGN = {
    ".h5": "TensorFlow's weights", ".msgpack": "Flax's weights", ".onnx": "an ONNX model", ".npz": "NumPy arrays",
    ".nemo": "a NeMo model", ".tflite": "a TensorFlow Lite model", ".mlmodel": "a Core ML model",
}  # fmt: skip


_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[^\s@]+)?", re.A)
_FILE_ENDINGS = (".gguf", ".safetensors", ".json", ".toml", *PICKLES)


def resolve_location(where: str | Location) -> Location:
    """Resolve a location to a path or to `org/name[@revision]` on the Hub, with or without `hub:`.

    Existing paths take precedence. `org/name` is a missing path, not a repository, if the folder `org` exists or if the
    name has the suffix of a weight file. Raises InputError for an empty string or an invalid name after `hub:`.
    """
    found = locate(where)
    if isinstance(found, HubReference) or not isinstance(where, str) or _HUB_NAME.fullmatch(where) is None:
        return found
    is_file = where.partition("@")[0].lower().endswith(_FILE_ENDINGS)
    if is_file or found.exists() or found.is_symlink() or found.parent.exists():
        return found
    return replace(parse_hub(f"hub:{where}"), is_guess=True)


def find_model(path: Path, elsewhere: Collection[str] = ()) -> Path:
    """Return what to open for the path that a user gave: a folder with safetensors weights, or one file.

    A repository's folder in a Hub cache resolves to the snapshot of its `refs/main`; a folder whose only model is a
    GGUF file (or all parts of a split one) resolves to that file. `elsewhere` are names of weight files on the Hub.
    Raises CheckpointError, saying what was found, if the path does not exist or has no weights that pa-lite reads;
    InputError, naming them, for several GGUF models.
    """
    if path.is_dir():
        return _in_folder(path, elsewhere)
    if path.is_file() or path.name in elsewhere:
        return path
    if path.exists():
        raise CheckpointError(f"{path}: is a device, socket or pipe. Name a file or folder.")
    if path.is_symlink():
        raise CheckpointError(f"{path}: is a link to {path.readlink()}, which does not exist. Fetch it again.")
    raise CheckpointError(f"{path}: no such file or folder.")


def find_adapter(path: Path, elsewhere: Mapping[str, ByteSource]) -> Path | None:
    """Return the adapter at a path: a folder with PEFT's files, or a GGUF file. None if there is something else.

    A folder may hold a GGUF adapter instead of PEFT's, or be a repository's folder in a Hub cache; one of PEFT's files
    stands for its folder. `elsewhere` maps names of weight files on the Hub to their sources. Raises CheckpointError
    for a folder that cannot be read.
    """
    if path.is_dir():
        folder = _settle(path)
        names = _names_in(folder, elsewhere)
        if not _has_model(folder, names) and (ADAPTER_SETTINGS in names or any(n in names for n in _ADAPTER_FILES)):
            return folder
        models = _gguf_models(folder, names)
        return find_adapter(folder / models[0], elsewhere) if len(models) == 1 else None
    if path.name in (ADAPTER_SETTINGS, *_ADAPTER_FILES) and (path.is_file() or path.name in elsewhere):
        return path.parent
    source = elsewhere.get(path.name, path)
    if isinstance(source, Path) and not (source.is_file() and is_gguf(source)):
        return None
    is_adapter = path.suffix.lower() == ".gguf" or isinstance(source, Path)
    return path if is_adapter and gguf_content(source)[0] == "adapter" else None


def _settle(folder: Path) -> Path:
    """Return the snapshot of a repository's folder in a Hub cache; any other folder as it is."""
    if folder.name == "snapshots" and repository_of(folder.resolve().parent):
        folder = folder.parent
    if repository_of(folder.resolve()) and (folder / "snapshots").is_dir():
        return snapshot_of(folder)
    return folder


def _names_in(folder: Path, elsewhere: Collection[str]) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()} | set(elsewhere)
    except OSError as e:
        raise CheckpointError(f"{folder}: cannot be read: {e.strerror}.") from e


def _has_model(folder: Path, names: Collection[str]) -> bool:
    """Return whether a folder has the safetensors weights of a complete model."""
    return any(WEIGHTS.fullmatch(name) or name == INDEX for name in names) or _names_weights(folder, names)


def _in_folder(folder: Path, elsewhere: Collection[str]) -> Path:
    folder = _settle(folder)
    names = _names_in(folder, elsewhere)
    if _has_model(folder, names):
        _check_adapter(folder, names)
        return folder
    models = _gguf_models(folder, names)
    if len(models) == 1:
        return folder / models[0]
    if models:
        raise InputError(f"{folder}: contains {len(models)} GGUF models. Name one of the files: {listed(models, 6)}.")
    raise CheckpointError(f"{folder}: {_lack(folder, names)}.")


def _names_weights(folder: Path, names: Collection[str]) -> bool:
    """Return whether config.json names an existing file of weights (see weight_files)."""
    path = folder / "config.json"
    return path.is_file() and read_json(path).get("transformers_weights") in names


def _check_adapter(folder: Path, names: Collection[str]) -> None:
    """Raise CheckpointError for a model whose folder also contains an adapter.

    transformers 5 applies the adapter if the package peft is installed, and ignores it otherwise.
    """
    weights = next((name for name in _ADAPTER_FILES if name in names), None)
    if ADAPTER_SETTINGS in names and weights:
        model = SINGLE if SINGLE in names else INDEX if INDEX in names else "a model"
        raise CheckpointError(
            f"{folder}: contains {model} and the adapter {weights}, which transformers applies only if the package "
            "peft is installed. Move the one that does not belong to another folder."
        )


def _gguf_models(folder: Path, names: Collection[str]) -> list[str]:
    """Return the names of the language models among a folder's GGUF files, of a split model its first part.

    Among several files, those with other contents (a projector, an importance matrix, an adapter) do not count.
    """
    candidates = sorted(name for name in names if not name.startswith("."))[:_MAX_FILES]
    found = {part_names(name)[0] for name in candidates if is_gguf(folder / name)}
    if len(found) > 1:
        found = {name for name in found if _is_model(folder / name)} or found
    return sorted(found)


def _is_model(path: Path) -> bool:
    try:
        content, architecture = gguf_content(path)
    except CheckpointError:
        return True  # opening it reports the error
    return content == "model" and architecture not in OTHER_CONTENTS


def foreign_weights(names: Collection[str], adapted: str = "") -> str | None:
    """Describe, by file names, what is there instead of weights that pa-lite reads; None if unknown.

    `adapted` is the base model of an adapter, if known.
    """
    if ADAPTER_SETTINGS in names or any(name in names for name in _ADAPTER_FILES):
        model = f" for {adapted}" if adapted else ""
        return f"is a PEFT adapter (such as LoRA){model}, not a complete model. {_AFTER_BASE}"
    if pickles := [name for name in names if name.endswith(PICKLES)]:
        return f"its weights are pickles ({listed(pickles)}), which can run code and are not opened. {_CONVERT}"
    if others := [name for name in names if name.endswith(".safetensors")]:
        return (
            f"has no {SINGLE} and no {INDEX}, but {listed(others)}. Name that file if it contains a complete model in "
            "transformers' layout"
        )
    for name in sorted(names):
        if kind := _FOREIGN.get(Path(name).suffix):
            return f"has no weights that pa-lite reads: {name} is {kind}. Use safetensors files instead"
    return None


def _lack(folder: Path, names: Collection[str]) -> str:
    """Return why a folder cannot be opened: what it contains instead of weights, and what to do."""
    if any(repository_of(Path(name)) for name in names):
        repositories = [name for name in names if repository_of(Path(name))]
        return f"is a cache of the Hub. Name one of the repositories in it: {listed(repositories)}"
    if found := foreign_weights(names, _base_of(folder, names)):
        return found
    for name in sorted(names):
        if name.lower().endswith(".gguf"):
            kind = content_of(folder / name).explanation if (folder / name).is_file() else None
            return f"{name} is {kind or 'not a GGUF file. Fetch it again'}"
    return f"has no weights (no {SINGLE}, no {INDEX}, no GGUF file). Name a folder or file that has them"


def _base_of(folder: Path, names: Collection[str]) -> str:
    """Return the base model that an adapter's settings name, or an empty string."""
    if ADAPTER_SETTINGS not in names:
        return ""
    try:
        base = read_json(folder / ADAPTER_SETTINGS).get("base_model_name_or_path")
    except CheckpointError:
        return ""
    return base if isinstance(base, str) else ""


def unknown_file(path: ByteSource) -> CheckpointError:
    """Return the error for a file that is neither GGUF nor safetensors, which says what it is and what to do."""
    try:
        content = content_of(path)
    except OSError as e:
        return CheckpointError(f"{path}: cannot be read: {e.strerror}.")
    if path.name.endswith(".json"):
        return CheckpointError(f"{path}: is a JSON file. Name the checkpoint's folder, not one of its settings files.")
    kind = content.explanation or "neither a GGUF nor a safetensors file, or is cut off. Fetch it again"
    return CheckpointError(f"{path}: is {kind}.")
