"""llama.cpp's models and contexts as Python objects with a lifetime. Knows tokens, batches and logits, no tasks."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pa_lite.checkpoints.gguf_file import architecture_of, read_gguf_header
from pa_lite.engine.loading import check_loadable, most_that_fit
from pa_lite.errors import EngineError, InputError
from pa_lite.kernels import TYPE_IDS, FloatArray
from pa_lite.machine import cores

_log = logging.getLogger(__name__)
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.INFO}  # ggml_log_level; 5 continues a line
_starting = threading.Lock()
_last_words: deque[str] = deque(maxlen=40)  # llama.cpp's log is one for the process, and so is what it said last


@dataclass(frozen=True)
class EngineOptions:
    """How llama.cpp runs: `threads` 0 takes one for each core, `cache_type` is F16 or F32.

    `gpu_layers` is how many layers lie on the GPU: -1 all of them, "auto" all that fit, which is tried. `n_ctx` bounds
    the tokens of a request; 0 leaves it to the length that the model was trained with.
    Flash attention is off by default: it is up to a sixth faster, but lets the shape of a batch move a score by some
    hundredths of a nat.
    """

    threads: int = 0
    gpu_layers: int | str = "auto"
    flash_attention: bool = False
    cache_type: str = "F16"
    n_batch: int = 512
    n_ctx: int = 0


def _llama() -> Any:
    """The low-level module, its backend started, once for all threads."""
    with _starting:
        return _start()


@functools.cache
def _start() -> Any:
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # an abort would start a debugger
    import llama_cpp.llama_cpp as lib

    @lib.llama_log_callback  # type: ignore[untyped-decorator,unused-ignore]
    def listen(level: int, text: bytes, _data: object) -> None:
        line = text.decode("utf-8", "replace").rstrip()
        if line:
            _last_words.append(line)
            _log.log(_LEVELS.get(level, logging.DEBUG), "llama.cpp: %s", line)

    lib.pa_lite_listener = listen  # llama.cpp keeps the pointer: the object must live as long as the module
    lib.llama_log_set(listen, ctypes.c_void_p(0))
    lib.llama_backend_init()
    return lib


class Model:
    """A GGUF model in llama.cpp's memory. A context manager; contexts made from it must be closed before it is."""

    def __init__(self, path: Path, options: EngineOptions | None = None) -> None:
        """Load a file. Raises CheckpointError for one that is no whole model, EngineError when llama.cpp refuses it."""
        self.path, self.options = path, options or EngineOptions()
        _check_options(self.options)
        self.header = read_gguf_header(path)
        check_loadable(self.header)
        self.lib = _llama()
        self._model: Any = None
        self._n_contexts = 0
        self.gpu_layers = 0
        self._load()
        self.n_vocab: int = self.lib.llama_vocab_n_tokens(self.vocab)

    def _load(self, fits: Callable[[], bool] = lambda: True, most: int | None = None) -> None:
        """Load with the layers on the GPU that the options ask for; "auto" takes the most that load and then `fits`.

        Raises EngineError when the model loads with none.
        """
        wanted = self.options.gpu_layers
        if isinstance(wanted, int):
            self._try(wanted)
        else:
            if most is None:
                most = self.n_layers + 1 if self.lib.llama_supports_gpu_offload() else 0  # 1 for the output matrix
            chosen = most_that_fit(most, lambda n: self._try(n) and fits())
            if chosen is not None and chosen != self.gpu_layers:
                self._try(chosen)
        if not self._model:
            raise EngineError(f"{self.path}: llama.cpp cannot load it: {_complaint()}")

    def _try(self, gpu_layers: int) -> bool:
        """Load with so many layers on the GPU, in the place of what was loaded; False when llama.cpp cannot."""
        self.close()
        params = self.lib.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        _last_words.clear()
        self._model = self.lib.llama_model_load_from_file(os.fsencode(self.path), params)
        self.gpu_layers = gpu_layers
        if self._model:
            self.vocab = self.lib.llama_model_get_vocab(self._model)
        return bool(self._model)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model; more than once does no harm."""
        if self._model:
            self.lib.llama_model_free(self._model)
            self._model = None

    @property
    def name(self) -> str:
        """The model's own name, else its file's."""
        entry = self.header.metadata.get("general.name")
        return str(entry.value) if entry else self.path.stem

    @property
    def n_layers(self) -> int:
        """Transformer layers."""
        return int(self.header.metadata[f"{architecture_of(self.header)}.block_count"].value)

    @property
    def n_ctx_train(self) -> int:
        """Tokens of context that the model was trained with."""
        return int(self.lib.llama_model_n_ctx_train(self._model))

    @property
    def max_length(self) -> int:
        """Tokens that a request may have at most: the trained length, or less where the options say so."""
        return min(self.n_ctx_train, self.options.n_ctx or self.n_ctx_train)

    @property
    def n_swa(self) -> int:
        """Tokens of the sliding attention window; 0 when every layer sees everything."""
        return int(self.lib.llama_model_n_swa(self._model))

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of a text; `add_special` adds BOS or EOS where the vocabulary asks for it, once."""
        raw = text.encode("utf-8")
        size = len(raw) + 16
        buffer = (ctypes.c_int32 * size)()
        n = self.lib.llama_tokenize(self.vocab, raw, len(raw), buffer, size, add_special, parse_special)
        if n < 0:
            buffer = (ctypes.c_int32 * -n)()
            n = self.lib.llama_tokenize(self.vocab, raw, len(raw), buffer, -n, add_special, parse_special)
        return buffer[:n]

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; control tokens stand for none."""
        size = 64
        buffer = ctypes.create_string_buffer(size)
        n = self.lib.llama_token_to_piece(self.vocab, token, buffer, size, 0, False)
        if n < 0:
            buffer = ctypes.create_string_buffer(-n)
            n = self.lib.llama_token_to_piece(self.vocab, token, buffer, -n, 0, False)
        return buffer.raw[:n]

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, bytes joined before they are decoded as UTF-8."""
        return b"".join(map(self.piece, tokens)).decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        """Whether a token ends a generation (end of text, of turn, ...)."""
        return bool(self.lib.llama_vocab_is_eog(self.vocab, token))

    @property
    def prefix_token(self) -> int | None:
        """BOS, else EOS: what stands for an empty context."""
        for token in (self.lib.llama_vocab_bos(self.vocab), self.lib.llama_vocab_eos(self.vocab)):
            if token >= 0:
                return int(token)
        return None

    def is_control(self, token: int) -> bool:
        """Whether a token steers the model (start of turn, ...) and stands for no text."""
        return bool(self.lib.llama_vocab_is_control(self.vocab, token))

    @property
    def can_rewind(self) -> bool:
        """Whether a sequence's newest tokens can be dropped from the cache: not from a recurrent state."""
        return not (self.lib.llama_model_is_recurrent(self._model) or self.lib.llama_model_is_hybrid(self._model))

    @property
    def cell_bytes(self) -> int:
        """Memory of the cache for one token, about: keys and values of every layer."""
        lib, model = self.lib, self._model
        heads, heads_kv = lib.llama_model_n_head(model), lib.llama_model_n_head_kv(model)
        width = lib.llama_model_n_embd(model) // max(1, heads)
        entry = self.header.metadata.get(f"{architecture_of(self.header)}.attention.key_length")
        if entry is not None and isinstance(entry.value, int):
            width = entry.value
        item = 2 if self.options.cache_type == "F16" else 4
        return int(2 * lib.llama_model_n_layer(model) * heads_kv * width * item)

    def token_text(self, token: int) -> str:
        """A token as the vocabulary spells it."""
        raw = self.lib.llama_vocab_get_text(self.vocab, token)
        return raw.decode("utf-8", "replace") if raw else ""

    def special_text(self, name: str) -> str:
        """The text of the `bos` or `eos` token, empty when there is none."""
        token = getattr(self.lib, f"llama_vocab_{name}")(self.vocab)
        return self.token_text(token) if token >= 0 else ""

    @contextlib.contextmanager
    def context(self, n_ctx: int, n_seq_max: int = 1, unified: bool = True, n_outputs: int = 0) -> Iterator[Context]:
        """A context of n_ctx cells for up to n_seq_max sequences, freed at the end.

        A batch may keep n_outputs rows of logits, 0 for as many as it has tokens. With `gpu_layers` "auto" and no other
        context open, the model is loaded again with fewer layers on the GPU where the context would not fit beside
        them. Raises EngineError when llama.cpp cannot make it (mostly for lack of memory).
        """

        def create() -> Any:
            return self._new_context(n_ctx, n_seq_max, unified, n_outputs)

        def fits() -> bool:
            probe = create()
            if probe:
                self.lib.llama_free(probe)
            return bool(probe)

        handle = create()
        if not handle and self.options.gpu_layers == "auto" and self.gpu_layers and not self._n_contexts:
            self._load(fits, most=self.gpu_layers - 1)
            handle = create()
        if not handle:
            raise EngineError(f"{self.path}: no room for a context of {n_ctx} tokens: {_complaint()}")
        self._n_contexts += 1
        try:
            yield Context(self, handle, n_seq_max, n_outputs)
        finally:
            self._n_contexts -= 1
            self.lib.llama_free(handle)

    def _new_context(self, n_ctx: int, n_seq_max: int, unified: bool, n_outputs: int) -> Any:
        """llama.cpp's handle of a context, None when it cannot make one."""
        options, params = self.options, self.lib.llama_context_default_params()
        threads = options.threads or cores()
        params.n_ctx, params.n_seq_max, params.kv_unified = n_ctx, n_seq_max, unified
        # a batch must hold a token of every sequence: llama.cpp aborts otherwise
        params.n_batch = max(min(options.n_batch, n_ctx), n_seq_max)
        params.n_ubatch = min(512, params.n_batch)
        params.n_outputs_max = n_outputs
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = 1 if options.flash_attention else 0
        params.type_k = params.type_v = TYPE_IDS[options.cache_type]
        _last_words.clear()
        return self.lib.llama_init_from_model(self._model, params)


