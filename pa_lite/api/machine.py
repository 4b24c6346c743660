"""The machine: which models fit, and temporary files that killed runs left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pa_lite.checkpoints.hub import cache
from pa_lite.engine.doctor import CELLS, Diagnosis, diagnose
from pa_lite.system.atomic import system_words
from pa_lite.system.leftovers import Leftover, find_downloads, find_leftovers, remove, temporary_files
from pa_lite.system.machine import cache_folder, config_folder

__all__ = ["CELLS", "Diagnosis", "Leftover", "diagnose", "leftovers", "remove", "system_words"]


def leftovers(folders: str | Path | Sequence[str | Path] = ()) -> list[Leftover]:
    """Return temporary files that killed runs left in `folders` and their subfolders.

    By default in the working folder and the system's temporary folder (without subfolders), and in pa-lite's own
    folders and the Hub's cache.
    """
    listed = [folders] if isinstance(folders, str | Path) else list(folders)
    if listed:
        return find_leftovers([Path(folder) for folder in listed], deep=True)
    shared = dict.fromkeys((Path.cwd(), temporary_files()))
    own = [folder for folder in (config_folder(), cache_folder()) if folder.is_dir()]
    return [*find_leftovers(list(shared)), *find_leftovers(own, deep=True), *find_downloads(cache.cache_folder())]
