"""Ollama's Modelfile and the commands for other programs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

import pa_lite
from pa_lite.api.sharing import next_commands
from pa_lite.errors import CheckpointError, InputError, OutputError
from tests.cli.test_cli import run

DEMO = '''\
# Made by pa-lite. Use it with: ollama create NAME -f THIS_FILE
FROM ./my model.gguf
TEMPLATE """{{ range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
PARAMETER stop "<|im_end|>"
PARAMETER stop "<|im_start|>"
'''


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return pa_lite.merge("demo", lam=0.6, output=tmp_path / "my model.gguf")


def test_the_embedded_pairs_modelfile_has_its_template_and_ends(gguf: Path) -> None:
    made = pa_lite.modelfile(gguf)
    assert (made.path, made.format, made.remark) == (gguf.with_name("my model.Modelfile"), "ChatML", "")
    assert made.path.read_text("utf-8") == made.text == DEMO
    assert pa_lite.modelfile(gguf) == made  # the same one may exist
    made.path.write_text("my own", "utf-8")
    with pytest.raises(OutputError, match="exists already"):
        pa_lite.modelfile(gguf)
    assert pa_lite.modelfile(gguf, force=True).path.read_text("utf-8") == DEMO


def test_elsewhere_the_file_is_named_by_its_absolute_path(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    made = pa_lite.modelfile(gguf, tmp_path / "other/Modelfile")
    assert f"\nFROM {gguf}\n" in made.text


def test_without_a_known_format_there_is_no_template(gguf: Path) -> None:
    gguf.write_bytes(gguf.read_bytes().replace(b"'<|im_start|>' + m", b"'<|im_START|>' + m"))
    made = pa_lite.modelfile(gguf)
    assert made.text.splitlines()[1:] == ["FROM ./my model.gguf", 'PARAMETER stop "<|im_end|>"']
    assert made.remark == (
        "no TEMPLATE, as no format in pa-lite's table gives the prompts of its chat template: Ollama must recognise "
        "the model's chat template itself"
    )


def test_unusable_files_and_names_are_refused(tmp_path: Path, gguf: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="is not a GGUF file"):
        pa_lite.modelfile(tmp_path / "x.gguf")
    odd = gguf.rename(tmp_path / 'a"b.gguf')
    with pytest.raises(InputError, match="a Modelfile cannot contain this name"):
        pa_lite.modelfile(odd)


def test_commands_of_other_programs_are_words_of_a_shell(gguf: Path) -> None:
    assert list(next_commands(gguf)) == ["llama-server", "LM Studio"]
    pa_lite.modelfile(gguf)
    commands = next_commands(gguf)
    assert shlex.split(commands["llama-server"]) == ["llama-server", "-m", str(gguf)]
    assert shlex.split(commands["LM Studio"]) == ["lms", "import", "--copy", str(gguf)]
    words = shlex.split(commands["Ollama"])
    assert words == [
        "ollama", "create", "my-model", "-f", str(gguf.with_suffix(".Modelfile")), "&&", "ollama", "run", "my-model",
    ]  # fmt: skip
    assert next_commands("-x.gguf")["llama-server"] == "llama-server -m ./-x.gguf"


def test_merge_writes_modelfiles(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, "merge", "demo", "--lam", "0.7", "--modelfile", "-o", "m.gguf")
    assert (status, out) == (0, "m.gguf\nm.Modelfile\n")
    assert err.splitlines()[-3:] == [
        "llama-server: llama-server -m m.gguf", "LM Studio: lms import --copy m.gguf",
        "Ollama: ollama create m -f m.Modelfile && ollama run m",
    ]  # fmt: skip
    status, out, _ = run(capsys, "merge", "demo", "--lam", "0.2,0.7", "--modelfile", "-o", "both", "--json")
    found = json.loads(out)
    assert [each["modelfile"] for each in found] == [
        str(Path(each["path"]).with_suffix(".Modelfile")) for each in found
    ]
    assert run(capsys, "merge", "demo", "--lam", "0.2,0.7", "--modelfile", "-o", "both", "--resume")[0] == 0
    Path("n.Modelfile").write_text("my own", "utf-8")
    status, out, err = run(capsys, "merge", "demo", "--lam", "0.7", "--modelfile", "-o", "n.gguf")
    assert (status, out) == (1, "")
    assert err.startswith("error: n.Modelfile: exists already.")
    assert not Path("n.gguf").exists()
