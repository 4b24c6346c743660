"""The registry of pairs (base and instruct under one name) and where the files that come with pa-lite lie."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from pa_lite.checkpoints.hub import Location
from pa_lite.errors import CheckpointError, InputError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Pair:
    """A base and an instruct checkpoint of one architecture."""

    name: str
    base: Location
    instruct: Location
    description: str = ""


def models_folder() -> Path:
    """The folder with the embedded pair and pairs.toml: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "models", package.parent / "models"):
        if (folder / "pairs.toml").is_file():
            return folder
    raise CheckpointError(f"{package}: pa-lite was installed without its models folder. Install it again.")


def all_pairs() -> dict[str, Pair]:
    """Every registered pair by name. Raises CheckpointError for a registry that is no such TOML."""
    folder = models_folder()
    try:
        entries = tomllib.loads((folder / "pairs.toml").read_text("utf-8"))
        return {
            name: Pair(name, folder / entry["base"], folder / entry["instruct"], entry.get("description", ""))
            for name, entry in entries.items()
        }
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as e:
        raise CheckpointError(f"{folder / 'pairs.toml'}: is not a registry of pairs: {e}") from e


def find_pair(name: str) -> Pair:
    """The pair of that name. Raises InputError with the nearest names when there is none."""
    pairs = all_pairs()
    if name not in pairs:
        raise InputError(f"unknown pair {name!r}.{nearest(name, pairs)}")
    return pairs[name]
