"""`pa_lite.tune` on the embedded pair: the file, its figure, report and card; continued runs; refused folders."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import pa_lite
from pa_lite.engine.model_reference import open_model
from pa_lite.errors import InputError, OutputError
from pa_lite.sharing.model_card import card_facts
from pa_lite.study.tune.own_items import held_out
from pa_lite.tasks.examples import examples_task
from pa_lite.tasks.prompts import prepare_parts
from pa_lite.tasks.scoring import score_items
from tests.study.test_examples import towns


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa_lite.Tuned]:
    folder = tmp_path_factory.mktemp("tuned")
    table = towns(folder)
    return table, pa_lite.tune("demo", examples=table, output=folder / "out")


def test_the_folder_has_the_model_report_and_card(made: tuple[Path, pa_lite.Tuned]) -> None:
    _, done = made
    assert done.path.name == f"demo-instruct-pa{done.lam:.2f}-Q8_0.gguf"
    assert card_facts(done.path).made.lam == done.lam
    assert done.lam >= 0.6  # rows about facts that only instruct knows, and facts that it forgot
    assert len(done.measured) == 4
    assert (done.share, len(done.bits_per_byte)) == (4 / 11, 11)
    assert 0 < done.first_share <= 0.101
    assert set(done.choice.equals) <= set(done.choice.window)
    assert done.report.read_text("utf-8").startswith("<!doctype html>")
    card = done.card.read_text("utf-8")
    assert "## How the lam was chosen" in card
    assert f"pa-lite merge demo --lam {done.lam:g} --type Q8_0" in card
    assert done.sentences[0] in card.replace("\\", "")
    assert {path.name for path in done.folder.iterdir()} == {
        done.path.name, "README.md", "curves.png", "report.html", "tune.json", "first-pass", "study",
    }  # fmt: skip


def test_the_final_figure_is_that_of_the_written_file_on_rows_held_out(made: tuple[Path, pa_lite.Tuned]) -> None:
    table, done = made
    spec = examples_task(table)
    _, held = prepare_parts(spec, lambda items: held_out([i.key.casefold() for i in items], 0, ""))
    with open_model(done.path) as model:
        scores = score_items(model, held).items
    assert (done.held_out.n, done.held_out.value) == (8, sum(s.value for s in scores) / 8)
    assert done.held_out.low <= done.held_out.value <= done.held_out.high
    assert done.held_out.high - done.held_out.low > 0.2  # eight rows say little
    assert done.sentences[-1].startswith(
        "The written file, on 8 items that had no part in the choice: few-shot accuracy"
    )


def test_a_finished_tuning_repeats_no_work_and_other_rows_are_measured(made: tuple[Path, pa_lite.Tuned]) -> None:
    table, done = made
    files = (done.path, done.report, done.card, done.folder / "tune.json")
    before = [path.stat().st_mtime_ns for path in files]
    seen: list[str] = []

    def note(phase: str, *_words: object) -> None:
        seen.append(phase)

    again = pa_lite.tune("demo", examples=table, output=done.folder, progress=note)
    assert [path.stat().st_mtime_ns for path in files] == before
    assert (again.choice, again.held_out, again.sentences) == (done.choice, done.held_out, done.sentences)
    assert not any("final check" in phase or "merge" in phase for phase in seen)


def test_an_interrupted_tuning_continues_to_the_same_result(made: tuple[Path, pa_lite.Tuned], tmp_path: Path) -> None:
    table, done = made
    for stop in ("lam 0.3", "lam 0.9", "merge"):

        def stop_at(phase: str, n: int, *_words: object, at: str = stop) -> None:
            if at in phase and n:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            pa_lite.tune("demo", examples=table, output=tmp_path / "out", workers=1, progress=stop_at)
        assert not (tmp_path / "out/README.md").exists()
    again = pa_lite.tune("demo", examples=table, output=tmp_path / "out", workers=1)
    assert (again.lam, again.held_out) == (done.lam, done.held_out)
    assert again.path.read_bytes() == done.path.read_bytes()


def test_following_is_kept_and_text_and_tasks_can_be_tuned_for(tmp_path: Path) -> None:
    kept = pa_lite.tune(
        "demo", tasks="demo_lookup", limit=24, follow="demo", follow_limit=40, type="f16", output=tmp_path / "a"
    )
    assert kept.choice.window[-1] == kept.measured[-1] == 1.0
    assert kept.lam >= 0.7  # instruct's following is only kept there, although lookup is best at 0.3
    assert (kept.held_out.n, kept.path.name[-8:]) == (6, "F16.gguf")
    assert kept.sentences[0].startswith("For few-shot accuracy with at least 95% of instruct's following kept")
    notes = tmp_path / "notes.txt"
    notes.write_text((Path(pa_lite.__file__).parents[1] / "README.md").read_text("utf-8")[:6000], "utf-8")
    found = pa_lite.tune("demo", text=notes, prompts="demo", prompts_limit=8, weight=0.3, output=tmp_path / "b")
    assert 0.0 in found.measured
    assert 1.0 in found.measured
    assert (found.held_out.unit, found.held_out.value > 0) == ("bits per byte", True)
    record = json.loads((tmp_path / "b/tune.json").read_text("utf-8"))
    assert record["lam"] == found.lam


@pytest.mark.parametrize(("words", "message"), [
    ({}, r"nothing to tune for: give rows of your own \(--examples my.csv"),
    ({"follow": "demo"}, "nothing to tune for"),
    ({"tasks": "demo", "weight": 0.5}, "this goal requires --follow, or --prompts"),
    ({"tasks": "demo", "follow": "demo", "prompts": "demo"}, "goes by --follow, or by --prompts in its place"),
    ({"tasks": "demo", "types": "F16,Q8_0"}, "one weight type"),
    ({"tasks": "demo", "follow": "demo", "lams": (0, 0.5)}, "requires lam 1 among the lams"),
    ({"tasks": "demo", "type": "Q9"}, "Q9"),
])  # fmt: skip
def test_what_cannot_be_tuned_for_is_refused_before_a_folder_is_made(
    words: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        pa_lite.tune("demo", output=tmp_path / "out", **words)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_files_of_others_and_cards_changed_by_hand_are_kept(
    made: tuple[Path, pa_lite.Tuned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, _ = made
    (tmp_path / "README.md").write_text("mine", "utf-8")
    with pytest.raises(OutputError, match=r"README.md: exists already, and is not of a tuning"):
        pa_lite.tune("demo", examples=table, output=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"file: is a file. Name a folder"):
        pa_lite.tune("demo", examples=table, output=tmp_path / "file")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/tune.json").write_text("[]")
    with pytest.raises(OutputError, match=r"tune.json: is not the record of a tuning"):
        pa_lite.tune("demo", examples=table, output=tmp_path / "odd")
    out = tmp_path / "out"
    pa_lite.tune("demo", examples=table, output=out, lams=(0.6, 0.8, 1.0))
    (out / "README.md").write_text("my own words", "utf-8")
    with pytest.raises(OutputError, match=r"README.md: was changed by hand"):
        pa_lite.tune("demo", examples=towns(table.parent, 24), output=out, lams=(0.6, 0.8, 1.0))
    assert (out / "README.md").read_text("utf-8") == "my own words"
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match="MB of disk space, 0 MB are free"):
        pa_lite.tune("demo", examples=table, output=tmp_path / "full")
