"""Protection of an lm-eval run from files in the current folder (extra `harness`).

lm-eval and its libraries use more of them than a user expects: `datasets` loads a folder with a data set's name instead
of the data set, `evaluate` runs the script in a folder with a metric's name, and git reads a repository's settings.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pa_lite.errors import InputError
from pa_lite.system.markers import is_mine
from pa_lite.system.opening import type_of

_log = logging.getLogger(__name__)


class Guard:
    """What was refused so far. `is_own` is whether the task being loaded is the user's, not one of lm-eval's."""

    def __init__(self) -> None:
        self.is_own = False
        self._refused: InputError | None = None

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Raise InputError at the end of the block if anything was refused in it, even if lm-eval caught the error."""
        try:
            yield
        except Exception:
            if self._refused is not None:
                raise self._refused from None
            raise
        if self._refused is not None:
            raise self._refused

    def check_data(self, path: object) -> None:
        """Raise InputError if a data set on the Hub would be loaded from the current folder."""
        if not is_shadowed(path):
            return
        if self.is_own:
            _log.warning("The task's data are loaded from the folder %r in the current folder, not from the Hub.", path)
            return
        raise self._refuse(f"the data set {path!r} is on the Hub, but the current folder has an entry of that name")

    def check_metric(self, path: object) -> None:
        """Raise InputError if a metric's code would be loaded from the current folder."""
        if is_shadowed(path):
            raise self._refuse(
                f"the metric {path!r} would be run from the current folder, which has an entry of that name"
            )

    def _refuse(self, why: str) -> InputError:
        self._refused = InputError(f"{why}. Rename that, or run in another folder (a task may refer to it as ./NAME).")
        return self._refused


def is_shadowed(path: object) -> bool:
    """Return whether a name that is not written as a path (/NAME, ./NAME) exists in the current folder."""
    return (
        isinstance(path, str)
        and bool(path)
        and not os.path.isabs(path)
        and not path.startswith((".", "~"))
        and "://" not in path
        and os.path.lexists(path)
    )


@contextlib.contextmanager
def guarded() -> Iterator[Guard]:
    """Replace the functions of lm-eval, datasets and evaluate that read the current folder while the block runs.

    Affects all threads of the process.
    """
    import datasets
    import evaluate
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES as PACKAGED
    from lm_eval import evaluator
    from lm_eval.loggers import utils

    guard = Guard()

    def data(load: Callable[..., Any]) -> Callable[..., Any]:
        def load_dataset(path: Any, *words: Any, **more: Any) -> Any:
            if path not in PACKAGED:
                guard.check_data(path)
            return load(path, *words, **more)

        return load_dataset

    def metric(load: Callable[..., Any]) -> Callable[..., Any]:
        def load_metric(path: Any, *words: Any, **more: Any) -> Any:
            guard.check_metric(path)
            return load(path, *words, **more)

        return load_metric

    def nothing(_: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *_words: None

    with contextlib.ExitStack() as stack:
        for module, name, replacement in (
            (datasets, "load_dataset", data), (evaluate, "load", metric), (evaluator, "get_git_commit_hash", nothing),
            (utils, "get_commit_from_path", nothing),
        ):  # fmt: skip
            known = getattr(module, name)
            stack.callback(setattr, module, name, known)
            setattr(module, name, replacement(known))
        yield guard


def check_requests_cache() -> None:
    """Raise InputError if other users can write to lm-eval's cache of requests: unpickling it can run code."""
    from lm_eval.caching.cache import PATH

    folder = Path(PATH)
    if not folder.is_absolute():
        raise InputError(
            f"LM_HARNESS_CACHE_PATH is {PATH!r}, which depends on the current folder. Use an absolute path."
        )
    try:
        entries = [(folder, folder.stat()), *((path, path.lstat()) for path in folder.iterdir())]
    except FileNotFoundError:
        return
    except OSError as e:
        raise InputError(f"{folder}: cannot be read ({e.strerror}). Leave out --cache_requests.") from e
    for path, facts in entries:
        file_type = type_of(facts)
        why = f"is a {file_type}" if path != folder and file_type not in (None, "folder") else _not_private(facts)
        if why:
            raise InputError(
                f"{path}: {why}, and reading lm-eval's cache of requests can run code. Remove it, or leave out "
                "--cache_requests."
            )


def _not_private(facts: os.stat_result) -> str:
    """Return why others can change a file or folder; empty if they cannot."""
    if os.name != "posix":
        return ""
    if not is_mine(facts) and facts.st_uid != 0:
        return "belongs to another user"
    if facts.st_mode & stat.S_IWOTH or (facts.st_mode & stat.S_IWGRP and facts.st_gid not in (0, os.getegid())):
        return "can be written by other users"
    return ""
