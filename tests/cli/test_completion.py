"""Completion as an interactive bash does it, and what the scripts of other shells are given."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pa_lite

pty = pytest.importorskip("pty", reason="pseudo-terminals of POSIX")
_TREE = Path(pa_lite.__file__).parents[1]
_CLEAR = b"\x15"  # Ctrl-U: delete the line


class Terminal:
    """An interactive bash in a folder, with completion loaded."""

    def __init__(self, folder: Path) -> None:
        program = folder / "bin" / "pa-lite"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pa_lite "$@"\n')
        program.chmod(0o755)
        work = folder / "work"
        work.mkdir()
        settings = {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(_TREE), "TERM": "dumb",
                    "PS1": "$ ", "XDG_CONFIG_HOME": str(folder)}  # fmt: skip
        self.process, self.file = pty.fork()
        if not self.process:
            os.chdir(work)
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], {**os.environ, **settings})
        self.folder = work
        settings_of_readline = ("bind 'set bell-style none'", "bind 'set page-completions off'")
        for line in ('eval "$(pa-lite completion bash)"', *settings_of_readline):
            os.write(self.file, f"{line}; echo loa''ded\n".encode())
            assert "loaded\r\n$ " in self.read(r"loaded\r\n\$ ")

    def read(self, until: str, seconds: float = 30) -> str:
        """Return what bash writes, up to the first match of a pattern, or everything when the time is over."""
        out, end = "", time.monotonic() + seconds
        while not re.search(until, out) and (left := end - time.monotonic()) > 0:
            if select.select([self.file], [], [], left)[0]:
                out += os.read(self.file, 65536).decode()
        return out

    def press_tab(self, typed: str, until: str, tabs: int = 1) -> str:
        """Return what bash writes after a line and TABs, and delete the line."""
        os.write(self.file, typed.encode())
        self.read(re.escape(typed))
        os.write(self.file, b"\t" * tabs)
        out = self.read(until)
        os.write(self.file, _CLEAR + b"echo cle''ared\n")
        self.read(r"cleared\r\n\$ ")  # then readline echoes what is typed, once
        return out

    def close(self) -> None:
        """End bash."""
        os.kill(self.process, signal.SIGKILL)
        os.close(self.file)
        os.waitpid(self.process, 0)


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    if shutil.which("bash") is None:
        pytest.skip("requires bash")
    opened = Terminal(tmp_path_factory.mktemp("bash"))
    (opened.folder / "llama-notes.json").touch()
    (opened.folder / "answers of mine.json").touch()
    (opened.folder / "checkpoints").mkdir()
    (opened.folder / "checkpoints" / "weights.gguf").touch()
    (opened.folder / "smol-study").mkdir()
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("typed", "added"),
    [
        ("pa-lite mer", "ge "),
        ("pa-lite merge llama-3.2-1", "b "),
        ("pa-lite merge --pair smollm2-3", "60m "),
        ("pa-lite score dem", "o@"),
        ("pa-lite score demo@", "0."),
        ("pa-lite score 'demo@0", "."),
        ("pa-lite sweep demo --judge=dem", "o@"),
        ("pa-lite sweep demo --judge=demo@", "0."),
        ("pa-lite score demo@0.7 --tasks demo_to", "wn "),
        ("pa-lite score demo@0.7 --tasks demo_town,demo_ki", "nd "),
        ("pa-lite score demo@0.7 --tasks=demo_town,demo_ki", "nd "),
        ("pa-lite merge demo --type=Q8", "_0 "),
        ("pa-lite pairs show smollm2-3", "60m "),
        ("pa-lite pairs fetch smollm2-3", "60m "),
        ("pa-lite tasks show demo_to", "wn "),
        ("pa-lite sweep demo --follow pub", "lic "),
        ("pa-lite follow demo@0.7 --set ife", "val "),
        ("pa-lite generate demo@0.7 --prompts alp", "aca-eval "),
        ("pa-lite generate demo@0.7 llama-n", "otes.json "),
        ("pa-lite compare smollm2-3", "60m "),
        ("pa-lite compare demo llama-n", "otes.json "),
        ("pa-lite chat smollm2-3", "60m "),
        ("pa-lite chat demo@0", "."),
        ("pa-lite chat demo --study smol-", "study/"),
        ("pa-lite report smol-", "study/"),
        ("pa-lite sweep demo --run smol-", "study/"),
        ("pa-lite merge ./check", "points/"),
        ("pa-lite merge llama-n", "otes.json "),
        ("pa-lite merge checkpoints/weights.gguf checkpoints/we", "ights.gguf "),
        ("pa-lite merge demo -o check", "points/"),
        ("pa-lite winrate ans", r"wers\ of\ mine.json "),
        ("pa-lite winrate --alpaca-data=check", "points/"),
    ],
)  # fmt: skip
def test_tab_in_bash_adds(terminal: Terminal, typed: str, added: str) -> None:
    assert added in terminal.press_tab(typed, re.escape(added)).replace("\x07", "")


def test_two_tabs_in_bash_list_lams_names_and_files(terminal: Terminal) -> None:
    listed = terminal.press_tab("pa-lite score demo@0.", r"\$ pa-lite", tabs=2)
    assert all(f"@0.{i}" in listed for i in range(1, 10))
    listed = terminal.press_tab("pa-lite merge ", r"\$ pa-lite", tabs=2)
    assert {"demo", "smollm2-360m", "llama-notes.json", "checkpoints/"} <= set(listed.split())
    assert "answers" in listed


def asked(shell: str, **settings: str) -> list[str]:
    """Return the items that a shell's script is given."""
    environment = {**os.environ, **settings, "_PA_LITE_COMPLETE": f"{shell}_complete", "PYTHONPATH": str(_TREE)}
    done = subprocess.run(
        [sys.executable, "-m", "pa_lite"], env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout.splitlines()


def test_scripts_of_zsh_and_fish_get_whole_words_and_files() -> None:
    line = "pa-lite score demo@0.7 --tasks=demo_town,demo_k"
    zsh = asked("zsh", COMP_WORDS=line, COMP_CWORD="3")
    assert zsh[:3] == ["plain", "--tasks=demo_town,demo_kind", "_"]
    assert "file" in zsh
    fish = asked("fish", COMP_WORDS=line, COMP_CWORD=line.split()[-1])
    assert fish[0] == "plain,--tasks=demo_town,demo_kind"
    assert any(item.startswith("file,") for item in fish)


def test_the_fish_script_splits_only_at_the_first_comma() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pa_lite", "completion", "fish"], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(_TREE)},
    )  # fmt: skip
    assert 'string split -m 1 "," --' in done.stdout


def test_only_own_pairs_are_offered_to_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pa_lite.api.checkpoints import own_pairs_path

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    if not own_pairs_path().is_relative_to(tmp_path):
        pytest.skip("the folder of own pairs is fixed on this system")
    pa_lite.add_pair("mine", "org/Base", "org/Instruct")
    offered = asked("bash", _PA_LITE_COMPLETE_LINE="pa-lite pairs rm ", _PA_LITE_COMPLETE_WORD="")
    assert offered == ["plain,mine"]
