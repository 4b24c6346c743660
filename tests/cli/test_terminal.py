from __future__ import annotations

import ast
import io
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pa_lite
from pa_lite import cli
from pa_lite.cli.terminal import show_json, show_table, tell, tell_prose
from pa_lite.ggml.container import gguf_header_bytes, read_gguf_header
from pa_lite.ggml.metadata import array, string
from pa_lite.merging.plan import PlanOptions
from pa_lite.sanitize import plain


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_tables_never_cut_what_is_typed_and_wrap_prose_at_words(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, sentence = Screen(), "words that wrap at spaces and are all kept " * 4
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    show_table(["pair", "size", ""], [["a-name-that-one-must-type-in-full", "12.5B", sentence]])
    tell_prose(sentence)
    lines = [re.sub(r"\x1b\[\d*m", "", line).rstrip() for line in screen.getvalue().splitlines()]
    assert any("a-name-that-one-must-type-in-full" in line for line in lines)
    assert max(map(len, lines)) <= 60
    assert " ".join(lines).split().count("words") == 8
    wide = "x" * 70
    show_table(["pair", "size"], [[wide, "1B"]])
    assert re.search(f"{wide} +1B", screen.getvalue())


HOSTILE = "a\x1b]0;title\x07\x9b2J\x00\r\u202eb"
HARMLESS = r"a\x1b]0;title\x07\x9b2J\x00\r\u202eb"


def test_texts_from_files_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert plain(HOSTILE) == HARMLESS
    assert plain("größer\t名\n") == "größer\t名\n"
    tell(HOSTILE)
    tell(HOSTILE, err=True)
    show_table(["", HOSTILE], [["x", HOSTILE]])
    out, err = capsys.readouterr()
    assert err == f"{HARMLESS}\n"
    assert out.startswith(f"{HARMLESS}\n")
    assert out.count(HARMLESS) == 3
    assert plain(out) == out
    show_json({HOSTILE: [HOSTILE, "名"]})
    out = capsys.readouterr().out
    assert plain(out) == out
    assert json.loads(out) == {HOSTILE: [HOSTILE, "名"]}


def test_errors_and_log_lines_are_escaped(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    with pytest.raises(SystemExit):
        cli.main(["inspect", f"no/{HOSTILE}".replace("\0", "")])
    logging.getLogger("pa_lite").warning("name %s", HOSTILE)
    error, warning = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: no/{HARMLESS}".replace(r"\x00", ""))
    assert warning == f"WARNING: name {HARMLESS}"


def test_commands_print_only_through_two_modules() -> None:
    """Search the syntax of the command line's package for other ways of printing."""
    others = [p for p in Path(cli.__file__).parent.glob("*.py") if p.name not in ("terminal.py", "bars.py")]
    assert len(others) > 8
    for path in others:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute):
                told = ast.unparse(node)
                if (path.name, told) == ("mapped.py", "os.write"):  # writes directly, where nothing else works
                    continue
                assert node.attr not in ("echo", "secho", "style", "write", "print", "Console"), f"{path.name}: {told}"
                assert told not in ("sys.stdout", "sys.__stdout__", "sys.__stderr__"), f"{path.name}: {told}"
            if isinstance(node, ast.Name):
                assert node.id not in ("print", "echo", "tqdm"), f"{path.name}:{node.lineno}"


EVIL = "\x1b]0;t\x07\x9b2J\u202e\u2066\n\r\terror: x\ufeff"
EVIL_NAME = EVIL.replace("/", "")


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name, files, model, tokens, chat template, tasks and instructions have control characters."""
    folder = tmp_path_factory.mktemp("evil") / EVIL_NAME
    folder.mkdir()
    base = pa_lite.merge(lam=(0.5,), output=folder / "m.gguf", plan=PlanOptions(type="F16"))[0]
    header, raw = read_gguf_header(base), base.read_bytes()
    tokens = header.metadata["tokenizer.ggml.tokens"]
    template = (
        "{{ messages[0]['content'] }}{% if 'refuse' in messages[0]['content'] %}{{ raise_exception('"
        + EVIL
        + "') }}{% endif %}"
    )
    metadata = {
        **{k: v for k, v in header.metadata.items() if k != "general.architecture"},
        "general.name": string(EVIL),
        "tokenizer.ggml.tokens": array("STRING", [*tokens.value[:-1], EVIL]),
        "tokenizer.chat_template": string(template),
    }
    layout = {name: (t.type, t.shape) for name, t in header.tensors.items()}
    begin, places, size = gguf_header_bytes("llama", metadata, layout)
    out = bytearray(begin) + bytes(size - len(begin))
    for name, t in header.tensors.items():
        out[places[name].offset : places[name].offset + t.nbytes] = raw[t.offset : t.offset + t.nbytes]
    (folder / f"{EVIL_NAME}.gguf").write_bytes(bytes(out))
    rows = [{"split": "test", "q": EVIL, "choices": [EVIL, "b"], "answer": i % 2, "a": EVIL} for i in range(2)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    name = json.dumps(EVIL)
    (folder / "tasks.toml").write_text(
        f'[tasks.{name}]\ndata = "rows.jsonl"\ntemplate = {name}\ndescription = {name}\narea = {name}\n'
        f'[tasks.{json.dumps(EVIL + "g")}]\ndata = "rows.jsonl"\ntemplate = {name}\nkind = "G"\n'
        'answers = "[a]"\nmax_tokens = 4\n'
        f'[tasks.{json.dumps(EVIL + "broken")}]\ndata = {name}\ntemplate = "x"\n',
        "utf-8",
    )
    lines = [{"instruction": EVIL + "refuse" * i, "checks": [{"kind": "uppercase"}]} for i in range(2)]
    (folder / "one.jsonl").write_text(json.dumps(lines[0]) + "\n", "utf-8")
    (folder / "refused.jsonl").write_text(json.dumps(lines[1]) + "\n", "utf-8")
    (folder / "bad.jsonl").write_text(json.dumps({**lines[0], "checks": [{"kind": EVIL}]}) + "\n", "utf-8")
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="file names hold no control characters there")
@pytest.mark.parametrize(
    "words",
    [
        "inspect {m}", "inspect {m} --tensors", "--debug inspect {m}", "inspect {f}/no", "--debug inspect {f}/no",
        "merge {m} {m} --lam 0.5 --dry-run", "merge {m} {m} --lam 0.5 -o {f}", "merge {m} {m} --lam 0.5,0.5",
        "merge {m} {m} --lam 0.5 -o {m}", "merge {m} {m} --lam 0.5 --type {e}", "merge {m} --{e}",
        "merge {m} {m} --lam {e}", "diff {m} {m}", "score {m} --tasks {f}/tasks.toml", "score {m} --tasks {e}",
        "tasks show {f}/tasks.toml", "score {m} --tasks {f}/one.toml --log-samples", "tasks show {f}/one.toml",
        "generate {m} --prompts {f}/one.jsonl --max-tokens 4", "generate {m} --prompts {f}/refused.jsonl",
        "generate {m} --prompts {f}/one.jsonl --max-tokens 4 -o {f}/out.json", "generate {m} --prompts {f}/rows.jsonl",
        "generate {m} {e} {e} --max-tokens 4", "generate {m} {f}/no.txt", "compare {e} x",
        "compare demo {e} {e} --max-tokens 4 --lam 0.5", "chat {e}", "chat {f}/no --study {e}",
        "follow {m} --set {f}/one.jsonl --max-tokens 4", "follow {m} --set {f}/bad.jsonl", "follow {m} --set {e}",
        "judge {f}/out.json --reference {f}/out.json --judge {m} -o {f}/judged.json --allow-empty",
        "winrate {f}/judged.json",
        "report {f}", "sweep {e} --tasks demo", "sweep demo --tasks {f}/one.toml --lam 0,1 --limit 2 --run {f}/run",
        "report {f}/run --png {f}/png --csv {f}/items.csv", "pairs show {e}", "pairs add {e} {f} {f}", "{e}",
    ],
)  # fmt: skip
def test_nothing_but_what_is_printable_reaches_the_terminal(
    evil: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.chdir(evil)
    text = (evil / "tasks.toml").read_text("utf-8")
    (evil / "one.toml").write_text("[tasks" + text.split("[tasks")[1], "utf-8")
    known = {"m": str(evil / f"{EVIL_NAME}.gguf"), "f": str(evil), "e": EVIL}
    arguments = [word.format(**known) for word in words.split(" ")]
    try:
        cli.main(arguments)
        status = 0
    except SystemExit as e:
        status = int(e.code or 0)
    captured = capfd.readouterr()
    shown = captured.out + captured.err
    assert [c for c in shown if not c.isprintable() and c not in "\n\t"] == []
    assert "\nerror: x" not in shown
    assert not re.search("a bug in pa-lite|Traceback", captured.err) or "--debug" in words
    assert shown or status == 0


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_terminals_with_small_character_sets(evil: Path, encoding: str) -> None:
    program = [sys.executable, "-m", "pa_lite", "inspect"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    folder = evil / "名😀"
    for words in ([str(folder)], ["--json", str(evil / "m.gguf")], [str(evil / "m.gguf")]):
        done = subprocess.run([*program, *words], capture_output=True, env=environment, check=False)
        assert b"Traceback" not in done.stderr
        assert b"a bug in pa-lite" not in done.stderr
    assert done.returncode == 0


@pytest.mark.skipif(os.name != "posix", reason="needs a shell that closes streams")
@pytest.mark.parametrize(
    ("closed", "command"), [(">&-", "pairs"), (">&-", "tasks --json"), ("2>&-", "inspect no"), ("<&-", "pairs")]
)
def test_closed_streams_are_redirected_to_the_null_device(tmp_path: Path, closed: str, command: str) -> None:
    done = subprocess.run(
        f'"{sys.executable}" -m pa_lite {command} {closed}', shell=True, cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (int(command == "inspect no"), "")
    assert list(tmp_path.iterdir()) == []
