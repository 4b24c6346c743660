"""What a path on the disk stands for: a folder with weights, or one file, judged by its content and not by its name."""

from __future__ import annotations

import re
from collections.abc import Collection
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

_MOST_FILES = 10_000  # of a folder, whose first bytes are looked at
_ADAPTER, _ADAPTER_WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
_MERGE = (
    "Merge it into that base first (peft: model.merge_and_unload(), then save_pretrained), and name the folder of "
    "the result"
)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_CONVERT = (
    "Take a repository or revision with safetensors files, or convert it: "
    "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW) of transformers"
)
# endings of other programs' weights -> what they are
_FOREIGN = {
    ".h5": "TensorFlow's weights", ".msgpack": "Flax's weights", ".onnx": "an ONNX model", ".npz": "NumPy arrays",
    ".nemo": "a NeMo model", ".tflite": "a TensorFlow Lite model", ".mlmodel": "a Core ML model",
}  # fmt: skip


_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[^\s@]+)?", re.A)
_FILE_ENDINGS = (".gguf", ".safetensors", ".json", ".toml", *PICKLES)


def resolve_location(where: str | Location) -> Location:
    """Return what a location stands for: a path, or `org/name[@revision]` on the Hub, with or without `hub:`.

    What exists on the disk goes first. `org/name` is not taken for a name on the Hub where the folder `org` exists, nor
    where it ends as a file of weights does: then it is a path that is not there. Raises InputError for an empty string
    and for what is wrong after `hub:`.
    """
    found = locate(where)
    if isinstance(found, HubReference) or not isinstance(where, str) or _HUB_NAME.fullmatch(where) is None:
        return found
    is_file = where.partition("@")[0].lower().endswith(_FILE_ENDINGS)
    if is_file or found.exists() or found.is_symlink() or found.parent.exists():
        return found
    return parse_hub(f"hub:{where}")


def find_model(path: Path, elsewhere: Collection[str] = ()) -> Path:
    """Return what to open for a path that a user named: a folder with safetensors weights, or one file.

    A repository's folder in a Hub cache leads to the snapshot of its `refs/main`, a folder whose only model is a GGUF
    file (or all parts of a split one) to that file. `elsewhere` are the names of weight files that lie on the Hub.
    Raises CheckpointError for what does not exist or holds nothing that pa-lite reads, saying what it is; InputError,
    naming them, for several GGUF models.
    """
    if path.is_dir():
        return _in_folder(path, elsewhere)
    if path.is_file() or path.name in elsewhere:
        return path
    if path.exists():
        raise CheckpointError(f"{path}: is a device, socket or pipe; name a file or folder.")
    if path.is_symlink():
        raise CheckpointError(f"{path}: is a link to {path.readlink()}, which does not exist. Fetch it again.")
    raise CheckpointError(f"{path}: no such file or folder.")


def _in_folder(folder: Path, elsewhere: Collection[str]) -> Path:
    if folder.name == "snapshots" and repository_of(folder.resolve().parent):
        folder = folder.parent
    if repository_of(folder.resolve()) and (folder / "snapshots").is_dir():
        return _in_folder(snapshot_of(folder), elsewhere)
    try:
        names = {path.name for path in folder.iterdir()} | set(elsewhere)
    except OSError as e:
        raise CheckpointError(f"{folder}: cannot be read: {e.strerror}.") from e
    if any(WEIGHTS.fullmatch(name) or name == INDEX for name in names) or _names_weights(folder, names):
        _check_adapter(folder, names)
        return folder
    models = _gguf_models(folder, names)
    if len(models) == 1:
        return folder / models[0]
    if models:
        raise InputError(f"{folder}: holds {len(models)} GGUF models. Name one of the files: {listed(models, 6)}.")
    raise CheckpointError(f"{folder}: {_lack(folder, names)}.")


def _names_weights(folder: Path, names: Collection[str]) -> bool:
    """Whether config.json names a file of weights that is there (see weight_files)."""
    path = folder / "config.json"
    return path.is_file() and read_json(path).get("transformers_weights") in names


