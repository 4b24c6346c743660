"""The bindings' interface is compared with the tested one; each kind of difference is reported in one line."""

from __future__ import annotations

import ctypes
import importlib.metadata
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pa_lite.engine import abi
from pa_lite.engine import llama as library
from pa_lite.engine.abi import check_binding, differences
from pa_lite.engine.llama import llama
from pa_lite.errors import EngineError
from pa_lite.ggml.kernels import TYPE_IDS, tensor_type

Fields = list[tuple[str, Any]]


def patched(**changes: Any) -> Any:
    """Return the real module with some of its names replaced; `...` removes one."""
    names = {name: getattr(llama(), name) for name in dir(llama())} | changes
    return SimpleNamespace(**{name: value for name, value in names.items() if value is not ...})


def structure(name: str, fields: Fields) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": fields})


def fields_of(name: str) -> Fields:
    return list(getattr(llama(), name)._fields_)


def test_the_installed_version_passes_the_check() -> None:
    check_binding(llama())
    assert abi.installed().startswith("0.3.36")


def test_an_inserted_field_is_reported() -> None:
    fields = fields_of("llama_context_params")
    fields.insert(4, ("n_rows", ctypes.c_uint32))
    told = list(differences(patched(llama_context_params=structure("llama_context_params", fields))))
    assert any("n_outputs_max of llama_context_params is c_uint at byte 24, not c_uint at byte 20" in t for t in told)
    assert any("function" not in t and "llama_context_default_params is () -> llama_context_params" in t for t in told)


def test_an_appended_field_is_reported_by_the_size() -> None:
    fields = [*fields_of("llama_batch"), ("more", ctypes.c_int64)]
    told = next(differences(patched(llama_batch=structure("llama_batch", fields))))
    assert told == "structure llama_batch has 64 bytes, not 56"


def test_a_renamed_field_and_a_changed_type_are_reported() -> None:
    fields = [("load_how" if n == "load_mode" else n, t) for n, t in fields_of("llama_model_params")]
    fields = [(n, ctypes.c_float if n == "n_gpu_layers" else t) for n, t in fields]
    told = list(differences(patched(llama_model_params=structure("llama_model_params", fields))))
    assert "field load_mode of llama_model_params is missing" in told
    assert "field n_gpu_layers of llama_model_params is c_float at byte 16, not c_int at byte 16" in told


class Function:
    """A function as the check sees it."""

    def __init__(self, argtypes: list[Any], restype: Any) -> None:
        self.argtypes, self.restype = argtypes, restype


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"llama_decode": ...}, "function llama_decode is missing"),
        ({"llama_batch": ...}, "structure llama_batch is missing"),
        ({"ggml_abort_callback": ...}, "callback ggml_abort_callback is missing"),
        ({"llama_free": Function([ctypes.c_void_p, ctypes.c_bool], None)},
         "llama_free is (c_void_p, c_bool) -> None, not (c_void_p) -> None"),
        ({"llama_n_ctx": Function([ctypes.c_void_p], ctypes.c_uint64)}, "llama_n_ctx is (c_void_p) -> c_ulong, not"),
        ({"llama_get_logits": Function([ctypes.c_void_p], ctypes.POINTER(ctypes.c_double))},
         "llama_get_logits is (c_void_p) -> LP_c_double, not (c_void_p) -> LP_c_float"),
        ({"ggml_abort_callback": ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)},
         "ggml_abort_callback is (c_void_p) -> c_int, not (c_void_p) -> c_bool"),
        ({"LLAMA_LOAD_MODE_MMAP": 2}, "LLAMA_LOAD_MODE_MMAP is 2, not 1"),
        ({"GGML_TYPE_Q4_K": 13}, "the tensor type Q4_K has the number 13, not 12"),
    ],
)  # fmt: skip
def test_other_changes_of_the_interface_are_reported(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(EngineError) as caught:
        check_binding(patched(**changes))
    message = str(caught.value)
    assert told in message
    assert f"llama-cpp-python {abi.installed()} has a different interface from 0.3.36" in message
    assert 'pip install "llama-cpp-python==0.3.36"' in message
    assert "\n" not in message


def test_a_library_that_does_not_match_the_bindings_is_reported() -> None:
    """The bindings match, but the library's structure has an extra first field, so its defaults are displaced."""
    lib = llama()

    def displaced() -> Any:
        params = lib.llama_context_default_params()
        raw = bytearray(params)
        raw[4:] = raw[:-4]
        return lib.llama_context_params.from_buffer(raw)

    displaced.argtypes, displaced.restype = [], lib.llama_context_params  # type: ignore[attr-defined]
    told = next(differences(patched(llama_context_default_params=displaced)))
    assert told == "llama_context_default_params gives n_batch = 512, not 2048: library and bindings do not match"


def test_a_changed_block_size_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(abi._BLOCKS, "Q8_0", (32, 36))
    assert list(differences(llama())) == ["the tensor type Q8_0 has 32 values in 34 bytes, not 32 in 36"]


def test_the_tables_have_all_types_and_functions_in_use() -> None:
    quants = {name for name in TYPE_IDS if tensor_type(name).block > 1}
    assert quants == abi._BLOCKS.keys()
    source = "".join(p.read_text("utf-8") for p in Path(abi.__file__).parent.glob("*.py") if "worker" not in p.name)
    called = set(re.findall(r"\blib\.(llama_\w+)\(", source)) - {"llama_batch"}
    assert called - abi._CALLBACKS.keys() <= abi._FUNCTIONS.keys()


def test_the_package_requires_the_tested_version() -> None:
    """The interface of llama-cpp-python changes from release to release."""
    wanted = [r for r in importlib.metadata.requires("pa-lite") or [] if r.startswith("llama-cpp-python")]
    project = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text("utf-8")
    assert f'"llama-cpp-python>={abi.TESTED},<0.3.37"' in project
    assert len(wanted) == 1


def test_bindings_that_cannot_be_loaded_are_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    llama()
    monkeypatch.setitem(__import__("sys").modules, "llama_cpp.llama_cpp", None)
    with pytest.raises(EngineError, match="llama-cpp-python cannot be loaded"):
        library._start.__wrapped__()
