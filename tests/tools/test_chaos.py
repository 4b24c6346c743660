"""The fault campaigns themselves: they find broken promises, and their disks and clocks fail as intended."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("pty", reason="the campaign needs a POSIX system")

from tools import ROOT
from tools.chaos import __main__ as chaos
from tools.chaos import clock, disks, jobs, kill, read_errors
from tools.chaos import links as chaos_links
from tools.chaos.commands import OF_RUNS, RUN_NAMES, Command
from tools.chaos.runs import Outcome, Process, Row, at_moments, clear_error, good_end, show

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the campaign needs Linux")


def ended(status: int, err: str) -> Outcome:
    return Outcome(status, "", err, 1.0)


def test_clear_error_and_good_end_judge_outcomes() -> None:
    assert clear_error(ended(1, "error: x.gguf: is not a GGUF file.\n")) == []
    for status, err in (
        (0, "error: x\n"), (1, ""), (1, "error: x\nerror: y\n"), (-7, "error: x\n"),
        (1, "Traceback (most recent\nerror: x\n"), (1, "error: internal error (a bug in pa-lite): KeyError\n"),
    ):  # fmt: skip
        assert len(clear_error(ended(status, err))) == 1, err
    assert good_end(ended(0, "")) == []
    assert good_end(ended(0, "Traceback (most recent")) != []
    assert good_end(ended(1, "error: x")) == ["ended with status 1: error: x"]


class Writer(jobs.Job):
    """Writes its result in two pieces, a little apart, and under its final name at once: every promise is broken."""

    name = "writer"
    code = (
        "import pathlib, sys, time\np = pathlib.Path(sys.argv[1]) / 'result'\n"
        "(p.parent / '.left').touch()\np.write_text('half'); time.sleep(0.3); p.write_text('half and half')\n"
        "(p.parent / '.left').unlink()\n"
    )

    def environment(self, out: Path) -> dict[str, str]:
        return {}

    def words(self, out: Path, variant: str, again: bool = False) -> list[str]:
        return [sys.executable, "-c", self.code, str(out)]

    def results(self, out: Path) -> dict[str, object]:
        return {p.name: p.read_text("utf-8") for p in out.glob("result")}


def test_kills_find_a_job_that_writes_in_place(tmp_path: Path) -> None:
    scene = jobs.Scene(tmp_path / "scene", hub=None)  # type: ignore[arg-type]
    (tmp_path / "scene" / "tmp").mkdir(parents=True)
    (tmp_path / "rounds").mkdir()
    (row,) = kill.campaign(Writer(scene), 4, random.Random(1), tmp_path / "rounds")
    assert row.met == 4
    assert any("result is incomplete or wrong" in problem for problem in row.findings)
    assert list((tmp_path / "rounds").glob("round-*")) == []


def test_a_hung_process_is_killed_with_its_children(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    process = Process([sys.executable, "-c", code], {}, tmp_path)
    outcome = process.end(limit=0.5)
    assert (outcome.status, "hung for" in outcome.err) == (-9, True)
    for _ in range(100):  # a kill takes a moment
        facts = [p.read_text("utf-8").rpartition(")")[2].split() for p in Path("/proc").glob("[0-9]*/stat")]
        states = {state for state, _, group, *_ in facts if group == str(process.process.pid)}
        if states <= {"Z"}:
            return
        time.sleep(0.05)
    pytest.fail(f"its children live: {states}")


class Writing(chaos_links.Links):
    """Instead of pa-lite, opens a name to write and follows any link."""

    def run(self, line: Sequence[str], root: Path, limit: float = 60.0) -> Outcome:
        try:
            (root / "out" / "x").write_text("written", "utf-8")
        except OSError as e:
            return ended(1, f"error: {e.strerror}\n")
        return ended(0, "")


def test_links_find_a_command_that_writes_through_them(tmp_path: Path) -> None:
    links = Writing(tmp_path, hub=SimpleNamespace(endpoint="http://127.0.0.1:1"))  # type: ignore[arg-type]
    found = {}
    for kind in ("link to a file", "hard link", "file", "folder", "link to itself"):
        row = Row("links", "writer")
        links.disturb(Command("writer", lambda _: ("write",)), "out/x", kind, row)
        found[kind] = [problem.partition(": ")[2].partition(" (")[0] for problem in row.findings]
    changed = "its target was changed"
    assert found == {
        "link to a file": [changed], "hard link": [changed], "file": ["it was removed or changed"], "folder": [],
        "link to itself": [],
    }  # fmt: skip


def test_inputs_are_made_once_and_run_folder_names_are_complete(tmp_path: Path) -> None:
    with chaos_links.made_links(tmp_path) as links:
        made = tmp_path / "inputs" / "run" / "study.sqlite"
        assert not made.exists()
        seen = set(links.names(OF_RUNS[1])) | set(links.names(OF_RUNS[3]))
        when = made.stat().st_mtime_ns
        links.fresh(OF_RUNS[0])
        assert made.stat().st_mtime_ns == when
        assert not links.inputs["demo"].exists()
    named = {name for name in seen if name.startswith("run/")}
    assert {"run/study.sqlite", "run/study.lock", "run/report.html"} <= named
    assert named <= {f"run/{name}" for name in RUN_NAMES}


def test_moments_after_the_end_are_skipped() -> None:
    called: list[int] = []
    with at_moments([(60.0, lambda: called.append(2)), (0.0, lambda: called.append(1))]):
        while not called:
            pass
    assert called == [1]


@pytest.mark.parametrize("kind", ["overwritten", "cut", "replaced", "deleted"])
def test_changes_do_what_their_names_say(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "x.safetensors"
    before = bytes(range(256)) * 16
    file.write_bytes(before)
    node = file.stat().st_ino
    read_errors.change(file, kind, random.Random(0))
    if kind == "deleted":
        assert not file.exists()
        return
    after = file.read_bytes()
    if kind == "cut":
        assert before.startswith(after)
        assert len(after) < len(before)
        return
    assert (len(after), after[:1024], after[3072:]) == (len(before), before[:1024], before[3072:])
    assert after != before
    assert (file.stat().st_ino == node) is (kind == "overwritten")
    assert list(tmp_path.iterdir()) == [file]


def test_the_clock_jumps_both_ways_and_the_monotonic_one_does_not(tmp_path: Path) -> None:
    assert clock._turns(clock.Clock(tmp_path / "clock"), tmp_path) == ""
    assert clock._WRONG_BAR.search("merge: 40%|# | 4/9 [-1:00:00<00:01, 3it/s]")
    assert clock._WRONG_BAR.search("merge: 40%|# | 4/9 [00:01<00:01, -3it/s]")
    assert not clock._WRONG_BAR.search("merge: 40%|# | 4/9 [00:01<00:01, 3.1it/s]")


SICK = """
import os, pathlib, sys
sys.path.append(sys.argv[1])
from tools.chaos.disks import SickDisk, SmallDisk
folder = pathlib.Path(sys.argv[2])
with SickDisk(folder / "source", folder / "sick") as disk:
    inner = folder / "sick" / "below" / "file"
    print(sorted(os.listdir(folder / "sick")), inner.read_bytes() == (folder / "source/below/file").read_bytes())
