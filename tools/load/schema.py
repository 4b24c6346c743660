"""`python -m tools.load schema`: requests made from the server's own OpenAPI description, by schemathesis.

schemathesis is installed separately: pip install schemathesis
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile

from tools.load.answers import Memory, ask, learn, left_over
from tools.servers import ServerError, pa_lite_server

_MOST_GROWTH = 20e6  # bytes
_PORTION = 500  # examples of each operation and phase in one run: then the server's memory is looked at between runs
_TOTAL = re.compile(r"(\d+) generated")
_CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the campaign's options."""
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> list[str]:
    """Run the campaign, print its line, and return what was broken."""
    program = shutil.which("schemathesis")
    if program is None:
        raise ServerError("schemathesis was not found: pip install schemathesis")
    findings, n_sent, seed = list[str](), 0, options.seed
    with (
        pa_lite_server("demo", "--parallel", "4", "--n-ctx", "256") as server,
        tempfile.TemporaryDirectory() as folder,  # schemathesis leaves a cache where it runs
    ):
        questions, memory = learn(server, options.seed)[:5], Memory(server)
        while n_sent < options.requests and len(findings) < 20:
            words = [
                program, "run", f"http://127.0.0.1:{server.port}/openapi.json", "--checks", _CHECKS, "--seed",
                str(seed),
                # one thread: Python 3.11 parses source text in several threads wrongly, which ends schemathesis
                "--max-examples", str(_PORTION), "--workers", "1", "--generation-database", "none",
            ]  # fmt: skip
            done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder)
            n = sum(map(int, _TOTAL.findall(done.stdout)))
            n_sent, seed = n_sent + n, seed + 1
            if done.returncode or not n:
                findings.append(f"seed {seed - 1}: {(done.stdout + done.stderr)[-3000:]}")
            if server.process.poll() is not None:
                findings.append("the server is gone")
                break
        else:
            memory.stop()
            findings += left_over(server)
            for question in questions:
                if not question.fits(ask(server, question.body)["choices"][0]["message"]["content"]):
                    findings.append(f"a wrong answer afterwards at {question.lam}")
        memory.stop()
        if memory.growth > _MOST_GROWTH:
            findings.append(f"memory grew by {memory.growth / 1e6:.1f} MB")
    print(f"| schema | {n_sent} requests | | {memory.growth / 1e6:+.1f} MB | {len(findings)} |")
    return findings
