"""The registry of pairs (base and instruct under one name), both pa-lite's and the user's, and their folders."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.gguf_model import part_names
from pa_lite.checkpoints.hub.cache import RepoCache, cache_folder
from pa_lite.checkpoints.hub.references import PREFIX, HubReference, Location, locate
from pa_lite.checkpoints.locations import ADAPTER_WEIGHTS, resolve_location
from pa_lite.checkpoints.weight_files import INDEX, choose_weights, read_index
from pa_lite.errors import CheckpointError, InputError, nearest
from pa_lite.progress import Progress
from pa_lite.sanitize import name_text, toml_string
from pa_lite.system.atomic import existing_parent, write_errors, write_text
from pa_lite.system.machine import available_memory, config_folder
from pa_lite.untrusted.rows import read_toml
from pa_lite.untrusted.tables import ANYTHING, BOOLEAN, INTEGER, STRING, Form, check_table

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_BF16_BYTES = 2
# bits per weight (of Q4_K_M on average), and the additional memory of a context
_RUN_BITS = {"Q8_0": 8.5, "Q4_K_M": 4.9}
_RUN_SHARE, _RUN_BYTES = 1.05, 500_000_000


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A base and an instruct checkpoint of one architecture.

    `parameters` are those of one side, 0 if unknown; `gated` is None if unknown; `differs` describes differences
    besides weights and chat template. `is_own` pairs are the user's.
    """

    name: str
    base: Location
    instruct: Location
    description: str = ""
    licence: str = ""
    gated: bool | None = None
    parameters: int = 0
    differs: str = ""
    is_own: bool = False

    @property
    def folders(self) -> tuple[Path, Path]:
        """Both sides as paths. Raises InputError for a pair on the Hub."""
        if isinstance(self.base, HubReference) or isinstance(self.instruct, HubReference):
            raise InputError(f"pair {self.name} is on the Hub. Download it with 'pa-lite pairs fetch {self.name}'.")
        return self.base, self.instruct

    @property
    def download_bytes(self) -> int:
        """An estimate of the bytes to download for both sides, in bfloat16; 0 if unknown."""
        sides = [side for side in (self.base, self.instruct) if isinstance(side, HubReference)]
        return len(sides) * _BF16_BYTES * self.parameters


@dataclass(frozen=True)
class PairFit:
    """What this machine can do with a pair; None if unknown.

    `is_here`: no download is needed. `fits_disk`: both sides fit on the disk. `runs`: the types whose merged model fits
    in the memory that is free now.
    """

    is_here: bool
    fits_disk: bool | None
    runs: tuple[str, ...] | None


def models_folder() -> Path:
    """Return the folder with the embedded pair and pairs.toml: in the package, or next to it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "models", package.parent / "models"):
        if (folder / "pairs.toml").is_file():
            return folder
    raise CheckpointError(f"{package}: pa-lite was installed without its models folder. Install it again.")


def own_pairs_path() -> Path:
    """Return the file of the user's pairs, in the user's configuration folder. It need not exist."""
    return config_folder() / "pairs.toml"


def all_pairs() -> dict[str, Pair]:
    """Return every registered pair by name, pa-lite's first. If the user's file is broken, a warning is logged.

    Raises CheckpointError when pa-lite's file cannot be read.
    """
    pairs, error = _known()
    if error is not None:
        _log.warning("%s Until then only the pairs that come with pa-lite are known.", error)
    return pairs


def find_pair(name: str) -> Pair:
    """Return the pair of that name; pa-lite's pairs are found even if the user's file of pairs is broken.

    Raises InputError with the nearest names for an unknown name, CheckpointError when the broken file may have it.
    """
    pairs, error = _known()
    if name not in pairs:
        raise error or InputError(f"unknown pair {name!r}.{nearest(name, pairs)}")
    return pairs[name]


def resolve_pair(pair: str | Pair | tuple[str | Location, str | Location]) -> Pair:
    """Return the pair of a registered name, or of two locations (base, instruct).

    A pair of two locations is named after its instruct side. Raises InputError with the nearest names for an unknown
    name, and for a single location; also as `find_pair` and `resolve_location` do.
    """
    if isinstance(pair, Pair):
        return pair
    if isinstance(pair, str | Path):
        text = str(pair)
        if text.lower().endswith((".gguf", ".safetensors")) and not Path(text).exists() and text not in all_pairs():
            raise InputError(f"{text}: does not exist.")
        if isinstance(pair, Path) or (text not in all_pairs() and _is_location(text)):
            raise InputError(f"{text!r} is one location, but a pair has two: give both BASE and INSTRUCT.")
        return find_pair(text)
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise InputError(f"{pair!r:.80} is not a pair: give a registered name, or base and instruct.")
    base, instruct = map(resolve_location, pair)
    if isinstance(instruct, HubReference):
        return Pair(name=instruct.name, base=base, instruct=instruct)
    name = instruct.absolute().name
    return Pair(
        name=name_text(name[:-5] if name.lower().endswith(".gguf") else name) or "pair", base=base, instruct=instruct
    )


def _is_location(text: str) -> bool:
    """Return whether a string that is not a registered name must be a location."""
    named = "/" in text or "\\" in text or text.startswith(PREFIX) or text.lower().endswith((".gguf", ".safetensors"))
    return named or bool(text and Path(text).exists())


def _known() -> tuple[dict[str, Pair], CheckpointError | None]:
    """Return the registered pairs, and the error if the user's file is broken and its pairs are missing."""
    pairs = read_pairs(models_folder() / "pairs.toml", is_own=False)
    try:
        users = _own_pairs()
    except CheckpointError as e:
        return pairs, e
    for name in users.keys() & pairs.keys():
        _log.warning("pair %s of %s hides the one that comes with pa-lite.", name, own_pairs_path())
    return pairs | users, None


