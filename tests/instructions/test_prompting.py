"""Runs through a chat template keep one date, record how prompts were made, and separate reasoning."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

import pa_lite
from pa_lite.alpaca import judging, outputs
from pa_lite.alpaca.annotations import read_annotations
from pa_lite.alpaca.judge import JudgeOptions
from pa_lite.alpaca.judging import judge_outputs
from pa_lite.alpaca.outputs import OutputsTarget, write_outputs
from pa_lite.alpaca.pairing import pair_outputs, read_outputs
from pa_lite.alpaca.prompts import Prompt
from pa_lite.alpaca.win_rate import win_rate
from pa_lite.checkpoints.pairs import Pair
from pa_lite.cli import main
from pa_lite.engine import chat_template
from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.generation import GenerationOptions
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.errors import InputError, OutputError
from pa_lite.instructions.following import follow_instructions
from pa_lite.instructions.sets import find_set
from pa_lite.study.plan import StudyOptions
from pa_lite.study.store import read_store
from pa_lite.study.sweep import estimate_pair, sweep_pair
from pa_lite.tasks.scoring import ScoreOptions
from tests.engine.test_chat import set_template
from tests.engine.test_chat_options import CLOCK, THINKING

ONE = EngineOptions(threads=1, cache_type="F32")
PROMPTS = [Prompt(f"the man {i}", "x") for i in range(4)]
SHORT = GenerationOptions(max_tokens=4)
LATER = date(2031, 5, 6)


class LaterDate(date):
    """A clock that was set forward."""

    @classmethod
    def today(cls) -> LaterDate:
        return cls(LATER.year, LATER.month, LATER.day)


def stopped(*_: object) -> str:
    raise KeyboardInterrupt


def stop_before_the_end(monkeypatch: pytest.MonkeyPatch, model: Model, target: Path, chat: ChatOptions | None) -> None:
    """Stop after all answers are in the journal, before the file is written."""
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "to_json", stopped)
        with pytest.raises(KeyboardInterrupt):
            write_outputs(model, PROMPTS, "tiny", OutputsTarget(target), SHORT, chat)


def test_a_resumed_run_keeps_its_date(
    tiny_ggufs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.json"
    with Model(tiny_ggufs["F32"], ONE) as model:
        set_template(model, CLOCK)
        stop_before_the_end(monkeypatch, model, target, None)
        monkeypatch.setattr(chat_template, "date", LaterDate)
        with pytest.raises(OutputError, match="as the date changed"):
            write_outputs(model, PROMPTS, "tiny", OutputsTarget(target, resume=True), SHORT, ChatOptions(date=LATER))
        written = write_outputs(model, PROMPTS, "tiny", OutputsTarget(target, resume=True), SHORT)
        assert (written.n_resumed, written.chat) == (4, {"date": date.today().isoformat()})
        fresh = write_outputs(model, PROMPTS, "tiny", OutputsTarget(tmp_path / "later.json"), SHORT)
        assert fresh.chat == {"date": "2031-05-06"}
    assert {r["chat"]["date"] for r in json.loads(target.read_text("utf-8"))} == {date.today().isoformat()}


def test_the_date_is_ignored_for_templates_that_do_not_print_it(
    tiny_ggufs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.json"
    with Model(tiny_ggufs["F32"], ONE) as model:
        stop_before_the_end(monkeypatch, model, target, None)
        written = write_outputs(
            model, PROMPTS, "tiny", OutputsTarget(target, resume=True), SHORT, ChatOptions(date=LATER)
        )
        assert (written.n_resumed, written.chat) == (4, {})
    assert all(
        set(r) == {"instruction", "output", "generator", "dataset"} for r in json.loads(target.read_text("utf-8"))
    )


def test_other_template_arguments_are_a_changed_input(
    tiny_ggufs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.json"
    with Model(tiny_ggufs["F32"], ONE) as model:
        set_template(model, THINKING)
        stop_before_the_end(monkeypatch, model, target, None)
        on = ChatOptions(template_args={"enable_thinking": True})
        with pytest.raises(OutputError, match=r"as the template arguments \(--template-arg\) changed"):
            write_outputs(model, PROMPTS, "tiny", OutputsTarget(target, resume=True), SHORT, on)
        assert write_outputs(model, PROMPTS, "tiny", OutputsTarget(target, resume=True), SHORT).n_resumed == 4
    assert json.loads(target.read_text("utf-8"))[0]["chat"] == {"template_args": {"enable_thinking": False}}


def test_reasoning_that_never_ends_is_not_an_answer(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    on = ChatOptions(template_args={"enable_thinking": True})
    with Model(tiny_ggufs["F32"], ONE) as model:
        set_template(model, THINKING)
        written = write_outputs(model, PROMPTS, "tiny", OutputsTarget(tmp_path / "out.json"), SHORT, on)
        assert written.reasons["length"] + written.reasons["reasoning"] == 4
        made = json.loads((tmp_path / "out.json").read_text("utf-8"))
        assert all(r["output"] == "" for r in made)
        assert any(r["reasoning"] for r in made)
        some = find_set("demo").instructions[:3]
        result = follow_instructions(model, some, 6, chat=on)
        assert [(a.output, a.ended, a.followed) for a in result.answers] == [("", False, False)] * 3
        assert result.to_document()["chat"] == {"template_args": {"enable_thinking": True}}
        off = follow_instructions(model, some, 6)
        assert any(a.output for a in off.answers)
        assert not any("reasoning" in a for a in off.to_document()["answers"])
    with pytest.raises(InputError, match=r"outputs are empty \(\d hold only reasoning"):
        read_outputs(write_rows(tmp_path / "r.json", [{"instruction": "a", "output": "<think>never"}]))


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows), "utf-8")
    return path


def test_reasoning_in_files_of_others_is_left_out(tmp_path: Path) -> None:
    ours = write_rows(tmp_path / "a.json", [
        {"instruction": "i", "output": "<think>long\n\nthought</think>\n\nYes", "generator": "a"},
        {"instruction": "j", "output": "No", "reasoning": "a thought", "generator": "a"},
        {"instruction": "k", "output": "a thought</think>Maybe", "generator": "a"},
    ])  # fmt: skip
    theirs = write_rows(tmp_path / "b.json", [
        {"instruction": k, "output": "Yes", "generator": "b"} for k in "ijk"
    ])  # fmt: skip
    assert [p.model for p in pair_outputs(ours, theirs).pairs] == ["Yes", "No", "Maybe"]
    marked = write_rows(tmp_path / "c.json", [
        {"instruction": str(i), "output_1": "four", "output_2": "<think>aaaaaaaa</think>two", "generator_1": "b",
         "generator_2": "a", "preference": 1.5} for i in range(2)
    ])  # fmt: skip
    rate = win_rate(read_annotations(marked))
    assert (rate.avg_length, rate.avg_length_reference) == (3, 4)


def test_a_reasoning_judge_is_asked_after_its_reasoning(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    """The judge's journal keeps the date."""
    a = write_rows(tmp_path / "a.json", [{"instruction": "i", "output": "one", "generator": "a"}])
    b = write_rows(tmp_path / "b.json", [{"instruction": "i", "output": "two", "generator": "b"}])
    opened, closed = "<|im_start|>assistant\n<think>\n", "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    turn = "{{ messages[-1]['content'] }}"
    found = []
    with Model(tiny_ggufs["F32"], ONE) as model:
        for end in (opened, closed):
            set_template(model, turn + "{{ " + repr(end) + " }}")  # jinja drops a final line end
            done = judge_outputs(model, "j", pair_outputs(a, b), tmp_path / f"{len(end)}.json", JudgeOptions())
            found.append(done.verdicts)
    assert found[0] == found[1]


