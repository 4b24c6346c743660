"""Find the run folder of a study by path, or by the name of a registered pair."""

from __future__ import annotations

from pathlib import Path

from pa_lite.checkpoints.pairs import Pair, all_pairs
from pa_lite.errors import InputError
from pa_lite.study.demo import DEMO_FOLDER
from pa_lite.study.results_file import FILE
from pa_lite.untrusted.safe_names import file_name


def default_run(pair: Pair) -> Path:
    """Return the default run folder of a sweep: `PAIR-study` in the working folder."""
    return Path(f"{file_name(pair.name)}-study")


def newest_run(name: str) -> Path | None:
    """Return the newest default run folder of the pair of that name; None if there is none."""
    known = [Path(f"{name}-study"), *([Path(DEMO_FOLDER)] if name == "demo" else [])]
    found = [each for each in known if (each / FILE).is_file()]
    return max(found, key=lambda each: (each / FILE).stat().st_mtime) if found else None


def find_run(run: str | Path) -> Path:
    """Return the run folder of that name; for a pair's name the newest of its default ones.

    Raises InputError, naming the studies in the working folder, for a name without results.
    """
    folder = Path(run)
    if isinstance(run, Path) or (folder / FILE).exists():
        return folder
    if (newest := newest_run(str(run))) is not None:
        return newest
    if folder.exists():
        return folder  # reading it says what is wrong
    here = sorted(str(path.parent) for path in Path().glob(f"*/{FILE}"))
    named = f" Studies here: {', '.join(here[:6])}." if here else ""
    advice = f" Run `pa-lite sweep {run} --tasks ...` first." if run in all_pairs() else ""
    raise InputError(f"{run}: no study was found.{named}{advice}")
