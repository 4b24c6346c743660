"""Start and end of a server: addresses that cannot be used, signals with running answers, a missing extra."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pa_lite
from pa_lite.api.server import running_server
from pa_lite.errors import EngineError, InputError
from pa_lite.serving.server.options import ServeOptions
from pa_lite.serving.server.run import RunningServer
from tests.cli.test_cli import run
from tests.support.http_requests import call, connected, eventually, request_bytes
from tests.support.served import ONE

_CODE = "import sys; from pa_lite.cli import main; sys.exit(main())"
LONG = {"prompt": "The", "max_tokens": 500, "n": 16, "temperature": 100.0, "stream": True}


def start(*words: str, before: str = "") -> subprocess.Popen[str]:
    """Start the command `serve` in a separate process group."""
    settings = {"PYTHONPATH": str(Path(pa_lite.__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-c", before + _CODE, "serve", *words], env={**os.environ, **settings}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    found = start("demo", "--port", "0", "--threads", "1", "--models", "1")
    yield found
    found.kill()
    found.communicate()


def address(process: subprocess.Popen[str]) -> str:
    """Return the address that a server shows once it answers."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "/v1 serves demo at lam 0.6, and at any other as demo@0.35" in line
    return line.split("/v1 ")[0]


def one_error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the one line of a `serve` that fails."""
    status, out, err = run(capsys, "serve", *words)
    assert (status, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_port_in_use_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        line = one_error(capsys, "demo", "--port", str(port))
        assert (
            line == f"error: port {port} of 127.0.0.1 is in use: choose another one with --port, or --port 0 for any."
        )
    with running_server("demo", ServeOptions(port=port), ONE) as served:  # free again
        assert call(served.url, "/health").status == 200
        with pytest.raises(InputError, match="is in use"), running_server("demo", ServeOptions(port=port), ONE):
            raise AssertionError
        assert call(served.url, "/health").status == 200


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["demo", "--host", "0.0.0.0"], "0.0.0.0 can be reached from other machines: set a key with --api-key"),
        (["demo", "--host", "192.0.2.1", "--api-key", "k"], "192.0.2.1 is not an address of this machine"),
        (["demo", "--host", "a.invalid", "--api-key", "k"], "the host a.invalid cannot be resolved"),
        (["demo", "--api-key", "two words"], "the API key must have"),
        (["demo", "--allow-origin", "*"], "'*' is not an origin"),
        (["demo", "--port", "0", "--lam", "2"], "lam"),
        (["no-such-pair", "--port", "0"], "no-such-pair"),
        (["missing.gguf", "--port", "0"], "missing.gguf"),
        (["demo", "--port", "0", "--max-memory", "1K"], "memory"),
        (["demo@0.5", "--port", "0", "--study", "."], "at a lam already"),
    ],
)
def test_what_cannot_be_served_is_one_line(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert message in one_error(capsys, *words)


def test_a_missing_extra_is_named() -> None:
    for package in ("fastapi", "uvicorn"):
        found = start("demo", "--port", "0", before=f"import sys; sys.modules[{package!r}] = None; ")
        out, err = found.communicate(timeout=120)
        assert (found.returncode != 0, out) == (True, "")
        install = "Install what it requires with: pip install 'pa-lite[serve]'."
        assert err == f"error: serving: {package} is not installed. {install}\n"


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_the_server_while_an_answer_is_streamed(process: subprocess.Popen[str], number: int) -> None:
    url = address(process)
    with connected(url) as connection:
        body = json.dumps({**LONG, "max_tokens": 8000}).encode()
        connection.sendall(request_bytes(url, "/v1/completions", body))
        answer = connection.recv(1024)
        assert answer.startswith(b"HTTP/1.1 200")
        process.send_signal(number)
        while part := connection.recv(65536):
            answer += part
    assert stopped(process)
    assert answer.count(b"data: [DONE]") == 1  # complete, or ended with an error


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_second_signal_ends_the_server_without_a_grace(process: subprocess.Popen[str]) -> None:
    url = address(process)
    with connected(url) as connection:
        body = json.dumps({**LONG, "max_tokens": 8000}).encode()
        connection.sendall(request_bytes(url, "/v1/completions", body))
        assert connection.recv(1024).startswith(b"HTTP/1.1 200")
        process.send_signal(signal.SIGINT)
        assert eventually(lambda: not is_listening(int(url.rsplit(":", 1)[1])))
        process.send_signal(signal.SIGINT)
        assert stopped(process)


def stopped(process: subprocess.Popen[str]) -> bool:
    """Wait for the end of a server; return whether it shows only that it has stopped."""
    out, err = process.communicate(timeout=120)
    shown = [line for line in err.splitlines() if not line.startswith(("1 model in memory", "try it: "))]
    return (process.returncode, out, shown) == (0, "", ["stopped"])


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_signal_while_the_model_is_being_loaded_ends_the_server() -> None:
    slow = "import time; import pa_lite.serving.server.run as r; r.open_host = lambda *a: time.sleep(600); "
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    found = start("demo", "--port", str(port), before=slow)
    try:
        assert eventually(lambda: is_listening(port))
        found.send_signal(signal.SIGINT)
        out, err = found.communicate(timeout=120)
        assert (found.returncode, out, err.strip()) == (130, "", "interrupted")
    finally:
        found.kill()
        found.communicate()


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_running_requests_get_an_error_when_the_block_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pa_lite.serving.server.run.GRACE_SECONDS", 0.2)
    with running_server("demo", ServeOptions(port=0, parallel=1, models=1), ONE) as served:
        url = served.url
        running, waiting = connected(url), connected(url)
        running.sendall(request_bytes(url, "/v1/completions", json.dumps({**LONG, "lam": 0.6}).encode()))
        assert running.recv(1024).startswith(b"HTTP/1.1 200")
        body = json.dumps({**LONG, "stream": False, "lam": 0.1}).encode()
        waiting.sendall(request_bytes(url, "/v1/completions", body))
        assert eventually(lambda: call(url, "/health").json["waiting"] == 1)
    with running, waiting:
        answers = [b"".join(iter(lambda c=connection: c.recv(65536), b"")) for connection in (running, waiting)]  # type: ignore[misc]
    assert b"the server is stopping." in answers[0]
    assert answers[0].rstrip().endswith(b"0")  # the last chunk: the stream is complete
    assert answers[1].startswith(b"HTTP/1.1 503")
    assert b'"code":"server_stopping"' in answers[1]
    assert not eventually(lambda: is_listening(int(url.rsplit(":", 1)[1])), 0.1)


def test_a_server_that_fails_is_an_error() -> None:
    with running_server("demo", ServeOptions(port=0), ONE) as served:
        served.thread.server.should_exit = True  # without being asked to stop
        with pytest.raises(EngineError, match="has stopped by an internal error"):
            served.wait()


def test_wait_ends_when_the_server_is_stopped(server: RunningServer) -> None:
    with running_server("demo", ServeOptions(port=0), ONE) as served:
        served.thread.stop()
        served.wait()
    assert call(server.url, "/health").status == 200  # the other one runs