def _own_pairs() -> dict[str, Pair]:
    path = own_pairs_path()
    return read_pairs(path, is_own=True) if path.exists() else {}


def read_pairs(path: Path, is_own: bool) -> dict[str, Pair]:
    """Return the pairs of a registry file by name. Raises CheckpointError for an invalid one."""
    try:
        entries, _ = read_toml(path)
        return {name: _pair(name, entry, path.parent, is_own) for name, entry in entries.items()}
    except (InputError, ValueError) as e:
        reason = str(e).removeprefix(f"{path}: ").rstrip(".")
        raise CheckpointError(f"{path}: is not a registry of pairs: {reason}. Fix or remove it.") from e


_FORMS: Mapping[str, Form] = {
    "base": STRING, "instruct": STRING, "description": STRING, "licence": STRING, "gated": BOOLEAN,
    "parameters": INTEGER, "differs": STRING,
}  # fmt: skip


def _pair(name: str, entry: Any, folder: Path, is_own: bool) -> Pair:
    entry = check_table(entry, name, dict.fromkeys(_FORMS, ANYTHING), ("base", "instruct"))
    entry = {key: _path_of_bytes(value) if key in ("base", "instruct") else value for key, value in entry.items()}
    check_table(entry, name, _FORMS)

    def location(side: str) -> Location:
        found = locate(entry[side])
        return folder / found if isinstance(found, Path) else found

    rest = {key: value for key, value in entry.items() if key not in ("base", "instruct")}
    return Pair(name=name, base=location("base"), instruct=location("instruct"), **rest, is_own=is_own)


def _path_of_bytes(value: Any) -> Any:
    """Decode `{ bytes = "HEX" }`, which stores a path that is not UTF-8 and that TOML cannot hold."""
    if not (isinstance(value, dict) and value.keys() == {"bytes"} and isinstance(value["bytes"], str)):
        return value
    return os.fsdecode(bytes.fromhex(value["bytes"]))


def add_pair(name: str, base: str, instruct: str, description: str = "", force: bool = False) -> Pair:
    """Add a pair to the user's registry; paths become absolute.

    Checkpoints on the disk are opened to check them, those on the Hub are not. Raises InputError for a name that is
    invalid or taken (with `force`, the user's pair is replaced), and CheckpointError for sides that are not checkpoints
    or differ in architecture.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is not a valid pair name. Use letters, digits, '.', '_' and '-'.")
    path, users = own_pairs_path(), _own_pairs()
    pairs = all_pairs()
    if name in pairs and not (pairs[name].is_own and force):
        raise InputError(
            f"pair {name} is in {path} already. Choose another name, or use --force to replace it."
            if pairs[name].is_own
            else f"pair {name} comes with pa-lite. Choose another name."
        )
    pair = Pair(name=name, base=_absolute(base), instruct=_absolute(instruct), description=description, is_own=True)
    if pair.base == pair.instruct:
        raise InputError(f"base and instruct are both {base}.")
    _check_alike(pair)
    users = {**users, name: pair}
    with write_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(map(_toml, users.values())))
    return pair


def remove_pair(name: str) -> None:
    """Remove a pair from the user's registry; files of its checkpoints stay. Raises InputError for any other pair."""
    path, users = own_pairs_path(), _own_pairs()
    if name not in users:
        if name in all_pairs():
            raise InputError(f"pair {name} comes with pa-lite and cannot be removed.")
        raise InputError(f"unknown pair {name!r}.{nearest(name, users)}")
    write_text(path, "".join(_toml(pair) for pair in users.values() if pair.name != name))


