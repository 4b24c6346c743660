"""Help by purpose and subject, the exit status of bare commands, and completion in shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import click
import pytest

from pa_lite.cli import cli
from pa_lite.cli.help import PURPOSES, SUBJECTS
from tests.cli.test_cli import run


def test_the_bare_program_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys)
    assert (status, err) == (0, "")
    assert out == run(capsys, "--help")[1]
    assert "\\n" not in out


def test_every_command_has_a_purpose_and_a_summary_that_fits(capsys: pytest.CaptureFixture[str]) -> None:
    named = [name for names in PURPOSES.values() for name in names]
    assert sorted(named) == sorted(name for name, command in cli.commands.items() if not command.hidden)
    out = run(capsys, "--help")[1]
    assert all(f"{purpose}:\n" in out for purpose in PURPOSES)
    assert max(map(len, out.splitlines()[12:])) <= 80
    assert "..." not in out.partition("Make a model")[2]


def test_subjects_name_options_that_exist() -> None:
    options = {p.name for command in cli.commands.values() for p in command.params}
    assert {name for names in SUBJECTS.values() for name in names} <= options


def test_options_of_long_commands_are_grouped(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "sweep", "--help")[1]
    subjects = [line.rstrip(":") for line in out.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert subjects[0] == "Options"
    assert {"Tasks", "Instructions", "Engine", "Results"} <= set(subjects)
    for name, command in cli.commands.items():
        if isinstance(command, click.Group) or name == "harness":
            continue
        text = run(capsys, name, "--help")[1]
        shown = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
        assert all(max(p.opts, key=len) in text for p in shown), name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["sweep", "demo"],
            "error: missing --tasks NAMES, --examples FILE, --text or --prompts.\nSee: pa-lite sweep --help\n",
        ),
        (["merge", "--lamm", "3"], "See: pa-lite merge --help\n"),
        (["marge"], "See: pa-lite --help\n"),
    ],
)
def test_usage_errors_look_like_other_errors(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.endswith(said)
    assert len(err.splitlines()) == 2


def complete(words: str) -> set[str]:
    """Return what bash is offered after these words."""
    parts = words.split(" ")
    environment = {**os.environ, "_PA_LITE_COMPLETE": "bash_complete", "COMP_WORDS": words,
                   "COMP_CWORD": str(len(parts) - 1)}  # fmt: skip
    program = "import sys; sys.argv[0] = 'pa-lite'; from pa_lite.cli import cli; cli(prog_name='pa-lite')"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    return {line.partition(",")[2] for line in done.stdout.splitlines()}


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("pa-lite sw", "sweep"), ("pa-lite merge de", "demo"), ("pa-lite score demo@", "demo@0.7"),
        ("pa-lite score demo@0.7 --tasks demo_town,demo_k", "demo_town,demo_kind"),
        ("pa-lite merge demo --type q4_k", "Q4_K_M"), ("pa-lite sweep demo --foll", "--follow"),
    ],
)  # fmt: skip
def test_shells_complete_commands_pairs_tasks_and_types(typed: str, offered: str) -> None:
    assert offered in complete(typed)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    status, out, _ = run(capsys, "completion", shell)
    assert status == 0
    assert "_PA_LITE_COMPLETE" in out
    if shell == "bash" and shutil.which("bash"):
        assert subprocess.run(["bash", "-n"], input=out, text=True, check=False).returncode == 0
