"""Load GGUF models into llama.cpp, and create contexts for them."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.fingerprint import fingerprint, header_inputs, identity
from pa_lite.checkpoints.gguf_model import check_first_part, open_gguf, read_model_header
from pa_lite.engine.context import Context
from pa_lite.engine.gpu_layers import most_that_fit
from pa_lite.engine.llama import complaint, fresh_words, llama
from pa_lite.engine.model_vocabulary import ModelVocabulary
from pa_lite.engine.options import METHOD, check_options
from pa_lite.engine.options import EngineOptions as EngineOptions  # exported next to Model
from pa_lite.engine.readable import check_readable
from pa_lite.engine.refusals import check_loadable
from pa_lite.engine.thread_count import ThreadCount
from pa_lite.errors import CheckpointError, EngineError, InputChangedError
from pa_lite.ggml.container import architecture_of
from pa_lite.ggml.kernels import TYPE_IDS
from pa_lite.merging.plan import RECIPE, Layout
from pa_lite.sanitize import name_text
from pa_lite.system.byte_source import Stamp
from pa_lite.system.interrupts import uninterrupted

_log = logging.getLogger(__name__)
_FLASH_WHERE_POSSIBLE = -1  # llama.cpp: "auto"


class Model(ModelVocabulary):
    """A GGUF model in llama.cpp's memory. A context manager; close all its contexts first."""

    def __init__(
        self, path: Path, options: EngineOptions | None = None, rewritable: bool = False, label: str = ""
    ) -> None:
        """Load a file; `label` names the model in errors, by default its path.

        The weights of a `rewritable` model are the mapped bytes of the file: writing other weights into the file
        changes the model. Raises CheckpointError for a file that is not a complete model, EngineError when llama.cpp
        refuses it.
        """
        self.path, self.options = path, options or EngineOptions()
        self.label = label or str(path)
        check_options(self.options)
        check_first_part(path)
        self.header = read_model_header(path)
        check_loadable(self.header)
        self.lib = llama()
        if not rewritable:
            for part, _ in self.header.parts:
                check_readable(part)
        self._model: Any = None
        self._rewritable = rewritable
        self.remarks: list[str] = []  # on contexts that are smaller for lack of memory
        self.merged: Layout | None = None  # of weights merged in memory
        self._n_contexts = 0
        self.gpu_layers = 0
        self.thread_count = ThreadCount(self.options.threads)
        self._load()
        self.n_vocab: int = self.lib.llama_vocab_n_tokens(self.vocab)

    def _load(self, fits: Callable[[], bool] = lambda: True, most: int | None = None) -> None:
        """Load with the options' number of GPU layers; for "auto" the most, up to `most`, that load and satisfy `fits`.

        Raises EngineError when the model cannot be loaded with any number.
        """
        wanted = self.options.gpu_layers
        if isinstance(wanted, int):
            self._try(wanted)
        else:
            if most is None:
                most = (
                    self.n_layers + 1 if self.lib.llama_supports_gpu_offload() else 0
                )  # the output matrix counts as a layer
            chosen = most_that_fit(most, lambda n: self._try(n) and fits())
            if chosen is not None and not (self._model and self.gpu_layers == chosen):
                self._try(chosen)
        if not self._model:
            raise EngineError(f"{self.label}: llama.cpp cannot load it: {complaint()}")

    def _try(self, gpu_layers: int) -> bool:
        """Free what is loaded and load with this number of layers on the GPU; return False when llama.cpp cannot."""
        self.close()
        params = self.lib.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        if self._rewritable:
            params.load_mode, params.use_extra_bufts = self.lib.LLAMA_LOAD_MODE_MMAP, False
        fresh_words()
        with uninterrupted() as is_due:  # exceptions in callbacks are lost
            progress = self.lib.llama_progress_callback(lambda _done, _data: not is_due())
            params.progress_callback = progress
            self._model = self.lib.llama_model_load_from_file(os.fsencode(self.path), params)
        self.gpu_layers = gpu_layers if self.lib.llama_supports_gpu_offload() else 0
        if self._model:
            self.vocab = self.lib.llama_model_get_vocab(self._model)
        return bool(self._model)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model. Closing twice does no harm."""
        if self._model:
            self.lib.llama_model_free(self._model)
            self._model = None

    def fingerprint(self) -> str:
        """Return a digest of the weights: of what they were merged from, or the fingerprint of the file.

        Raises CheckpointError when the file cannot be read.
        """
        if self.merged is None:
            return fingerprint(open_gguf(self.path))
        metadata = self.merged.metadata.items()
        own = {k: e.value for k, e in metadata if k.startswith("pa_lite.") and k != RECIPE}
        return hashlib.sha256(json.dumps([self.merged.plan.type, own], sort_keys=True).encode()).hexdigest()

    def header_inputs(self) -> dict[str, str]:
        """Return the header entries that can affect prompts or logits: key -> type and value, as text."""
        if self.merged is not None:
            return self.merged.plan.header_inputs
        return header_inputs(architecture_of(self.header), self.header.metadata)

    def identity(self) -> str:
        """Return the model's identity (SHA-256, hex): models with the same one give the same answers and scores.

        It covers weights, tokenizer, chat templates, end tokens, rope and every other header key except names and
        descriptions. A pair merged in memory is identified by what it is merged from; a file of the same merge has a
        different identity, as what a file says about its origin may be wrong. Raises CheckpointError when the file
        cannot be read.
        """
        if self.merged is not None:
            return self.merged.identity
        return identity(self.header_inputs(), self.fingerprint())

    def known_by(self) -> tuple[str, str]:
        """Return fingerprint and identity for a results file, both empty where they cannot be computed."""
        try:
            return self.fingerprint(), self.identity()
        except CheckpointError as e:  # for types that llama.cpp runs and pa-lite cannot read
            _log.info("no fingerprint: %s", e)
            return "", ""

    def inputs(self, name: str = "model") -> Mapping[str, str]:
        """Return everything that affects this model's answers, for a journal or results file: name -> digest.

        `name` is what the user calls the model. Raises CheckpointError when the file cannot be read.
        """
        options = json.dumps(self.options.inputs, sort_keys=True)
        recipe = [] if self.merged is None else [self.merged.plan.recipe]
        return {
            name: self.fingerprint(),
            f"tokenizer and settings of the {name}": identity(self.header_inputs(), *recipe),
            "method of pa-lite": str(METHOD),
            "version of llama.cpp": importlib.metadata.version("llama-cpp-python"),
            "settings of the engine": hashlib.sha256(options.encode()).hexdigest(),
        }

    @property
    def is_offloaded(self) -> bool:
        """Whether weights are on a GPU, copied from the file."""
        return self.gpu_layers != 0 and bool(self.lib.llama_supports_gpu_offload())

    @property
    def name(self) -> str:
        """The model's name in its header, or else its file's name."""
        entry = self.header.metadata.get("general.name")
        return str(entry.value) if entry else name_text(self.path.stem)

    @property
    def n_layers(self) -> int:
        """The number of transformer layers."""
        return int(self.header.metadata[f"{architecture_of(self.header)}.block_count"].value)

    @property
    def n_ctx_train(self) -> int:
        """The context length, in tokens, that the model was trained with."""
        return int(self.lib.llama_model_n_ctx_train(self._model))

    @property
    def max_length(self) -> int:
        """The largest number of tokens in a request: the trained context length, or `n_ctx` of the options if less."""
        return min(self.n_ctx_train, self.options.n_ctx or self.n_ctx_train)

    def answer_tokens(self, wanted: int) -> int:
        """Return the limit of an answer's tokens: `wanted`, but at most half of `max_length`."""
        return min(wanted, max(1, self.max_length // 2))

    @property
    def n_swa(self) -> int:
        """The tokens of the sliding attention window; 0 if all layers use full attention."""
        return int(self.lib.llama_model_n_swa(self._model))

    @property
    def can_rewind(self) -> bool:
        """Whether the newest tokens of a sequence can be dropped from the cache; a recurrent state cannot do that."""
        return not (self.lib.llama_model_is_recurrent(self._model) or self.lib.llama_model_is_hybrid(self._model))

    def cache_type(self, exact: bool) -> str:
        """Return the cache type of the options, F16 or F32; "auto" is F32 if the cache is to be `exact`."""
        chosen = self.options.cache_type
        return ("F32" if exact else "F16") if chosen == "auto" else chosen

    @property
    def exact_cell_bytes(self) -> int:
        """Bytes of scoring's cache for one token, about: keys and values of every layer."""
        return self.cell_items * (2 if self.cache_type(True) == "F16" else 4)

    @property
    def cell_items(self) -> int:
        """How many numbers the cache holds for one token, about: keys and values of every layer."""
        lib, model = self.lib, self._model
        width = self.width // max(1, self.n_heads)
        entry = self.header.metadata.get(f"{architecture_of(self.header)}.attention.key_length")
        if entry is not None and isinstance(entry.value, int):
            width = entry.value
        return int(2 * lib.llama_model_n_layer(model) * lib.llama_model_n_head_kv(model) * width)

    @property
    def most_at_once(self) -> int:
        """Tokens computed at a time (micro-batch). On a CPU, 128 to 512 are equally fast; fewer take less memory."""
        return 512 if self.gpu_layers else 256

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(t.nbytes for t in self.header.tensors.values())

    @property
    def width(self) -> int:
        """The width of a hidden state."""
        return int(self.lib.llama_model_n_embd(self._model))

    @property
    def inner_width(self) -> int:
        """The width of the widest feed-forward layer; in a mixture, of all experts used for one token together."""
        own = architecture_of(self.header)

        def most(name: str) -> int:
            entry = self.header.metadata.get(f"{own}.{name}")
            return max([0, *(entry.value if isinstance(entry.value, list) else [entry.value])]) if entry else 0

        return int(max(most("feed_forward_length"), most("expert_feed_forward_length") * most("expert_used_count")))

    @property
    def n_heads(self) -> int:
        """The number of attention heads of a layer."""
        return int(self.lib.llama_model_n_head(self._model))

    @contextlib.contextmanager
    def context(
        self,
        n_ctx: int,
        n_seq_max: int = 1,
        unified: bool = True,
        n_outputs: int = 0,
        n_batch: int = 0,
        cache_type: str = "",
        flash_attention: bool = False,
    ) -> Iterator[Context]:
        """Open a context of n_ctx cells for up to n_seq_max sequences, and free it at the end.

        A batch has up to n_batch tokens (0: the options' number) and keeps up to n_outputs rows of logits (0: one per
        token). `cache_type` is F16 or F32, by default `cache_type(False)`. `flash_attention` uses it where the device
        can, unless the options say otherwise. If the context does not fit on the GPU, `gpu_layers` is "auto" and no
        other context is open, the model is loaded again with fewer layers on the GPU.

        Raises EngineError when llama.cpp cannot create it, usually for lack of memory. At the end, raises
        InputChangedError if the model's file, where its weights are mapped from, has changed since it was loaded.
        """

        def create() -> Any:
            chosen = cache_type or self.cache_type(False)
            return self._new_context(n_ctx, n_seq_max, unified, n_outputs, n_batch, chosen, flash_attention)

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
            raise EngineError(f"{self.label}: no room for a context of {n_ctx} tokens: {complaint()}")
        self._n_contexts += 1
        try:
            yield Context(self, handle, n_seq_max, n_outputs)
        finally:
            self._n_contexts -= 1
            self.lib.llama_free(handle)
        self.check_file()

    def check_file(self) -> None:
        """Raise InputChangedError when the file, or a part of a split model, has changed since it was loaded."""
        if self._rewritable:
            return
        for part, stamp in self.header.parts:
            try:
                is_same = Stamp.of(part.stat()) == stamp
            except OSError:
                is_same = False
            if not is_same:
                raise InputChangedError(
                    f"{part}: was changed or deleted while it was used, so the results are not valid. "
                    "Start again when the file is complete."
                )

    def _new_context(
        self, n_ctx: int, n_seq_max: int, unified: bool, n_outputs: int, n_batch: int, cache_type: str, flash: bool
    ) -> Any:
        """Return llama.cpp's handle of a new context, None when it cannot create one."""
        options, params = self.options, self.lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = n_ctx, n_seq_max, unified
        # a batch must have room for a token of every sequence, or llama.cpp aborts
        params.n_batch = max(min(n_batch or options.n_batch, n_ctx), n_seq_max)
        params.n_ubatch = min(self.most_at_once, params.n_batch)
        params.n_outputs_max = max(n_outputs, n_seq_max) if n_outputs else 0  # and for a row of every sequence
        params.n_threads = params.n_threads_batch = self.thread_count.measure()
        wanted = _FLASH_WHERE_POSSIBLE if flash else 0
        params.flash_attn_type = wanted if options.flash_attention is None else int(options.flash_attention)
        params.type_k = params.type_v = TYPE_IDS[cache_type]
        fresh_words()
        handle = None
        try:
            with uninterrupted():
                handle = self.lib.llama_init_from_model(self._model, params)
        except BaseException:
            if handle:
                self.lib.llama_free(handle)  # a context must not outlive its model
            raise
        return handle