with SickDisk(folder / "source", folder / "sick2") as disk:
    disk.sick[pathlib.Path("below/file")] = 100_000
    with (folder / "sick2/below/file").open("rb", buffering=0) as f:
        print(len(os.pread(f.fileno(), 4096, 0)))
        try:
            os.pread(f.fileno(), 4096, 99_000)
        except OSError as e:
            print(e.strerror, disk.n_failed > 0)
with SmallDisk(folder / "small", 1 << 20) as small:
    (folder / "small/a").write_bytes(bytes(500_000))
    small.fill(spare=8192)
    try:
        (folder / "small/b").write_bytes(bytes(100_000))
    except OSError as e:
        print(e.strerror)
    small.grow(1 << 22)
    print((folder / "small/b").write_bytes(bytes(1_000_000)))
"""


def test_disks_fail_at_the_chosen_bytes(tmp_path: Path) -> None:
    options = ["--mount"] if os.geteuid() == 0 else ["--mount", "--user", "--map-root-user"]
    probe = ["unshare", *options, "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        can = subprocess.run(probe, capture_output=True, check=False).returncode == 0 and os.access(
            "/dev/fuse", os.W_OK
        )
    except OSError:
        can = False
    if not can:
        pytest.skip("mounting needs root or user namespaces, and /dev/fuse")
    (tmp_path / "source" / "below").mkdir(parents=True)
    (tmp_path / "source" / "below" / "file").write_bytes(os.urandom(300_000))
    words = ["unshare", *options, sys.executable, "-c", SICK, str(ROOT), str(tmp_path)]
    told = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert told.stderr == ""
    assert told.stdout.splitlines() == [
        "['below'] True", "4096", "Input/output error True", "No space left on device", "1000000",
    ]  # fmt: skip


def test_findings_are_in_the_table_and_the_status(capsys: pytest.CaptureFixture[str]) -> None:
    show([Row("kill -9", "merge", 3, 2, ["a", "b", "c", "d"]), Row("full disk", "merge", 2, 1)], 9.6)
    out = capsys.readouterr().out
    assert "| kill -9 | merge | 3 | 2 | 4 findings |" in out
    assert "| full disk | merge | 2 | 1 | nothing |" in out
    assert "5 rounds, 4 findings, 10 s" in out
    assert "- kill -9, merge: 1 more" in out


@pytest.mark.parametrize("words", [["nothing"], ["kill", "--jobs", "merge,what"], ["kill", "--rounds", "-1"]])
def test_bad_options_are_usage_errors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        chaos.parse(words)
    assert error.value.code == 2
    assert disks.can_mount() is False
