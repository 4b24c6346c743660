"""The child process for untrusted work: its environment, its limits, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pa_lite
from pa_lite.errors import EngineError
from pa_lite.untrusted import sandbox
from pa_lite.untrusted.sandbox import ChildError, LimitedProcess

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="/proc and memory limits")
POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
MEMORY = 256 << 20
# one worker for all tests: the request says what to do
WORKER = """
import ctypes, os, sys, time
from pa_lite.untrusted.sandbox_worker import serve
held = []
def do(request):
    what = request["do"]
    if what == "env":
        return {"env": dict(os.environ), "flags": [sys.flags.isolated, sys.flags.dont_write_bytecode]}
    if what == "pid":
        return {"pid": os.getpid()}
    if what == "print":
        print("noise"); os.write(1, b"noise\\n"); return {"n": request["n"]}
    if what == "noise":
        os.write(2, b"x" * 1_000_000 + b"\\nnext: an error\\nlast\\n"); os._exit(3)
    if what == "loop":
        while True: pass
    if what == "sleep":
        time.sleep(60)
    if what == "fill":
        while True: held.append(bytearray(10_000_000))
    if what == "crash":
        os.kill(os.getpid(), request["signal"]); time.sleep(60)
    if what == "write":
        with open(request["path"], "w") as f: f.write("x")
    if what == "long":
        return {"text": "a" * request["n"]}
    if what == "read":
        return {"text": os.read(request["fd"], 99).decode()}
    raise ValueError("a reason\\nof two lines")
def main():
    serve(do)
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a worker module on sys.path."""
    (tmp_path / "a_worker.py").write_text(WORKER, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "a_worker"


@pytest.fixture
def process(worker: str) -> Iterator[LimitedProcess]:
    with LimitedProcess(worker, MEMORY) as process:
        yield process


def is_running(pid: int) -> bool:
    """Return whether a process is running, and is not a zombie."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(condition: Callable[[], bool]) -> bool:
    for _ in range(1000):
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_the_environment_has_no_secrets_and_no_gpu(worker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "https_proxy", "TOKEN")
    for name in (*secrets, "MY_SETTING", "TOKENIZERS_PARALLELISM", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "0")
    with LimitedProcess(worker, MEMORY) as process:
        answer = process.ask({"do": "env"}, 5)
    assert not set(secrets) & answer["env"].keys()
    assert answer["env"]["MY_SETTING"] == answer["env"]["TOKENIZERS_PARALLELISM"] == "0"
    assert answer["env"]["CUDA_VISIBLE_DEVICES"] == ""
    assert answer["flags"] == [1, 1]


def test_printed_text_is_not_an_answer(process: LimitedProcess) -> None:
    assert [process.ask({"do": "print", "n": n}, 5)["n"] for n in range(3)] == [0, 1, 2]


def test_an_error_is_an_answer_and_the_child_keeps_running(process: LimitedProcess) -> None:
    pid = process.ask({"do": "pid"}, 5)["pid"]
    with pytest.raises(ChildError, match=r"^ValueError: a reason of two lines$") as caught:
        process.ask({"do": "raise"}, 5)
    assert caught.value.cause == "error"
    assert isinstance(caught.value, EngineError)
    assert process.ask({"do": "pid"}, 5)["pid"] == pid


@POSIX
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_names_its_signal_and_the_next_request_starts_another_child(
    process: LimitedProcess, number: signal.Signals
) -> None:
    pid = process.ask({"do": "pid"}, 5)["pid"]
    with pytest.raises(ChildError, match=rf"its process crashed \({number.name}\): no reason given") as caught:
        process.ask({"do": "crash", "signal": number}, 5)
    assert (caught.value.cause, caught.value.status) == ("crash", number.name)
    assert process.ask({"do": "pid"}, 5)["pid"] != pid
    assert not is_running(pid)


def test_long_stderr_does_not_block_and_the_error_line_is_reported(process: LimitedProcess) -> None:
    with pytest.raises(ChildError, match=r"^its process crashed \(status 3\): next: an error$"):
        process.ask({"do": "noise"}, 5)


@pytest.mark.parametrize("what", ["loop", "sleep"])
def test_time_is_limited_whether_the_processor_is_used_or_not(process: LimitedProcess, what: str) -> None:
    with pytest.raises(ChildError, match=r"^it took more than 0\.2 seconds$") as caught:
        process.ask({"do": what}, 0.2)
    assert caught.value.cause == "time"


