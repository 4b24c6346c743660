"""Check that the installed llama-cpp-python has the C interface that pa-lite calls: struct layouts and signatures.

ctypes trusts the bindings. If llama.cpp adds a field to a structure or an argument to a function, calls silently read
wrong memory. So everything that is used is compared with the tested version, and the library's default parameters must
be found where the bindings expect them, which compares the bindings with the library.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pa_lite.errors import EngineError
from pa_lite.ggml.kernels import TYPE_IDS, tensor_type

TESTED = "0.3.36"  # the version whose interface is in the tables below
_IS_64_BIT = ctypes.sizeof(ctypes.c_void_p) == 8  # the layouts below are for 64-bit machines
_ADVICE = f'Run: pip install "llama-cpp-python=={TESTED}"'

# structure: size in bytes, and offset in bytes and ctypes type of every field that pa-lite reads or sets
_STRUCTURES: dict[str, tuple[int, dict[str, tuple[int, str]]]] = {
    "llama_model_params": (80, {
        "devices": (0, "c_void_p"), "n_gpu_layers": (16, "c_int"), "load_mode": (24, "c_int"),
        "progress_callback": (48, "CFunctionType"), "use_extra_bufts": (74, "c_bool"),
    }),
    "llama_context_params": (160, {
        "n_ctx": (0, "c_uint"), "n_batch": (4, "c_uint"), "n_ubatch": (8, "c_uint"), "n_seq_max": (12, "c_uint"),
        "n_outputs_max": (20, "c_uint"), "n_threads": (28, "c_int"), "n_threads_batch": (32, "c_int"),
        "flash_attn_type": (52, "c_int"), "type_k": (104, "c_int"), "type_v": (108, "c_int"),
        "kv_unified": (133, "c_bool"),
    }),
    "llama_batch": (56, {
        "n_tokens": (0, "c_int"), "token": (8, "LP_c_int"), "pos": (24, "LP_c_int"), "n_seq_id": (32, "LP_c_int"),
        "seq_id": (40, "LP_LP_c_int"), "logits": (48, "LP_c_byte"),
    }),
}  # fmt: skip
# default values that llama.cpp fills in; other values mean that library and bindings are different versions
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama_model_default_params": {
        "devices": None, "n_gpu_layers": -1, "split_mode": 1, "load_mode": -1, "main_gpu": 0, "vocab_only": False,
        "check_tensors": False, "use_extra_bufts": True, "no_host": False,
    },
    "llama_context_default_params": {
        "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "n_outputs_max": 0, "rope_scaling_type": -1,
        "pooling_type": -1, "flash_attn_type": -1, "yarn_ext_factor": -1.0, "type_k": 1, "type_v": 1,
        "embeddings": False, "offload_kqv": True, "kv_unified": False,
    },
}  # fmt: skip
# signature, in names of ctypes types -> the functions that pa-lite calls, without `llama_`
_SIGNATURES = {
    "-> None": "backend_init",
    "-> c_bool": "supports_gpu_offload",
    "-> c_char_p": "print_system_info",
    "-> llama_context_params": "context_default_params",
    "-> llama_model_params": "model_default_params",
    "CFunctionType c_void_p -> None": "log_set",
    "c_char_p llama_model_params -> c_void_p": "model_load_from_file",
    "c_void_p -> LP_c_float": "get_logits",
    "c_void_p -> None": "free model_free",
    "c_void_p -> c_bool": "model_is_hybrid model_is_recurrent vocab_get_add_bos",
    "c_void_p -> c_int": (
        "model_n_ctx_train model_n_embd model_n_head model_n_head_kv model_n_layer model_n_swa vocab_bos "
        "vocab_eos vocab_n_tokens"
    ),
    "c_void_p -> c_uint": "n_batch n_ctx n_ubatch",
    "c_void_p -> c_void_p": "get_memory model_get_vocab",
    "c_void_p CFunctionType c_void_p -> None": "set_abort_callback",
    "c_void_p c_bool -> None": "memory_clear",
    "c_void_p c_char_p c_int LP_c_int c_int c_bool c_bool -> c_int": "tokenize",
    "c_void_p c_int -> LP_c_float": "get_logits_ith",
    "c_void_p c_int -> c_bool": "vocab_is_control vocab_is_eog",
    "c_void_p c_int -> c_char_p": "vocab_get_text",
    "c_void_p c_int -> c_int": "vocab_get_attr",
    "c_void_p c_int c_char_p c_int c_int c_bool -> c_int": "token_to_piece",
    "c_void_p c_int c_int -> None": "set_n_threads",
    "c_void_p c_int c_int c_int -> c_bool": "memory_seq_rm",
    "c_void_p c_int c_int c_int c_int -> None": "memory_seq_cp",
    "c_void_p llama_batch -> c_int": "decode",
    "c_void_p llama_context_params -> c_void_p": "init_from_model",
}
_FUNCTIONS = {
    f"llama_{name}": (signature.partition("->")[0], signature.rpartition(" ")[2])
    for signature, names in _SIGNATURES.items()
    for name in names.split()
}
_CONSTANTS = {"LLAMA_LOAD_MODE_MMAP": 1}
_CALLBACKS: dict[str, tuple[str, str]] = {
    "llama_log_callback": ("c_int c_char_p c_void_p", "None"),
    "llama_progress_callback": ("c_float c_void_p", "c_bool"),
    "ggml_abort_callback": ("c_void_p", "c_bool"),
}
# values and bytes of a quant block in GGUF files
_BLOCKS: dict[str, tuple[int, int]] = {
    "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34), "Q2_K": (256, 84),
    "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210), "IQ2_XXS": (256, 66),
    "IQ2_XS": (256, 74), "IQ3_XXS": (256, 98), "IQ1_S": (256, 50), "IQ4_NL": (32, 18), "IQ3_S": (256, 110),
    "IQ2_S": (256, 82), "IQ4_XS": (256, 136), "IQ1_M": (256, 56), "TQ1_0": (256, 54), "TQ2_0": (256, 66),
    "MXFP4": (32, 17),
}  # fmt: skip


def check_binding(lib: Any) -> None:
    """Compare the bindings with the tested ones, and the library with the bindings; takes less than 5 ms.

    `lib` is the module `llama_cpp.llama_cpp`. Raises EngineError that names the installed version, the first
    difference, and the version to install.
    """
    for difference in differences(lib):
        raise EngineError(
            f"llama-cpp-python {installed()} has a different interface from {TESTED}, which pa-lite needs: "
            f"{difference}. {_ADVICE}"
        )


def installed() -> str:
    """Return the installed version of llama-cpp-python."""
    try:
        return importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        return "of an unknown version"


def differences(lib: Any) -> Iterator[str]:
    """Yield all differences of the interface; the library is only called if the bindings have none."""
    found = [*_bindings(lib)]
    yield from found or [*_library(lib), *_types(lib)]


def _bindings(lib: Any) -> Iterator[str]:
    """Yield differences of the bindings, without calling anything."""
    for name, (size, fields) in _STRUCTURES.items():
        structure = getattr(lib, name, None)
        if structure is None:
            yield f"structure {name} is missing"
            continue
        if _IS_64_BIT and ctypes.sizeof(structure) != size:
            yield f"structure {name} has {ctypes.sizeof(structure)} bytes, not {size}"
        yield from _fields(lib, name, structure, fields)
    for name, (arguments, result) in _FUNCTIONS.items():
        function = getattr(lib, name, None)
        if function is None:
            yield f"function {name} is missing"
            continue
        yield from _signature(lib, name, function.argtypes or (), function.restype, arguments, result)
    for name, (arguments, result) in _CALLBACKS.items():
        callback = getattr(lib, name, None)
        if callback is None:
            yield f"callback {name} is missing"
            continue
        yield from _signature(lib, name, callback._argtypes_, callback._restype_, arguments, result)
    for name, value in _CONSTANTS.items():
        if getattr(lib, name, None) != value:
            yield f"{name} is {getattr(lib, name, None)}, not {value}"


def _fields(lib: Any, name: str, structure: Any, fields: Mapping[str, tuple[int, str]]) -> Iterator[str]:
    types = {field[0]: field[1] for field in structure._fields_}
    for field, (offset, expected) in fields.items():
        if field not in types:
            yield f"field {field} of {name} is missing"
            continue
        at = getattr(structure, field).offset
        if (at != offset and _IS_64_BIT) or not _is(lib, types[field], expected):
            yield f"field {field} of {name} is {_name(types[field])} at byte {at}, not {expected} at byte {offset}"


def _signature(
    lib: Any, name: str, argtypes: Sequence[Any], restype: Any, arguments: str, result: str
) -> Iterator[str]:
    expected = arguments.split()
    same = len(expected) == len(argtypes) and all(_is(lib, a, k) for a, k in zip(argtypes, expected, strict=True))
    if not (same and _is(lib, restype, result)):
        has = ", ".join(map(_name, argtypes))
        yield f"{name} is ({has}) -> {_name(restype)}, not ({', '.join(expected)}) -> {result}"


def _is(lib: Any, ctype: Any, name: str) -> bool:
    """Return whether a type is the one of that name; comparing names would fail, as Windows calls c_int c_long."""
    if name == "None":
        return ctype is None
    if name == "CFunctionType":
        return isinstance(ctype, type) and issubclass(ctype, ctypes._CFuncPtr)  # type: ignore[attr-defined,unused-ignore]
    if name.startswith("LP_"):
        inner = getattr(ctype, "_type_", None)
        return isinstance(ctype, type) and issubclass(ctype, ctypes._Pointer) and _is(lib, inner, name[3:])
    return ctype is (getattr(ctypes, name, None) or getattr(lib, name, None))


def _library(lib: Any) -> Iterator[str]:
    """Yield default values of the library that are not where the bindings look for them."""
    for function, expected in _DEFAULTS.items():
        params = getattr(lib, function)()
        for field, value in expected.items():
            if getattr(params, field) != value:
                given = getattr(params, field)
                yield f"{function} gives {field} = {given}, not {value}: library and bindings do not match"


def _types(lib: Any) -> Iterator[str]:
    """Yield tensor types whose numbers or sizes differ from those in GGUF files."""
    for name, number in TYPE_IDS.items():
        has = getattr(lib, f"GGML_TYPE_{name}", number)
        if has != number:
            yield f"the tensor type {name} has the number {has}, not {number}"
    for name, (block, size) in _BLOCKS.items():
        held = tensor_type(name)
        if (held.block, held.size) != (block, size):
            yield f"the tensor type {name} has {held.block} values in {held.size} bytes, not {block} in {size}"


def _name(ctype: Any) -> str:
    return getattr(ctype, "__name__", str(ctype))
