"""The child process in which llama.cpp loads an untrusted file, and may crash, hang, or take too much memory.

The weights are mapped and not repacked, the context is small, and no GPU is used. Only the bindings of llama_cpp are
imported, so that it starts fast.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import types
from collections import deque
from typing import Any

from pa_lite.untrusted.sandbox_worker import serve

_CELLS, _BATCH, _SEQUENCES = 256, 32, 2
_TEXT = "Hello, wörld!\n\t 12345 <|im_end|></s> it's 世界 \U0001f642"
_PIECES = 512  # tokens whose text is requested


def bindings() -> Any:
    """Return the module `llama_cpp.llama_cpp` without the rest of its package, which takes longer to import."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("llama-cpp-python is not installed")
    package = types.ModuleType("llama_cpp")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["llama_cpp"] = package
    import llama_cpp.llama_cpp as lib

    return lib


def listen(lib: Any) -> deque[str]:
    """Return a list that always has the last lines of llama.cpp's log."""
    words: deque[str] = deque(maxlen=40)
    callback = lib.llama_log_callback(lambda _level, text, _data: words.append(text.decode("utf-8", "replace")))
    lib.pa_lite_listener = callback  # llama.cpp keeps the pointer
    lib.llama_log_set(callback, ctypes.c_void_p(0))
    return words


def run(lib: Any, path: str, extra: bool = False) -> str:
    """Load a file, tokenise and decode; return an empty string, or which step llama.cpp refused.

    `extra` lets llama.cpp repack the weights, as when a model is loaded for use.
    """
    params = lib.llama_model_default_params()
    nowhere = (ctypes.c_void_p * 1)(None)
    params.n_gpu_layers, params.devices = 0, ctypes.cast(nowhere, ctypes.c_void_p)
    if not extra:
        params.load_mode, params.use_extra_bufts = lib.LLAMA_LOAD_MODE_MMAP, False
    model = lib.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        return "cannot load it"
    try:
        vocab = lib.llama_model_get_vocab(model)
        tokens = tokenize(lib, vocab)
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = _CELLS, _BATCH, _BATCH, _SEQUENCES
        params.n_threads = params.n_threads_batch = 1
        params.kv_unified, params.flash_attn_type = True, 0
        context = lib.llama_init_from_model(model, params)
        if not context:
            return "cannot make a context for it"
        try:
            return decode(lib, model, context, tokens)
        finally:
            lib.llama_free(context)
    finally:
        lib.llama_model_free(model)


def tokenize(lib: Any, vocab: Any) -> list[int]:
    """Tokenise a text in all ways that pa-lite uses, and request the texts of many tokens; return some token ids."""
    raw, size = _TEXT.encode(), 8 * len(_TEXT.encode())
    buffer = (ctypes.c_int32 * size)()
    n = 0
    for add_special, parse_special in ((False, False), (False, True), (True, False)):
        n = lib.llama_tokenize(vocab, raw, len(raw), buffer, size, add_special, parse_special)
    n_vocab = lib.llama_vocab_n_tokens(vocab)
    text = ctypes.create_string_buffer(256)
    for token in range(0, n_vocab, max(1, n_vocab // _PIECES)):
        lib.llama_token_to_piece(vocab, token, text, len(text), 0, False)
        for ask in (lib.llama_vocab_is_eog, lib.llama_vocab_is_control, lib.llama_vocab_get_text):
            ask(vocab, token)
    return buffer[: max(0, min(n, 8))] or [0]


def decode(lib: Any, model: Any, context: Any, tokens: list[int]) -> str:
    """Decode a prompt and one more token, and share the cells with a second sequence; return what failed, or ''."""
    for part in (tokens, tokens[-1:]):
        held = (ctypes.c_int32 * len(part))(*part)  # llama.cpp keeps no copy
        if lib.llama_decode(context, lib.llama_batch_get_one(held, len(part))):
            return "cannot decode with it"
        lib.llama_get_logits_ith(context, -1)
    memory = lib.llama_get_memory(context)
    if memory and not (lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model)):
        lib.llama_memory_seq_cp(memory, 0, 1, -1, -1)
        lib.llama_memory_seq_rm(memory, 0, 1, -1)
    return ""


def reason(words: deque[str]) -> str:
    """Return the first error in llama.cpp's log."""
    errors = [w.strip() for w in words if "error" in w.lower() or "failed" in w.lower()]
    return (errors[0] if errors else "it gives no reason").split(": ", 1)[-1][:300]


def main() -> None:
    """Answer requests that name a file: with an empty object, or an error that says what llama.cpp refused, and why."""
    lib = bindings()
    words = listen(lib)
    lib.llama_backend_init()

    def load(request: dict[str, Any]) -> dict[str, Any]:
        failed = run(lib, request["file"])
        return {"error": f"llama.cpp {failed}: {reason(words)}"} if failed else {}

    serve(load)
