"""Jobs that the campaign disturbs: real command lines on small real inputs, and what must hold for their results."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pa_lite.errors import PaLiteError
from pa_lite.study.results_file import FILE
from pa_lite.study.store import read_store
from pa_lite.system.markers import INCOMPLETE
from tests.support.hub_server import HubServer, running_hub
from tools import ROOT
from tools.bench.pair import Size, make_pair
from tools.chaos.runs import ChaosError, command, run

DEMO = ROOT / "models" / "demo"
SMALL, LARGE = Size(512, 1408, 8, 8, 4, shards=2), Size(768, 2048, 8, 12, 4, shards=2)  # 24 and 50 million weights
_VOCABULARY = 4000
_PROMPTS = 500
_PAIR = "chaos"  # the pair on the Hub, in the campaign's registry


class Scene:
    """Inputs that all jobs share, in one folder: two pairs, prompts, a Hub on this machine, a registry."""

    def __init__(self, folder: Path, hub: HubServer) -> None:
        self.folder, self.hub = folder, hub
        self.small, self.large = folder / "small", folder / "large"
        self.prompts = folder / "prompts.jsonl"

    def prepare(self) -> None:
        """Make the inputs that are missing."""
        for pair, size in ((self.small, SMALL), (self.large, LARGE)):
            if not pair.is_dir():
                make_pair(pair, size, _VOCABULARY)
        instructions = (DEMO / "data" / "instructions.jsonl").read_text("utf-8")
        texts = [json.loads(line)["instruction"] for line in instructions.splitlines()]
        lines = (json.dumps({"instruction": texts[i % len(texts)]}) for i in range(_PROMPTS))
        self.prompts.write_text("\n".join(lines) + "\n", "utf-8")
        for side in ("base", "instruct"):
            self.hub.add(f"chaos/{side}", self.small / side)
        registry = self.folder / "config" / "pa-lite" / "pairs.toml"
        registry.parent.mkdir(parents=True, exist_ok=True)
        registry.write_text(f'[{_PAIR}]\nbase = "hub:chaos/base"\ninstruct = "hub:chaos/instruct"\n', "utf-8")

    def environment(self, out: Path) -> dict[str, str]:
        """Return every process's environment: the campaign's settings, caches, temporary files and Hub."""
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        return {
            "XDG_CONFIG_HOME": str(self.folder / "config"), "HF_HUB_CACHE": str(out / "cache"),
            "HF_HOME": str(self.folder / "home"), "HF_ENDPOINT": self.hub.endpoint, "HF_HUB_OFFLINE": "",
            "TMPDIR": str(temporary), "HF_TOKEN": "", "XDG_CACHE_HOME": str(self.folder / "own-cache"),
        }  # fmt: skip


@contextlib.contextmanager
def made_scene(folder: Path) -> Iterator[Scene]:
    """Prepare the inputs, and run the Hub within the block."""
    with running_hub() as hub:
        scene = Scene(folder, hub)
        scene.prepare()
        yield scene


class Job(ABC):
    """One command line. `out` is the round's folder for all outputs; it may be a separate disk."""

    name = ""
    variants: Sequence[str] = ("",)
    sorts = 1

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.expected: dict[str, Any] = {}  # variant -> results of an undisturbed run
        self.seconds: dict[str, float] = {}  # variant -> the seconds it took
        self.nbytes: dict[str, int] = {}  # variant -> its size on the disk

    def environment(self, out: Path) -> dict[str, str]:
        return self.scene.environment(out)

    @abstractmethod
    def words(self, out: Path, variant: str, again: bool = False) -> list[str]:
        """Return the command line, or with `again` the one that resumes a disturbed run."""

    @abstractmethod
    def results(self, out: Path) -> dict[str, Any]:
        """Return all outputs under a final name, by name, for comparison."""

    def measure(self, variant: str, folder: Path) -> None:
        """Run it twice undisturbed, to learn the result, and the time with warm caches."""
        for each in ("warm", "measured"):
            out = folder / f"{self.name}-{variant}-{each}"
            out.mkdir(parents=True)
            ended = run(self.words(out, variant), self.environment(out), folder / "log")
            if ended.status:
                raise ChaosError(f"{self.name} {variant} does not even run undisturbed: {ended.err[-500:]}")
            found = self.results(out)
            if self.expected.setdefault(variant, found) != found:
                raise ChaosError(f"{self.name} {variant}: two undisturbed runs differ.")
            self.seconds[variant] = min(ended.seconds, self.seconds.get(variant, ended.seconds))
            self.nbytes[variant] = sum(p.stat().st_size for p in out.rglob("*") if p.is_file() and not p.is_symlink())

    def not_whole(self, out: Path, variant: str) -> list[str]:
        """Return problems of outputs that differ from those of an undisturbed run."""
        expected = self.expected[variant]
        return [
            f"{name} is incomplete or wrong" for name, found in self.results(out).items() if expected.get(name) != found
        ]

    def is_done(self, out: Path, variant: str) -> bool:
        """Return whether all results exist and are right."""
        return bool(self.results(out) == self.expected[variant])

    def is_kept(self, name: str) -> bool:
        """Return whether a temporary file is one that the job resumes from."""
        return False

    def left(self, out: Path) -> list[str]:
        """Return temporary files in the round's folder and in the system's."""
        temporary = self.scene.folder / "tmp"
        ours = [p for p in out.rglob("*") if p.name.startswith(".") and p.name != ".locks"]
        ours += [p for p in out.rglob("*") if p.name.endswith((".incomplete", "-wal", "-shm", "-journal"))]
        return [p.name for p in (*ours, *temporary.iterdir()) if ".locks" not in p.parts]


