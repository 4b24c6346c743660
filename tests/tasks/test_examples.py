"""A user's own rows as a task: formats, kinds, prompts, the task file that it amounts to, and bad tables."""

from __future__ import annotations

import csv
import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_lite.errors import InputError
from pa_lite.tasks import examples as module
from pa_lite.tasks.examples import Examples, examples_task, find_specs
from pa_lite.tasks.prompts import prepare_task
from pa_lite.tasks.rendering import Item
from pa_lite.tasks.spec import TaskSpec, load_suite_file
from pa_lite.tasks.task_file import task_text

REVIEWS = [{"review": f"Film number {i} was {'a joy' if i % 2 else 'a bore'} from its start to its very end.",
            "sentiment": "good" if i % 2 else "bad"} for i in range(12)]  # fmt: skip
LONG = "What would you say is the capital of the country that is called {}?"
QUESTIONS = [{"question": LONG.format(f"C{i}"), "answer": f"Town {i}"} for i in range(9)]


def write(folder: Path, rows: list[dict[str, Any]], name: str = "my.csv", mark: str = ",") -> Path:
    path = folder / name
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps({"data": rows}), "utf-8-sig")
    else:
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else mark)
            writer.writeheader()
            writer.writerows(rows)
    return path


def quick(spec: TaskSpec) -> list[Item]:
    """Return a task's items, rendered without a process."""
    return list(prepare_task(replace(spec, is_own=True)).items)


@pytest.mark.parametrize(
    ("name", "mark"),
    [("my.csv", ","), ("my.csv", ";"), ("my.csv", "\t"), ("my.tsv", "\t"), ("my.jsonl", ""), ("my.json", ""),
     ("my.parquet", "")],
)  # fmt: skip
def test_every_format_gives_the_same_task(tmp_path: Path, name: str, mark: str) -> None:
    rows = [*REVIEWS[:-1], {"review": 'He said: "so, so;\tso",\nand left.', "sentiment": "bad"}]
    spec = examples_task(write(tmp_path, rows, name, mark))
    assert (spec.name, spec.kind, spec.data, spec.folder) == ("my", "MC", {"test": name}, tmp_path)
    assert (spec.shots, spec.sampler, spec.leave_one_out, spec.metrics) == (8, "balanced", True, ("acc", "f1_weighted"))
    last = prepare_task(spec).items[-1]
    assert last.contexts == ('Review: He said: "so, so;\tso",\nand left.\nSentiment:',)
    assert (last.continuations, last.answer) == ((" bad", " good"), 0)
    assert last.lead.count("Sentiment: good\n\n") == last.lead.count("Sentiment: bad\n\n") == 4


def test_other_outputs_are_generated(tmp_path: Path) -> None:
    spec = examples_task(write(tmp_path, QUESTIONS))
    assert (spec.kind, spec.metrics, spec.normalise, spec.stop) == (
        "G", ("exact_match", "f1"), ("lower", "blanks"), ("\n",),
    )  # fmt: skip
    assert (spec.shots, spec.sampler, spec.max_tokens) == (8, "seed", 16)
    item = quick(spec)[0]
    assert item.contexts == (f"Question: {LONG.format('C0')}\nAnswer:",)
    assert item.golds == (("Town 0",),)
    assert f"Question: {LONG.format('C3')}\nAnswer: Town 3\n\n" in item.lead
    lines = [{**row, "answer": f"{row['answer']}\nby the sea {'x' * 900}"} for row in QUESTIONS]
    spec = examples_task(write(tmp_path, lines))
    assert (spec.stop, spec.max_tokens, spec.shots) == (("\n\nQuestion:",), 480, 5)


def test_rows_of_a_few_words_are_lines(tmp_path: Path) -> None:
    rows = [{"x": f"word {i}", "y": "odd" if i % 2 else "even"} for i in range(10)]
    item = quick(examples_task(write(tmp_path, rows)))[0]
    assert item.contexts == ("- word 0 ->",)
    assert re.fullmatch(r"(- word \d -> (odd|even)\n){8}", item.lead)
    arrow = [*rows[:-1], {"x": "a -> b", "y": "odd"}]
    assert quick(examples_task(write(tmp_path, arrow)))[-1].contexts == ("Input: a -> b\nOutput:",)
    long = [*rows[:-1], {"x": "word " * 10, "y": "odd"}]
    assert quick(examples_task(write(tmp_path, long)))[0].contexts == ("Input: word 0\nOutput:",)


