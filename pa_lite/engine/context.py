"""llama.cpp's contexts: cached sequences, batches that extend them, and the logits after each token."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pa_lite.engine.llama import complaint
from pa_lite.engine.thread_count import ThreadCount
from pa_lite.errors import EngineError, StoppedError
from pa_lite.ggml.kernels import FloatArray

Ints = Sequence[int] | npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]


class ContextModel(Protocol):
    """The part of a model that its contexts use."""

    lib: Any
    label: str
    n_vocab: int
    thread_count: ThreadCount

    @property
    def can_rewind(self) -> bool: ...

    @property
    def n_swa(self) -> int: ...

    def is_end(self, token: int) -> bool: ...

    def piece(self, token: int) -> bytes: ...


class Context:
    """A running llama.cpp context: sequences of cached tokens, and batches that extend them."""

    def __init__(self, model: ContextModel, handle: Any, n_seq_max: int, n_outputs: int = 0) -> None:
        self.model, self.lib, self.handle = model, model.lib, handle
        self.memory = self.lib.llama_get_memory(handle)
        self.n_ctx = int(self.lib.llama_n_ctx(handle))
        self.n_batch = int(self.lib.llama_n_batch(handle))
        self.n_ubatch = int(self.lib.llama_n_ubatch(handle))
        self.n_seq_max = n_seq_max
        self.n_outputs = n_outputs or self.n_batch
        self._tokens = np.zeros(self.n_batch, np.int32)
        self._positions = np.zeros(self.n_batch, np.int32)
        self._n_sequences = np.ones(self.n_batch, np.int32)
        self._sequences = np.zeros((self.n_batch, n_seq_max), np.int32)
        self._wanted = np.zeros(self.n_batch, np.int8)
        rows = self._sequences.ctypes.data + self._sequences.strides[0] * np.arange(self.n_batch)
        self._pointers = rows.astype(np.uintp)
        self._scratch = np.empty(model.n_vocab, np.float32)
        self._n_threads = 0  # as last set
        self.planned_bytes = 0  # of cache and batch, if they were estimated

    def decode(
        self, tokens: Ints, positions: Ints, first: Ints, last: Ints, wanted: Sequence[bool] | BoolArray
    ) -> None:
        """Run at most n_batch tokens: each at its position, in the sequences first..last; keep logits where wanted.

        Raises EngineError when the cache is full or llama.cpp fails, StoppedError when an interrupt stopped it.
        """
        n = len(tokens)
        assert 0 < n <= self.n_batch
        starts = np.asarray(first, np.int32)
        np.subtract(last, starts - 1, out=self._n_sequences[:n], dtype=np.int32)
        widest = int(self._n_sequences[:n].max())
        np.add.outer(starts, np.arange(widest, dtype=np.int32), out=self._sequences[:n, :widest])
        self._tokens[:n] = tokens
        self._positions[:n] = positions
        self._wanted[:n] = wanted
        n_threads = self.model.thread_count.measure()
        if n_threads != self._n_threads:
            self.lib.llama_set_n_threads(self.handle, n_threads, n_threads)
            self._n_threads = n_threads
        assert np.count_nonzero(self._wanted[:n]) <= self.n_outputs  # llama.cpp aborts otherwise
        batch = self.lib.llama_batch(
            n_tokens=n,
            token=self._tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            pos=self._positions.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            n_seq_id=self._n_sequences.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=self._pointers.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            logits=self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )
        code = self.lib.llama_decode(self.handle, batch)
        if code == 1:
            raise EngineError(f"{self.model.label}: the context of {self.n_ctx} tokens is full.")
        if code == 2:
            raise StoppedError(f"{self.model.label}: the batch was stopped.")
        if code:
            raise EngineError(f"{self.model.label}: llama.cpp failed to decode (code {code}): {complaint()}")

    def logits(self, i: int) -> FloatArray:
        """Return the logits after the batch's i-th token, float32 [n_vocab]: a view, valid until the next decode."""
        return self._view(self.lib.llama_get_logits_ith(self.handle, i), 1).reshape(-1)

    def logit_rows(self, n: int) -> FloatArray:
        """Return the logits after all n wanted tokens, in order, float32 [n, n_vocab]: a view until the next decode."""
        return self._view(self.lib.llama_get_logits(self.handle), n)

    def _view(self, pointer: Any, n: int) -> FloatArray:
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        if address is None:
            raise EngineError(f"{self.model.label}: llama.cpp returned no logits.")
        view: FloatArray = np.ctypeslib.as_array((ctypes.c_float * (n * self.model.n_vocab)).from_address(address))
        return view.reshape(n, self.model.n_vocab)

    def normalise(self, rows: FloatArray) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return, for each row of logits, ln(sum(exp(logits))) in nats and the most likely token."""
        best = np.array([row.argmax() for row in rows], np.int64)
        return np.array([self.log_normaliser(row) for row in rows]), best

    def log_normaliser(self, logits: FloatArray) -> float:
        """Return ln(sum(exp(logits))) in nats, from float32 terms and a float64 sum (error below 1e-7)."""
        top = float(logits.max())
        np.subtract(logits, np.float32(top), out=self._scratch)
        np.exp(self._scratch, out=self._scratch)
        return top + float(np.log(self._scratch.sum(dtype=np.float64)))

    def broken(self) -> EngineError:
        """Return the error for logits that are NaN or infinite."""
        return EngineError(
            f"{self.model.label}: computes logits that are not finite. Its weights are broken, or too large for "
            "their type."
        )

    def share(self, source: int, targets: Sequence[int], n_tokens: int = -1) -> None:
        """Share the source's first n_tokens (-1: all) with every target sequence, without computing them again."""
        for target in targets:
            self.lib.llama_memory_seq_cp(self.memory, source, target, -1, n_tokens)

    def copy(self, source: int, target: int, length: int) -> None:
        """Make the target sequence hold only the source's first `length` tokens."""
        self.forget(target)
        self.share(source, [target])
        self.trim(target, length)

    def trim(self, sequence: int, length: int) -> None:
        """Drop a sequence's tokens from position `length` on; a model that cannot rewind allows only 0."""
        self.lib.llama_memory_seq_rm(self.memory, sequence, length, -1)

    def forget(self, sequence: int) -> None:
        """Drop a sequence's tokens; cells shared with another sequence stay."""
        self.lib.llama_memory_seq_rm(self.memory, sequence, -1, -1)

    def clear(self) -> None:
        """Drop the tokens of all sequences."""
        self.lib.llama_memory_clear(self.memory, True)