def _digest(path: Path) -> str:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as f:
        while piece := f.read(1 << 20):
            digest.update(piece)
            size += len(piece)
    return f"{digest.hexdigest()} {size}"


class Merge(Job):
    """`merge` of a pair on disk; variants are types, `resume` keeps what a killed merge left."""

    name = "merge"
    sorts = 2  # with and without resume, each of which gets all rounds
    variants: Sequence[str] = ("Q8_0 resume", "Q8_0", "Q4_K_M resume", "Q4_K_M", "F16 resume", "F16")

    def words(self, out: Path, variant: str, again: bool = False) -> list[str]:
        kind, *resume = variant.split()
        pair = self.pair(kind)
        lams = "0.7" if kind == "Q4_K_M" else "0.2,0.5,0.8"
        options = ["--resume"] if resume else []
        return command(
            "merge",
            pair / "base",
            pair / "instruct",
            "--lam",
            lams,
            "--type",
            kind,
            "--threads",
            "1",
            "-o",
            out,
            *options,
        )

    def pair(self, kind: str) -> Path:
        return self.scene.small if kind == "Q4_K_M" else self.scene.large

    def results(self, out: Path) -> dict[str, Any]:
        return {p.name: _digest(p) for p in sorted(out.glob("[!.]*.gguf"))}


class Stream(Merge):
    """`merge --stream` of a pair on the Hub."""

    name = "merge --stream"
    sorts = 1
    variants = ("Q8_0 resume", "Q8_0")

    def is_kept(self, name: str) -> bool:
        return name.endswith(INCOMPLETE)  # the small files go through the Hub's cache

    def words(self, out: Path, variant: str, again: bool = False) -> list[str]:
        options = ["--resume"] if "resume" in variant else []
        return command("merge", "--pair", _PAIR, "--stream", "--lam", "0.2,0.8", "--threads", "1", "-o", out, *options)


class Fetch(Job):
    """`pairs fetch` of a pair on the Hub."""

    name = "fetch"

    def is_kept(self, name: str) -> bool:
        return name.endswith(INCOMPLETE)

    def words(self, out: Path, variant: str, again: bool = False) -> list[str]:
        return command("pairs", "fetch", _PAIR)

    def results(self, out: Path) -> dict[str, Any]:
        places = (p for p in sorted(out.glob("cache/models--*/[sr][ne]*/**/*")) if p.is_file() and p.name[0] != ".")
        return {str(p.relative_to(out)): _digest(p) for p in places}


class Sweep(Job):
    """`sweep` of the embedded pair over three lams; its results are records, compared without times.

    Prompts have a fixed date: a clock that jumps past midnight would rightly change them.
    """

    name = "sweep"

    def is_kept(self, name: str) -> bool:
        return name.endswith(("-wal", "-shm", "-journal"))

    def words(self, out: Path, variant: str, again: bool = False) -> list[str]:
        return command(
            "sweep", "demo", "--lam", "0,0.5,1", "--tasks", "demo", "--follow", "demo", "--limit", "40",
            "--follow-limit", "40", "--threads", "1", "--date", "2026-01-02", "--run", out / "run",
        )  # fmt: skip

    def results(self, out: Path) -> dict[str, Any]:
        if not (out / "run" / FILE).exists():
            return {}
        try:
            with read_store(out / "run") as store:
                facts = {f"fact {name}": value for name, value in store.facts().items()}
                cells = {
                    f"{c.kind} {c.name} {c.lam:g}": (c.key, c.n_items, c.summary, store.items(c.key))
                    for c in store.cells()
                    if c.key in facts.get("fact cells", ())  # cells of other inputs stay in the file, unused
                }
        except PaLiteError as e:
            return (
                {}
                if "is not a pa-lite results file" in str(e) or not (out / "run" / FILE).stat().st_size
                else {"file": str(e)}
            )
        return {**cells, **facts}

    def not_whole(self, out: Path, variant: str) -> list[str]:
        """Compare cells that have a summary as results, and those without one by the items that they have."""
        expected, problems = self.expected[variant], []
        for name, found in self.results(out).items():
            wanted = expected.get(name)
            if isinstance(found, tuple) and isinstance(wanted, tuple) and found[2] is None:
                items = [json.dumps(item) for item in found[3]]
                if found[:2] != wanted[:2] or not set(items) <= {json.dumps(item) for item in wanted[3]}:
                    problems.append(f"{name}: items differ")
            elif found != wanted:
                problems.append(f"{name} differs: {str(found)[:100]}")
        return problems


class Generate(Job):
    """`generate` with its journal."""

    name = "generate"

    def is_kept(self, name: str) -> bool:
        return name == ".answers.json.part"

    def words(self, out: Path, variant: str, again: bool = False) -> list[str]:
        options = ["--resume"] if again else []
        return command(
            "generate", "demo@0.7", "--prompts", self.scene.prompts, "--max-tokens", "32", "--threads", "1",
            "-o", out / "answers.json", *options,
        )  # fmt: skip

    def results(self, out: Path) -> dict[str, Any]:
        return {p.name: _digest(p) for p in out.glob("[!.]*.json")}


JOBS: dict[str, Sequence[type[Job]]] = {
    "merge": (Merge,), "sweep": (Sweep,), "generate": (Generate,), "fetch": (Fetch, Stream),
}  # fmt: skip


def fresh(folder: Path, number: int) -> Path:
    """Return an empty folder for a round."""
    out = folder / f"round-{number}"
    os.makedirs(out)
    return out