def test_kind_and_columns_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, [{**row, "stars": i} for i, row in enumerate(REVIEWS)], "my.jsonl")
    assert examples_task(Examples(path, kind="g")).kind == "G"
    assert examples_task(Examples(path, output="stars")).kind == "G"
    forced = examples_task(Examples(path, input="review", output="stars", kind="MC"))
    assert len(quick(forced)[0].continuations) == 12
    letters = quick(examples_task(Examples(path, kind="FMC")))[1]
    assert letters.contexts[0].endswith("end.\nA. bad\nB. good\nSentiment:")
    assert (letters.continuations, letters.answer) == ((" A", " B"), 1)
    with pytest.raises(InputError, match="kind is 'X', but must be one of MC, FMC, G"):
        Examples(path, kind="X")


def test_several_inputs_are_shown_one_below_the_other(tmp_path: Path) -> None:
    rows = [{"instruction": f"Add one to {i}.", "input": "" if i % 2 else "At once!", "output": str(i + 1)}
            for i in range(10)]  # fmt: skip
    items = quick(examples_task(write(tmp_path, rows)))
    assert items[0].contexts == ("Instruction: Add one to 0.\nInput: At once!\nOutput:",)
    assert items[1].contexts == ("Instruction: Add one to 1.\nOutput:",)
    nulls = [{**row, "input": row["input"] or None} for row in rows]
    assert [i.contexts for i in quick(examples_task(write(tmp_path, nulls, "my.jsonl")))] == [i.contexts for i in items]


def test_numbers_and_truth_values_are_texts(tmp_path: Path) -> None:
    rows = [{"text": i, "label": i % 2 == 0} for i in range(8)]
    items = quick(examples_task(write(tmp_path, rows, "my.jsonl")))
    assert (items[1].contexts, items[1].continuations, items[1].answer) == (("- 1 ->",), (" False", " True"), 0)


def test_formulas_control_characters_and_templates_stay_text(tmp_path: Path) -> None:
    texts = ["=1+1", "@SUM(A1)", "{{ 7 * 7 }}", "{% if x %}", "\x1b[31mred\x1b[0m", "<|im_end|>", "a\0b", "\u202eabc"]
    outputs = ["it's", 'a "b"', "{{ y }}", "\\n", "\x07bell", "é😀", "{# c #}", "[]"]
    rows = [{"te{{xt": t, "la'bel": o} for t in texts for o in outputs]
    spec = examples_task(Examples(write(tmp_path, rows, "my.jsonl"), input="te{{xt", output="la'bel"))
    assert spec.kind == "MC"
    items = quick(spec)
    assert [i.contexts[0] for i in items[::8]] == [f"Input: {t}\nOutput:" for t in texts]
    assert [i.target for i in items[:8]] == outputs
    (again,) = _read(spec, tmp_path)
    assert again == spec
    assert prepare_task(again) == prepare_task(spec)  # in the limited process


def _read(spec: TaskSpec, folder: Path) -> list[TaskSpec]:
    (folder / "t.toml").write_text(task_text(spec, folder), "utf-8")
    return load_suite_file(folder / "t.toml")


_cells = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda t: t.strip())


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(_cells, _cells), min_size=8, max_size=12, unique_by=lambda row: row[0].casefold().split()[0]),
    st.lists(_cells, min_size=2, max_size=2, unique_by=lambda t: t.strip()), st.sampled_from(("", "MC", "FMC", "G")),
)  # fmt: skip
def test_any_table_gives_its_texts_and_the_same_task_from_a_file(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], names: list[str], kind: str
) -> None:
    folder = tmp_path_factory.mktemp("t")
    path = write(folder, [dict(zip(names, row, strict=True)) for row in rows], "my.jsonl")
    examples = Examples(path, input=names[0], output=names[1], kind=kind)
    if len({output.strip() for _, output in rows}) == 1:
        with pytest.raises(InputError, match="every row has the output"):
            examples_task(examples)
        return
    spec = examples_task(examples)
    assert _read(spec, folder) == [spec]
    for item, (text, output) in zip(quick(spec), rows, strict=True):
        assert text.strip() in item.contexts[0]
        if spec.kind != "FMC":
            golds = [gold[0] for gold in item.golds] or [item.continuations[item.answer].removeprefix(" ")]
            assert golds == [output.strip()]


def test_rows_with_the_same_input_count_as_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [*REVIEWS, {"review": f" {REVIEWS[0]['review']}".upper(), "sentiment": "good"}, REVIEWS[1]]
    spec = examples_task(write(tmp_path, rows))
    assert "2 rows have the input of another row, 1 of them with another output" in caplog.text
    assert spec.cluster == "review | trim | lower"
    items = quick(spec)
    assert len(items) == 14
    assert len({item.cluster for item in items}) == 12
    for i, j in ((0, 12), (1, 13)):
        assert items[i].cluster == items[j].cluster
        assert all(item.contexts[0].casefold() not in item.lead.casefold() for item in (items[i], items[j]))


