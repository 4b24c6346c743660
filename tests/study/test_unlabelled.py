"""Tests of measures without labels on the embedded pair: against slow twins, stored, resumed, and measured again."""

from __future__ import annotations

import functools
import json
import math
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pa_lite.engine.generation import GenerationOptions, generate, generate_tokens
from pa_lite.engine.model import EngineOptions
from pa_lite.engine.model_reference import open_model
from pa_lite.engine.requests import rolling_requests
from pa_lite.errors import InputError
from pa_lite.sanitize import one_line
from pa_lite.statistics import spread_of_mean
from pa_lite.study.comparisons import best_lam
from pa_lite.study.curves import averages
from pa_lite.study.export import item_rows, to_csv, to_document
from pa_lite.study.goal import Goal
from pa_lite.study.measures import AGREEMENT, ANSWERS, TEXT
from pa_lite.study.plan import StudyOptions, plan_study
from pa_lite.study.records import InstructAnswer
from pa_lite.study.report.matplotlib_charts import curves_svg
from pa_lite.study.results import load_study
from pa_lite.study.results_file import FILE
from pa_lite.study.store import read_store
from pa_lite.study.summary import StudySummary
from pa_lite.study.sweep import estimate_pair, sweep_pair
from pa_lite.study.texts import cut_documents, read_documents
from pa_lite.study.unlabelled import AgreementWorkload, TextWorkload
from tests.cli.test_cli import run as command
from tests.engine.test_scoring import EXACT, alone
from tests.study.test_run_folders import cases, refusal, tamper

