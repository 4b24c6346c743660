"""Read the documents, and run what they show: command lines, Python, and the files that examples need.

How a document is run, from its first line to its last, in one empty folder:

- A `sh` block is run line by line; a line that fails, fails the test. `pa-lite` lines run in process.
- A `python` block that is not indented is run as a program. Indented ones are templates of recipes.
- A block after a line that ends with "`NAME`:" is written to the file NAME.
- Names that stand for a user's files exist: see STAND_INS. Repositories of registered pairs that a document names are
  on a Hub on loopback, with the embedded pair's files.
- QUICKER and REPLACED make lines cheap: fewer items, and the embedded pair's tasks in place of data sets on the Hub.
- Lines that match NOT_RUN are not run. It gives the reason for each.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors

import pa_lite
from pa_lite.checkpoints.pairs import models_folder
from tests.support.adapters import factors, modules_of, write_peft

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(f for name in ("pa_lite", "tools", "tests", "models") for f in (ROOT / name).rglob("*.md"))]
)

# every line of a `sh` block that is not run: what it looks like, and why
NOT_RUN: Mapping[str, str] = {
    r"^python3 -m venv|pip install|pip wheel|^pipx |^uv ": "installs packages; CI runs the README's two lines",
    r"^(llama-server|llm|lms|lm_eval|echo|ollama) ": "another program",
    r"^curl ": "asks a running server; tests/serving/server/test_clients.py does the same",
    r"^(ruff|pytest) ": "takes long, and runs this test; CI runs all of it",
    r"^python tests/test_prose\.py": "tests/test_prose.py runs all that it checks",
    r"^python -m tools\.(bench|chaos|coverage|demo|fuzz|label_free|load|pictures|tune)\b": "slow; options are checked",
    r"^python -m tools\.docs": "writes into the repository; tests/tools/test_docs.py compares what it would write",
    r"^pa-lite demo": "tests/study/test_demo.py runs it",
    r"^pa-lite harness": "needs the extra and data sets of the Hub; tests/tasks/lm_eval runs it",
    r"^pa-lite push ": "asks, and needs a token for the Hub; tests/cli/test_push.py runs it on a loopback Hub",
    r"^pa-lite doctor --clean$": "asks about all temporary files; tests/system/test_leftovers.py runs it",
    r"^(\S+=\S+ )?pa-lite serve": "runs until it is stopped; tests/serving/server does the same",
    r"^pa-lite chat": "a conversation on a terminal; tests/cli/test_chat.py has some",
    r"\| pa-lite |^pa-lite .* < ": "reads a pipe or a file; tests/cli run such lines",
    r"^eval |^pa-lite completion fish \|": "needs the shell itself; tests/cli/test_completion.py runs it",
}

# names of a user's files in examples: folders are copies of the embedded pair's, files are made from it
STAND_INS: Mapping[str, str] = {
    "Base": "base folder", "Llama-3.2-1B": "base folder", "Instruct": "instruct folder",
    "Llama-3.2-1B-Instruct": "instruct folder", "base.gguf": "lam 0", "instruct.gguf": "lam 1", "model.gguf": "lam 0.7",
    "judge.gguf": "lam 0.9", "instruct.json": "answers at lam 1", "my-notes": "text", "my.csv": "rows",
    "Adapter": "random adapter",
}  # fmt: skip
# prompts of the embedded pair, instead of the hundreds that `--prompts demo` has
PROMPTS = "few.jsonl"

# command -> options at the end of its lines, where the last one counts
QUICKER: Mapping[str, tuple[str, ...]] = {
    "compare": ("--max-tokens", "8"), "generate": ("--max-tokens", "16"), "score": ("--limit", "4"),
    "follow": ("--limit", "8"), "judge": ("--limit", "4"),
    "sweep": ("--limit", "4", "--follow-limit", "8", "--lam", "0,0.6,1"),
    "search": ("--limit", "4", "--follow-limit", "8", "--lam", "0,0.6,1"),
    "tune": ("--limit", "8", "--follow-limit", "8", "--lam", "0,0.6,1"),
}  # fmt: skip
# pattern -> what is run instead
REPLACED: Mapping[str, str] = {
    r"--tasks quick": "--tasks demo",
    r"--prompts demo": f"--prompts {PROMPTS}",
    r"--follow(?= -|$)": "--follow demo",
    r"^(pa-lite follow (?!.*--set).*)": r"\1 --set demo",
    r"layers 0-7": "layers 0-1",  # the embedded pair has three layers
}


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a document: its language, its text, where it is, and the file that it shows, if any."""

    language: str
    text: str
    line: int
    indented: bool
    file: str


