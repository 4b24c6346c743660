"""Put links, pipes and foreign files at every name that a command uses: nothing outside changes, nothing hangs.

Each command first runs undisturbed under Python's audit hook, which reports every name that it opens, creates, renames
or removes in the round's folder. Then it runs repeatedly, each time with an obstacle at one of these names.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.support.hub_server import HubServer, running_hub
from tools.chaos.commands import COMMANDS, COMPANIONS, MERGED, OF_RUNS, RUN_NAMES, SMALL, STUDY, Command
from tools.chaos.jobs import DEMO
from tools.chaos.runs import ChaosError, Outcome, Process, Row, clear_error, good_end, last_line

LIMIT = 150.0  # seconds after which a command counts as hung
_OF = {"ours": ("prompts",), "theirs": ("prompts",), "annotations": ("ours", "theirs"), "mpl": ("run",)}
# names that other people cannot foresee, and the campaign's folders
_DRAWN = re.compile(r"\.[0-9a-f]{12}\.part|pa-lite-\d+-|[0-9a-f]{8}-[0-9a-f]{4}-|tmp[a-z0-9_]{8}|(^|/)log(/|$)")
# the user's folders, or folders that the user names: links instead of them are followed, as in other programs
_FOLLOWED = re.compile(
    r"out/m\.gguf|out/(run|png|lm|logs|results)|run|demo|own|mpl|lm-eval|(config|cache|hub|home)(/.*)?"
)
_HOOK = """
import os, runpy, sys
{before}
root, report = sys.argv[1:3]
seen = open(report, "a", buffering=1)
USED = ("open", "os.rename", "os.link", "os.mkdir", "os.remove", "os.symlink", "sqlite3.connect")
def hook(event, words):
    if event in USED:
        for word in words[:2]:
            if isinstance(word, (str, bytes)):
                name = os.fsdecode(word).removeprefix("file://").partition("?")[0]
                path = os.path.abspath(name)
                if path.startswith(root + "/") and path != report:
                    seen.write(path[len(root) + 1:] + "\\n")
sys.addaudithook(hook)
sys.argv = ["pa_lite", *sys.argv[3:]]
runpy.run_module("pa_lite", run_name="__main__")
"""


def _socket(path: Path) -> None:
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(f"/proc/self/fd/{descriptor}/{path.name}")  # a socket's path has at most a hundred bytes
    finally:
        os.close(descriptor)


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "mine").write_text("mine", "utf-8")


class Outside:
    """A user's folder that links point to: its content must stay, and nothing may be added."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "file").write_text("mine", "utf-8")
        (folder / "folder").mkdir()
        (folder / "folder" / "inner").write_text("mine", "utf-8")

    def keep(self, path: Path) -> Path:
        """Move a file of the round here, to be linked to."""
        kept = self.folder / "original"
        path.rename(kept)
        return kept

    def state(self) -> dict[str, object]:
        """Return names, kinds and contents; SQLite's wal index of a database in here would be a change too."""
        return {
            str(p.relative_to(self.folder)): (stat.S_IFMT(p.lstat().st_mode), p.read_bytes() if p.is_file() else b"")
            for p in self.folder.rglob("*")
        }


KINDS: Mapping[str, Callable[[Path, Outside], object]] = {
    "link to nothing": lambda path, outside: path.symlink_to(outside.folder / "made"),
    "link to a file": lambda path, outside: path.symlink_to(outside.folder / "file"),
    "link to a folder": lambda path, outside: path.symlink_to(outside.folder / "folder"),
    "link to itself": lambda path, _: path.symlink_to(path.name),
    "link to a device": lambda path, _: path.symlink_to("/dev/zero"),
    "hard link": lambda path, outside: os.link(outside.folder / "file", path),
    "named pipe": lambda path, _: os.mkfifo(path),
    "socket": lambda path, _: _socket(path),
    "folder": lambda path, _: _folder(path),
    "file": lambda path, _: path.write_text("mine", "utf-8"),
    "empty file": lambda path, _: path.touch(),
    # where the name existed: the same file or folder, at another path
    "link to the original": lambda path, outside: path.symlink_to(outside.folder / "original"),
    "hard link of the original": lambda path, outside: os.link(outside.folder / "original", path),
}


