"""Import modules by their paths in 0.1.0, for one more version, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

# old path -> new path, both without `pa_lite.`; modules of a package move with it unless they are listed
MOVED = {
    "checkpoints.gguf_file": "ggml.container",
    "engine.interrupt": "engine.interrupts",
    "engine.movable": "engine.in_memory",
    "engine.reference": "engine.model_reference",
    "follow": "instructions",
    "follow.alpaca": "alpaca.alpaca_eval",
    "follow.annotations": "alpaca.annotations",
    "follow.instructions": "instructions.following",
    "follow.journal": "alpaca.journal",
    "follow.judge": "alpaca.judge",
    "follow.judging": "alpaca.judging",
    "follow.length_control": "alpaca.length_control",
    "follow.outputs": "alpaca.outputs",
    "follow.pairing": "alpaca.pairing",
    "follow.winrate": "alpaca.win_rate",
    "kernels": "ggml.kernels",
    "machine": "system.machine",
    "merge": "merging",
    "merge.imatrix": "ggml.imatrix",
    "merge.limits": "merging.nonfinite",
    "merge.mixture": "ggml.quant_types",
    "merge.partial": "merging.output_file",
    "merge.readers": "checkpoints.readers",
    "study.chart": "study.report.matplotlib_charts",
    "study.hunt": "study.search.run",
    "study.paired": "study.comparisons",
    "study.publish": "study.report.publish",
    "study.study": "study.summary",
    "study.works": "study.workloads",
    "tasks.harness": "tasks.lm_eval.model",
    "tasks.harness_options": "tasks.lm_eval.options",
    "tasks.harness_run": "tasks.lm_eval.run",
}


def new_path(name: str) -> str | None:
    """Return the new path of a module that has moved since 0.1.0, None for others."""
    package, _, path = name.partition(".")
    if package != "pa_lite" or not path:
        return None
    if path in MOVED:
        return f"pa_lite.{MOVED[path]}"
    parent, _, own = path.rpartition(".")
    return f"pa_lite.{MOVED[parent]}.{own}" if parent in ("merge", "follow") else None


class _Loader:  # importing importlib.abc would double the time of importing pa_lite
    def __init__(self, path: str) -> None:
        self._path = path

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Replace the empty module by the moved one, so that classes are the same under both paths."""
        sys.modules[module.__name__] = importlib.import_module(self._path)


class _OldPaths:
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for an old path, None for every other name."""
        found = new_path(name)
        if found is None:
            return None
        text = f"{name} is now {found}; the old path will be removed in the next version."
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return importlib.machinery.ModuleSpec(name, _Loader(found), is_package=False)  # type: ignore[arg-type]


def install() -> None:
    """Install the finder of old paths, once.

    It comes first: the default finder would load modules of a moved package a second time.
    """
    if not any(isinstance(finder, _OldPaths) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OldPaths())
