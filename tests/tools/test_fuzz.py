"""Parts of the fuzzer: mutators never fail, the judge finds broken rules, the corpus is minimal."""

from __future__ import annotations

import gc
import os
import sqlite3
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("resource", reason="the judge's limits are POSIX's")

from pa_lite.errors import InputError
from pa_lite.system.markers import temporary_folder
from pa_lite.untrusted.strict_json import parse_json, parse_toml
from tools import program
from tools.fuzz import corpus
from tools.fuzz.binary import pack, parse_fields, unpack, write_fields
from tools.fuzz.gguf_parts import parse, serialise
from tools.fuzz.json import from_json, write, write_toml
from tools.fuzz.oracle import Finding, Judge, Target, strict, whole
from tools.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_mutators_accept_their_own_output(name: str) -> None:
    """Also any bytes; and the same random numbers give the same input."""
    target, random = TARGETS[name], Random(name)
    data = b""
    for i in range(400):
        data = random.choice(target.seeds()) if i % 8 == 0 or len(data) > target.longest else data
        seed = random.random()
        made = target.mutate(data, Random(seed))
        assert target.mutate(data, Random(seed)) == made
        assert isinstance(target.files(made), dict)
        data = made
    target.mutate(random.randbytes(200), random)


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_reads_something(name: str) -> None:
    with Judge(TARGETS[name]) as judge, strict():
        read = [judge.judge(seed) for seed in TARGETS[name].seeds()]
    assert any(read)


def test_parsing_and_serialising_are_inverse() -> None:
    for seed in TARGETS["gguf"].seeds():
        assert serialise(parse(seed)) == seed
    for seed in TARGETS["sentencepiece"].seeds():
        assert write_fields(parse_fields(seed)) == seed
    files = {"b": b"", "a": bytes(300)}
    assert unpack(pack(files, ("a", "b")), ("a", "b")) == files
    value = {"a": [1, 2.5, None, {"b": "\u2028ü"}], "c": {"d": {"e": True}}, "f": [{"g": 1}, {"h": []}]}
    assert parse_json(write(from_json(value))) == value
    del value["a"][2]  # type: ignore[attr-defined]
    assert parse_toml(write_toml(from_json(value))) == value


def _target(read: Callable[[Path], object], bounded: bool = True, private: bool = False) -> Target:
    return Target(
        "t", "", whole("x"), read, lambda data, random: data, lambda: [b"x"], bounded=bounded, private=private
    )


def _warn(_folder: Path) -> None:
    warnings.warn("overflow", RuntimeWarning, stacklevel=1)


def _fork(_folder: Path) -> None:
    subprocess.run(["true"], check=True)


def _reach(_folder: Path) -> None:
    import socket

    socket.create_connection(("127.0.0.1", 9))


def _error(message: str) -> InputError:
    error = InputError("")
    error.args = (message,)
    return error


def _raise(error: Exception) -> Callable[[Path], None]:
    def read(_folder: Path) -> None:
        raise error

    return read


@pytest.mark.parametrize(
    ("read", "told"),
    [
        (_raise(KeyError("a")), "KeyError at"),
        (_raise(RecursionError()), "RecursionError at"),
        (_raise(_error("")), "is empty"),
        (_raise(_error("a\nb")), "not of one plain line"),
        (_raise(_error("\x1b[31m")), "not of one plain line"),
        (_raise(_error("x" * 2001)), "message too long"),
        (_warn, "RuntimeWarning at"),
        (lambda _folder: time.sleep(2.2), "slow"),
        (lambda _folder: b"x" * (200 << 20), "memory"),
        (lambda folder: (folder / "y").write_bytes(b""), "forbids open"),
        (lambda folder: (folder / "x").unlink(), "forbids os.remove"),
        (lambda folder: (folder / "y").mkdir(), "forbids os.mkdir"),
        (lambda folder: (folder / ".." / "z").read_bytes(), "forbids open"),
        (lambda _folder: os.open("/root/.profile", os.O_RDONLY), "forbids open"),
        (_fork, "forbids subprocess.Popen"),
        (_reach, "forbids socket"),
    ],
)
def test_the_judge_finds_forbidden_actions(read: Callable[[Path], object], told: str) -> None:
    gc.collect()  # memory that is freed meanwhile would offset what is allocated
    with Judge(_target(read)) as judge, strict(), pytest.raises(Finding, match=told):
        judge.judge(b"x")


