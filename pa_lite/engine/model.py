"""llama.cpp's models as Python objects with a lifetime: loading, and the contexts made from them."""

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
from pa_lite.engine.options import EngineOptions as EngineOptions  # who opens a model finds its options here
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


class Model(ModelVocabulary):
    """A GGUF model in llama.cpp's memory. A context manager; contexts made from it must be closed before it is."""

    def __init__(
        self, path: Path, options: EngineOptions | None = None, rewritable: bool = False, label: str = ""
    ) -> None:
        """Load a file; `label` names the model in errors, by default its path.

        Raises CheckpointError for a file that is not a whole model, EngineError when llama.cpp refuses it.

        A `rewritable` model's weights are the file's own bytes, mapped and not repacked: who writes other weights into
        the file changes the model.
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
        self.remarks: list[str] = []  # in what its contexts were made smaller for lack of memory
        self.merged: Layout | None = None  # what weights in memory are, where they come from a pair
        self._n_contexts = 0
        self.gpu_layers = 0
        self.thread_count = ThreadCount(self.options.threads)
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
            if chosen is not None and not (self._model and self.gpu_layers == chosen):
                self._try(chosen)
        if not self._model:
            raise EngineError(f"{self.label}: llama.cpp cannot load it: {complaint()}")

    def _try(self, gpu_layers: int) -> bool:
        """Load with so many layers on the GPU, in the place of what was loaded; False when llama.cpp cannot."""
        self.close()
        params = self.lib.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        if self._rewritable:
            params.load_mode, params.use_extra_bufts = self.lib.LLAMA_LOAD_MODE_MMAP, False
        fresh_words()
        with uninterrupted() as is_due:  # llama.cpp swallows what its callbacks raise
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
        """Free the model; more than once does no harm."""
        if self._model:
            self.lib.llama_model_free(self._model)
            self._model = None

    def fingerprint(self) -> str:
        """Return what tells these weights from others: what they were merged from, or the file's own fingerprint.

        Raises CheckpointError when the file cannot be read.
        """
        if self.merged is None:
            return fingerprint(open_gguf(self.path))
        told = self.merged.metadata.items()
        own = {k: e.value for k, e in told if k.startswith("pa_lite.") and k != RECIPE}
        return hashlib.sha256(json.dumps([self.merged.plan.type, own], sort_keys=True).encode()).hexdigest()

    def header_inputs(self) -> dict[str, str]:
        """Return what of the header can change a prompt or a logit: key -> type and value, as text."""
        if self.merged is not None:
            return self.merged.plan.header_inputs
        return header_inputs(architecture_of(self.header), self.header.metadata)

    def identity(self) -> str:
        """Return what tells this model from every other that may answer or score otherwise: SHA-256, hex.

        It covers weights, tokenizer, chat templates, end tokens, rope and every other key of the header but names and
        descriptions. A pair merged in memory is known by what it is merged from; its file has an identity of its own,
        as what a file says of its making need not be true. Raises CheckpointError when the file cannot be read.
        """
        if self.merged is not None:
            return self.merged.identity
        return identity(self.header_inputs(), self.fingerprint())

    def known_by(self) -> tuple[str, str]:
        """Return fingerprint and identity for a results file, both empty where they cannot be taken."""
        try:
            return self.fingerprint(), self.identity()
        except CheckpointError as e:  # llama.cpp runs some types that cannot be merged
            _log.info("no fingerprint: %s", e)
            return "", ""

    def inputs(self, name: str = "model") -> Mapping[str, str]:
        """Return what decides what this model makes of a prompt, for a journal or a results file: a name -> a digest.

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
        """Whether weights lie on a GPU, copied out of the file."""
        return self.gpu_layers != 0 and bool(self.lib.llama_supports_gpu_offload())

    @property
    def name(self) -> str:
        """The model's own name, else its file's."""
        entry = self.header.metadata.get("general.name")
        return str(entry.value) if entry else name_text(self.path.stem)

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

    def answer_tokens(self, wanted: int) -> int:
        """Return how many new tokens an answer may have: as many as wanted, at most half of `max_length`."""
        return min(wanted, max(1, self.max_length // 2))

    @property
    def n_swa(self) -> int:
        """Tokens of the sliding attention window; 0 when every layer sees everything."""
        return int(self.lib.llama_model_n_swa(self._model))

    @property
    def can_rewind(self) -> bool:
        """Whether a sequence's newest tokens can be dropped from the cache: not from a recurrent state."""
        return not (self.lib.llama_model_is_recurrent(self._model) or self.lib.llama_model_is_hybrid(self._model))

    def cache_type(self, exact: bool) -> str:
        """F16 or F32: what the options ask for, of scoring where it is to be exact."""
        chosen = self.options.cache_type
        return ("F32" if exact else "F16") if chosen == "auto" else chosen

    @property
    def exact_cell_bytes(self) -> int:
        """Memory of scoring's cache for one token, about: keys and values of every layer."""
        return self.cell_items * (2 if self.cache_type(True) == "F16" else 4)

    @property
    def cell_items(self) -> int:
        """Numbers that the cache holds of one token, about: keys and values of every layer."""
        lib, model = self.lib, self._model
        width = self.width // max(1, self.n_heads)
        entry = self.header.metadata.get(f"{architecture_of(self.header)}.attention.key_length")
        if entry is not None and isinstance(entry.value, int):
            width = entry.value
        return int(2 * lib.llama_model_n_layer(model) * lib.llama_model_n_head_kv(model) * width)

    @property
    def most_at_once(self) -> int:
        """Tokens of a batch that are computed at a time: on a CPU 128 to 512 are equally fast, fewer take less room."""
        return 512 if self.gpu_layers else 256

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, in the file or in memory."""
        return sum(t.nbytes for t in self.header.tensors.values())

    @property
    def width(self) -> int:
        """Numbers of a hidden state."""
        return int(self.lib.llama_model_n_embd(self._model))

    @property
    def inner_width(self) -> int:
        """Numbers within a feed-forward layer, of the widest where they differ; of a mixture, of all experts used."""
        own = architecture_of(self.header)

        def most(name: str) -> int:
            entry = self.header.metadata.get(f"{own}.{name}")
            return max([0, *(entry.value if isinstance(entry.value, list) else [entry.value])]) if entry else 0

        return int(max(most("feed_forward_length"), most("expert_feed_forward_length") * most("expert_used_count")))

    @property
    def n_heads(self) -> int:
        """Attention heads of a layer."""
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
    ) -> Iterator[Context]:
        """A context of n_ctx cells for up to n_seq_max sequences, freed at the end.

        A batch has up to n_batch tokens, 0 for the options' number, and may keep n_outputs rows of logits, 0 for one a
        token; `cache_type` is F16 or F32, by default what `cache_type(False)` says. With `gpu_layers` "auto" and no
        other context open, the model is loaded again with fewer layers on the GPU where the context would not fit
        beside them. Raises EngineError when llama.cpp cannot make it (mostly for lack of memory), and at the end, when
        all went well, InputChangedError if the model's file is not what it was when it was loaded: its weights lie
        there.
        """

        def create() -> Any:
            return self._new_context(
                n_ctx, n_seq_max, unified, n_outputs, n_batch, cache_type or self.cache_type(False)
            )

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
        self._check_file()

    def _check_file(self) -> None:
        """Raise InputChangedError when somebody else wrote to the file, or to a part of a split one."""
        if self._rewritable:
            return
        for part, stamp in self.header.parts:
            try:
                is_same = Stamp.of(part.stat()) == stamp
            except OSError:
                is_same = False
            if not is_same:
                raise InputChangedError(
                    f"{part}: changed, or was taken away, while it was used: what was made with it is of no use. "
                    "Start again when it is whole."
                )

    def _new_context(
        self, n_ctx: int, n_seq_max: int, unified: bool, n_outputs: int, n_batch: int, cache_type: str
    ) -> Any:
        """llama.cpp's handle of a context, None when it cannot make one."""
        options, params = self.options, self.lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = n_ctx, n_seq_max, unified
        # a batch must hold a token of every sequence: llama.cpp aborts otherwise
        params.n_batch = max(min(n_batch or options.n_batch, n_ctx), n_seq_max)
        params.n_ubatch = min(self.most_at_once, params.n_batch)
        params.n_outputs_max = max(n_outputs, n_seq_max) if n_outputs else 0  # a row for each sequence: it aborts too
        params.n_threads = params.n_threads_batch = self.thread_count.measure()
        params.flash_attn_type = 1 if options.flash_attention else 0
        params.type_k = params.type_v = TYPE_IDS[cache_type]
        fresh_words()
        handle = None
        try:
            with uninterrupted():
                handle = self.lib.llama_init_from_model(self._model, params)
        except BaseException:
            if handle:
                self.lib.llama_free(handle)  # it must not outlive the model
            raise
        return handle