def _check_options(options: EngineOptions) -> None:
    if options.cache_type not in ("F16", "F32"):
        raise InputError(f"cache type {options.cache_type!r} is neither F16 nor F32.")
    layers = options.gpu_layers
    if layers != "auto" and (not isinstance(layers, int) or layers < -1):
        raise InputError(f"gpu_layers is {layers!r}, but must be auto, -1 (all) or a number of layers.")
    if options.n_ctx < 0 or options.n_batch < 1:
        raise InputError(
            f"n_ctx is {options.n_ctx}, n_batch {options.n_batch}: neither may be less than 0, nor n_batch 0."
        )


def _complaint() -> str:
    """What llama.cpp last said went wrong."""
    told = [line for line in _last_words if "error" in line.lower() or "failed" in line.lower()]
    return (told[0] if told else "it gives no reason").split(": ", 1)[-1] + "."


class Context:
    """A running llama.cpp context: sequences of cached tokens, and batches that extend them."""

    def __init__(self, model: Model, handle: Any, n_seq_max: int, n_outputs: int = 0) -> None:
        self.model, self.lib, self.handle = model, model.lib, handle
        self.memory = self.lib.llama_get_memory(handle)
        self.n_ctx = int(self.lib.llama_n_ctx(handle))
        self.n_batch = int(self.lib.llama_n_batch(handle))
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

    def decode(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[Sequence[int]],
        wanted: Sequence[bool] | npt.NDArray[np.bool_],
    ) -> None:
        """Run at most n_batch tokens: each at its position, in all of its sequences; keep logits where wanted.

        Raises EngineError when the cache is full or llama.cpp fails.
        """
        n = len(tokens)
        assert 0 < n <= self.n_batch
        for i, ids in enumerate(sequences):
            self._n_sequences[i] = len(ids)
            self._sequences[i, : len(ids)] = ids
        self._decode(tokens, positions, wanted)

    def decode_ranges(
        self,
        tokens: npt.NDArray[np.int32],
        positions: npt.NDArray[np.int32],
        first: npt.NDArray[np.int32],
        last: npt.NDArray[np.int32],
        wanted: npt.NDArray[np.bool_],
    ) -> None:
        """`decode` for tokens that are each in the sequences first..last."""
        n = len(tokens)
        assert 0 < n <= self.n_batch
        np.subtract(last, first - 1, out=self._n_sequences[:n])
        widest = int(self._n_sequences[:n].max())
        np.add.outer(first, np.arange(widest, dtype=np.int32), out=self._sequences[:n, :widest])
        self._decode(tokens, positions, wanted)

    def _decode(
        self,
        tokens: Sequence[int] | npt.NDArray[np.int32],
        positions: Sequence[int] | npt.NDArray[np.int32],
        wanted: Sequence[bool] | npt.NDArray[np.bool_],
    ) -> None:
        """Run tokens whose sequences are set already."""
        n = len(tokens)
        self._tokens[:n] = tokens
        self._positions[:n] = positions
        self._wanted[:n] = wanted
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
            raise EngineError(f"{self.model.path}: the context of {self.n_ctx} tokens is full.")
        if code:
            raise EngineError(f"{self.model.path}: llama.cpp failed to decode (code {code}): {_complaint()}")

    def logits(self, i: int) -> FloatArray:
        """The logits behind the batch's i-th token, float32 [n_vocab]: a view, valid until the next decode."""
        return self._view(self.lib.llama_get_logits_ith(self.handle, i), 1)[0]

    def logit_rows(self, n: int) -> FloatArray:
        """The logits of all n wanted tokens, in order, float32 [n, n_vocab]: a view, valid until the next decode."""
        return self._view(self.lib.llama_get_logits(self.handle), n)

    def _view(self, pointer: Any, n: int) -> FloatArray:
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        if address is None:
            raise EngineError(f"{self.model.path}: llama.cpp kept no logits.")
        view: FloatArray = np.ctypeslib.as_array((ctypes.c_float * (n * self.model.n_vocab)).from_address(address))
        return view.reshape(n, self.model.n_vocab)

    def normalise(self, rows: FloatArray) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Of each row of logits: ln of the sum of exp(logits) in nats, and the likeliest token."""
        best = np.array([row.argmax() for row in rows])
        return np.array([self.log_normaliser(row) for row in rows]), best

    def log_normaliser(self, logits: FloatArray) -> float:
        """ln of the sum of exp(logits), in nats: float32 terms, float64 sum (error below 1e-7)."""
        top = float(logits.max())
        np.subtract(logits, np.float32(top), out=self._scratch)
        np.exp(self._scratch, out=self._scratch)
        return top + float(np.log(self._scratch.sum(dtype=np.float64)))

    def share(self, source: int, targets: Sequence[int], n_tokens: int = -1) -> None:
        """Let every target sequence begin with the source's first n_tokens (-1: all), without computing them again."""
        for target in targets:
            self.lib.llama_memory_seq_cp(self.memory, source, target, -1, n_tokens)

    def copy(self, source: int, target: int, length: int) -> None:
        """Let the target sequence hold the source's first `length` tokens, and nothing else."""
        self.forget(target)
        self.share(source, [target])
        self.trim(target, length)

    def trim(self, sequence: int, length: int) -> None:
        """Drop a sequence's tokens from place `length` on; a model that cannot rewind allows 0 only."""
        self.lib.llama_memory_seq_rm(self.memory, sequence, length, -1)

    def forget(self, sequence: int) -> None:
        """Drop a sequence's tokens; cells that another sequence shares stay."""
        self.lib.llama_memory_seq_rm(self.memory, sequence, -1, -1)

    def clear(self) -> None:
        """Drop everything."""
        self.lib.llama_memory_clear(self.memory, True)