def _use_private(_folder: Path) -> None:
    with temporary_folder() as private:
        (private / "copy").write_bytes(b"x")
        sqlite3.connect((private / "a.sqlite").as_uri(), uri=True).close()
        (private / "copy").unlink()


def test_only_private_targets_may_use_a_private_folder() -> None:
    with Judge(_target(_use_private, private=True)) as judge:
        assert judge.judge(b"x")
    with Judge(_target(_use_private)) as judge, pytest.raises(Finding, match="forbids"):
        judge.judge(b"x")


@pytest.mark.parametrize(
    "read",
    [
        lambda folder: sqlite3.connect(folder / "x").close(),
        lambda folder: (folder / "y").write_bytes(b""),
        lambda folder: (folder / "x").unlink(),
        lambda _folder: Path(tempfile.gettempdir(), "pa-lite-1-x").mkdir(),
        lambda _folder: Path(tempfile.gettempdir(), "other").write_bytes(b""),
    ],
)
def test_a_private_target_may_not_act_outside_its_folder(read: Callable[[Path], object]) -> None:
    with Judge(_target(read, private=True)) as judge, pytest.raises(Finding, match="forbids"):
        judge.judge(b"x")


def test_the_judge_allows_reading() -> None:
    with Judge(_target(lambda folder: (folder / "x").read_bytes())) as judge:
        assert judge.judge(b"x")
    with Judge(_target(_raise(InputError("x: is wrong")))) as judge:
        assert not judge.judge(b"x")
        assert judge.message == "x: is wrong"
    assert not judge.folder.exists()


def test_the_fewest_inputs_that_reach_all_are_kept() -> None:
    code = compile("", "", "exec")
    steps = {n: (code, n, n) for n in range(5)}
    reached = {
        b"aa": frozenset((steps[0], steps[1])), b"b": frozenset((steps[1],)), b"c": frozenset((steps[1], steps[0])),
        b"d": frozenset((steps[2],)), b"e" * 9: frozenset((steps[2], steps[3], steps[4])),
    }  # fmt: skip
    assert corpus.cover(reached, 9) == [b"e" * 9, b"c"]
    assert corpus.cover(reached, 1) == [b"e" * 9]


def test_kept_inputs_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "CORPUS", tmp_path / "corpus")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "1").write_bytes(b"{}")
    kept = corpus.merge(TARGETS["safetensors"], tmp_path / "more", 4)
    assert 1 < len(kept) <= 4
    assert sorted(corpus.load("safetensors")) == sorted(kept)
    before = corpus.path_of("safetensors").read_bytes()
    corpus.save("safetensors", reversed(kept))
    assert corpus.path_of("safetensors").read_bytes() == before


def test_the_program_without_atheris_names_the_extra(tmp_path: Path) -> None:
    hidden = {**os.environ, "PYTHONPATH": str(tmp_path)}
    (tmp_path / "atheris.py").write_text("raise ImportError", "utf-8")
    words = [*program("tools.fuzz"), "run", "schedule", "--seconds", "5", "--findings", str(tmp_path / "f")]
    done = subprocess.run(words, capture_output=True, text=True, env=hidden, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: fuzzing needs atheris")
    assert "pa-lite[fuzz]" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_program_replays_and_names_what_it_knows(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"[")
    words = [*program("tools.fuzz"), "replay"]
    done = subprocess.run([*words, "schedule", str(tmp_path / "x")], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "x: refused: " in done.stdout
    done = subprocess.run([*words, "shedule", str(tmp_path / "x")], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: unknown target 'shedule'. Did you mean schedule?\n"


@pytest.mark.timeout(120)
def test_the_program_fuzzes(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="for CPython on Linux, x86-64, alone")
    words = [*program("tools.fuzz"), "run", "schedule", "--executions", "300", "--seconds", "60", "--json"]
    words += [str(tmp_path / "table.json"), "--findings", str(tmp_path / "f"), "--corpus", str(tmp_path / "c")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = parse_json((tmp_path / "table.json").read_bytes())
    assert row["executions"] >= 300
    assert row["covered"] > 10
    assert row["deaths"] == []
    assert "| schedule |" in done.stdout
