"""The layout: imports point down and never in a circle, starting is fast, every module has a docstring and is short."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pa_lite

PACKAGE = Path(pa_lite.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
# from the bottom; a package may import from itself and from those before it
PACKAGES = [
    "sanitize",
    "errors",
    "statistics",
    "progress",
    "system",
    "untrusted",
    "ggml",
    "checkpoints",
    "merging",
    "engine",
    "alpaca",
    "instructions",
    "tasks",
    "study",
    "serving",
    "sharing",
    "api",
]


def level_of(module: str) -> int:
    """Return a module's level; the package itself, the command line and `python -m` are the highest."""
    parts = module.split(".")
    return PACKAGES.index(parts[1]) if len(parts) > 1 and parts[1] in PACKAGES else len(PACKAGES)


def imports(path: Path) -> Iterator[str]:
    """Yield every pa_lite module that a file imports, at its top or within its functions."""
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
def test_imports_point_down(path: Path) -> None:
    own = level_of(module_name(path))
    for imported in imports(path):
        assert level_of(imported) <= own, f"{module_name(path)} imports {imported}, which is above it"


def test_imports_have_no_circles() -> None:
    names = {module_name(path) for path in MODULES}
    wanted: dict[str, set[str]] = {}
    for path in MODULES:
        own = wanted[module_name(path)] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                own |= {a.name for a in node.names} & names
            elif isinstance(node, ast.ImportFrom) and node.module in names:
                parts = [f"{node.module}.{a.name}" for a in node.names]
                own |= {part if part in names else node.module for part in parts}
    graphlib.TopologicalSorter(wanted).prepare()  # raises CycleError, which names the modules


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_modules_have_a_docstring_and_at_most_400_lines(path: Path) -> None:
    text = path.read_text("utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 400


def test_commands_import_only_the_api() -> None:
    allowed = ("pa_lite.api", "pa_lite.cli", "pa_lite.errors", "pa_lite.progress", "pa_lite.sanitize")
    for path in (PACKAGE / "cli").rglob("*.py"):
        for imported in imports(path):
            assert imported == "pa_lite" or imported.startswith(allowed), f"{path.name} imports {imported}"


def test_only_the_engine_starts_llama_cpp_and_only_kernels_calls_ggml() -> None:
    for path in MODULES:
        text = path.read_text("utf-8")
        if "import llama_cpp" in text or "from llama_cpp" in text:
            assert level_of(module_name(path)) == PACKAGES.index("engine"), path
        if "CDLL" in text:
            assert path.name == "kernels.py", path


def test_starting_the_command_line_loads_nothing_heavy() -> None:
    code = "import sys, pa_lite.cli; print([m for m in ('numpy', 'llama_cpp', 'gguf', 'rich') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_merging_loads_no_engine_and_no_importlib_metadata() -> None:
    """Both would take longer to load than a small merge takes to compute."""
    code = (
        "import sys, pa_lite; pa_lite.merge(lam=0.5, output=sys.argv[1]);"
        "print([m for m in ('pa_lite.engine.model', 'llama_cpp', 'importlib.metadata', 'tqdm') if m in sys.modules])"
    )
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-c", code, f"{folder}/m.gguf"]
        out = subprocess.run(words, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_function_merge_stands_beside_the_package_merging() -> None:
    import pa_lite.merging.lams

    assert callable(pa_lite.merge)
    assert pa_lite.merging.lams.parse_lams("0.5") == (0.5,)


def test_dataclasses_of_more_than_three_fields_take_keywords_only() -> None:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                made = [d for d in map(ast.unparse, node.decorator_list) if d.split("(")[0] == "dataclass"]
                n_fields = sum(isinstance(s, ast.AnnAssign) and "ClassVar" not in ast.unparse(s) for s in node.body)
                assert not made or n_fields <= 3 or "kw_only=True" in made[0], f"{path.name}: {node.name}"
