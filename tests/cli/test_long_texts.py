"""Texts that a model's tokenizer cannot encode: every command names the text, before any work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pa_lite.alpaca.judge import JudgeOptions, Verdict, judge_pairs
from pa_lite.alpaca.pairing import AnswerPair
from pa_lite.alpaca.prompts import Prompt
from pa_lite.checkpoints.pairs import Pair
from pa_lite.engine.chat import chat_prompts
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.errors import TextError
from pa_lite.ggml.metadata import string
from pa_lite.instructions.following import Instruction
from pa_lite.study.plan import StudyOptions
from pa_lite.study.sweep import sweep_pair
from pa_lite.study.workloads import AnswersWorkload, FollowWorkload
from tests.cli.test_cli import run
from tests.engine.test_refusals import changed

ONE = EngineOptions(threads=1)
DIGITS = "7" * 8000  # more digits in a row than the pre-tokenizer superbpe allows
TASK = """[tasks.mine]
kind = "{kind}"
data = "rows.jsonl"
shots = {shots}
split = "test"
shots_split = "{shots_split}"
template = "{{{{ query }}}}"
choices = "choices"
answer = "answer"
answers = "['x']"
max_tokens = 4
sampler = "first"
"""


@pytest.fixture(scope="module")
def superbpe(tiny_ggufs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("superbpe") / "m.gguf"
    return changed(tiny_ggufs["F32"], path, {"tokenizer.ggml.pre": string("superbpe")}, {})


@pytest.fixture
def model(superbpe: Path) -> Iterator[Model]:
    with Model(superbpe, ONE) as opened:
        yield opened


def write_task(folder: Path, kind: str, at: int, shots: int = 0, split: str = "test") -> Path:
    """Write a task with three rows in each split; row `at` of one split contains the digits."""
    rows = [
        {"split": s, "query": f"{s} {i} {DIGITS if (s, i) == (split, at) else ''}", "choices": ["x", "y"], "answer": 0}
        for s in ("test", "dev")
        for i in range(3)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    if kind == "G":
        text = "\n".join(line for line in TASK.splitlines() if not line.startswith(("choices", "answer ")))
    else:
        text = "\n".join(line for line in TASK.splitlines() if not line.startswith(("answers", "max_tokens")))
    path = folder / "task.toml"
    path.write_text(text.format(kind=kind, shots=shots, shots_split="dev"), "utf-8")
    return path


@pytest.mark.parametrize("kind", ["MC", "FMC", "G"])
def test_score_names_the_row(
    kind: str, capsys: pytest.CaptureFixture[str], superbpe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "context", lambda *_: pytest.fail("something was scored first"))
    task = write_task(tmp_path, kind, 1)
    status, out, err = run(capsys, "score", superbpe, "--tasks", task, "--threads", 1)
    assert (status, out) == (1, "")
    assert "task mine: " in err
    assert "rows.jsonl:2: the prompt with its answer has" in err
    assert "has a run of 8000 digits" in err
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1


def test_score_names_the_exemplars(capsys: pytest.CaptureFixture[str], superbpe: Path, tmp_path: Path) -> None:
    task = write_task(tmp_path, "MC", 0, shots=1, split="dev")
    status, _, err = run(capsys, "score", superbpe, "--tasks", task, "--threads", 1)
    assert status == 1
    assert "task mine: the exemplar text before each row has a run of 8000 digits" in err


def test_generate_names_the_prompt(capsys: pytest.CaptureFixture[str], superbpe: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"instruction": "a"}, {"instruction": f"b {DIGITS}"}]), "utf-8")
    words = ["generate", superbpe, "--prompts", prompts, "--threads", 1, "--max-tokens", 2, "-o", tmp_path / "o.json"]
    status, out, err = run(capsys, *words)
    assert (status, out) == (1, "")
    assert "error: prompt 2 has a run of 8000 digits" in err
    assert not (tmp_path / "o.json").exists()


@pytest.mark.parametrize("has_template", [True, False])
def test_a_judge_leaves_out_texts_that_cannot_be_tokenised(model: Model, has_template: bool) -> None:
    if not has_template:
        model.header.metadata.pop("tokenizer.chat_template")
    pairs = [
        AnswerPair(instruction="a", reference="b", model="c", dataset=""),
        AnswerPair(instruction="d", reference=DIGITS, model="e", dataset=""),
        AnswerPair(instruction="f", reference="g", model=DIGITS, dataset=""),
        AnswerPair(instruction="h", reference="h", model="h", dataset=""),
    ]
    found: dict[int, Verdict] = {}
    judge_pairs(model, pairs, JudgeOptions(), found.__setitem__)
    assert sorted(found) == [0, 1, 2, 3]
    assert [found[i].preference is None for i in range(4)] == [False, True, True, False]
    for i in (1, 2):
        assert (found[i].unjudged or "").startswith("the prompt has a run of 8000 digits")
    alone: dict[int, Verdict] = {}
    judge_pairs(model, pairs[:1], JudgeOptions(), alone.__setitem__)
    assert found[0].preference == pytest.approx(alone[0].preference, abs=1e-3)


def test_judging_goes_on_after_an_answer_that_cannot_be_tokenised(
    capsys: pytest.CaptureFixture[str], superbpe: Path, tmp_path: Path
) -> None:
    for name, answers in (("ours", ["a", DIGITS]), ("theirs", ["b", "c"])):
        rows = [{"instruction": f"i{i}", "output": answer, "generator": name} for i, answer in enumerate(answers)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows), "utf-8")
    words = ["judge", tmp_path / "ours.json", "--reference", tmp_path / "theirs.json", "--judge", superbpe]
    status, out, err = run(capsys, *words, "--threads", 1, "-o", tmp_path / "a.json")
    assert status == 0, err
    assert "1 not judged: too long for the judge" in out
    rows = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert [row["preference"] is None for row in rows] == [False, True]
    assert "has a run of 8000 digits" in rows[1]["unjudged"]


def test_kept_prompts_have_faults(model: Model) -> None:
    made = chat_prompts(model, ["a", DIGITS, "b"], keep_faulty=True)
    assert list(made.tokens[1]) == []
    assert [made.tokens[0], made.tokens[2]] == chat_prompts(model, ["a", "b"]).tokens
    assert list(made.faults) == [1]
    assert len(made.reasoning) == 3
    with pytest.raises(TextError, match=r"^prompt 2 has a run of 8000 digits"):
        chat_prompts(model, ["a", DIGITS, "b"])
    with pytest.raises(TextError, match=r"^prompt 1 has a run of 8000 digits"):
        chat_prompts(model, ["a"], systems=[DIGITS])


def test_workloads_of_a_study_name_the_instruction(model: Model) -> None:
    follow = FollowWorkload(
        name="mine", instructions=(Instruction("k", "a", ()), Instruction("k", DIGITS, ())), max_tokens=4
    )
    prompts = (Prompt("a", None), Prompt("b", None), Prompt("c", None, system=DIGITS))
    answers = AnswersWorkload(name="theirs", prompts=prompts, max_tokens=4)
    for work, where in ((follow, "mine: instruction 2"), (answers, "theirs: instruction 3")):
        with pytest.raises(TextError, match=rf"^{where} has a run of 8000 digits"):
            work.check(model)


def test_a_sweep_refuses_before_the_first_cell(superbpe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All texts of the first cell can be tokenised; the second task has one that cannot."""
    monkeypatch.setattr(Model, "context", lambda *_: pytest.fail("something was scored first"))
    options = StudyOptions(
        lams=(0.0, 1.0), tasks=("demo_kind", str(write_task(tmp_path, "MC", 2))), types=("F32",), engine=ONE
    )
    with pytest.raises(TextError, match=r"^task mine: .*rows.jsonl:3: the prompt with its answer has a run of 8000"):
        sweep_pair(Pair(name="mine", base=superbpe, instruct=superbpe), options, tmp_path / "run")


class _Request:
    """A request as lm-eval makes it."""

    def __init__(self, doc_id: int | None, *args: Any) -> None:
        self.args = args
        self.task_name, self.doc_id = None if doc_id is None else "arc", doc_id


def test_requests_of_lm_eval_are_named_before_any_work(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    from pa_lite.tasks.lm_eval.model import PaLiteLM

    lm = PaLiteLM(model)
    monkeypatch.setattr(Model, "context", lambda *_: pytest.fail("something was scored first"))
    with pytest.raises(TextError, match=r"^task arc: document 5: its text has a run of 8000 digits"):
        lm.loglikelihood([_Request(4, "a", "b"), _Request(5, "a" + DIGITS, "b")])
    with pytest.raises(TextError, match=r"^request 1: its text has a run"):
        lm.loglikelihood_rolling([_Request(None, DIGITS)])
    with pytest.raises(TextError, match=r"^task arc: document 5: its text has a run"):
        lm.generate_until([_Request(5, DIGITS, {"until": ["x"], "max_gen_toks": 4})])
