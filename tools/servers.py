"""Servers on loopback that tools start, measure and end."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from pa_lite.errors import PaLiteError

_START = 120.0  # seconds until a server must answer
Words = Sequence[str | Path]


class ServerError(PaLiteError):
    """A server did not start."""


class Server:
    """A running server: its port, and its process."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port, self.process = port, process

    def get(self, path: str) -> Any:
        """Return what the server answers, parsed if it is JSON."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            text = answer.read().decode("utf-8")
        return json.loads(text) if text[:1] in "{[" else text

    @property
    def memory(self) -> int:
        """The bytes of memory that the server's processes hold, mapped files included."""
        main = psutil.Process(self.process.pid)
        return sum(p.memory_info().rss for p in (main, *main.children(recursive=True)))


@contextlib.contextmanager
def running(words: Words, port: int) -> Iterator[Server]:
    """Start a server and wait until `/health` answers; end it afterwards. Raises ServerError if it does not start."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
        server, end = Server(port, process), time.monotonic() + _START
        try:
            while True:
                with contextlib.suppress(OSError):
                    server.get("/health")
                    break
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise ServerError(f"{words[0]} did not start: {log.read().strip()[-300:]}")
                time.sleep(0.1)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def pa_lite_server(*words: str | Path) -> contextlib.AbstractContextManager[Server]:
    """Return `pa-lite serve` with these words, on a free port."""
    port = free_port()
    return running([sys.executable, "-m", "pa_lite", "serve", *words, "--port", str(port)], port)