def test_a_resumed_judge_keeps_its_date(
    tiny_ggufs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"instruction": str(i), "output": f"one {i}", "generator": "a"} for i in range(3)]
    a = write_rows(tmp_path / "a.json", rows)
    b = write_rows(tmp_path / "b.json", [{**r, "output": "two", "generator": "b"} for r in rows])
    target = tmp_path / "out.json"
    with Model(tiny_ggufs["F32"], ONE) as model:
        set_template(model, CLOCK)
        with monkeypatch.context() as patch:
            patch.setattr(judging, "write_text", stopped)
            with pytest.raises(KeyboardInterrupt):
                judge_outputs(model, "j", pair_outputs(a, b), target, JudgeOptions())
        monkeypatch.setattr(chat_template, "date", LaterDate)
        later = ChatOptions(date=LATER)
        with pytest.raises(OutputError, match="as the date changed"):
            judge_outputs(model, "j", pair_outputs(a, b), target, JudgeOptions(), resume=True, chat=later)
        done = judge_outputs(model, "j", pair_outputs(a, b), target, JudgeOptions(), resume=True)
    assert (done.n_resumed, done.document()["chat"]) == (3, {"date": date.today().isoformat()})


def clock_pair(folder: Path, pair: Pair, template: str) -> Pair:
    """Return the embedded pair with another chat template."""
    target = folder / "instruct"
    assert isinstance(pair.instruct, Path)
    shutil.copytree(pair.instruct, target)
    settings = json.loads((target / "tokenizer_config.json").read_text("utf-8"))
    (target / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}), "utf-8")
    return replace(pair, instruct=target)


