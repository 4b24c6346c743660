"""Publish a GGUF file, or a folder with one, as a model repository on the Hub: what goes there, and what stays."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pa_lite.checkpoints.hub.references import HubReference
from pa_lite.checkpoints.hub.uploads import (
    LocalFile,
    RemoteFiles,
    check_token,
    create_repository,
    remote_files,
    upload_files,
    writable_repository,
)
from pa_lite.checkpoints.inspect import licence_in
from pa_lite.errors import InputError
from pa_lite.ggml.container import read_gguf_header
from pa_lite.progress import Progress
from pa_lite.sharing.model_card import CARD, card_facts, card_text
from pa_lite.untrusted.safe_names import leads_out, path_fault

_GGUF = ".gguf"
# what a folder's other files must be called; journals, caches and results files never are
_OTHERS = re.compile(r"README\.md|report\.html|LICEN[CS]E(\.md|\.txt)?|(.+\.)?Modelfile|.+\.(png|svg)")
_THEIRS = (".gitattributes",)  # files that the Hub makes itself
_SHOWN = 5  # names in a message


@dataclass(frozen=True)
class PushFile:
    """A file to publish: its name, size in bytes, and whether the repository has it already, with the same content."""

    name: str
    size: int
    is_there: bool


@dataclass(frozen=True, kw_only=True)
class PushPlan:
    """What a push will do: the repository, its address, and the files, of which some may be there already.

    `left_out` are files of the folder that are not published, `licence` is that of the model ("" if unknown), and
    `exists` says whether the repository is there, with the visibility `private`.
    """

    repo: str
    url: str
    private: bool
    exists: bool
    licence: str
    files: tuple[PushFile, ...]
    left_out: tuple[str, ...]

    @property
    def size(self) -> int:
        """The bytes of the files that are not there yet."""
        return sum(file.size for file in self.files if not file.is_there)


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """A finished push: the repository's address, and the commit (empty if everything was there already)."""

    url: str
    commit: str


def plan_push(path: Path, repo: str, private: bool = False, force: bool = False) -> PushPlan:
    """Return what `push_files` will do; nothing is sent but questions.

    Raises InputError for a path without a GGUF file, an invalid repository name, and without `force` a repository with
    other content; HubError without a token that may write, offline, and if the Hub cannot be reached.
    """
    return _planned(path, repo, private, force)[0]


def push_files(
    path: Path, repo: str, private: bool = False, force: bool = False, progress: Progress | None = None
) -> Pushed:
    """Publish a GGUF file, or the files of a folder that belong to one, and return where they are.

    A single file gets a model card, unless the repository has one. `force` adds to a repository with other content, and
    replaces files. An interrupted push continues when it is called again. Raises what `plan_push` raises.
    """
    plan, reference, files = _planned(path, repo, private, force)
    missing = [file for file, state in zip(files, plan.files, strict=True) if not state.is_there]
    if not missing:
        return Pushed(url=plan.url, commit="")
    names = ", ".join(file.name for file in missing[:_SHOWN])
    message = f"Upload {names}{', ...' if len(missing) > _SHOWN else ''} with pa-lite"
    if not plan.exists:
        create_repository(reference, private)
    return Pushed(url=plan.url, commit=upload_files(reference, missing, message, progress))


def _planned(path: Path, repo: str, private: bool, force: bool) -> tuple[PushPlan, HubReference, list[LocalFile]]:
    reference = writable_repository(repo)
    files, left_out, licence = _local_files(path)
    check_token(reference)
    remote = remote_files(reference)
    if path.is_file() and (remote is None or CARD not in remote.files):
        files += _made_card(path)
    if remote is not None and private and not remote.is_private:
        raise InputError(f"{reference.repo} exists and is public: --private is for new repositories. Change it there.")
    states = tuple(PushFile(file.name, file.size, _is_there(file, remote)) for file in files)
    if remote is not None and not force:
        _check_content(reference, files, states, remote)
    plan = PushPlan(
        repo=reference.repo, url=reference.page, private=private if remote is None else remote.is_private,
        exists=remote is not None, licence=licence, files=states, left_out=tuple(left_out),
    )  # fmt: skip
    return plan, reference, files


def _local_files(path: Path) -> tuple[list[LocalFile], list[str], str]:
    """Return the files to publish, the names of others in the folder, and the model's licence."""
    if path.is_file():
        return [LocalFile(_checked_name(path), path)], [], _licence(path)
    if not path.is_dir():
        raise InputError(f"{path}: does not exist. Name a GGUF file, or a folder with one.")
    chosen, left_out, licence = [], [], ""
    for each in sorted(path.iterdir()):
        if not _is_published(each, path):
            left_out.append(each.name + ("/" if each.is_dir() else ""))
            continue
        chosen.append(LocalFile(_checked_name(each), each))
        if each.suffix.lower() == _GGUF:
            licence = _licence(each)
    if not any(file.name.lower().endswith(_GGUF) for file in chosen):
        raise InputError(f"{path}: has no GGUF file. Name a GGUF file, or a folder with one.")
    return chosen, left_out, licence


def _is_published(path: Path, folder: Path) -> bool:
    """Return whether a file of a folder belongs to the model: hidden files, links out of it and others do not."""
    if path.name.startswith(".") or not path.is_file() or leads_out(path, folder):
        return False
    return path.suffix.lower() == _GGUF or _OTHERS.fullmatch(path.name) is not None


def _checked_name(path: Path) -> str:
    if fault := path_fault(path.name):
        raise InputError(f"{path}: cannot be published: its name {fault}. Rename it.")
    return path.name


def _licence(gguf: Path) -> str:
    """Return the licence in a GGUF file's header. Raises CheckpointError for a file that is not a complete GGUF."""
    return licence_in(read_gguf_header(gguf).metadata)


def _made_card(gguf: Path) -> list[LocalFile]:
    """Return the model card for a single file; none for a file that pa-lite did not make."""
    try:
        facts = card_facts(gguf)
    except InputError:
        return []
    return [LocalFile(CARD, card_text(gguf, facts).encode())]


def _is_there(file: LocalFile, remote: RemoteFiles | None) -> bool:
    if remote is None or file.name not in remote.files:
        return False
    return file.is_same(*remote.files[file.name])


def _check_content(
    reference: HubReference, files: list[LocalFile], states: tuple[PushFile, ...], remote: RemoteFiles
) -> None:
    """Raise InputError for a repository that has anything else than a part of these files."""
    own = {state.name: state.is_there for state in states}
    other = [f"another {name}" for name, is_there in own.items() if name in remote.files and not is_there]
    other += [name for name in sorted(remote.files) if name not in own and name not in _THEIRS]
    if other:
        shown = ", ".join(other[:_SHOWN]) + (f" and {len(other) - _SHOWN} more" if len(other) > _SHOWN else "")
        raise InputError(
            f"{reference.repo} exists with other content ({shown}). Choose another name, or use --force to add these "
            f"{len(files)} files to it; files of the same name are replaced."
        )
