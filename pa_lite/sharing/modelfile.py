"""Ollama's Modelfile for a GGUF file, and the commands that use a GGUF file in other programs."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pa_lite.errors import InputError
from pa_lite.ggml.container import read_gguf_header
from pa_lite.sanitize import one_line
from pa_lite.sharing.ollama_formats import find_format, token_text
from pa_lite.system.atomic import check_target, write_text
from pa_lite.system.opening import MOST_TOML_BYTES, read_regular

_ENDS = ("eos", "eot", "eom")  # roles of tokens that end an answer
_UNQUOTABLE = '"'  # a Modelfile has no escapes


@dataclass(frozen=True, kw_only=True)
class Modelfile:
    """Ollama's Modelfile for a GGUF file: its path, and its text.

    `format` is the name of the prompt format in its TEMPLATE; empty if there is none, and then `remark` says why.
    """

    path: Path
    text: str
    format: str
    remark: str


def modelfile_path(gguf: Path) -> Path:
    """Return the Modelfile's path next to a GGUF file: `NAME.Modelfile`."""
    return gguf.with_suffix(".Modelfile")


def write_modelfile(gguf: Path, path: Path | None = None, force: bool = False) -> Modelfile:
    """Write the Modelfile of a GGUF file, by default next to it; return it.

    One that exists is only overwritten with `force`; the same one may exist. Raises PaLiteError.
    """
    target = modelfile_path(gguf) if path is None else path
    made = make_modelfile(gguf, target)
    if not _has(target, made.text):
        check_target(target, force)
        write_text(target, made.text)
    return made


def _has(path: Path, text: str) -> bool:
    """Return whether a file has exactly this text."""
    try:
        return read_regular(path, MOST_TOML_BYTES) == text.encode()
    except OSError:
        return False


def make_modelfile(gguf: Path, path: Path) -> Modelfile:
    """Return the Modelfile of a GGUF file: FROM, PARAMETER stop, and where a known format is the model's, TEMPLATE.

    Raises CheckpointError for a file that is not GGUF, InputError for a name that a Modelfile cannot contain.
    """
    metadata = read_gguf_header(gguf).metadata
    found, why = find_format(metadata)
    stops = [token_text(metadata, role) for role in _ENDS] + list(found.stop if found else ())
    lines = ["# Made by pa-lite. Use it with: ollama create NAME -f THIS_FILE", f"FROM {_located(gguf, path)}"]
    if found is not None:
        lines.append(f'TEMPLATE """{found.template}"""')
        lines += [f'SYSTEM """{found.system}"""'] if found.system else []
    usable = (stop for stop in dict.fromkeys(stops) if stop and one_line(stop) == stop and _UNQUOTABLE not in stop)
    lines += [f'PARAMETER stop "{stop}"' for stop in usable]
    remark = "" if found else f"no TEMPLATE, as {why}: Ollama must recognise the model's chat template itself"
    return Modelfile(path=path, text="\n".join(lines) + "\n", format=found.name if found else "", remark=remark)


def _located(gguf: Path, path: Path) -> str:
    """Return the GGUF file as the Modelfile names it: relative in the same folder, else absolute."""
    same = os.path.realpath(gguf.parent) == os.path.realpath(path.parent)
    text = f"./{gguf.name}" if same else str(gguf.absolute())
    if one_line(text) != text or _UNQUOTABLE in text:
        raise InputError(f"{gguf}: a Modelfile cannot contain this name. Rename the file.")
    return text


def use_commands(gguf: Path, modelfile: Path | None = None) -> Mapping[str, str]:
    """Return the commands that use a GGUF file in other programs, by program."""
    name = re.sub(r"[^a-z0-9._-]+", "-", gguf.stem.lower()).strip("-._") or "model"
    source = modelfile_path(gguf) if modelfile is None else modelfile
    file = _word(gguf)
    commands = {"llama-server": f"llama-server -m {file}", "LM Studio": f"lms import --copy {file}"}
    if modelfile is not None or source.exists():
        commands["Ollama"] = f"ollama create {name} -f {_word(source)} && ollama run {name}"
    return commands


def _word(path: Path) -> str:
    """Return a path as a shell takes it; one that starts with a dash is not an option."""
    text = one_line(str(path))
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
