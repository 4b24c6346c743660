"""The command serve, in a separate process: what it shows, how it stops, and errors before anything is loaded."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pa_lite
from tests.support.http_requests import call, connected, request_bytes

CODE = "import sys; from pa_lite.cli import main; sys.exit(main())"
LONG = {"prompt": [5], "max_tokens": 500, "temperature": 100.0, "seed": 1, "stream": True}


def settings(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(pa_lite.__file__).parents[1]), **more}


@contextlib.contextmanager
def serving(*words: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start `pa-lite serve` on a free port; yield the process and the address that it shows."""
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, "serve", *words, "--port", "0", "--threads", "1"], env=settings(**variables),
        text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"(http://[\w.:\[\]]+)/v1 serves ", line)
        assert found is not None, line + (process.stderr.read() if process.stderr else "")
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_running_answers_have_a_grace_and_then_end_with_an_error() -> None:
    with serving("demo", "--lam", "0.3", "--parallel", "16") as (process, url), contextlib.ExitStack() as stack:
        streams = [stack.enter_context(connected(url)) for _ in range(48)]  # more than the grace suffices for
        for stream in streams:
            sent = request_bytes(url, "/v1/completions", json.dumps(LONG).encode(), "Connection: close")
            stream.sendall(sent)
        assert streams[-1].recv(10) == b"HTTP/1.1 2"
        process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        answers = []
        for stream in streams:
            answer = b""
            while part := stream.recv(65536):
                answer += part
            answers.append(answer)
        _, err = process.communicate(timeout=60)
        assert time.monotonic() - begin < 60
    assert process.returncode == 0, err
    assert "Traceback" not in err
    ended = [b'"code":"server_stopping"' in answer for answer in answers]
    whole = [b'"finish_reason":"length"' in answer for answer in answers]
    assert all(a != b for a, b in zip(ended, whole, strict=True))
    assert all(b"data: [DONE]" in answer for answer in answers)


def test_the_suggested_request_works(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    with serving("demo", "--lam", "0.35", PA_LITE_API_KEY="secret") as (process, url):
        assert process.stderr is not None
        line = next(line for line in process.stderr if line.startswith("try it: "))
        assert "secret" not in line
        words = [word.replace("$PA_LITE_API_KEY", "secret") for word in shlex.split(line.removeprefix("try it: "))]
        answer = subprocess.run([*words, "-sS"], capture_output=True, text=True, check=True).stdout
        assert json.loads(answer)["model"] == "demo@0.35"
        wrong = subprocess.run(
            ["curl", "-sS", f"{url}/v1/models", "-w", "%{http_code}"], capture_output=True, text=True, check=True
        )
        assert wrong.stdout.endswith("401")


def test_options_reach_the_server() -> None:
    with serving("demo@0.25", "--models", "2", "--n-ctx", "128", "--type", "q8_0") as (_, url):
        state: Any = call(url, "/pa-lite/state").json
        assert (state["lam"], state["models"], state["context_length"]) == (0.25, 2, 128)
