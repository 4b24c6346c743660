"""Sets of verifiable instructions by name: public, demo, ifeval, and the user's files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pa_lite.alpaca.outputs import demo_instructions_path
from pa_lite.errors import InputError, nearest
from pa_lite.instructions import ifeval
from pa_lite.instructions.following import Instruction, instruction_of, load_instructions
from pa_lite.instructions.public.generator import public_rows
from pa_lite.progress import Progress

PUBLIC_PATH = Path(__file__).parent / "public" / "public.jsonl"
_DEMO_TOKENS = 32  # its longest correct answers have a dozen
_NAMES = ("public", "demo", "ifeval")


@dataclass(frozen=True, kw_only=True)
class InstructionSet:
    """Instructions and their settings.

    `max_tokens` is enough for every good answer. With `must_end`, an answer that was cut fails every constraint;
    IFEval's reference implementation checks cut answers like complete ones, and so does its set here.
    """

    name: str
    instructions: Sequence[Instruction]
    max_tokens: int
    must_end: bool = True

    def limited(self, limit: int | None) -> InstructionSet:
        """Return the set with at most `limit` instructions, evenly spaced."""
        n = len(self.instructions)
        if limit is None or limit >= n:
            return self
        return replace(self, instructions=[self.instructions[i * n // limit] for i in range(limit)])


def find_set(name: str, seed: int | None = None, progress: Progress | None = None) -> InstructionSet:
    """Return the set `public`, `demo` (or `demo:dev`), `ifeval` (from the Hub), `ifeval:FILE`, or of a JSONL file.

    A `seed` generates 500 new prompts for the public set. `progress` gets the bytes of a download. Raises InputError
    for an unknown name, an invalid file, and a seed with another set.
    """
    if seed is not None and name != "public":
        raise InputError(f"a seed generates prompts of the set public, not of {name!r}: leave it out.")
    if name == "public" and seed is None:
        return InstructionSet(name=name, instructions=load_instructions(PUBLIC_PATH), max_tokens=512)
    if name == "public":
        rows = [instruction_of(row, f"seed {seed}") for row in public_rows(seed or 0)]
        return InstructionSet(name=f"public, seed {seed}", instructions=rows, max_tokens=512)
    source, _, file = name.partition(":")
    if source == "demo":
        return InstructionSet(
            name=name, instructions=load_instructions(demo_instructions_path(), file or "test"), max_tokens=_DEMO_TOKENS
        )
    if name == "ifeval" or (source == "ifeval" and file):
        return InstructionSet(
            name=name,
            instructions=ifeval.load_ifeval(Path(file) if file else _fetch(progress)),
            max_tokens=1280,
            must_end=False,
        )
    if not Path(name).is_file():
        raise InputError(f"unknown set {name!r}: neither a known set nor an existing file.{nearest(name, _NAMES)}")
    return InstructionSet(name=name, instructions=load_instructions(Path(name), warn=True), max_tokens=512)


def _fetch(progress: Progress | None) -> Path:
    from pa_lite.checkpoints.hub.repositories import fetch_file

    return fetch_file(ifeval.REPO, ifeval.FILE, repo_type="dataset", progress=progress)
