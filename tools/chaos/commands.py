"""Commands that the campaigns disturb, each as a command line in a round's folder, and the names of run folders."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pa_lite.system.markers import DOWNLOAD, FILE, FOLDER, MERGE, RESULTS, marker_line
from tools.chaos.jobs import DEMO
from tools.chaos.runs import command

COMPANIONS = ("-wal", "-shm", "-journal")  # SQLite's files, which audit hooks do not see
RUN = """
import runpy, sys
sys.argv = ["pa_lite", *sys.argv[1:]]
runpy.run_module("pa_lite", run_name="__main__")
"""
# the embedded pair's study over two lams; over all of them it takes a minute
SMALL = """
import pa_lite
whole = pa_lite.demo
def small(*words):
    from pa_lite.study import demo
    demo.LAMS = (0.0, 1.0)
    return whole(*words)
pa_lite.demo = small
"""


@dataclass(frozen=True)
class Command:
    """A command line in a round's folder; `results` matches names that it may rewrite, or replace with --force."""

    name: str
    words: Callable[[Path], Sequence[str | Path]]
    results: str = r"(?!)"  # matches nothing
    given: tuple[str, ...] = ()  # inputs that are copied into the round's folder, where they are disturbed too
    prepare: Callable[[Path], None] = lambda _: None
    before: str = ""  # code that shortens its work

    def line(self, root: Path) -> list[str]:
        """Return the whole command line in a round's folder."""
        words = map(str, self.words(root))
        return [sys.executable, "-c", f"{self.before}{RUN}", *words] if self.before else command(*words)


def _leftovers(root: Path) -> None:
    """Write what killed runs of all kinds leave, for the doctor."""
    out = root / "out"
    data = b"GGUF" + bytes(9996)
    start = [4096, hashlib.sha256(data[:4096]).hexdigest()]
    (out / ".m.gguf.part").write_bytes(data)
    (out / ".m.gguf.part.done").write_bytes(marker_line(MERGE, ".m.gguf.part", digest="d", start=start) + b"a\n")
    (out / ".a.json.part").write_bytes(marker_line(RESULTS, ".a.json.part", facts={"model": "x"}, n=9))
    for name, kind in (
        (".t.txt.0123456789ab.part", FILE),
        ("pa-lite-1-0123abcd", FOLDER),
        ("blob.pa-lite.incomplete", DOWNLOAD),
    ):
        if kind == FOLDER:
            (out / name).mkdir()
            (out / name / "inner").touch()
        else:
            (out / name).write_text("half", "utf-8")
        (out / f"{name}.own").write_bytes(marker_line(kind, name))


