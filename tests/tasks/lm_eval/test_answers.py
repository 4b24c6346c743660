"""Answers that later lm-eval runs reuse: what is kept, and which files are refused. Does not need lm-eval."""

from __future__ import annotations

import json
import os
import pickle
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pa_lite.errors import OutputError
from pa_lite.tasks.lm_eval.answers import Answers, request_digest

GREEDY = ("Say hen.", {"until": ["\n"], "max_gen_toks": 4})
POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX links, pipes and locks")


def filled(path: Path, decides: str = "model") -> Path:
    with Answers(path, decides) as answers:
        answers.add("loglikelihood", ("a", " b"), (-0.1, True))
        answers.add("loglikelihood_rolling", ("a",), -1.5)
        answers.add("generate_until", GREEDY, "hen\u2028")
    return path


def test_answers_come_back_as_they_were(tmp_path: Path) -> None:
    with Answers(filled(tmp_path / "sub" / "a.jsonl"), "model") as answers:
        assert answers.get("loglikelihood", ("a", " b")) == (-0.1, True)
        assert answers.get("loglikelihood_rolling", ("a",)) == -1.5
        assert answers.get("generate_until", (GREEDY[0], dict(reversed(GREEDY[1].items())))) == "hen\u2028"
        assert answers.get("loglikelihood", ("a", "b")) is None
        assert answers.get("generate_until", ("Say hen.", {})) is None


def test_an_answer_of_another_type_is_ignored(tmp_path: Path) -> None:
    path = filled(tmp_path / "a.jsonl")
    with path.open("a", encoding="ascii") as file:
        file.write(json.dumps({"request": request_digest("loglikelihood", ("x", "y")), "answer": "text"}) + "\n")
    with Answers(path, "model") as answers:
        assert answers.get("loglikelihood", ("x", "y")) is None


@pytest.mark.parametrize("answer", [(float("-inf"), True), (float("nan"), False)])
def test_non_finite_answers_are_not_kept(answer: tuple[float, bool], tmp_path: Path) -> None:
    with Answers(tmp_path / "a.jsonl", "model") as answers:
        answers.add("loglikelihood", ("a", "b"), answer)
        answers.add("generate_until", ("a", {}), "\ud800")
    assert not (tmp_path / "a.jsonl").exists()  # there was no answer


@pytest.mark.parametrize("tail", [b'{"request": "ab', b'{"request": "ab", "answer": "c"}'])
def test_a_line_that_a_killed_process_left_is_dropped(tail: bytes, tmp_path: Path) -> None:
    path = filled(tmp_path / "a.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    with Answers(path, "model") as answers:
        answers.add("loglikelihood_rolling", ("b",), -2.5)
    lines = path.read_bytes().splitlines(keepends=True)
    assert b"".join(lines[:-1]) == whole
    assert json.loads(lines[-1])["answer"] == -2.5


def test_two_processes_append_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Answers(path, "model") as one, Answers(path, "model") as other:
        for i in range(20):
            one.add("loglikelihood_rolling", (f"one {i}",), float(-i))
            other.add("loglikelihood_rolling", (f"other {i}",), float(-i))
    with Answers(path, "model") as answers:
        assert answers.get("loglikelihood_rolling", ("one 19",)) == answers.get("loglikelihood_rolling", ("other 19",))
    assert len(path.read_bytes().splitlines()) == 41


class Evil:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return (open, (str(self.path), "w"))


def as_lm_eval_keeps_it(path: Path, evil: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE unnamed (key TEXT PRIMARY KEY, value BLOB)")
        database.execute("INSERT INTO unnamed VALUES ('k', ?)", (pickle.dumps(Evil(evil)),))
    database.close()


def test_a_pickle_is_refused_and_not_read(tmp_path: Path) -> None:
    path, evil = tmp_path / "a.jsonl", tmp_path / "executed"
    as_lm_eval_keeps_it(path, evil)
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"a\.jsonl: answers cannot be kept there: pa-lite did not write this file"):
        Answers(path, "model")
    assert not evil.exists()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("mine\n", "pa-lite did not write this file"),
        ("", "pa-lite did not write this file"),
        ('{"pa-lite answers": 1, "decides": "other"}\n', "it has another model's answers"),
        ('{"pa-lite answers": 1, "decides": "model"}\n[1]\n', "line 2 is not an answer"),
        ('{"pa-lite answers": 1, "decides": "model"}\n{"request": "a", "answer": [1, 2, 3]}\n', "line 2 is not an"),
        ('{"pa-lite answers": 1, "decides": "model"}\n{"request": 1, "answer": "a"}\n', "line 2 is not an answer"),
        ('{"pa-lite answers": 1, "decides": "model"}\n{"request": "a", "answer": [1e999, true]}\n', "line 2 is"),
        ('{"pa-lite answers": 1, "decides": "model"}\n' + "[" * 100_000 + "\n", "line 2 is damaged"),
    ],
)  # fmt: skip
def test_other_files_are_refused_by_name_and_unchanged(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content, "utf-8")
    with pytest.raises(OutputError, match=message) as caught:
        Answers(path, "model")
    assert str(caught.value).startswith(f"{path}: ")
    assert path.read_text("utf-8") == content


@POSIX
@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "folder", "link to nothing"])
def test_links_pipes_and_folders_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    path, kept = tmp_path / "a.jsonl", filled(tmp_path / "kept.jsonl")
    before = kept.read_bytes()
    make: dict[str, Callable[[], object]] = {
        "link": lambda: path.symlink_to(kept), "hard link": lambda: os.link(kept, path),
        "pipe": lambda: os.mkfifo(path), "folder": path.mkdir,
        "link to nothing": lambda: path.symlink_to(tmp_path / "made"),
    }  # fmt: skip
    make[kind]()
    with pytest.raises(OutputError, match=r"a\.jsonl: answers cannot be kept there: it is a "):
        Answers(path, "model")
    assert kept.read_bytes() == before
    assert not (tmp_path / "made").exists()


@POSIX
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can change a file's owner")
def test_another_users_file_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path / "a.jsonl")
    os.chown(path, 12345, 12345)
    with pytest.raises(OutputError, match="another user owns the file"):
        Answers(path, "model")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux file size limits")
def test_a_file_size_limit_leaves_complete_lines(tmp_path: Path) -> None:
    import resource

    path = filled(tmp_path / "a.jsonl")
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with Answers(path, "model") as answers:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
            with pytest.raises(OutputError, match=r"files may not exceed .*; the answers so far are kept\."):
                answers.add("loglikelihood_rolling", ("b",), -2.5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.stat().st_size == size
    with Answers(path, "model") as answers:
        answers.add("loglikelihood_rolling", ("b",), -2.5)
    assert path.stat().st_size > size
