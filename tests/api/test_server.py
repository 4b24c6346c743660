"""`pa_lite.serve` and the server in other threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import pa_lite
from pa_lite.api.server import running_server
from pa_lite.errors import EngineError, InputError
from pa_lite.serving.host import Host
from tests.support.http_requests import call
from tests.support.served import ONE

SERVE = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
import pa_lite
pa_lite.serve("demo", lam=0.4, port=0, models=1, threads=1)
print("ended")
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_serve_runs_until_it_is_stopped() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE], env={**os.environ, "PYTHONPATH": str(Path(pa_lite.__file__).parents[1])},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        url = next(line for line in process.stderr if "demo is served at http" in line).split()[-1].removesuffix("/v1")
        assert call(url, "/v1/completions", {"prompt": "a", "max_tokens": 1}).json["model"] == "demo@0.4"
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "ended\n")
    finally:
        process.kill()
        process.communicate()


def test_a_server_in_threads_ends_with_its_block() -> None:
    with running_server("demo", pa_lite.ServeOptions(port=0, models=1), ONE, lam="0.2") as server:
        assert call(server.url, "/health").json["lams"] == [0.2]
        host: Host = server.host
    assert not host.is_alive
    assert not server.thread.is_alive()
    with pytest.raises(ConnectionError):
        call(server.url, "/health")


def test_an_error_ends_the_server_too() -> None:
    with pytest.raises(ZeroDivisionError), running_server("demo", pa_lite.ServeOptions(port=0), ONE) as server:
        raise ZeroDivisionError
    with pytest.raises(ConnectionError):
        call(server.url, "/health")
    with pytest.raises(InputError, match="not enough for one model"), running_server(
        "demo", pa_lite.ServeOptions(port=0, max_memory=1000), ONE
    ):  # fmt: skip
        raise AssertionError


def test_waiting_for_a_server_that_fails_is_an_error() -> None:
    with running_server("demo", pa_lite.ServeOptions(port=0, models=1), ONE) as server:
        server.thread.server.should_exit = True  # as after an internal error
        with pytest.raises(EngineError, match="stopped by an internal error"):
            server.wait()


@pytest.mark.parametrize("name", ["fastapi", "uvicorn"])
def test_without_the_extra_the_error_names_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [m for m in sys.modules if m.startswith("pa_lite.serving.server.") or m.split(".")[0] == name]:
        if module != "pa_lite.serving.server.options":
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"{name} is not installed.*pip install 'pa-lite\[serve\]'"):
        pa_lite.serve("demo")
