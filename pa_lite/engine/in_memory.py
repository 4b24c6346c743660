"""A merged model in llama.cpp's memory, without a GGUF file on the disk, that can move to another lam in place.

llama.cpp maps its model file shared and read-only. Here that file is anonymous and in memory (Linux), or a temporary
file elsewhere: merging another lam into it changes the weights of the loaded model.
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from pa_lite.checkpoints.readers import RandomFile
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.probe import probe_merged
from pa_lite.errors import EngineError
from pa_lite.ggml.container import gguf_header_bytes
from pa_lite.ggml.kernels import prepare
from pa_lite.merging.lams import format_lam
from pa_lite.merging.nonfinite import Nonfinite
from pa_lite.merging.plan import MergePlan
from pa_lite.merging.schedule import Schedule
from pa_lite.merging.stream import Target, run_stream
from pa_lite.system.atomic import check_space, write_errors
from pa_lite.system.machine import available_memory, cores
from pa_lite.system.markers import temporary_folder
from pa_lite.system.opening import create_file

_log = logging.getLogger(__name__)


class InMemoryModel:
    """The model of a plan at one lam, which `move` changes. A context manager; `model` is valid within it.

    Before a move, close all contexts of `model`, or drop the tokens that they hold. Weights on a GPU are copies: there
    each move loads the file again, and all contexts must be closed.
    """

    def __init__(
        self,
        plan: MergePlan,
        lam: float,
        options: EngineOptions | None = None,
        name: str = "",
        schedule: Schedule | None = None,
    ) -> None:
        """Merge at `lam` and load. A merge of GGUF files is first probed in a child process unless options turn it off.

        `name` names the pair in errors, by default as the instruct side; `schedule` is as for `move`. Raises as
        merging, probing and loading do, and EngineError when memory does not suffice.
        """
        self.plan, self.options = plan, options or EngineOptions()
        self.name = name or plan.instruct.name
        header, self._tensors, self._size = plan.at(lam, schedule).file
        for tensor_type in {t.type for t in plan.tensors}:
            prepare(tensor_type)
        self._descriptor: int | None = None
        self._folder = ExitStack()  # holds the temporary folder, if any
        self._model: Model | None = None
        try:
            self.path = self._make_file()
            with write_errors(self.path.parent), RandomFile(self.path, "r+") as file:
                offset = 0
                for part in header.parts:
                    file.write(np.frombuffer(part, np.uint8), offset)
                    offset += len(part)
            self.move(lam, schedule)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> InMemoryModel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def model(self) -> Model:
        """The loaded model, at the lam of the last move."""
        assert self._model is not None
        return self._model

    @property
    def is_in_memory(self) -> bool:
        """Whether the model file is in memory and not on a disk."""
        return self._descriptor is not None

    def move(self, lam: float, schedule: Schedule | None = None) -> None:
        """Merge at `lam` into the loaded weights, by the plan's schedule or by another.

        Raises as merging does; the model is then unusable.
        """
        layout = self.plan.at(lam, schedule)
        if self._model is not None and self._model.is_offloaded:
            self._model.close()
            self._model = None
        label = f"{self.name}@{format_lam(lam)}"
        threads = self.options.threads or cores()
        with write_errors(self.path.parent), RandomFile(self.path, "r+") as file:
            nonfinite = Nonfinite() if self.plan.options.allow_nonfinite else None
            # headers of two lams may differ in length: keep the tensor offsets of the first
            target = Target(file=file, lams=layout.lams, tensors=self._tensors, nonfinite=nonfinite)
            run_stream(self.plan.tensors, [target], threads)
        if nonfinite is not None and (kept := nonfinite.summary()):
            _log.warning("lam %g: %s", lam, kept)
        if self._model is None:
            self._probe()
            self._model = Model(self.path, self.options, rewritable=True, label=label)
        metadata = {**self._model.header.metadata, **layout.metadata}
        self._model.header = replace(self._model.header, metadata=metadata)
        self._model.merged, self._model.label = layout, label

    def _probe(self) -> None:
        """Probe a merge of GGUF files in a child process: its metadata are those of the files and may be unsafe."""
        if not self.options.probe or not (self.plan.base.is_gguf or self.plan.instruct.is_gguf):
            return
        metadata = {key: entry for key, entry in self.plan.at(0.0).metadata.items() if not key.startswith("pa_lite.")}
        header, _, _ = gguf_header_bytes(self.plan.instruct.architecture, metadata, self.plan.tensor_infos)
        probe_merged(self.path, header, self._size, () if self._descriptor is None else (self._descriptor,))

    def close(self) -> None:
        """Free the model and its memory. May be called more than once."""
        if self._model is not None:
            self._model.close()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._folder.close()

    def _make_file(self) -> Path:
        """Create an empty file of the right size: in memory if that is possible and fits, else a temporary file."""
        if hasattr(os, "memfd_create") and self._size < available_memory():
            self._descriptor = os.memfd_create("pa-lite")
            try:
                os.ftruncate(self._descriptor, self._size)
            except OSError as e:
                raise EngineError(
                    f"{self.name}: cannot reserve {self._size / 1e6:.0f} MB of memory for the merged model: "
                    f"{e.strerror}. Raise the limit of file sizes (ulimit -f), or choose a smaller type."
                ) from e
            return Path(f"/proc/self/fd/{self._descriptor}")
        path = self._folder.enter_context(temporary_folder()) / "merged.gguf"
        check_space(path.parent, self._size)
        with create_file(path) as f:
            f.truncate(self._size)
        return path