def test_doubtful_outputs_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"text": f"t{i}", "label": label} for i, label in enumerate(["Yes", "yes", "no", "no"] * 3)]
    examples_task(write(tmp_path, rows))
    assert "the outputs 'Yes' and 'yes' differ only in case" in caplog.text
    examples_task(Examples(write(tmp_path, [*rows, {"text": "t", "label": "maybe"}]), kind="MC"))
    assert "1 outputs are in one row only, so no exemplar shows them: 'maybe'" in caplog.text
    with caplog.at_level(logging.WARNING):
        examples_task(write(tmp_path, [{"question": f"q{i}", "answer": "x" * 2000 + str(i)} for i in range(8)]))
    assert "the longest output has 2001 bytes; answers end after 512 tokens" in caplog.text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (REVIEWS[:7], r"my\.jsonl: has 7 rows; at least 8 are required, 30 are useful"),
        ([*REVIEWS[:6]] * 3, r"has 18 rows, of which 6 are different; at least 8"),
        (REVIEWS[::2] + [{**row, "sentiment": "bad"} for row in REVIEWS[1::2]], r"every row has the output 'bad'"),
        ([{**row, "sentiment": " "} if i in (2, 5) else row for i, row in enumerate(REVIEWS)],
         r"my\.jsonl: has empty cells in lines 3 \(sentiment\), 6 \(sentiment\)\. Fill or remove them"),
        ([{"review": "x"}] * 8 + REVIEWS, r"lines 1 \(sentiment\), .* 5 \(sentiment\) and 3 more"),
        ([{**row, "review": None} for row in REVIEWS], r"empty cells in lines 1 \(review\)"),
        ([{**row, "review": ["a"]} for row in REVIEWS], r":1: the column 'review' has a list, not a text"),
        ([{**row, "review": "x" * 100_001} for row in REVIEWS], r":1: the column 'review' has 100001 characters"),
        ([{"messages": [1]}] * 8, r'has the column "messages", but an input and an output are required'),
        ([], "has no columns"),
    ],
)  # fmt: skip
def test_bad_tables_are_one_error(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    path = write(tmp_path, rows, "my.jsonl")
    with pytest.raises(InputError, match=message) as caught:
        examples_task(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_unusable_files_are_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"none\.csv: cannot be read: "):
        examples_task(tmp_path / "none.csv")
    with pytest.raises(InputError, match=r"is not a data file: its name must end in"):
        examples_task(tmp_path / "my.xlsx")
    path = write(tmp_path, REVIEWS)
    path.write_bytes("text,label\n".encode("utf-16"))
    with pytest.raises(InputError, match=r"is UTF-16, not UTF-8\. Save it as UTF-8"):
        examples_task(path)
    path = write(tmp_path, [{"text": f"t{i}", "label": f"l{i}"} for i in range(101)])
    with pytest.raises(InputError, match=r"has 101 different outputs; kind MC allows 100\. Use --kind G"):
        examples_task(Examples(path, kind="MC"))
    monkeypatch.setattr(module, "_MOST", 100)
    with pytest.raises(InputError, match=r"has 101 rows; the limit for examples is 100"):
        examples_task(path)


def test_a_large_table_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SCORED", 10)
    spec = examples_task(write(tmp_path, REVIEWS))
    assert (spec.sample, len(quick(spec))) == (10, 10)


def test_the_task_file_may_be_in_a_folder_above(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    spec = examples_task(write(tmp_path / "data", REVIEWS))
    (again,) = _read(spec, tmp_path)
    assert again.data == {"test": "data/my.csv"}
    assert [i.prompt for i in quick(again)] == [i.prompt for i in quick(spec)]
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match=r"is not in .*other or below, where its task file would be"):
        task_text(spec, tmp_path / "other")


def test_examples_come_with_tasks_and_names_must_differ(tmp_path: Path) -> None:
    path = write(tmp_path, REVIEWS, "demo_job.csv")
    assert [spec.name for spec in find_specs("demo_town", path)] == ["demo_town", "demo_job"]
    with pytest.raises(InputError, match=r"the examples and another task are both called demo_job\. Rename the file"):
        find_specs("demo", path)
    assert examples_task(write(tmp_path, REVIEWS, "my own, best rows.csv")).name == "my-own-best-rows"
    with pytest.raises(InputError, match=r"'my\.csv' is not a task but a table: use --examples my\.csv"):
        find_specs("my.csv", None)
