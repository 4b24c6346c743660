"""Every promise of reliability and security in README.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_HEADING = "## Reliability and security"
_NAMED = re.compile(r"`(tests/[\w/.-]+\.py)::(\w+)`")


def section(text: str) -> str:
    """Return a section's text, up to the next heading of its level."""
    _, found, rest = text.partition(f"\n{_HEADING}\n")
    return re.split(r"^## ", rest, flags=re.MULTILINE)[0] if found else ""


def missing(text: str, root: Path = ROOT) -> list[str]:
    """Return tests that a text names but that do not exist."""
    found = []
    for path, name in _NAMED.findall(text):
        file = root / path
        tree = ast.parse(file.read_text("utf-8")) if file.is_file() else ast.Module([], [])
        if name not in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]:
            found.append(f"{path}::{name}")
    return found


def test_every_promise_has_its_tests() -> None:
    text = section((ROOT / "README.md").read_text("utf-8"))
    assert text, f"README.md has no section {_HEADING!r}"
    assert missing(text) == []
    promises = [part for part in re.split(r"^- ", text, flags=re.MULTILINE)[1:] if "Not promised" not in part]
    assert len(promises) >= 8
    for promise in promises:
        assert _NAMED.search(promise), f"no test is named: {promise[:80]}"
    assert text.count("::") == len(_NAMED.findall(text))  # every name is found by the pattern


@pytest.mark.parametrize(
    ("text", "lacking"),
    [
        ("`tests/test_promises.py::test_a_renamed_test_is_found`", []),
        ("`tests/test_promises.py::test_that_is_not_there`", ["tests/test_promises.py::test_that_is_not_there"]),
        ("`tests/no/file.py::test_x`", ["tests/no/file.py::test_x"]),
        ("`tests/test_promises.py::missing` `tests/test_promises.py::ROOT`", ["tests/test_promises.py::ROOT"]),
    ],
)
def test_a_renamed_test_is_found(text: str, lacking: list[str]) -> None:
    assert missing(section(f"# x\n{_HEADING}\n- {text}\n## next\n`tests/other.py::test_other`\n")) == lacking