STUDY = StudyOptions(lams=(0.0, 1.0), tasks=("demo_kind",), follow="demo", follow_limit=4, score=ScoreOptions(limit=4))


def follow_cells(folder: Path) -> dict[str, int]:
    """Count the follow cells by date."""
    with read_store(folder) as store:
        days = [c.inputs["work"].get("date", "none") for c in store.cells() if c.kind == "follow"]
    return {day: days.count(day) for day in days}


def test_a_study_keeps_its_date(
    demo_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pair, run, today = clock_pair(tmp_path, demo_pair, CLOCK), tmp_path / "run", date.today().isoformat()
    sweep_pair(pair, STUDY, run)
    assert follow_cells(run) == {today: 2}
    monkeypatch.setattr(chat_template, "date", LaterDate)
    assert estimate_pair(pair, STUDY, run).items_left == 0
    study = sweep_pair(pair, STUDY, run)
    assert follow_cells(run) == {today: 2}
    assert ("date in prompts", today) in study.setting
    caplog.clear()
    sweep_pair(pair, replace(STUDY, chat=ChatOptions(date=LATER)), run)
    assert follow_cells(run) == {today: 2, "2031-05-06": 2}
    assert any("date (--date)" in r.message for r in caplog.records)
    assert estimate_pair(pair, STUDY, run).items_left == 0  # the study keeps the new date from here on


def test_a_study_whose_template_has_no_date_is_not_measured_again(
    demo_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_pair(demo_pair, STUDY, tmp_path)
    assert follow_cells(tmp_path) == {"none": 2}
    assert estimate_pair(demo_pair, replace(STUDY, chat=ChatOptions(date=LATER)), tmp_path).items_left == 0
    again = replace(STUDY, chat=ChatOptions(system="Be brief."))
    assert estimate_pair(demo_pair, again, tmp_path).items_left == 8
    with pytest.raises(InputError, match="--system applies to instructions only"):
        sweep_pair(demo_pair, replace(again, follow=""), tmp_path)


@pytest.mark.parametrize("command", ["generate", "follow", "judge", "sweep", "search", "harness"])
def test_commands_name_the_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    if command == "harness":
        pytest.importorskip("lm_eval", reason="the engine's options are read by lm-eval's own parser")
    main([command, "--help"])
    said = capsys.readouterr().out
    assert all(option in said for option in ("--system", "--template-arg", "--date"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--template-arg", "messages=1"], "set by pa-lite"),
        (["--template-arg", "enable_thinking=False"], "write enable_thinking=false for the JSON value"),
        (["--date", "tomorrow"], "write it as YYYY-MM-DD"),
    ],
)
def test_invalid_values_on_the_command_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["generate", "demo@1", "--prompts", "demo", *words])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err.replace("\n", " ")


def test_the_command_records_how_prompts_were_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = write_rows(tmp_path / "p.json", [{"instruction": "Greet me."}])
    main(["generate", "demo@1", "--prompts", str(prompts), "--max-tokens", "8", "--system", "Be brief.", "--json",
          "-o", str(tmp_path / "o.json"), "--threads", "1"])  # fmt: skip
    assert json.loads(capsys.readouterr().out)["chat"] == {"system": "Be brief."}
    assert json.loads((tmp_path / "o.json").read_text("utf-8"))[0]["chat"] == {"system": "Be brief."}
    with pa_lite.load("demo@1", EngineOptions(threads=1)) as model:
        (made,) = model.generate(["Greet me."], GenerationOptions(max_tokens=8), chat=ChatOptions(system="Be brief."))
        (same,) = model.generate(["Greet me."], GenerationOptions(max_tokens=8), system="Be brief.")
    assert made == same
    assert made.output == json.loads((tmp_path / "o.json").read_text("utf-8"))[0]["output"]