class Links:
    """The campaign's inputs, Hub and rounds."""

    def __init__(self, folder: Path, hub: HubServer) -> None:
        self.folder, self.hub = folder, hub
        self.inputs: dict[str, Path] = {}

    def environment(self, root: Path) -> dict[str, str]:
        """Return an environment with settings, caches and temporary files in the round's folder."""
        for name in ("tmp", "out"):
            (root / name).mkdir(parents=True, exist_ok=True)
        cache = root / "mpl" if os.path.lexists(root / "mpl") else self.folder / "inputs" / "mpl"
        return {
            "XDG_CONFIG_HOME": str(root / "config"), "XDG_CACHE_HOME": str(root / "cache"), "TMPDIR": str(root / "tmp"),
            "HF_HUB_CACHE": str(root / "hub"), "HF_HOME": str(root / "home"), "HF_ENDPOINT": self.hub.endpoint,
            "HF_HUB_OFFLINE": "", "HF_TOKEN": "", "MPLCONFIGDIR": str(cache),
        }  # fmt: skip

    def run(self, line: Sequence[str], root: Path, limit: float = LIMIT) -> Outcome:
        """Run a command line in the round's folder."""
        return Process(line, self.environment(root), self.folder / "log").end(limit)

    def prepare(self) -> None:
        """Write the small text inputs, and register the paths of the others."""
        folder = self.folder / "inputs"
        (folder / "own").mkdir(parents=True)
        (folder / "lm-eval").mkdir()
        for side in ("base", "instruct"):
            self.hub.add(f"links/{side}", DEMO / side)
        texts = {
            "prompts": "prompts.jsonl", "set": "set.jsonl", "own": "own", "ours": "ours.json", "theirs": "theirs.json",
            "annotations": "annotations.json", "gguf": "m.gguf", "run": "run", "config": "config", "demo": "demo",
            "lm-eval": "lm-eval", "mpl": "mpl",
        }  # fmt: skip
        self.inputs = {name: folder / file for name, file in texts.items()}
        rows = [{"instruction": text} for text in ("Say one word.", "Say two words.")]
        self.inputs["prompts"].write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        check = {"instruction": "Name a bird in capitals.", "checks": [{"kind": "uppercase"}]}
        self.inputs["set"].write_text(json.dumps(check) + "\n", "utf-8")
        (folder / "own" / "rows.jsonl").write_text(
            "".join(json.dumps({"q": f"{i}+1", "a": str(i + 1), "split": "test"}) + "\n" for i in range(8)), "utf-8"
        )
        (folder / "own" / "own.toml").write_text(
            '[tasks.own]\ndata = "rows.jsonl"\nkind = "G"\ntemplate = "{{ q }}="\nanswers = "[a]"\nshots = 0\n'
            'metrics = ["exact_match"]\n', "utf-8",
        )  # fmt: skip
        self._write_lm_eval_task(folder / "lm-eval")
        registry = self.inputs["config"] / "pa-lite" / "pairs.toml"
        registry.parent.mkdir(parents=True)
        registry.write_text('[links]\nbase = "hub:links/base"\ninstruct = "hub:links/instruct"\n', "utf-8")

    def need(self, *names: str) -> None:
        """Make the named inputs with pa-lite, if they are missing; later campaigns reuse them."""
        for name in names:
            if not self.inputs[name].exists():
                self.need(*_OF.get(name, ()))
                self._make(name)

    def _make(self, name: str) -> None:
        out = self.inputs[name]
        if name in ("ours", "theirs"):
            words = ("generate", f"demo@{int(name == 'ours')}", "--prompts", self.inputs["prompts"], "-o", out)
            self._made((*words, "--max-tokens", "2"))
        elif name == "annotations":
            judge = ("judge", self.inputs["ours"], "--reference", self.inputs["theirs"], "--judge", "demo@1")
            self._made((*judge, "-o", out))
        elif name == "gguf":
            self._made((*MERGED, "-o", out))
        elif name == "run":
            self._made((*STUDY, "--run", out))
        elif name == "demo":
            self._ran(Command("demo", lambda _: ("demo", "-o", out), before=SMALL))
        else:  # matplotlib's cache, which drawing fills
            out.mkdir()
            self._made(("report", self.inputs["run"], "-o", self.folder / "page.html", "--png", self.folder / "png"))

    def _write_lm_eval_task(self, folder: Path) -> None:
        """Write an lm-eval task; JSON is YAML. Its data stay outside the rounds: other programs read them."""
        data = self.folder / "lm-eval.jsonl"
        data.write_text("".join(json.dumps({"q": f"{i}+1=", "a": str(i + 1)}) + "\n" for i in range(4)), "utf-8")
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
        texts = {"output_type": "generate_until", "doc_to_text": "{{q}}", "doc_to_target": "{{a}}"}
        settings = {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 2}, "metadata": {"version": 1.0}}
        metric = {"metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]}
        task = {"task": "chaos", **source, **texts, **settings, **metric}
        (folder / "chaos.yaml").write_text(json.dumps(task), "utf-8")

    def _made(self, words: Sequence[str | Path]) -> None:
        self._ran(Command("input", lambda _: words))

    def _ran(self, each: Command) -> None:
        root = self.folder / "making"
        words = each.words(root)
        ended = self.run(each.line(root), root)
        if ended.status:
            raise ChaosError(f"an input could not be made: {' '.join(map(str, words[:2]))}: {last_line(ended.err)}")

    def fresh(self, each: Command) -> Path:
        """Return a round's folder with the command's inputs."""
        root = self.folder / "round"
        shutil.rmtree(root, ignore_errors=True)
        self.environment(root)
        self.need(*each.given)
        for source in (self.inputs[name] for name in each.given):
            (shutil.copytree if source.is_dir() else shutil.copy)(source, root / source.name)
        each.prepare(root)
        return root

    def names(self, each: Command) -> list[str]:
        """Return every name that an undisturbed run uses in the round's folder, and that others could foresee."""
        root = self.fresh(each)
        report = root / "names"
        words = [sys.executable, "-c", _HOOK.replace("{before}", each.before), root, report, *each.words(root)]
        ended = Process([*map(str, words)], self.environment(root), self.folder / "log").end(LIMIT)
        if ended.status:
            raise ChaosError(f"{each.name} does not even run undisturbed: {last_line(ended.err)}")
        names = {line for line in report.read_text("utf-8").splitlines() if not _DRAWN.search(line)}
        names |= {name + ending for name in names if name.endswith(".sqlite") for ending in COMPANIONS}
        return sorted(names - {"out", "tmp", "run", "demo"})

    def disturb(self, each: Command, name: str, kind: str, row: Row) -> None:
        """Run once with an obstacle at a name, and record broken promises."""
        root = self.fresh(each)
        outside = Outside(self.folder / "outside")
        path = root / name
        try:
            if not self._place(path, kind, outside):
                return
            row.rounds += 1
            before, facts = outside.state(), path.lstat()
            ended = self.run(each.line(root), root)
            row.met += ended.status != 0
            case = f"{' '.join(map(str, each.words(root)[:2]))} with a {kind} at {name}"
            row.found(*(f"{case}: {problem}" for problem in (clear_error if ended.status else good_end)(ended)))
            is_followed = kind.startswith("link to ") and bool(_FOLLOWED.fullmatch(name)) and path.is_dir()
            if outside.state() != before and not is_followed:
                changed = outside.state().keys() ^ before.keys() or "contents"
                row.found(f"{case}: its target was changed ({changed})")
            # SQLite's companions may be empty: a foreign empty one looks the same
            is_theirs = kind == "empty file" and name.endswith(COMPANIONS)
            is_result = bool(re.fullmatch(each.results, name))
            if not is_theirs and not is_result and not self._stays(path, facts, kind):
                row.found(f"{case}: it was removed or changed")
        finally:
            shutil.rmtree(outside.folder)

    def _place(self, path: Path, kind: str, outside: Outside) -> bool:
        """Put an obstacle at a name; return False where that is impossible, or changes nothing."""
        is_original = "original" in kind
        if os.path.lexists(path):
            if is_original and (path.is_dir() and kind == "hard link of the original"):
                return False
            kept = outside.keep(path)
            if not is_original:
                (shutil.rmtree if kept.is_dir() else Path.unlink)(kept)
        elif is_original:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        KINDS[kind](path, outside)
        return True

    def _stays(self, path: Path, facts: os.stat_result, kind: str) -> bool:
        """Return whether the obstacle is unchanged."""
        if not os.path.lexists(path):
            return False
        now = path.lstat()
        if (now.st_ino, stat.S_IFMT(now.st_mode)) != (facts.st_ino, stat.S_IFMT(facts.st_mode)):
            return False
        if kind == "folder":
            return (path / "mine").read_text("utf-8") == "mine"
        return kind != "file" or path.read_text("utf-8") == "mine"


@contextlib.contextmanager
def made_links(folder: Path) -> Iterator[Links]:
    """Prepare the campaign's inputs, and run its Hub within the block."""
    with running_hub() as hub:
        links = Links(folder, hub)
        links.prepare()
        yield links


def campaign(rounds: int, rng: random.Random, links: Links, only: Sequence[str] = ()) -> list[Row]:
    """Disturb every command, or those named in `only`; `rounds` cases of each, 0 for all."""
    commands = [each for each in COMMANDS if not only or each.name.split()[0] in only]
    return _disturbed("links and pipes", commands, rounds, rng, links, links.names)


def run_folders(rounds: int, rng: random.Random, links: Links, only: Sequence[str] = ()) -> list[Row]:
    """Put the obstacles at every name that a run folder could contain, for the commands that take one."""
    commands = [each for each in OF_RUNS if not only or each.name.split()[0] in only]
    return _disturbed("run folders", commands, rounds, rng, links, lambda _: [f"run/{name}" for name in RUN_NAMES])


def _disturbed(
    fault: str,
    commands: Sequence[Command],
    rounds: int,
    rng: random.Random,
    links: Links,
    names: Callable[[Command], Sequence[str]],
) -> list[Row]:
    rows: dict[str, Row] = {}
    for each in commands:
        row = rows.setdefault(each.name, Row(fault, each.name))
        cases = [(name, kind) for name in names(each) for kind in KINDS]
        for name, kind in rng.sample(cases, min(rounds, len(cases))) if rounds else cases:
            links.disturb(each, name, kind, row)
        print(f"{fault} {each.name}: {row.rounds} rounds, {len(row.findings)} findings", file=sys.stderr, flush=True)
    return list(rows.values())
