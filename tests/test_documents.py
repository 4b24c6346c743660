"""Documents agree with the repository: examples run, files, sections, modules and tests that they name exist."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / f / "README.md" for f in ("pa_lite", "tools", "tests", "models"))]
PROMISES = ROOT / "tests" / "README.md"
# `pa_lite/...`, `tests/...`: a path in this repository, up to the first character that paths here do not have
_PATH = re.compile(r"(?<![\w/.-])(?:pa_lite|tests|tools|models)/[\w./-]*\w")
_LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")
_TEST = re.compile(r"`(tests/[\w/.-]+\.py)::(\w+)`")


def anchors(document: Path) -> set[str]:
    """Return the names that links use for a document's headings, as GitHub builds them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def section(text: str, heading: str) -> str:
    """Return the text below `## heading`, up to the next heading of that level."""
    _, found, rest = text.partition(f"\n## {heading}\n")
    return re.split(r"^## ", rest, flags=re.MULTILINE)[0] if found else ""


def missing_tests(text: str, root: Path = ROOT) -> list[str]:
    """Return the tests that a text names and the tree does not have."""
    found = []
    for path, name in _TEST.findall(text):
        file = root / path
        tree = ast.parse(file.read_text("utf-8")) if file.is_file() else ast.Module([], [])
        if name not in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]:
            found.append(f"{path}::{name}")
    return found


def test_the_readmes_python_examples_run(tmp_path: Path) -> None:
    """They run in one folder, in their order."""
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        run = subprocess.run(
            [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", block],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, f"{block}\n{run.stderr}"
    assert (tmp_path / "m.gguf").is_file()


def test_ci_finds_its_two_commands_in_the_readme() -> None:
    commands = re.findall(r"^python3 -m venv .*$", README.read_text("utf-8"), re.MULTILINE)
    assert ["pa-lite demo" in command for command in commands] == [True, False]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.relative_to(ROOT).as_posix())
def test_files_and_sections_that_documents_name_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    for target, anchor in _LINK.findall(text):
        file = document.parent / target if target else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"
    for path in _PATH.findall(text):
        assert (ROOT / path).exists(), path
    if document.parent == ROOT / "pa_lite":  # its paths are relative to the package
        for path in re.findall(r"`((?:\w+/)+\w*(?:\.py)?)`", text):
            assert (document.parent / path).exists() or (ROOT / path).exists(), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.relative_to(ROOT).as_posix())
def test_modules_that_documents_run_exist(document: Path) -> None:
    for module in re.findall(r"python -m ((?:tools|tests|pa_lite)[\w.]*)", document.read_text("utf-8")):
        assert importlib.util.find_spec(module), module


def test_every_promise_names_tests_that_exist() -> None:
    text = section(PROMISES.read_text("utf-8"), "Promises")
    assert missing_tests(text) == []
    promises = re.split(r"^- ", text.partition("\nNot promised:")[0], flags=re.MULTILINE)[1:]
    assert len(promises) >= 8
    for promise in promises:
        assert _TEST.search(promise), f"no test is named: {promise[:80]}"
    assert text.count("::") == len(_TEST.findall(text))  # all are written in the form that is checked


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("`tests/test_documents.py::test_a_renamed_test_is_found`", []),
        ("`tests/test_documents.py::test_of_another_name`", ["tests/test_documents.py::test_of_another_name"]),
        ("`tests/no/file.py::test_x`", ["tests/no/file.py::test_x"]),
        ("`tests/test_documents.py::anchors` `tests/test_documents.py::ROOT`", ["tests/test_documents.py::ROOT"]),
    ],
)
def test_a_renamed_test_is_found(text: str, missing: list[str]) -> None:
    document = f"# x\n## Promises\n- {text}\n## next\n`tests/other.py::test_other`\n"
    assert missing_tests(section(document, "Promises")) == missing
