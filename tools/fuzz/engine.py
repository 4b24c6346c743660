"""Feed mutated GGUF files to llama.cpp, each in a separate process, and list what crashes it.

    python -m tools.fuzz engine --count 20000
    python -m tools.fuzz engine --seconds 600 --keep found

A file takes the path of every model: our reader, `check_loadable`, then llama.cpp, which loads it, creates a context,
tokenises and decodes a few tokens. A process with llama.cpp's libraries forks for each file. POSIX only.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from pa_lite.engine import probe_worker
from pa_lite.engine.refusals import check_loadable
from pa_lite.errors import PaLiteError
from pa_lite.ggml.container import read_gguf_header
from pa_lite.ggml.kernels import TYPE_IDS, tensor_type
from pa_lite.untrusted import sandbox_worker
from tools.fuzz.engine_bases import make_bases
from tools.fuzz.gguf import NUMBERS, mutate
from tools.fuzz.gguf_parts import Array, GgufFile, Scalar, Text, parse, repair, serialise

_MEMORY, _SECONDS = 1 << 30, 10  # limits for one file in llama.cpp: bytes, seconds of processor time
_PATIENCE = 60  # seconds of wall clock time for one file, on a busy machine
OUTCOMES = (
    "refused by the reader",
    "refused by check_loadable",
    "refused by llama.cpp",
    "ran",
    "killed",
    "hung",
    "memory",
)


@dataclass
class Tally:
    """Outcomes of the files, by base; and for each kind of crash its count and the first file."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    deaths: Counter[str] = field(default_factory=Counter)
    first: dict[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return sum(c.total() for c in self.outcomes.values())


def gentle(data: bytes, random: Random) -> bytes:
    """Return a file with one to three numbers, texts or types changed or a tensor removed; readers often accept it."""
    file = parse(data)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        choice = random.random()
        if choice < 0.15 and file.infos:
            info = random.choice(file.infos)
            kinds = [i for name, i in TYPE_IDS.items() if info.dimensions[0] % tensor_type(name).block == 0]
            info.type = random.choice(kinds)
        elif choice < 0.25 and file.infos:
            del file.infos[random.randrange(len(file.infos))]
        elif choice < 0.32 and file.data:
            at = random.randrange(len(file.data)) & ~3
            bits = random.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff" * 4, bytes(4), b"\xff\xff\x7f\x7f"))
            file.data = file.data[:at] + bits + file.data[at + 4 :]
        else:
            _gentle_entry(file, random)
    repair(file)
    return serialise(file)


def _gentle_entry(file: GgufFile, random: Random) -> None:
    own = [e for e in file.entries if not e.key.raw.startswith(b"general.") or random.random() < 0.1]
    if not own:
        return
    value = random.choice(own).value
    if isinstance(value, Scalar):
        value.raw = _near(value, random)
    elif isinstance(value, Array) and value.items and isinstance(value.items[0], Text):
        i = random.randrange(len(value.items))
        if random.random() < 0.2:
            value.items = value.items[:i] + value.items[i + 1 :] * random.randrange(2)
        else:
            value.items[i] = Text(
                random.choice((b"", b"\0", b" ", b"a", b"<0x", b"\\x", b"ab cd", b"\xe2\x96\x81", b"</s>"))
            )
    elif isinstance(value, Array) and value.raw:
        at = random.randrange(len(value.raw)) & ~3
        number = random.choice((0, 1, 2, 3, 4, 5, 6, 7, 2**31, 2**32 - 1, 0x7FC00000, 0xFF800000, 0x7F800000))
        value.raw = value.raw[:at] + number.to_bytes(4, "little") + value.raw[at + 4 :]


def _near(value: Scalar, random: Random) -> bytes:
    """Return another number of the same kind: a neighbour, twice, half, or a typical bad value."""
    width, old = len(value.raw), int.from_bytes(value.raw, "little")
    if value.kind in (6, 12):
        return value.raw[:-2] + random.choice(
            (b"\0\0", b"\x80\x7f", b"\xc0\x7f", b"\x80\xbf", b"\x80\xff", b"\x80\x3f")
        )
    new = random.choice((old - 1, old + 1, 2 * old, old // 2, 0, 3 * old, old ^ 1, random.choice(NUMBERS)))
    return (new % (1 << 8 * width)).to_bytes(width, "little")


class Campaign:
    """Runs llama.cpp in a fork of this process for each file; this process itself loads nothing."""

    def __init__(self, folder: Path, extra: bool) -> None:
        os.environ["GGML_NO_BACKTRACE"] = "1"  # otherwise an abort starts a debugger
        self.extra, self.path, self.said = extra, folder / "mutated.gguf", folder / "said"
        self.lib = probe_worker.bindings()
        self.words = probe_worker.listen(self.lib)
        self.lib.llama_backend_init()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])

    def judge(self, data: bytes) -> tuple[str, str]:
        """Return the outcome of one file, and how llama.cpp crashed or why the file was refused."""
        self.path.write_bytes(data)
        try:
            header = read_gguf_header(self.path)
        except PaLiteError as e:
            return OUTCOMES[0], str(e)
        try:
            check_loadable(header)
        except PaLiteError as e:
            return OUTCOMES[1], str(e)
        except Exception as e:  # noqa: BLE001 - a bug in pa-lite is a finding, too
            return "killed", f"check_loadable: {type(e).__name__}: {e}"
        return self.run()

    def run(self) -> tuple[str, str]:
        """Run the file in llama.cpp, in a separate process."""
        child = os.fork()
        if child == 0:
            self._child()
        hung = signal.sigtimedwait([signal.SIGCHLD], _PATIENCE) is None
        if hung:
            os.kill(child, signal.SIGKILL)
            signal.sigtimedwait([signal.SIGCHLD], 5)
        _, status = os.waitpid(child, 0)
        words = self.said.read_bytes()[-4000:].decode("utf-8", "replace")
        if hung or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
            return "hung", "it did not finish in time"
        if "bad_alloc" in words or "failed to allocate" in words:
            return "memory", _last(words)
        if os.WIFSIGNALED(status):
            return "killed", f"{signal.Signals(os.WTERMSIG(status)).name} {_last(words)}"
        code = os.WEXITSTATUS(status)
        return ("ran", "") if code == 0 else ("refused by llama.cpp", words) if code == 3 else ("killed", _last(words))

    def _child(self) -> None:
        """Run in the child, and exit."""
        import resource

        code = 4
        try:
            said = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(said, 2)
            sandbox_worker.limit_once(_MEMORY)
            sandbox_worker.limit_time(_SECONDS)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            failed = probe_worker.run(self.lib, str(self.path), self.extra)
            if failed:
                os.write(2, f"{failed}: {probe_worker.reason(self.words)}".encode())
            code = 3 if failed else 0
        finally:
            os._exit(code)


def _last(words: str) -> str:
    """Return a crashed process's last line, without the folder that llama.cpp was built in."""
    lines = [line for line in words.splitlines() if line.strip()]
    reasons = [line for line in lines if "ASSERT" in line or "what():" in line or "fatal error" in line] or lines[-1:]
    return re.sub(r"\S*/(?=[\w.-]+:\d+: )", "", reasons[-1].strip())[:200] if reasons else "no output"


def run(arguments: argparse.Namespace, folder: Path) -> Tally:
    """Mutate and judge files until the count or the time is reached."""
    bases = {n: p.read_bytes() for n, p in make_bases(folder / "bases").items() if arguments.base in n}
    campaign, tally, start = Campaign(folder, arguments.extra), Tally(), time.monotonic()
    for name, data in bases.items():
        campaign.path.write_bytes(data)
        if (came := campaign.judge(data))[0] != "ran":
            raise SystemExit(f"the unchanged base {name} does not run: {came}")
    names, i = list(bases), arguments.first
    while i < arguments.first + arguments.count and time.monotonic() - start < arguments.seconds:
        random = Random(f"{arguments.seed}:{i}")
        name = names[i % len(names)]
        data = (gentle if random.random() < 0.6 else mutate)(bases[name], random)
        outcome, why = campaign.judge(data)
        tally.outcomes.setdefault(name, Counter())[outcome] += 1
        if outcome in ("killed", "hung", "memory"):
            key = f"{outcome}: {why}"
            tally.deaths[key] += 1
            if key not in tally.first:
                tally.first[key] = (name, i)
                print(f"{i} {name} {key}", flush=True)
                if arguments.keep:
                    (arguments.keep / f"{i}-{name}.gguf").write_bytes(data)
        i += 1
        if i % 1000 == 0:
            print(f"{i - arguments.first} files, {tally.n / (time.monotonic() - start):.0f} a second", flush=True)
    return tally


def show(tally: Tally) -> None:
    """Print two Markdown tables: outcomes by base, and kinds of crashes."""
    print(f"\n| base | files | {' | '.join(OUTCOMES)} |\n|---|{'---|' * (len(OUTCOMES) + 1)}")
    total: Counter[str] = Counter()
    for name, counts in tally.outcomes.items():
        total += counts
        print(f"| {name} | {counts.total()} | {' | '.join(str(counts[o]) for o in OUTCOMES)} |")
    print(f"| all | {total.total()} | {' | '.join(str(total[o]) for o in OUTCOMES)} |\n")
    for key, n in tally.deaths.most_common():
        name, i = tally.first[key]
        print(f"{n:6}  {key}  (first: file {i}, {name})")


def main(words: Sequence[str] | None = None) -> int:
    """Run a campaign; return 1 if a file that passed our checks crashed, hung, or took too much memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="files at most")
    parser.add_argument("--seconds", type=float, default=3600.0, help="time at most")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other files")
    parser.add_argument("--first", type=int, default=0, help="number of the first file; files are reproducible")
    parser.add_argument("--base", default="", help="only bases whose name contains this")
    parser.add_argument("--extra", action="store_true", help="let llama.cpp repack weights, as when a model is used")
    parser.add_argument("--keep", type=Path, help="folder for the first file of every kind of crash")
    arguments = parser.parse_args(words)
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix="fuzz-engine-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None
    ) as folder:
        tally = run(arguments, Path(folder))
    show(tally)
    return 1 if tally.deaths else 0


if __name__ == "__main__":
    sys.exit(main())
