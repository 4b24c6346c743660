"""Tables of the gguf package: key names, value types, tensor types with sizes, and tensor names by architecture.

`import gguf` also loads its reader, writer, quantisers and any installed tokenizer packages, which is slow. And its
`TensorNameMap` changes class state: a map depends on the architectures used before. So the two modules with tables are
loaded under a package name of our own, which takes milliseconds and is independent of other users of gguf in the same
process, and every map is made from a copy.
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
    """Load one module of the installed gguf package without the others. Raises EngineError if gguf is not installed."""
    if _PACKAGE not in sys.modules:
        spec = importlib.util.find_spec("gguf")
        if spec is None or not spec.submodule_search_locations:
            raise EngineError("the package gguf is not installed. Run: pip install gguf")
        package = types.ModuleType(_PACKAGE)
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules[_PACKAGE] = package
    return importlib.import_module(f"{_PACKAGE}.{name}")


_constants = _load("constants")
Keys: Any = _constants.Keys  # "{arch}" in a key stands for the architecture
VERSION: int = _constants.GGUF_VERSION
ALIGNMENT: int = _constants.GGUF_DEFAULT_ALIGNMENT
QUANTIZATION_VERSION: int = _constants.GGML_QUANT_VERSION
# value type (UINT8, STRING, ARRAY, ...) -> its number
VALUE_TYPES: dict[str, int] = {member.name: int(member) for member in _constants.GGUFValueType}
# tensor type -> (its number, values in a quant block, bytes of a quant block)
TENSOR_TYPES: dict[str, tuple[int, int, int]] = {
    member.name: (int(member), *sizes) for member, sizes in _constants.GGML_QUANT_SIZES.items()
}
# token type (NORMAL, CONTROL, ...) -> its number
TOKEN_TYPES: dict[str, int] = {member.name: int(member) for member in _constants.TokenType}


def file_type(name: str) -> int:
    """Return the value of `general.file_type` for an output type of llama-quantize, such as Q4_K_M."""
    file_types = _constants.LlamaFileType
    return int(file_types.ALL_F32 if name == "F32" else file_types[f"MOSTLY_{name}"])


def tensor_name(name: str) -> str:
    """Return the GGUF name of a model tensor (`ROPE_FREQS`, ...), with `#` for the layer and without `.weight`."""
    return str(_constants.TENSOR_NAMES[_constants.MODEL_TENSOR[name]]).replace("{bid}", "#")


@functools.cache
def tensor_names(architecture: str) -> Any:
    """Return gguf's map from stored to GGUF names for an architecture, with one layer (0).

    It does not depend on earlier calls. Raises KeyError for an architecture that gguf does not know.
    """
    known = {name: number for number, name in _constants.MODEL_ARCH_NAMES.items()}
    plain = _load("tensor_mapping").TensorNameMap
    # creating a map changes the class's dictionaries, so give it a subclass with copies
    own = {name: dict(value) for name, value in vars(plain).items() if isinstance(value, dict)}
    return type("TensorNames", (plain,), own)(known[architecture], 1)


def gguf_name(architecture: str, stored_name: str) -> str | None:
    """Return the GGUF name of a stored tensor; None if the architecture does not have it.

    In both names `#` is the layer. In stored names `@` is the expert; in GGUF one tensor has all experts.
    """
    one_layer = stored_name.replace(".@.", ".").replace("#", "0")
    found = tensor_names(architecture).get_name(one_layer, try_suffixes=(".weight", ".bias"))
    return None if found is None else str(found).replace("blk.0.", "blk.#.", 1)
