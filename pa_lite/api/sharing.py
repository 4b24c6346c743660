"""Using a model elsewhere: commands and files for other programs, model cards, and uploads to the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pa_lite.api.options import path_of
from pa_lite.sharing.modelfile import Modelfile, modelfile_path, use_commands, write_modelfile

__all__ = ["Modelfile", "modelfile", "modelfile_path", "next_commands"]


def modelfile(gguf: str | Path, output: str | Path | None = None, *, force: bool = False) -> Modelfile:
    """Write Ollama's Modelfile for a GGUF file: FROM, the texts that end an answer, and the prompt's TEMPLATE.

    By default it is `NAME.Modelfile` next to the file. Without a format that gives the same prompts as the model's chat
    template, it has no TEMPLATE, and `.remark` says why. Raises PaLiteError.
    """
    return write_modelfile(Path(gguf), path_of(output), force)


def next_commands(gguf: str | Path, modelfile: str | Path | None = None) -> Mapping[str, str]:
    """Return the commands that use a GGUF file in llama-server, LM Studio and, with a Modelfile, Ollama."""
    return use_commands(Path(gguf), path_of(modelfile))