def blocks(document: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a document in its order."""
    lines = iter(enumerate(document.read_text("utf-8").splitlines(), 1))
    before = ""
    for number, line in lines:
        fence = re.match(r"( *)```(\w*)$", line)
        if fence is None:
            assert "```" not in line, f"{document}:{number}: a fence that is not alone on its line"
            before = line or before
            continue
        inner = []
        for _, line in lines:  # the same iterator: these lines are the block's
            if line.strip() == "```":
                break
            inner.append(line.removeprefix(fence[1]))
        file = re.search(r"`([\w.-]+)`:$", before)
        text = "".join(f"{one}\n" for one in inner)
        yield Block(language=fence[2], text=text, line=number, indented=bool(fence[1]), file=file[1] if file else "")
        before = ""


def commands(block: Block) -> list[str]:
    """Return the command lines of a `sh` block without comments, joined where a line ends with a backslash.

    Three spaces after a command start a comment too, as in help texts.
    """
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line for line in (re.split(r"\s+#\s|^#|(?<=\S)\s{3,}", line)[0].strip() for line in lines) if line]


def reason_not_run(line: str) -> str | None:
    """Return why a command line is not run; None if it is."""
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, line)), None)


def quick(line: str) -> list[str]:
    """Return the words after `pa-lite` of a line, changed so that it is quick and needs no data set of the Hub."""
    for pattern, replacement in REPLACED.items():
        line = re.sub(pattern, replacement, line)
    words = shlex.split(line)[1:]
    words += QUICKER.get(words[0], ())
    return [str(Path(word).expanduser()) if word.startswith("~") else word for word in words]


def make_stand_ins(folder: Path) -> None:
    """Write what STAND_INS and PROMPTS name."""
    folder.mkdir(exist_ok=True)
    demo = models_folder() / "demo"
    rows = (demo / "data" / "instructions.jsonl").read_text("utf-8").splitlines()
    (folder / PROMPTS).write_text("\n".join(rows[-8:]) + "\n", "utf-8")
    for name, what in STAND_INS.items():
        kind, _, lam = what.partition(" ")
        if lam == "folder":
            shutil.copytree(demo / kind, folder / name)
        elif lam == "adapter":
            shapes = {}
            for part in (demo / "base").glob("*.safetensors"):
                with safetensors.safe_open(part, "np") as file:
                    shapes.update({key: np.empty(file.get_slice(key).get_shape()) for key in file.keys()})  # noqa: SIM118
            write_peft(folder / name, factors(shapes, modules_of(shapes, "q_proj")))
        elif kind == "rows":
            towns = map(json.loads, (demo / "data" / "town.jsonl").read_text("utf-8").splitlines())
            rows = [f"{row['query']},{row['choices'][row['answer']]}" for row in towns if row["split"] == "test"][::4]
            (folder / name).write_text("\n".join(["question,answer", *rows, ""]), "utf-8")
        elif kind == "text":
            (folder / name).mkdir()
            (folder / name / "notes.md").write_text((ROOT / "README.md").read_text("utf-8")[:4000], "utf-8")
        elif kind == "lam":
            pa_lite.merge("demo", lam=float(lam), type="F16", output=folder / name)
    options = pa_lite.GenerationOptions(max_tokens=16)
    with pa_lite.load(folder / "instruct.gguf") as model:
        model.write_outputs(pa_lite.load_prompts(str(folder / PROMPTS)), folder / "instruct.json", options)


def pairs_named(document: Path) -> dict[str, Path]:
    """Return repositories of registered pairs that a document names: repository -> the stand-in's folder."""
    text = document.read_text("utf-8")
    found = {}
    for name, pair in pa_lite.pairs().items():
        if name != "demo" and re.search(rf"\b{re.escape(name)}\b", text):
            for side, location in (("base", pair.base), ("instruct", pair.instruct)):
                found[str(location).removeprefix("hub:")] = models_folder() / "demo" / side
    return found