@POSIX
def test_processor_time_is_limited_by_the_child_itself(
    process: LimitedProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_PATIENCE", 1e9)  # the parent's clock never ends it
    with pytest.raises(ChildError, match=r"it took more than 0\.2 seconds"):
        process.ask({"do": "loop"}, 0.2)


@LINUX
def test_memory_is_limited_by_the_child_itself(process: LimitedProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "status_bytes", lambda _field, _pid: 0)
    with pytest.raises(ChildError, match=r"^it needs more than 268 MB of memory$") as caught:
        process.ask({"do": "fill"}, 60)
    assert caught.value.cause == "memory"


@LINUX
def test_memory_is_watched_by_the_parent_without_resource_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker lacks the module `resource`, as on Windows."""
    (tmp_path / "b_worker.py").write_text('import sys\nsys.modules["resource"] = None\n' + WORKER, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with LimitedProcess("b_worker", MEMORY) as process:
        assert process.ask({"do": "print", "n": 1}, 5) == {"n": 1}
        with pytest.raises(ChildError, match="it needs more than 268 MB of memory"):
            process.ask({"do": "fill"}, 60)


@POSIX
def test_no_file_can_be_written(process: LimitedProcess, tmp_path: Path) -> None:
    with pytest.raises(ChildError, match="OSError"):
        process.ask({"do": "write", "path": str(tmp_path / "x")}, 5)
    assert (tmp_path / "x").read_bytes() == b""


def test_answers_may_be_long(process: LimitedProcess) -> None:
    assert len(process.ask({"do": "long", "n": 9_000_000}, 5)["text"]) == 9_000_000


@pytest.mark.parametrize("line", ["[1]", "{", "[" * 100_000, '{"a": "' + "a" * 20_000])
def test_malformed_and_oversized_answers_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """The child is compromised by its input and writes arbitrary output."""
    monkeypatch.setattr(sandbox, "_LONGEST_ANSWER", 10_000)
    code = f"import time\ndef main():\n    input()\n    print({line!r}, flush=True)\n    time.sleep(60)\n"
    (tmp_path / "c_worker.py").write_text(code, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with LimitedProcess("c_worker", MEMORY) as process, pytest.raises(ChildError, match="its answer is not one JSON"):
        process.ask({}, 60)


@POSIX
def test_descriptors_are_inherited(worker: str) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"held")
    with LimitedProcess(worker, MEMORY, [reading]) as process:
        assert process.ask({"do": "read", "fd": reading}, 5) == {"text": "held"}
    os.close(reading)
    os.close(writing)


def test_no_process_can_be_started(worker: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_worker.py").write_text("import not_there\n", "utf-8")
    with (
        LimitedProcess("broken_worker", MEMORY) as process,
        pytest.raises(ChildError, match="no process can be started: ModuleNotFoundError: No module named 'not_there'"),
    ):
        process.ask({"do": "pid"}, 5)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with (
        LimitedProcess(worker, MEMORY) as process,
        pytest.raises(ChildError, match="started: No such file or directory") as caught,
    ):
        process.ask({"do": "pid"}, 5)
    assert caught.value.cause == "start"


@LINUX
def test_ctrl_c_of_a_terminal_does_not_end_the_child(process: LimitedProcess) -> None:
    """A terminal sends Ctrl-C to both processes; only the parent handles it."""
    pid = process.ask({"do": "pid"}, 5)["pid"]
    os.kill(pid, signal.SIGINT)
    assert process.ask({"do": "pid"}, 5)["pid"] == pid


@LINUX
def test_an_interrupt_ends_the_child_and_no_late_answer_is_taken(process: LimitedProcess) -> None:
    pid = process.ask({"do": "pid"}, 5)["pid"]
    command = ["sh", "-c", f"sleep 0.3; kill -INT {os.getpid()}"]
    with subprocess.Popen(command), pytest.raises(KeyboardInterrupt):
        process.ask({"do": "sleep"}, 60)
    assert not is_running(pid)
    assert process.ask({"do": "print", "n": 7}, 5) == {"n": 7}


@LINUX
@pytest.mark.parametrize("what", ["loop", "sleep", "pid"])
def test_the_child_does_not_outlive_a_killed_parent(tmp_path: Path, worker: str, what: str) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pa_lite.untrusted.sandbox import LimitedProcess\n"
        f"process = LimitedProcess({worker!r}, {MEMORY})\n"
        "print(process.ask({'do': 'pid'}, 5)['pid'], flush=True)\n"
        f"process.ask({{'do': {what!r}}}, 60); input()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(pa_lite.__file__).parents[1])}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=pipe, stdout=pipe, env=environment
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.2)  # the second request is under way
        assert is_running(pid)
        parent.kill()
    assert wait_until(lambda: not is_running(pid))


def test_a_closed_process_can_be_asked_again(process: LimitedProcess) -> None:
    pid = process.ask({"do": "pid"}, 5)["pid"]
    process.close()
    process.close()
    assert process.ask({"do": "pid"}, 5)["pid"] != pid


def test_errors_can_be_pickled() -> None:
    import pickle

    error: Any = pickle.loads(pickle.dumps(ChildError("it crashed", "crash", "SIGSEGV", "words")))
    assert (str(error), error.cause, error.status, error.words) == ("it crashed", "crash", "SIGSEGV", "words")
    assert json.dumps(error.cause) == '"crash"'