MERGED = ("merge", DEMO / "base", DEMO / "instruct", "--lam", "0.5", "--threads", "1")
_TEXTS = ("generate", "demo@0.5", "--max-tokens", "2", "--threads", "1")
_SHORT = ("--limit", "2", "--threads", "1")
STUDY = ("sweep", "demo", "--lam", "0,1", "--tasks", "demo", *_SHORT)
_HARNESS = (
    Command("harness", lambda d: ("harness", "demo@0.5", "--include_path", d / "lm-eval", "--tasks", "chaos",
            *_SHORT, "-o", d / "out" / "results", "--log_samples", "--use_cache", d / "out" / "kept"),
            r"out/results(/.*)?", ("lm-eval",)),
) if importlib.util.find_spec("lm_eval") else ()  # fmt: skip
COMMANDS = (
    Command("merge", lambda d: (*MERGED, "-o", d / "out" / "m.gguf"), r"out/m\.gguf"),
    Command("merge", lambda d: (*MERGED, "-o", d / "out" / "m.gguf", "--resume"), r"out/m\.gguf"),
    Command("merge", lambda d: (*MERGED, "-o", d / "out" / "m.gguf", "--force"), r"out/m\.gguf"),
    Command("generate", lambda d: (*_TEXTS, "--prompts", d / "prompts.jsonl", "-o", d / "out" / "a.json"),
            r"out/a\.json", ("prompts",)),
    Command("generate", lambda d: (*_TEXTS, "--prompts", d / "prompts.jsonl", "-o", d / "out" / "a.json", "--force"),
            r"out/a\.json", ("prompts",)),
    Command("judge", lambda d: ("judge", d / "ours.json", "--reference", d / "theirs.json", "--judge", "demo@1",
            "-o", d / "out" / "annotations.json", "--threads", "1", "--resume"),
            r"out/annotations\.json", ("ours", "theirs")),
    Command("winrate", lambda d: ("winrate", d / "annotations.json"), given=("annotations",)),
    Command("sweep", lambda d: (*STUDY, "--run", d / "out" / "run"), r"out/run"),
    Command("sweep again", lambda d: (*STUDY, "--run", d / "run"), given=("run",)),
    Command("score", lambda d: ("score", "demo@0.5", "--tasks", d / "own" / "own.toml", *_SHORT, "-o",
            d / "out" / "s.json", "--log-samples", d / "out" / "samples.jsonl", "--force"),
            r"out/(s\.json|samples\.jsonl)", ("own",)),
    Command("score", lambda d: ("score", d / "m.gguf", "--tasks", "demo", *_SHORT), given=("gguf",)),
    Command("follow", lambda d: ("follow", "demo@0.5", "--set", d / "set.jsonl", *_SHORT, "-o", d / "out" / "f.json"),
            r"out/f\.json", ("set",)),
    Command("pairs add", lambda d: ("pairs", "add", "mine", DEMO / "base", DEMO / "instruct"),
            r"config(/pa-lite(/pairs\.toml)?)?"),
    Command("pairs fetch", lambda d: ("pairs", "fetch", "links"), r"hub(/.*)?", ("config",)),
    Command("report", lambda d: ("report", d / "run", "--csv", d / "out" / "items.csv", "--force"),
            r"run/report\.html|out/items\.csv", ("run",)),
    Command("report files", lambda d: ("report", d / "run", "-o", d / "out" / "page.html", "--csv",
            d / "out" / "items.csv", "--png", d / "out" / "png", "--lm-eval", d / "out" / "lm", "--force"),
            r"out/(page\.html|items\.csv|png(/.*)?|lm(/.*)?)", ("run", "mpl")),
    Command("search", lambda d: ("search", "demo", "--lam", "0,0.5,1", "--tasks", "demo", "--budget", "1", *_SHORT)),
    Command("tune", lambda d: ("tune", "demo", "--lam", "0,0.5,1", "--tasks", "demo_lookup", "--limit", "8",
            "--threads", "1", "-o", d / "out" / "tuned", "--yes"), r"out/tuned(/.*)?", ("mpl",)),
    Command("generate", lambda d: (*_TEXTS, "--prompts", d / "prompts.jsonl", "-o", d / "out" / "a.json", "--resume"),
            r"out/a\.json", ("prompts",)),
    Command("judge", lambda d: ("judge", d / "ours.json", "--reference", d / "theirs.json", "--judge", "demo@1",
            "-o", d / "out" / "annotations.json", "--threads", "1", "--force"),
            r"out/annotations\.json", ("ours", "theirs")),
    Command("score files", lambda d: ("score", d / "m.gguf", "--tasks", d / "own" / "own.toml", *_SHORT, "-o",
            d / "out" / "s.json", "--log-samples", d / "out" / "logs", "--force"),
            r"out/(s\.json|logs(/.*)?)", ("gguf", "own")),
    Command("inspect", lambda d: ("inspect", d / "m.gguf", "--tensors"), given=("gguf",)),
    Command("diff", lambda d: ("diff", d / "m.gguf", DEMO / "instruct", "--threads", "1"), given=("gguf",)),
    Command("tasks show", lambda d: ("tasks", "show", d / "own" / "own.toml"), given=("own",)),
    Command("tasks new", lambda d: ("tasks", "new", d / "own" / "rows.jsonl", "--input", "q", "--output", "a", "-o",
            d / "own" / "new.toml"), r"own/new\.toml", ("own",)),
    Command("merge modelfile", lambda d: (*MERGED, "-o", d / "out" / "m.gguf", "--modelfile"),
            r"out/m\.(gguf|Modelfile)"),
    Command("pairs show", lambda d: ("pairs", "show", "links"), given=("config",)),
    *_HARNESS,
    Command("demo", lambda d: ("demo", "-o", d / "demo"), r"demo/(results\.json|chart\.svg|report\.html)",
            ("demo",), before=SMALL),
    Command("doctor", lambda d: ("doctor", "--clean", "--yes", d / "out"),
            r"out/(\.t\.txt\.part|folder|blob)", prepare=_leftovers),
)  # fmt: skip

_PARTS = (".study.sqlite.0123456789ab.part", ".report.html.0123456789ab.part")  # as left by a killed run
RUN_NAMES = (
    "study.sqlite", *(f"study.sqlite{ending}" for ending in COMPANIONS), "study.lock", "report.html", "results.json",
    "chart.svg", *_PARTS, *(f"{name}.own" for name in _PARTS), ".study.sqlite.part", ".report.html.part",
    *(f"{name}.own" for name in ("study.sqlite", "study.lock", "report.html")), "pa-lite-1-0123abcd",
    "pa-lite-1-0123abcd.own", "matplotlibrc", "items.csv",
)  # fmt: skip
OF_RUNS = (
    Command("sweep", lambda d: (*STUDY, "--run", d / "run"), given=("run",)),
    Command("sweep more", lambda d: ("sweep", "demo", "--lam", "0,0.5,1", *STUDY[4:], "--run", d / "run"),
            given=("run",)),
    Command("report", lambda d: ("report", d / "run"), r"run/report\.html", ("run",)),  # its page is rewritten
    Command("report force", lambda d: ("report", d / "run", "--csv", d / "run" / "items.csv", "--force"),
            r"run/(report\.html|items\.csv)", ("run",)),
    Command("report --json", lambda d: ("report", d / "run", "--json", "-o", d / "out" / "page.html"), given=("run",)),
    Command("doctor", lambda d: ("doctor", "--clean", "--yes", d / "run"), given=("run",)),
)  # fmt: skip
