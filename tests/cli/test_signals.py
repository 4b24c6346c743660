"""Signals that terminate a command: the exit status, one line, no temporary files left, finished work kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest

import pa_lite
from pa_lite.cli import cli, main
from pa_lite.cli.signals import end_in_order

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
_CODE = "import sys; from pa_lite.cli import main; sys.exit(main())"
_STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
_N = 300
_KEPT = "interrupted: finished answers are kept next to a.json; add --resume to continue."


def start(folder: Path, *words: str, before: str = "") -> subprocess.Popen[str]:
    """Start a command in a separate process group, with its temporary files in the folder."""
    (folder / "tmp").mkdir(exist_ok=True)
    settings = {"TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(Path(pa_lite.__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-c", before + _CODE, *words], cwd=folder, env={**os.environ, **settings}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def generating(folder: Path, *more: str, before: str = "") -> subprocess.Popen[str]:
    """Start a `generate` of many answers, and wait until it has recorded the first."""
    rows = (json.dumps({"instruction": f"Say {i} words."}) for i in range(_N))
    (folder / "prompts.jsonl").write_text("\n".join(rows), "utf-8")
    words = (
        "generate",
        "demo@0.7",
        "--prompts",
        "prompts.jsonl",
        "--max-tokens",
        "64",
        "--threads",
        "1",
        "-o",
        "a.json",
    )
    process = start(folder, *words, *more, before=before)
    journal = folder / ".a.json.part"
    end = time.monotonic() + 120
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 2):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    return process


def left(folder: Path) -> list[str]:
    return [p.name for p in (*(folder / "tmp").iterdir(), *folder.glob("*.own"))]


@pytest.mark.parametrize("to_group", [False, True])
@pytest.mark.parametrize("number", list(_STATUS))
def test_the_status_names_the_signal_and_nothing_is_left(
    number: signal.Signals, to_group: bool, tmp_path: Path
) -> None:
    process = generating(tmp_path)
    (os.killpg if to_group else os.kill)(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (_STATUS[number], "", _KEPT)
    assert left(tmp_path) == []
    assert (tmp_path / ".a.json.part").exists()  # the journal of finished answers


def test_what_was_done_is_kept(tmp_path: Path) -> None:
    process = generating(tmp_path)
    process.terminate()
    process.communicate(timeout=60)
    kept = (tmp_path / ".a.json.part").read_bytes().splitlines()[1:]
    resumed = generating(tmp_path, "--resume")
    assert (tmp_path / ".a.json.part").read_bytes().splitlines()[1 : len(kept) + 1] == kept
    resumed.kill()
    resumed.communicate()


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM"])
def test_an_ignored_signal_stays_ignored(name: str, tmp_path: Path) -> None:
    """`nohup` ignores SIGHUP."""
    process = generating(tmp_path, before=f"import signal; signal.signal(signal.{name}, signal.SIG_IGN); ")
    process.send_signal(getattr(signal, name))
    time.sleep(0.5)
    assert process.poll() is None
    process.kill()
    process.communicate()


def test_a_background_job_ignores_ctrl_c_and_obeys_sigterm(tmp_path: Path) -> None:
    """Shells without job control start background jobs with SIGINT ignored."""
    process = generating(tmp_path, before="import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); ")
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.strip(), left(tmp_path)) == (143, _KEPT, [])


def test_handlers_are_restored() -> None:
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = [signal.getsignal(number) for number in numbers]
    with end_in_order() as ending:
        assert signal.getsignal(signal.SIGTERM) is not before[1]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)  # a second signal is ignored
    assert ending.status == 143
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("ignored", [False, True])
def test_an_interrupt_that_python_drops_is_raised_again(number: signal.Signals, ignored: bool) -> None:
    """Python prints and drops what a weak reference's callback raises; imports have such callbacks."""
    if ignored and number == signal.SIGINT:
        pytest.skip("then Ctrl-C does nothing")

    class Target:
        pass

    def interrupted(_: object) -> None:
        calls.append(number)
        signal.raise_signal(number)

    def drop_and_wait() -> None:
        target = Target()
        watches.append(weakref.ref(target, interrupted))
        del target
        time.sleep(30)

    watches = list[weakref.ref[Target]]()
    before, calls = signal.getsignal(signal.SIGINT), list[int]()
    signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        with end_in_order() as ending, pytest.raises(KeyboardInterrupt):
            drop_and_wait()
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == [number]
    assert ending.status == 128 + number


@pytest.mark.parametrize("both", [False, True])
def test_a_closed_pipe_causes_no_traceback(both: bool, tmp_path: Path) -> None:
    with start(tmp_path, "tasks", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        if both:
            process.stderr.close()
        err = "" if both else process.stderr.read()
    assert (process.returncode, err) == (1, "")


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space on Linux")
@pytest.mark.parametrize("megabytes", [60, 130, 180])
def test_too_little_memory_to_start_is_one_error(megabytes: int, tmp_path: Path) -> None:
    """numpy's BLAS would raise SIGINT when it cannot start a thread."""
    n = megabytes << 20
    before = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({n}, {n})); "
    process = start(tmp_path, "merge", "--lam", "0.5", "-o", "m.gguf", before=before)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (0, 1)
    if process.returncode:
        (line,) = err.strip().splitlines()
        assert line.startswith(("error: ", "OpenBLAS error: "))
        assert "bug in pa-lite" not in line


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is full")
def test_errors_name_output_that_cannot_be_written() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", _CODE, "tasks"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "error: the output cannot be written: No space left on device.\n"


def test_ctrl_c_while_modules_load_is_one_line(tmp_path: Path) -> None:
    """Signals are sent from when the handler is installed, shown by a dot; Python's own start cannot be changed."""
    environment = {**os.environ, "PYTHONPATH": str(Path(pa_lite.__file__).parents[1])}
    code = (
        "import os, signal, sys, pa_lite.__main__ as program; own = signal.signal; sys.argv[1:] = ['tasks'];"
        "signal.signal = lambda *a: (own(*a), os.write(1, b'.'))[0]; program.main()"
    )
    results = []
    for moment in range(40):
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=tmp_path
        )
        assert process.stdout is not None
        assert process.stdout.read(1) == b"."
        time.sleep(moment * 0.0075)
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=60)[1].decode().lstrip()  # click ends the line of ^C
        results.append((process.returncode, err))
    # 0: it had ended; -SIGINT: it was about to
    assert set(results) <= {(130, "interrupted\n"), (-signal.SIGINT, ""), (-signal.SIGINT, "interrupted\n"), (0, "")}
    assert (130, "interrupted\n") in results


def test_an_interrupt_that_python_made_another_error_is_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before 3.12, an exception in `__set_name__` becomes the cause of a RuntimeError."""

    class Interrupted:
        def __set_name__(self, owner: type, name: str) -> None:
            raise KeyboardInterrupt

    def load(**_: object) -> None:
        type("Loading", (), {"field": Interrupted()})

    monkeypatch.setattr(cli.commands["diff"], "callback", load)
    with pytest.raises(SystemExit, match="130"):
        main(["diff", "demo"])
    assert capsys.readouterr().err.lstrip() == "interrupted\n"  # click ends the line of ^C


def test_the_program_starts_where_an_early_interrupt_is_handled() -> None:
    project = Path(pa_lite.__file__).parents[1] / "pyproject.toml"
    if not project.is_file():
        pytest.skip("requires the source tree")
    assert '\npa-lite = "pa_lite.__main__:main"\n' in project.read_text("utf-8")
