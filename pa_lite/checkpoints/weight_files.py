"""Find the weight files of a checkpoint folder as transformers does, and the tensors in them.

transformers 5 reads the file that config.json names (`transformers_weights`), else model.safetensors, else the shards
that the index names, and never other files. `_Merged` handles an index that contradicts its shards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.safetensors_file import StoredTensor, read_header, read_json
from pa_lite.errors import CheckpointError
from pa_lite.system.byte_source import ByteSource
from pa_lite.untrusted.header_memory import HeaderMemory
from pa_lite.untrusted.safe_names import name_fault, same_file

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# names of weights, including a precision (model.fp16.safetensors) and shards without an index
WEIGHTS = re.compile(r"model[^/]*\.safetensors")
_SHOWN = 3  # names listed in a remark


@dataclass(frozen=True)
class FolderWeights:
    """A folder's tensors by name, the names that only the index has, and remarks on choices between files."""

    tensors: Mapping[str, StoredTensor]
    absent: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def listed(names: Collection[str], most: int = _SHOWN) -> str:
    """Return names for a message, at most `most` of them."""
    shown = sorted(names)[:most]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")


def read_index(index: Path) -> dict[str, str]:
    """Return an index's map from tensors to shards, checked to be plain file names. Raises CheckpointError."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{index}: has no weight_map from tensor names to file names.")
    names = sorted(set(weight_map.values()))
    for name in names:
        if fault := shard_fault(name):
            raise CheckpointError(f"{index}: names the shard {name!r}, which {fault}.")
    if twins := same_file(names):
        raise CheckpointError(
            f"{index}: names the shards {' and '.join(twins)}, which are the same file on some systems."
        )
    return weight_map


def shard_fault(name: str) -> str | None:
    """Return what is wrong with a file name of weights; None for a plain .safetensors file name."""
    fault = name_fault(name)
    if fault is None and not re.fullmatch(r"[^.].*\.safetensors", name):
        fault = "is not a .safetensors file"
    return fault


def choose_weights(names: Collection[str], shards: Callable[[], Iterable[str]], explicit: str = "") -> list[str]:
    """Return the files with the weights of a folder that contains `names`, sorted; empty if there are none.

    `shards` reads the names in the index and is only called if they matter. `explicit` is the file that config.json
    names. Returned files that are not among `names` are missing.
    """
    if explicit:
        return [explicit]
    if SINGLE in names:
        return [SINGLE]
    if INDEX in names:
        return sorted(shards())
    return sorted(name for name in names if WEIGHTS.fullmatch(name))


def read_folder(
    folder: Path, elsewhere: Mapping[str, ByteSource] | None = None, config: Mapping[str, Any] | None = None
) -> FolderWeights:
    """Read the headers of a folder's weights; `elsewhere` maps names of files that are not in it to their source.

    `config` is config.json. Raises CheckpointError for no weights, a missing shard, or a tensor in two files without an
    index that decides.
    """
    elsewhere = elsewhere or {}
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    names |= elsewhere.keys()
    explicit = _explicit(folder, config or {})
    index: dict[str, str] = {}

    def shards() -> list[str]:
        index.update(read_index(folder / INDEX))
        return sorted(set(index.values()))

    chosen = choose_weights(names, shards, explicit)
    found = _Merged(folder=folder, index=index)
    for name in chosen:
        path = elsewhere.get(name, folder / name)
        if isinstance(path, Path) and not path.exists():
            source = "config.json names as its weights" if explicit else f"{INDEX} names"
            raise CheckpointError(f"{folder}: shard {name} is missing, which {source}. Fetch it again.")
        found.add(path)
    tensors = found.tensors()
    if not tensors:
        raise CheckpointError(
            f"{folder}: has no weights (no {SINGLE} or {INDEX}). Name a folder with safetensors files, or a GGUF file."
        )
    others = {name for name in names if WEIGHTS.fullmatch(name)} - set(chosen)
    if INDEX in names and INDEX not in chosen and not index:
        others |= {INDEX} if _names_others(folder, chosen) else set()
    remarks = found.remarks()
    if others:
        remarks.insert(0, f"{folder}: {listed(chosen)} is read, as transformers does, and not {listed(others)}")
    return FolderWeights(tensors, tuple(sorted(index.keys() - tensors.keys())), tuple(remarks))


def _explicit(folder: Path, config: Mapping[str, Any]) -> str:
    """Return the weight file that config.json names, or an empty string. Raises CheckpointError for a bad name."""
    name = config.get("transformers_weights")
    if name is None:
        return ""
    where = folder / "config.json"
    if not isinstance(name, str):
        raise CheckpointError(f"{where}: transformers_weights is {name!r}, but must be a file name.")
    if fault := shard_fault(name):
        raise CheckpointError(f"{where}: transformers_weights names {name!r}, which {fault}.")
    return name


def _names_others(folder: Path, chosen: Sequence[str]) -> bool:
    """Return whether the index, which is not followed, names other files. A broken one counts as naming others."""
    try:
        return set(read_index(folder / INDEX).values()) != set(chosen)
    except CheckpointError:
        return True


@dataclass(kw_only=True)
class _Merged:
    """Tensors of several files. If several contain a tensor, the index decides.

    transformers 5 reads all shards that the index names, so it finds a tensor in any of them. Of two copies it uses the
    one in the last file (or the index's, if weights are offloaded to the disk).
    """

    folder: Path
    index: Mapping[str, str]
    held: dict[str, list[StoredTensor]] = field(default_factory=dict)
    memory: HeaderMemory = field(default_factory=HeaderMemory)

    def add(self, path: ByteSource) -> None:
        """Read one more file."""
        for tensor in read_header(path, self.memory).values():
            self.held.setdefault(tensor.name, []).append(tensor)

    def tensors(self) -> dict[str, StoredTensor]:
        """Return each tensor once. Raises CheckpointError for a tensor in two files if the index names neither."""
        return {name: self._chosen(name) for name in self.held}

    def _chosen(self, name: str) -> StoredTensor:
        copies = self.held[name]
        if len(copies) == 1:
            return copies[0]
        for tensor in copies:
            if tensor.path.name == self.index.get(name):
                return tensor
        raise CheckpointError(
            f"{self.folder}: tensor {name} is in {copies[0].path.name} and in {copies[1].path.name}. Remove the "
            "file that does not belong."
        )

    def remarks(self) -> list[str]:
        """Return remarks on choices between copies and on an index that is out of date."""
        out = []
        if copied := [name for name, copies in self.held.items() if len(copies) > 1]:
            name = copied[0]
            files = " and in ".join(tensor.path.name for tensor in self.held[name])
            out.append(
                f"{self.folder}: {_tensors(copied)} in more than one shard, such as {name} in {files}: {INDEX} "
                f"decides, for {self.index[name]}"
            )
        moved = [n for n, file in self.index.items() if n in self.held and self._chosen(n).path.name != file]
        if moved:
            name = moved[0]
            out.append(
                f"{self.folder}: {INDEX} is out of date: {_tensors(moved)} in another shard than it says, such as "
                f"{name} in {self._chosen(name).path.name} and not in {self.index[name]}"
            )
        return out


def _tensors(names: Collection[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"
