"""The package's rooms: imports run downwards, start-up stays light, and every module says what it is for."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pa_lite

PACKAGE = Path(pa_lite.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
# from the bottom; a room may import from its own and from those before it
ROOMS = [
    "compiled",
    "texts",
    "portions",
    "names",
    "errors",
    "opening",
    "markers",
    "documents",
    "limited_worker",
    "limited",
    "files",
    "leftovers",
    "machine",
    "statistics",
    "kernels",
    "checkpoints",
    "merge",
    "engine",
    "tasks",
    "follow",
    "study",
]


def room_of(module: str) -> int:
    """A module's level; the package itself, the command line and `python -m` stand on top."""
    parts = module.split(".")
    return ROOMS.index(parts[1]) if len(parts) > 1 and parts[1] in ROOMS else len(ROOMS)


def imports(path: Path) -> Iterator[str]:
    """Every pa_lite module that a file imports, at its top or within its functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "pa_lite")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pa_lite":
            assert node.level == 0
            yield node.module


def module_name(path: Path) -> str:
    parts = ("pa_lite", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_run_downwards(path: Path) -> None:
    own = room_of(module_name(path))
    for imported in imports(path):
        assert room_of(imported) <= own, f"{module_name(path)} looks up at {imported}"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_modules_say_what_they_are_for_and_stay_small(path: Path) -> None:
    text = path.read_text("utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 400


def test_only_the_engine_starts_llama_cpp_and_only_kernels_calls_ggml() -> None:
    for path in MODULES:
        text = path.read_text("utf-8")
        if "import llama_cpp" in text or "from llama_cpp" in text:
            assert room_of(module_name(path)) == ROOMS.index("engine"), path
        if "CDLL" in text:
            assert path.name == "kernels.py", path


def test_starting_the_command_line_loads_nothing_heavy() -> None:
    code = "import sys, pa_lite.cli; print([m for m in ('numpy', 'llama_cpp', 'gguf', 'rich') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_function_merge_survives_the_import_of_the_subpackage() -> None:
    import pa_lite.merging.plan

    assert callable(pa_lite.merge)