def _absolute(text: str) -> Location:
    location = resolve_location(text)
    return location if isinstance(location, HubReference) else location.expanduser().absolute()


def _check_alike(pair: Pair) -> None:
    """Open the sides on the disk, and raise CheckpointError when their architectures differ.

    An adapter of a base that is not on the disk cannot be checked.
    """
    from pa_lite.checkpoints import is_adapter, open_checkpoint, open_pair

    if isinstance(pair.base, Path) and isinstance(pair.instruct, Path):
        opened = [*open_pair(pair.base, pair.instruct)]
    else:
        sides = [side for side in (pair.base, pair.instruct) if isinstance(side, Path) and not is_adapter(side)]
        opened = [open_checkpoint(side) for side in sides]
    for remark in (remark for checkpoint in opened for remark in checkpoint.remarks):
        _log.warning("%s", remark)
    names = {checkpoint.architecture for checkpoint in opened}
    if len(names) > 1:
        raise CheckpointError(
            f"architectures differ: {' and '.join(sorted(names))}. These checkpoints are not a base/instruct pair."
        )


def _toml(pair: Pair) -> str:
    entries = {key: getattr(pair, key) for key in _FORMS}
    lines = [f"[{toml_string(pair.name)}]"]
    for key, value in entries.items():
        if value not in ("", None, 0) or value is False:
            shown = str(value).lower() if isinstance(value, bool) else value
            lines.append(f"{key} = {shown if isinstance(value, int) else _path_text(str(value))}")
    return "\n".join(lines) + "\n\n"


def _path_text(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return f'{{ bytes = "{os.fsencode(text).hex()}" }}'
    return toml_string(text)


def fetch_pair(pair: Pair, progress: Progress | None = None) -> tuple[Path, Path]:
    """Return the paths of both sides, downloading those on the Hub. Raises as fetch_checkpoints does."""
    from pa_lite.checkpoints.hub.checkpoints import fetch_checkpoints

    sides = (pair.base, pair.instruct)
    remote = [side for side in sides if isinstance(side, HubReference)]
    fetched = iter(fetch_checkpoints(remote, progress))
    base, instruct = (next(fetched) if isinstance(side, HubReference) else side for side in sides)
    return base, instruct


def pair_fit(pair: Pair) -> PairFit:
    """Return what this machine can currently do with a pair."""
    is_here = all(_is_here(side) for side in (pair.base, pair.instruct))
    if not pair.parameters:
        return PairFit(is_here, None, None)
    free = shutil.disk_usage(existing_parent(cache_folder())).free
    memory = available_memory()
    runs = tuple(
        name for name, bits in _RUN_BITS.items() if _RUN_SHARE * pair.parameters * bits / 8 + _RUN_BYTES <= memory
    )
    return PairFit(is_here, is_here or pair.download_bytes <= free, runs if memory else None)


def _is_here(side: Location) -> bool:
    """Return whether the weights of a side are on the disk; for the Hub, in the cached snapshot of its revision."""
    if isinstance(side, Path):
        return side.exists()
    cache = RepoCache(side.repo)
    commit = cache.commit_of(side.revision)
    if commit is None:
        return False
    folder = cache.snapshot(commit)
    if side.file is not None:
        return all((folder / name).is_file() for name in part_names(side.file))
    names = {path.name for path in folder.iterdir()}
    try:
        chosen = choose_weights(names, lambda: set(read_index(folder / INDEX).values()))
    except CheckpointError:
        return False
    if chosen:
        return set(chosen) <= names
    return ADAPTER_WEIGHTS in names or any(name.lower().endswith(".gguf") for name in names)
