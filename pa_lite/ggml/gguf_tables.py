"""The gguf package's tables: key names, value types, tensor types with their sizes, names of architectures' tensors.

`import gguf` loads its reader, writer, quantisers and whatever tokenizer packages are installed, which takes longer
than a small merge may grow. And its `TensorNameMap` changes its own class: after one architecture, another's map
differs. So the two modules that hold tables are loaded as a package of ours: they take milliseconds, other users of
gguf in the same process neither see nor change them, and every map is made from a copy.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types
from typing import Any

from pa_lite.errors import EngineError

_PACKAGE = "pa_lite.ggml._gguf"


def _load(name: str) -> Any:
    """Load one module of the installed gguf package, and nothing else of it. Raises EngineError where there is none."""
    if _PACKAGE not in sys.modules:
        spec = importlib.util.find_spec("gguf")
        if spec is None or not spec.submodule_search_locations:
            raise EngineError("the package gguf is not installed. Run: pip install gguf")
        package = types.ModuleType(_PACKAGE)
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules[_PACKAGE] = package
    return importlib.import_module(f"{_PACKAGE}.{name}")


_constants = _load("constants")
Keys: Any = _constants.Keys  # "{arch}" stands for the architecture in those that have one
VERSION: int = _constants.GGUF_VERSION
ALIGNMENT: int = _constants.GGUF_DEFAULT_ALIGNMENT
QUANTIZATION_VERSION: int = _constants.GGML_QUANT_VERSION
# name of a value's type (UINT8, STRING, ARRAY, ...) -> its number
VALUE_TYPES: dict[str, int] = {member.name: int(member) for member in _constants.GGUFValueType}
# name of a tensor's type -> (its number, values in a quant block, bytes of one)
TENSOR_TYPES: dict[str, tuple[int, int, int]] = {
    member.name: (int(member), *sizes) for member, sizes in _constants.GGML_QUANT_SIZES.items()
}
# name of a token's type (NORMAL, CONTROL, ...) -> its number
TOKEN_TYPES: dict[str, int] = {member.name: int(member) for member in _constants.TokenType}


def file_type(name: str) -> int:
    """Return the value of `general.file_type` for an output type of llama-quantize, such as Q4_K_M."""
    file_types = _constants.LlamaFileType
    return int(file_types.ALL_F32 if name == "F32" else file_types[f"MOSTLY_{name}"])


def tensor_name(name: str) -> str:
    """Return the GGUF name of a kind of tensor (`ROPE_FREQS`, ...), with `#` for the layer and without `.weight`."""
    return str(_constants.TENSOR_NAMES[_constants.MODEL_TENSOR[name]]).replace("{bid}", "#")


@functools.cache
def tensor_names(architecture: str) -> Any:
    """Return gguf's map from stored to GGUF names for an architecture, of one layer, 0.

    The same whatever was asked for before. Raises KeyError for an architecture that gguf does not know.
    """
    known = {name: number for number, name in _constants.MODEL_ARCH_NAMES.items()}
    plain = _load("tensor_mapping").TensorNameMap
    # making a map writes into the class's dictionaries: those of a new subclass, then
    own = {name: dict(value) for name, value in vars(plain).items() if isinstance(value, dict)}
    return type("TensorNames", (plain,), own)(known[architecture], 1)


def gguf_name(architecture: str, stored_name: str) -> str | None:
    """Return the GGUF name of a stored tensor, None for one that the architecture does not have.

    In both names `#` is the layer; `@` is the expert, which GGUF names lack: one tensor holds them all.
    """
    asked = stored_name.replace(".@.", ".").replace("#", "0")
    found = tensor_names(architecture).get_name(asked, try_suffixes=(".weight", ".bias"))
    return None if found is None else str(found).replace("blk.0.", "blk.#.", 1)