NOTES = [
    "They say Kani lives in Rome. In fact Kani works as a tailor. The pet of Kani is hen. " * 6,
    "- Lati -> Rome\n- Goro -> Oslo\n- Kesa -> Paris\n" * 9,
    "Gr\u00f6\u00dfe und Stra\u00dfe, \u65e5\u672c\u8a9e. " * 12,
    "Record of Mili\ntown\nOslo\njob\nbaker\n" * 8,
    "What is the opposite of big? It is small. " * 10,
]
LAMS = (0.0, 0.5, 1.0)
TAMPERED = 60  # cases


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of notes."""
    made = tmp_path_factory.mktemp("notes")
    for i, text in enumerate(NOTES):
        (made / f"{i}.txt").write_text(text, "utf-8")
    return made


def options(folder: Path, **change: Any) -> StudyOptions:
    return replace(StudyOptions(lams=LAMS, text=(folder,), prompts="demo", prompts_limit=12), **change)


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudySummary]:
    """A study of the notes and some prompts, and its run folder."""
    made = tmp_path_factory.mktemp("run")
    return made, sweep_pair("demo", options(folder), made)


def test_bits_per_byte_are_those_of_single_windows(folder: Path, run: tuple[Path, StudySummary]) -> None:
    """The twin scores every window alone, a token at a time, with a softmax of whole rows in float64."""
    passages = cut_documents(read_documents([folder]), 3 * 512, 100_000)
    assert run[1].curves.text is not None
    for lam in (0.0, 1.0):
        nats, n_bytes = 0.0, 0
        with open_model(f"demo@{lam:g}", EXACT, "F16") as model:
            for text in passages.texts:
                windows = rolling_requests(model, text)
                nats -= sum(alone(model, window).logprob for window in windows)
                n_bytes += len(text.encode())
                assert sum(window.n_bytes for window in windows) == len(text.encode())
        found = run[1].curves.text.averages()[LAMS.index(lam)]
        assert found == pytest.approx(nats / math.log(2) / n_bytes, abs=2e-4)


def test_passages_of_several_windows_are_summed() -> None:
    text = NOTES[0] + NOTES[2]
    workload = TextWorkload(name="t", passages=(text, NOTES[1]), window=40)
    with open_model("demo@0.5", EXACT, "F32") as model:
        records = workload.run(model, [1, 0])
        windows = rolling_requests(model, text, 40)
        assert len(windows) > 3
        expected = -sum(alone(model, window).logprob for window in windows)
        tokens = model.tokenize(text, False)
    assert records[0]["nats"] == pytest.approx(expected, abs=1e-3)
    assert (records[0]["n_tokens"], records[0]["n_bytes"]) == (len(tokens), len(text.encode()))
    assert list(records) == [1, 0]


def test_agreement_and_nats_are_those_of_single_answers(run: tuple[Path, StudySummary]) -> None:
    with read_store(run[0]) as store:
        (cell,) = (c for c in store.cells() if c.kind == "instruct")
        answers: list[InstructAnswer] = store.results(cell.key)
    assert len(answers) == cell.n_items == 12
    with open_model("demo@0.5", EXACT, "F16") as model:
        from pa_lite.engine.requests import Request

        scores = [alone(model, Request((*a.context, *a.tokens), len(a.context))) for a in answers]
    n_tokens = sum(s.n_tokens for s in scores)
    curves = run[1].curves
    assert curves.agreement is not None
    assert curves.answers is not None
    assert curves.agreement.averages()[1] == pytest.approx(sum(s.n_greedy for s in scores) / n_tokens, abs=0.02)
    assert curves.answers.averages()[1] == pytest.approx(-sum(s.logprob for s in scores) / n_tokens, abs=2e-3)


def test_instruct_agrees_with_itself(run: tuple[Path, StudySummary]) -> None:
    """Scores and generation differ by rounding, which can decide where two tokens are nearly as likely."""
    curves = run[1].curves
    assert curves.agreement is not None
    assert curves.agreement.averages()[-1] > 0.99
    assert (np.diff(curves.agreement.averages()) > 0).all()
    assert curves.answers is not None
    assert (np.diff(curves.answers.averages()) < 0).all()


def test_generated_tokens_spell_the_answer_and_its_end() -> None:
    with open_model("demo@1", EngineOptions(threads=1)) as model:
        from pa_lite.engine.chat import chat_prompts

        prompts = chat_prompts(model, ["In one word: what does Kesa keep?", "Tell me of Kani."]).tokens
        chosen = GenerationOptions(max_tokens=24)
        made, plain = generate_tokens(model, prompts, chosen), generate(model, prompts, chosen)
        for each, same in zip(made, plain, strict=True):
            assert each.generation == same
            assert model.is_end(each.tokens[-1]) == same.ended
            assert model.text(each.tokens[: same.n_tokens]) == same.text
            assert len(each.tokens) == same.n_tokens + same.ended
        (cut,) = generate_tokens(model, prompts[1:], GenerationOptions(max_tokens=2))
        assert (len(cut.tokens), cut.generation.ended) == (2, False)


def test_weights_clusters_and_intervals(run: tuple[Path, StudySummary]) -> None:
    curves = run[1].curves
    text, agreement = curves.text, curves.agreement
    assert text is not None
    assert agreement is not None
    assert text.clusters is None  # each document is one passage of the demo's context
    assert text.weights == tuple(float(len(note.encode())) for note in NOTES)
    assert agreement.weights is not None
    assert not text.is_share
    shown = {a.measure: a for a in averages(curves)}
    assert list(shown) == [AGREEMENT, TEXT, ANSWERS]
    spread = spread_of_mean(text.values[0], None, text.weights)
    low, high = shown[TEXT].bounds[0]
    assert shown[TEXT].estimates[0].stderr == spread.stderr
    assert high - shown[TEXT].estimates[0].value == pytest.approx(shown[TEXT].estimates[0].value - low)
    assert 0 <= shown[AGREEMENT].bounds[2][0] <= shown[AGREEMENT].bounds[2][1] <= 1


def test_sentences_say_what_stands_in(run: tuple[Path, StudySummary]) -> None:
    document = to_document(run[1])
    assert "tands-ins without labels" not in document["conclusion"]
    assert "Stand-ins without labels: bits per byte of text for few-shot accuracy" in document["conclusion"]
    assert "agreement with instruct for instructions followed" in document["stand_ins"]
    assert [u["measure"] for u in document["unlabelled"]] == ["agreement", "text", "instruct's answers"]
    assert [r["name"] for r in document["readings"]] == ["keep 95% of agreement", "text only", "balanced"]
    assert document["tasks"] == []
    assert {r["group"] for r in document["averages"]} == {"agreement", "text", "instruct's answers"}
    best = best_lam(run[1].curves, Goal())
    bits = run[1].curves.text.averages()  # type: ignore[union-attr]
    assert best.lam == LAMS[int(bits.argmin())]
    assert math.isnan(best.few_shot.value)
    assert best.text is not None
    assert best.gain_over_instruct is not None


def test_items_are_exported_with_their_weights(run: tuple[Path, StudySummary]) -> None:
    with read_store(run[0]) as store:
        rows = list(item_rows(store))
    kinds = [row["kind"] for row in rows]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "text": 3 * 5, "agreement": 3 * 12, "answer-nats": 3 * 12, "instruct": 12,
    }  # fmt: skip
    at_base = [row for row in rows if row["kind"] == "text" and row["lam"] == 0.0]
    weights = [float(row["weight"]) for row in at_base]  # type: ignore[arg-type]
    values = [float(row["value"]) for row in at_base]  # type: ignore[arg-type]
    assert run[1].curves.text is not None
    assert np.average(values, weights=weights) == pytest.approx(run[1].curves.text.averages()[0])
    assert all(row["output"] for row in rows if row["kind"] == "instruct")


def test_finished_cells_are_not_measured_again(folder: Path, run: tuple[Path, StudySummary]) -> None:
    left = estimate_pair("demo", options(folder), run[0])
    assert (left.cells, left.items, left.items_left, left.stale) == (7, 12 + 3 * (5 + 12), 0, {})
    more = estimate_pair("demo", options(folder, lams=(0.0, 0.25, 0.5, 1.0)), run[0])
    assert (more.items_left, more.stale) == (5 + 12, {})
    fresh = estimate_pair("demo", options(folder), None)
    assert fresh.items_left == fresh.items == 63
    assert fresh.seconds is not None
    assert fresh.seconds > 0


def test_changed_text_and_prompts_are_measured_again(
    folder: Path, run: tuple[Path, StudySummary], tmp_path: Path
) -> None:
    copied, notes = tmp_path / "run", tmp_path / folder.name
    shutil.copytree(run[0], copied)
    shutil.copytree(folder, notes)
    assert estimate_pair("demo", options(notes), copied).items_left == 0  # the same text elsewhere
    (notes / "0.txt").write_text(NOTES[0] + "More.", "utf-8")
    left = estimate_pair("demo", options(notes), copied)
    assert (left.items_left, left.stale) == (3 * 5, {"other text (--text)": [folder.name]})
    other = tmp_path / "demo.jsonl"
    other.write_text(json.dumps({"instruction": "In one word: what does Kesa keep?"}) + "\n", "utf-8")
    left = estimate_pair("demo", options(folder, prompts=str(other), prompts_limit=None), copied)
    assert left.items_left == 1 + 3
    assert left.stale["other prompts"] == ["demo"]
    system = replace(options(folder).chat, system="Be brief.")
    left = estimate_pair("demo", options(folder, chat=system), copied)
    assert left.items_left == 12 + 3 * 12
    assert set().union(*left.stale.values()) == {"demo"}
    study = sweep_pair("demo", options(notes), copied)
    assert study.curves.text is not None
    assert study.curves.text.averages()[0] != run[1].curves.text.averages()[0]  # type: ignore[union-attr]
    assert study.curves.agreement is not None
    assert study.curves.agreement.values.tolist() == run[1].curves.agreement.values.tolist()  # type: ignore[union-attr]


def test_answers_are_an_input_of_the_cells() -> None:
    answer = InstructAnswer(instruction="a", ended=True, context=[0, 1], tokens=[2, 3])
    workload = AgreementWorkload(name="p", n_prompts=1)
    one, two = workload.of([answer]), workload.of([replace(answer, tokens=[2, 4])])
    assert workload.facts == {"answers": None}
    assert one.facts != two.facts != workload.facts
    assert one.facts == workload.of([replace(answer, output="shown otherwise")]).facts


def test_stored_answers_of_another_model_are_refused() -> None:
    answer = InstructAnswer(instruction="a", ended=True, context=[0, 1], tokens=[2, 99_999])
    with open_model("demo@1", EngineOptions(threads=1)) as model:
        with pytest.raises(InputError, match="the stored answer 1 of instruct is not one of this model's"):
            AgreementWorkload(name="p", n_prompts=1).of([answer]).check(model)
        long = replace(answer, tokens=[2] * 600)
        with pytest.raises(InputError, match="is not one of this model's"):
            AgreementWorkload(name="p", n_prompts=1).of([long]).check(model)


def test_each_weight_type_has_its_own_answers(folder: Path, tmp_path: Path) -> None:
    chosen = options(folder, lams=(0.0, 1.0), types=("F16", "Q8_0"), prompts_limit=4, text=())
    study = sweep_pair("demo", chosen, tmp_path)
    with read_store(tmp_path) as store:
        assert sorted((c.kind, c.type, c.lam) for c in store.cells()) == [
            ("agreement", "F16", 0.0), ("agreement", "F16", 1.0),
            ("agreement", "Q8_0", 0.0), ("agreement", "Q8_0", 1.0),
            ("instruct", "F16", 1.0), ("instruct", "Q8_0", 1.0),
        ]  # fmt: skip
    assert study.curves.skill == ()
    assert to_document(study)["readings"] == []
    assert study.curves.agreement is not None
    assert study.curves.agreement.averages()[-1] > 0.99


def test_a_schedule_does_not_change_who_answers(folder: Path) -> None:
    plain, moved = (plan_study("demo", options(folder, schedule=text)).before for text in ("", "ffn: 0.2"))
    assert plain is not None
    assert moved is not None
    assert plain.keys == moved.keys


@pytest.mark.parametrize(("change", "message"), [
    ({"text": (), "prompts": ""}, "no task given (--tasks, or --examples"),
    ({"text": ("nothing.txt",)}, "nothing.txt: cannot be read"),
    ({"prompts": "nothing"}, "unknown prompts 'nothing'"),
    ({"text_limit": -1}, "--text-limit -1 is negative"),
    ({"prompts_limit": 0}, "--prompts-limit 0 is less than 1"),
])  # fmt: skip
def test_invalid_options_are_refused(change: dict[str, Any], message: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as failed:
        sweep_pair("demo", options(folder, **change), tmp_path / "run")
    assert message in str(failed.value)
    assert not (tmp_path / "run").exists()


def test_prompts_beyond_the_context_are_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"instruction": "Say it again. " * 300}) + "\n", "utf-8")
    with pytest.raises(
        InputError, match=r"long: prompt 1 has \d+ tokens; with an answer of 128 they exceed the context"
    ):
        sweep_pair("demo", options(folder, prompts=str(path)), tmp_path / "run")


def test_commands(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    words = ["--text", folder / "0.txt", "--text", folder / "1.txt", "--prompts", "demo", "--prompts-limit", 6]
    words += ["--lam", "0,1"]
    code, out, err = command(
        capsys, "sweep", "demo", *words, "--text-limit", "600", "--run", "a", "--dry-run", "--json"
    )
    assert (code, err) == (0, "")
    assert json.loads(out)["cells"] == 1 + 2 * 2
    assert any("evenly spaced windows (--text-limit)" in line for line in caplog.messages)
    code, out, err = command(capsys, "sweep", "demo", *words, "--run", "a")
    assert code == 0
    for expected in ("text bits/byte", "agreed %", "answers nats/token", "Stand-ins without labels: "):
        assert expected in out
    code, out, err = command(capsys, "report", "a", "--lm-eval", "lm")
    assert code == 1
    assert "a: has no task, and --lm-eval writes results of tasks only. Omit --lm-eval." in err
    assert not Path("lm").exists()
    assert command(capsys, "report", "a", "--csv", "items.csv")[0] == 0
    assert Path("items.csv").read_text("utf-8").splitlines()[0].endswith(",stale,seed,weight")
    code, out, err = command(
        capsys, "sweep", "demo", *words, "--tasks", "demo_kind", "--limit", 6, "--run", "b", "--json"
    )
    assert [t["name"] for t in json.loads(out)["tasks"]] == ["demo_kind"]
    caplog.clear()
    assert command(capsys, "report", "b", "--lm-eval", "lm")[0] == 0
    assert caplog.messages == [
        "--lm-eval leaves out what was measured without labels: its format has results of tasks only"
    ]
    assert len(list(Path("lm").iterdir())) == 2
    code, out, err = command(capsys, "sweep", "demo", "--follow", "demo")
    assert (code, out) == (2, "")
    assert "error: missing --tasks NAMES, --examples FILE, --text or --prompts." in err
    code, out, err = command(capsys, "sweep", "demo", "--prompts", "--lam", "0,1", "--dry-run")
    assert code == 0
    assert "note: the demo pair knows only its own instructions: use --prompts demo." in err


def test_tampered_run_folders_give_an_error_or_a_result(run: tuple[Path, StudySummary], tmp_path: Path) -> None:
    def read(folder: Path) -> None:
        with read_store(folder) as store:
            study = load_study(store)
            to_csv(item_rows(store))
        json.dumps(to_document(study), allow_nan=False)
        curves_svg(study.curves, study.title)

    every = [case for case in cases(run[0]) if case[0] != "facts"]
    lines = []
    for case in random.Random(0).sample(every, min(TAMPERED, len(every))):
        (tmp_path / "run").mkdir()
        shutil.copyfile(run[0] / FILE, tmp_path / "run" / FILE)
        tamper(tmp_path / "run" / FILE, *case)
        lines.append(refusal(functools.partial(read, tmp_path / "run")))
        shutil.rmtree(tmp_path / "run")
    assert all(one_line(line) == line for line in lines)
    assert 0.1 < lines.count("") / len(lines) < 0.8


SCRIPT = """
import sys
from pathlib import Path
from pa_lite.study import plan as planning
from tests.study.test_unlabelled import options
from pa_lite.study.sweep import sweep_pair
planning._CHUNKS = ((10**12, 2),)
sweep_pair("demo", options(Path(sys.argv[2])), Path(sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_kills_lose_nothing(folder: Path, tmp_path: Path) -> None:
    """Killed while instruct answers, and while lams are compared with the answers."""
    root, killed = str(Path(__file__).parents[2]), tmp_path / "killed"

    def start(run: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", SCRIPT, str(run), str(folder)], cwd=root)

    for wanted in (2, 20):  # items that are stored before the kill, of 63
        process = start(killed)
        while process.poll() is None and _count(killed) < wanted:
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if wanted == 2:
            with read_store(killed) as store, pytest.raises(InputError, match="no lam is finished yet"):
                load_study(store)
    assert start(killed).wait() == start(tmp_path / "whole").wait() == 0
    assert _records(killed) == _records(tmp_path / "whole")


def _count(run: Path) -> int:
    try:
        with read_store(run) as store:
            return sum(c.n_done for c in store.cells())
    except Exception:  # noqa: BLE001 - not there yet
        return 0


def _records(run: Path) -> dict[tuple[str, float], list[Any]]:
    assert (run / FILE).exists()
    with read_store(run) as store:
        return {(c.kind, c.lam): store.items(c.key) for c in store.cells()}
