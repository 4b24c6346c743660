"""Using a model elsewhere: commands and files for other programs, model cards, and uploads to the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pa_lite.api.options import Progress, path_of
from pa_lite.api.studies import StudyLike, open_study
from pa_lite.sharing.model_card import write_card
from pa_lite.sharing.modelfile import Modelfile, modelfile_path, use_commands, write_modelfile
from pa_lite.sharing.push import Pushed, PushFile, PushPlan, push_files
from pa_lite.sharing.push import plan_push as plan

__all__ = [
    "Modelfile", "PushFile", "PushPlan", "Pushed", "model_card", "modelfile", "modelfile_path", "next_commands",
    "plan_push", "push",
]  # fmt: skip


def modelfile(gguf: str | Path, output: str | Path | None = None, *, force: bool = False) -> Modelfile:
    """Write Ollama's Modelfile for a GGUF file: FROM, the texts that end an answer, and the prompt's TEMPLATE.

    By default it is `NAME.Modelfile` next to the file. Without a format that gives the same prompts as the model's chat
    template, it has no TEMPLATE, and `.remark` says why. Raises PaLiteError.
    """
    return write_modelfile(Path(gguf), path_of(output), force)


def next_commands(gguf: str | Path, modelfile: str | Path | None = None) -> Mapping[str, str]:
    """Return the commands that use a GGUF file in llama-server, LM Studio and, with a Modelfile, Ollama."""
    return use_commands(Path(gguf), path_of(modelfile))


def model_card(
    gguf: str | Path, folder: str | Path | None = None, *, study: StudyLike | str | Path | None = None,
    commands: str = "", force: bool = False,
) -> Path:  # fmt: skip
    """Write the model card (README.md) of a GGUF file that pa-lite made, by default next to it; return its path.

    It names base, instruct, lam, licence and how to make the file again: with `commands`, by default the merge. With a
    `study`, or its run folder, it has the curves along lam, as a table and as the picture curves.png. Raises
    PaLiteError.
    """
    found = open_study(study) if isinstance(study, str | Path) else study
    return write_card(Path(gguf), path_of(folder), found, commands, force)


def plan_push(path: str | Path, repo: str, *, private: bool = False, force: bool = False) -> PushPlan:
    """Return what `push` would publish with the same arguments. Asks the Hub, and sends nothing. Raises PaLiteError."""
    return plan(Path(path), repo, private, force)


def push(
    path: str | Path, repo: str, *, private: bool = False, force: bool = False, progress: Progress | None = None
) -> Pushed:
    """Publish a GGUF file, or a folder with one, as the model `org/name` on the Hub, without asking.

    Of a folder, GGUF files, README.md, report.html, pictures, Modelfile and LICENSE are published; a single file gets a
    model card. An interrupted push continues when it is called again. A repository with other content is an error,
    unless `force` adds to it. A token with write access is required (`hf auth login`, or HF_TOKEN). `progress` gets the
    bytes of files that arrived. Raises PaLiteError.
    """
    return push_files(Path(path), repo, private, force, progress)