def _check_adapter(folder: Path, names: Collection[str]) -> None:
    """Raise CheckpointError for a model that an adapter lies beside.

    transformers 5 puts such an adapter onto the model where the package peft is installed, and ignores it elsewhere.
    """
    weights = next((name for name in _ADAPTER_WEIGHTS if name in names), None)
    if _ADAPTER in names and weights:
        model = SINGLE if SINGLE in names else INDEX if INDEX in names else "a model"
        raise CheckpointError(
            f"{folder}: holds {model} and the adapter {weights}; whether transformers applies that depends on the "
            "package peft. Move the one that does not belong to another folder."
        )


def _gguf_models(folder: Path, names: Collection[str]) -> list[str]:
    """The language models among a folder's GGUF files, of a split one its first part, by name.

    Where there are several files, those that say that they are something else (a projector, an importance matrix, an
    adapter) do not count.
    """
    candidates = sorted(name for name in names if not name.startswith("."))[:_MOST_FILES]
    found = {part_names(name)[0] for name in candidates if is_gguf(folder / name)}
    if len(found) > 1:
        found = {name for name in found if _is_model(folder / name)} or found
    return sorted(found)


def _is_model(path: Path) -> bool:
    try:
        content, architecture = gguf_content(path)
    except CheckpointError:
        return True  # which the error of opening it then tells
    return content == "model" and architecture not in OTHER_CONTENTS


def foreign_weights(names: Collection[str], adapted: str = "") -> str | None:
    """Return what is there in place of weights that pa-lite reads, by the files' names; None if unknown.

    `adapted` is the model that an adapter is for, where it says so.
    """
    if _ADAPTER in names or any(name in names for name in _ADAPTER_WEIGHTS):
        model = f" for {adapted}" if adapted else ""
        return f"is a PEFT adapter (LoRA or the like){model}, not a whole model. {_MERGE}"
    if pickles := [name for name in names if name.endswith(PICKLES)]:
        return f"its weights are pickles ({listed(pickles)}), which can run code and are not opened. {_CONVERT}"
    if others := [name for name in names if name.endswith(".safetensors")]:
        return (
            f"has no {SINGLE} and no {INDEX}, but {listed(others)}. Name that file itself, if it holds a whole model "
            "in transformers' layout"
        )
    for name in sorted(names):
        if told := _FOREIGN.get(Path(name).suffix):
            return f"has no weights that pa-lite reads: {name} is {told}. Take safetensors files instead"
    return None


def _lack(folder: Path, names: Collection[str]) -> str:
    """Why a folder without weights that pa-lite reads cannot be opened: what it holds instead, and what to do."""
    if any(repository_of(Path(name)) for name in names):
        repositories = [name for name in names if repository_of(Path(name))]
        return f"is a cache of the Hub. Name one of the repositories in it: {listed(repositories)}"
    if told := foreign_weights(names, _base_of(folder, names)):
        return told
    for name in sorted(names):
        if name.lower().endswith(".gguf"):
            told = content_of(folder / name).explanation if (folder / name).is_file() else None
            return f"{name} is {told or 'not a GGUF file. Fetch it again'}"
    return f"has no weights (no {SINGLE}, no {INDEX}, no GGUF file). Name a folder or file that has them"


def _base_of(folder: Path, names: Collection[str]) -> str:
    """The model that an adapter is for, as its settings say; empty where they do not."""
    if _ADAPTER not in names:
        return ""
    try:
        base = read_json(folder / _ADAPTER).get("base_model_name_or_path")
    except CheckpointError:
        return ""
    return base if isinstance(base, str) else ""


def unknown_file(path: ByteSource) -> CheckpointError:
    """Return the error for a file that is neither GGUF nor safetensors: what it is, and what to do."""
    try:
        content = content_of(path)
    except OSError as e:
        return CheckpointError(f"{path}: cannot be read: {e.strerror}.")
    if path.name.endswith(".json"):
        return CheckpointError(f"{path}: is a JSON text. Name the checkpoint's folder, not a file of its settings.")
    told = content.explanation or "neither a GGUF nor a safetensors file, or is cut off. Fetch it again"
    return CheckpointError(f"{path}: is {told}.")
