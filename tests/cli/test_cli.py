"""Commands as users run them: exit status, output, files, and one error line for each bad input."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pa_lite
from pa_lite import cli
from pa_lite.checkpoints.pairs import models_folder
from pa_lite.errors import InputError
from tests.support import tiny


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Run a command in process; returns (exit status, stdout, stderr)."""
    status = 0
    try:
        cli.main([str(w) for w in words])
    except SystemExit as e:
        status = int(e.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def assert_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path, words: list[str],
    files: dict[str, Path], told: str,
) -> None:  # fmt: skip
    """Assert that a command, with {names} replaced by files, fails with this one error line and writes nothing."""
    here = folder / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for name, path in files.items():
        words = [w.replace("{" + name + "}", str(path)) for w in words]
    status, out, err = run(capsys, *words)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert told in err
    assert len(err.splitlines()) == 1
    assert list(here.iterdir()) == []


def test_merge_prints_the_written_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, "merge", "--lam", "0.7")
    assert (status, out) == (0, "demo-instruct-pa0.70-Q8_0.gguf\n")
    assert err == (
        "note: no pair was named: this is the embedded demo pair.\n"
        "measure it: pa-lite score demo-instruct-pa0.70-Q8_0.gguf --tasks demo\n"
        "use it: llama-server -m demo-instruct-pa0.70-Q8_0.gguf, LM Studio, Ollama or another llama.cpp program\n"
    )
    assert os.listdir(tmp_path) == ["demo-instruct-pa0.70-Q8_0.gguf"]
    status, out, err = run(capsys, "merge", "--lam", "0.7")
    assert status == 1
    assert err == (
        "error: demo-instruct-pa0.70-Q8_0.gguf: exists already. Use --force to overwrite it, or -o for another name.\n"
    )
    assert run(capsys, "merge", "--lam", "0.7", "--force", "--json")[0] == 0


def test_a_nul_character_is_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "inspect", "a\0b") == (1, "", "error: the command line has a NUL character in 'a\\x00b'.\n")


def test_merge_of_folders_with_several_lams(
    capsys: pytest.CaptureFixture[str], tiny_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    status, out, _ = run(capsys, "merge", *tiny_pair, "--lam", "0:1:0.5", "--type", "F16", "-o", tmp_path, "--json")
    assert status == 0
    document = json.loads(out)
    assert [d["lam"] for d in document] == [0.0, 0.5, 1.0]
    assert all(Path(d["path"]).is_file() for d in document)


def test_a_lam_beyond_the_pair_requires_extrapolate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, _, err = run(capsys, "merge", "--lam", "1.2", "-o", tmp_path)
    assert status == 1
    assert err.startswith("error: lam 1.2 is outside [0, 1]")
    assert "--extrapolate" in err
    assert run(capsys, "score", "demo@1.2", "--tasks", "demo_town")[0] == 1
    assert run(capsys, "sweep", "demo", "--lam", "0,1.2", "--tasks", "demo_town")[0] == 1
    assert list(tmp_path.iterdir()) == []
    assert run(capsys, "merge", "demo", "--lam", "1.2", "--extrapolate", "-o", tmp_path)[0] == 0
    assert run(capsys, "score", "demo@1.2", "--extrapolate", "--tasks", "demo_town", "--limit", "2")[0] == 0
    with pytest.raises(InputError, match="outside"):
        pa_lite.load("demo@0.5").lam = 1.5


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("0,7", "0.7"),
        ("70", "0.7"),
        ("0.7%", "0.7"),
        ("70%", "0.7"),
        ("7", "0.7"),
        ("0,05", "0.05"),
        ("12,5%", "0.125"),
    ],
)
def test_mistyped_lams_get_a_suggestion(capsys: pytest.CaptureFixture[str], typed: str, meant: str) -> None:
    status, out, err = run(capsys, "merge", "demo", "--lam", typed)
    assert (status, out) == (1, "")
    assert f"Did you mean {meant}?" in err


def test_output_folders_are_created(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    new, several = f"{tmp_path}{os.sep}a{os.sep}new{os.sep}", tmp_path / "several"
    assert json.loads(run(capsys, "merge", "--lam", "0.7", "-o", new, "--dry-run", "--json")[1])["problems"] == []
    assert list(tmp_path.iterdir()) == []
    assert run(capsys, "merge", "--lam", "0.7", "-o", new)[1] == f"{new}demo-instruct-pa0.70-Q8_0.gguf\n"
    assert run(capsys, "merge", "--lam", "0,1", "-o", several)[0] == 0
    assert len(list(several.iterdir())) == 2
    status, _, err = run(capsys, "merge", "--lam", "0,1", "-o", tmp_path / "one.gguf")
    assert (status, "cannot be written to one file" in err) == (1, True)
    gone = tmp_path / "gone"
    assert run(capsys, "merge", "--lam", "0.7", "-o", f"{gone}{os.sep}", "--max-memory", "5M")[0] == 1
    assert not gone.exists()


def test_suspicious_pairs_are_remarked(capsys: pytest.CaptureFixture[str], tiny_pair: tuple[Path, Path]) -> None:
    base, instruct = models_folder() / "demo" / "base", models_folder() / "demo" / "instruct"
    remarks = [
        json.loads(run(capsys, "merge", *pair, "--lam", "0.5", "--dry-run", "--json")[1])["remarks"]
        for pair in ((base, instruct), (instruct, base), (base, base))
    ]
    assert not any("swapped" in remark or "same model" in remark for remark in remarks[0])
    assert "base and instruct may be swapped: only the base side has a chat template" in remarks[1]
    assert "base and instruct are the same model: every lam gives that model" in remarks[2]
    status, out, _ = run(capsys, "merge", base, tiny_pair[1], "--lam", "0.5", "--dry-run")
    assert status == 1
    assert len(out.splitlines()) == 1
    assert "are models of different sizes (width 256 and" in out


def test_models_are_named_in_one_way(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(capsys, "merge", "demo", "--lam", "0.7", "-o", tmp_path / "m.gguf")[0] == 0
    shown = json.loads(run(capsys, "inspect", tmp_path / "m.gguf", "--json")[1])
    planned = json.loads(run(capsys, "inspect", "demo@0.7", "--type", "q8_0", "--json")[1])
    assert shown["merge"] == planned["merge"]
    assert shown["merge"]["lam"] == 0.7
    assert (shown["merge"]["base"], shown["merge"]["instruct"]) == ("demo-base", "demo-instruct")
    assert (shown["types"], shown["tensors"]) == (planned["types"], planned["tensors"])
    assert "demo@0.6" in run(capsys, "inspect", "demo")[2]
    assert run(capsys, "merge", "nowhere.gguf", "--lam", "0.7")[2] == "error: nowhere.gguf: does not exist.\n"
    assert "write lams as --lam 0.7" in run(capsys, "merge", "demo", "0.7", "--lam", "0.5")[2]
    assert "standard output" in run(capsys, "merge", "demo", "--lam", "0.5", "-o", "-")[2]
    assert "is not a number" in run(capsys, "merge", "demo", "--lam", "nan")[2]
    sides = [models_folder() / "demo" / side for side in ("base", "instruct")]
    assert "two checkpoints are a pair, and a model needs a lam" in run(capsys, "score", *sides, "--tasks", "demo")[2]


def test_pairs_are_listed_and_removed(capsys: pytest.CaptureFixture[str], tiny_pair: tuple[Path, Path]) -> None:
    assert run(capsys, "pairs", "add", "mine", *tiny_pair)[0] == 0
    assert "mine" in run(capsys, "pairs", "list")[1]
    assert run(capsys, "pairs", "list", "--json")[1] == run(capsys, "pairs", "--json")[1]
    assert run(capsys, "pairs", "remove", "mine")[0] == 0
    assert "mine" not in run(capsys, "pairs", "list")[1]
    assert all(folder.is_dir() for folder in tiny_pair)
    assert "comes with pa-lite" in run(capsys, "pairs", "remove", "demo")[2]
    assert "unknown pair 'mine'" in run(capsys, "pairs", "remove", "mine")[2]


def test_score_table_json_and_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    common = ["score", "demo@0.7", "--tasks", "demo_kind,demo_town", "--limit", 10, "--threads", 1]
    status, out, err = run(capsys, *common, "-o", tmp_path / "s.json")
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines() if line.strip()]
    assert lines[0][:3] == ["task", "n", "metric"]
    assert [line[0] for line in lines[-7:]] == ["demo_kind", "demo_town", "mean", "s.e.,", "majority:", "The", "Noise"]
    assert out.count("The intervals do not include the choice of exemplars, which were drawn once: --seeds 5 ") == 1
    status, out, _ = run(capsys, *common, "--json")
    document, written = json.loads(out), json.loads((tmp_path / "s.json").read_text("utf-8"))
    assert {k for k in document if document[k] != written[k]} == {"date"}
    assert document["results"]["demo_town"]["sample_len"] == document["pa_lite"]["tasks"][1]["n"] == 10
    assert document["pa_lite"]["accuracy"].keys() == {"value", "stderr"}
    assert run(capsys, *common, "-o", tmp_path / "s.json")[0] == 1


def test_score_table_has_all_metrics_of_a_task(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Every pattern that extracts answers, and the weighted F1 next to the accuracy."""
    rows = [{"split": "test", "q": f"{i} + {i}", "gold": str(2 * i), "choices": ["a", "b"], "answer": i % 2}
            for i in range(6)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    (tmp_path / "two.toml").write_text(
        """[defaults]
data = "rows.jsonl"
template = "{{ q }} ="
[tasks.sums]
kind = "G"
answers = "gold"
max_tokens = 4
metrics = ["exact_match", "numeric"]
extract = [{ name = "strict", pattern = "= (.*)" }, { name = "flexible", pattern = "{number}", pick = "last" }]
[tasks.classes]
metrics = ["acc", "f1_weighted"]
""",
        "utf-8",
    )
    status, out, _ = run(capsys, "score", "demo@0.7", "--tasks", tmp_path / "two.toml", "--threads", 1)
    assert status == 0
    lines = [" ".join(line.split()) for line in out.splitlines() if line.strip()]
    starts = ["sums 6 exact_match,strict ", "exact_match,flexible ", "numeric,strict ", "numeric,flexible ",
              "classes 6 acc ", "f1_weighted ", "mean 12 "]  # fmt: skip
    lines = lines[next(i for i, line in enumerate(lines) if line.startswith("sums")) :]
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=False))
    assert re.match(r"exact_match,flexible \d+\.\d \d+\.\d \d+\.\d to \d+\.\d$", lines[1])
    assert re.match(r"f1_weighted \d+\.\d \d+\.\d \d+\.\d to \d+\.\d$", lines[5])


def test_score_and_sweep_average_over_draws_of_exemplars(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    common = ["--tasks", "demo_kind,demo_labels", "--limit", 6, "--seed", 3, "--seeds", 2, "--threads", 1]
    samples = tmp_path / "s.jsonl"
    status, out, _ = run(capsys, "score", "demo@0.3", *common, "-o", tmp_path / "s.json", "--log-samples", samples)
    assert status == 0
    assert re.search(r"^demo_kind: [\d.]+, [\d.]+ with exemplars of seeds 3 to 4\.$", out, re.MULTILINE)
    assert "note: scored once, not with 2 draws of exemplars, as no exemplars are drawn: demo_labels.\n" in out
    assert "Standard errors and intervals include both the items and the draws of exemplars." in out
    assert "do not include" not in out
    seeds = [json.loads(line)["pa_lite"]["seed"] for line in samples.read_text("utf-8").splitlines()]
    assert seeds == [3] * 6 + [4] * 6 + [3] * 6
    own = json.loads((tmp_path / "s.json").read_text("utf-8"))["pa_lite"]["tasks"][0]
    status, out, _ = run(capsys, "sweep", "demo", "--lam", "0,0.3", *common, "--run", tmp_path / "run", "--json")
    assert status == 0
    found = {(row["group"], row["lam"]): row["value"] for row in json.loads(out)["averages"]}
    assert found["demo_kind", 0.3] == pytest.approx(own["accuracy"])
    status, out, _ = run(capsys, "sweep", "demo", "--lam", "0,0.5", *common, "--run", tmp_path / "run", "--dry-run")
    assert "4 cells, 36 items, 18 of them to be measured" in out
    assert run(capsys, "search", "demo", *common)[0] == 2


def test_score_without_exemplars_does_not_mention_their_draw(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "score", "demo@0.3", "--tasks", "demo_labels", "--limit", 4, "--threads", 1)
    assert (status, "exemplars" in out) == (0, False)


def test_search_says_when_it_measures_everything(
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["search", "demo", "--tasks", "demo_kind", "--lam", "0,0.5,1", "--limit", 20, "--threads", 1]
    status, out, _ = run(capsys, *common)
    assert status == 0
    assert caplog.messages == [
        "there are too few items for a search within 40% of the grid (20 items): measuring every lam"
    ]
    assert "60 item evaluations, of 60 for the whole grid (100%)." in out
    assert "smoothed" not in out
    status, out, _ = run(capsys, *common, "--budget", 0.6)
    assert caplog.messages[1].startswith("a budget of 60% may miss a narrow peak with so few items (20)")
    assert "few-shot % (smoothed)" in out


def test_samples_are_logged_to_the_given_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    common = ["score", "demo@0.7", "--tasks", "demo_kind,demo_town", "--limit", 3, "--threads", 1]
    assert run(capsys, *common, "--log-samples", tmp_path / "s.jsonl")[0] == 0
    lines = (tmp_path / "s.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["task"] for line in lines] == ["demo_kind"] * 3 + ["demo_town"] * 3
    assert run(capsys, *common, "-o", tmp_path / "r.json", "--log-samples", "--mutual-info")[0] == 0
    names = sorted(p.name.split("_2")[0] for p in tmp_path.glob("samples*.jsonl"))
    assert names == ["samples_demo_kind", "samples_demo_town"]
    results = json.loads((tmp_path / "r.json").read_text("utf-8"))["results"]
    assert "acc_mutual_info,none" in results["demo_town"]
    status, out, err = run(capsys, *common, "--log-samples", tmp_path / "s.jsonl")
    assert (status, out) == (1, "")
    assert "exists already" in err


def test_tasks_show_prints_one_item(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, _ = run(capsys, "tasks", "show", "demo_town", "--shots", 2, "--item", 1)
    assert status == 0
    assert "shots: 8\n" in out
    assert "\n* ' " in out
    shown = json.loads(run(capsys, "tasks", "show", "demo_town", "--shots", 2, "--item", 1, "--json")[1])
    assert shown["prompt"] in out
    assert shown["prompt"].count("\n") == 2
    (tmp_path / "mine.toml").write_text(
        '[tasks.mine]\ndata = "mine.csv"\ntemplate = "Q: {{ q }}\\nA:"\nkind = "G"\nanswers = "a"\n', "utf-8"
    )
    (tmp_path / "mine.csv").write_text('split,q,a\ntest,"Who, me?",you\n', "utf-8")
    status, out, _ = run(capsys, "tasks", "show", tmp_path / "mine.toml")
    assert status == 0
    assert f"--- {tmp_path / 'mine.csv'}:2 ---\nQ: Who, me?\nA:\n---\n* 'you'\n" in out


def test_score_of_a_file_equals_the_reference(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run(capsys, "merge", "--lam", "0.7", "--type", "F16", "-o", tmp_path / "m.gguf")
    rest = ["--tasks", "demo_opposite", "--threads", 1, "--json"]
    one, two = (json.loads(run(capsys, "score", m, *rest)[1]) for m in ("demo@0.7", tmp_path / "m.gguf"))
    assert one["pa_lite"]["tasks"] == two["pa_lite"]["tasks"]


def test_generate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    prompts = tmp_path / "p.json"
    prompts.write_text(json.dumps([{"instruction": "Greet me."}]), "utf-8")
    common = ["generate", "demo@1", "--prompts", prompts, "--max-tokens", 8, "--threads", 1]
    status, out, _ = run(capsys, *common)
    assert status == 0
    (entry,) = json.loads(out)
    assert (entry["instruction"], entry["generator"], entry["dataset"]) == ("Greet me.", "demo@1", "p")
    target = tmp_path / "o.json"
    assert run(capsys, *common, "-o", target)[1] == f"{target}\n"
    assert json.loads(target.read_text("utf-8")) == [entry]


def test_generate_with_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    prompts = tmp_path / "p.json"
    prompts.write_text(json.dumps([{"instruction": "Greet me."}] * 3), "utf-8")
    common = ["generate", "demo@1", "--prompts", prompts, "--max-tokens", 8, "--threads", 1, "--system", "Be brief."]
    drawn = [*common, "--temperature", 5, "--top-p", 0.99, "--min-p", 1e-6, "--top-k", 500]
    one, again, other = (run(capsys, *drawn, "--seed", seed)[1] for seed in (1, 1, 2))
    assert one == again != other
    assert len({o["output"] for o in json.loads(one)}) == 3  # equal prompts, each with its own random stream
    plain = json.loads(run(capsys, *common)[1])[0]["output"]
    cut = json.loads(run(capsys, *common, "--stop", plain[2:4], "--stop", "never")[1])[0]["output"]
    assert cut == plain[: plain.index(plain[2:4])].strip()
    status, out, _ = run(capsys, *common, "-o", tmp_path / "o.json", "--json")
    document = json.loads(out)
    assert (status, document["n"], document["n_resumed"]) == (0, 3, 0)
    assert document["path"] == str(tmp_path / "o.json")
    assert sum(document["reasons"].values()) == 3


def test_generate_without_a_template_prints_a_note(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    prompts = tmp_path / "p.json"
    prompts.write_text('[{"instruction": "Greet me."}]', "utf-8")
    words = ["merge", "--lam", "0", "--vocab", "base", "-o", tmp_path / "b.gguf"]
    assert run(capsys, *words)[0] == 0
    status, out, err = run(capsys, "generate", tmp_path / "b.gguf", "--prompts", prompts, "--max-tokens", 2)
    assert (status, len(json.loads(out))) == (0, 1)
    assert "has no chat template: prompts are 'Instruction: ... Response:'" in err


def test_listings(capsys: pytest.CaptureFixture[str]) -> None:
    assert "demo" in run(capsys, "pairs")[1]
    assert "demo_lookup" in run(capsys, "tasks")[1]
    assert json.loads(run(capsys, "pairs", "--json")[1])[0]["name"] == "demo"
    assert len(json.loads(run(capsys, "tasks", "--json")[1])) >= 8


def test_usage_errors_have_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "merge")[0] == 2
    assert run(capsys, "mrge")[0] == 2
    assert run(capsys, "--help")[0] == 0
    assert run(capsys, "--version")[1].startswith("pa-lite")


@pytest.fixture
def broken(tiny_pair: tuple[Path, Path], tmp_path: Path) -> dict[str, Path]:
    """Folders that are wrong in one way each."""
    (tmp_path / "empty").mkdir()
    for name in ("shardless", "other"):
        shutil.copytree(tiny_pair[0], tmp_path / name)
    (tmp_path / "shardless" / "model-00001-of-00002.safetensors").unlink()
    config = json.loads((tmp_path / "other" / "config.json").read_text("utf-8"))
    config["architectures"] = ["MambaForCausalLM"]
    (tmp_path / "other" / "config.json").write_text(json.dumps(config), "utf-8")
    wide = {**tiny.CONFIG, "intermediate_size": 128}
    tiny.write_checkpoint(tmp_path / "wide", tiny.weights(3, wide), config=wide)
    (tmp_path / "text.gguf").write_text("not a model", "utf-8")
    (tmp_path / "task.toml").write_text('[tasks.t]\ndata = "rows.csv"\ntemplate = "x"\nchoices = "[a, b]"\n', "utf-8")
    (tmp_path / "rows.csv").write_text("split,a,b\ntest,c,d\n", "utf-8")
    return {p.name: p for p in tmp_path.iterdir()} | {"base": tiny_pair[0], "instruct": tiny_pair[1]}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["merge", "{empty}", "{instruct}", "--lam", "0.5"], "has no weights"),
        (["merge", "{base}", "{empty}/no", "--lam", "0.5"], "no such file or folder"),
        (["merge", "{shardless}", "{instruct}", "--lam", "0.5"], "shard model-00001-of-00002.safetensors is missing"),
        (["merge", "{base}", "{wide}", "--lam", "0.5"], "has shape"),
        (["merge", "{base}", "{other}", "--lam", "0.5"], "architecture 'MambaForCausalLM'"),
        (["merge", "{base}", "--lam", "0.5"], "give both BASE and INSTRUCT"),
        (["merge", "--pair", "nope", "--lam", "0.5"], "unknown pair 'nope'"),
        (["merge", "--lam", "half"], "lam 'half' is not a number"),
        (["merge", "--lam", "0.5", "--type", "Q9"], "unknown output type 'Q9'"),
        (["merge", "--lam", "0.5", "-o", "no/such/x.gguf"], "does not exist"),
        (["score", "demo@0.5", "--tasks", "nope"], "unknown task or suite 'nope'"),
        (["score", "demo@0.5", "--tasks", "demo_town", "--shots", "99"], "99 shots requested"),
        (["score", "demo@0.5", "--tasks", "{task.toml}"], "rows.csv:2: has no column 'answer'"),
        (["tasks", "show", "{task.toml}"], "rows.csv:2: has no column 'answer'"),
        (["tasks", "show", "demo"], "demo has 8 tasks: name one of demo_town"),
        (["tasks", "show", "demo_town", "--item", "999"], "has no item 999: it has 144, numbered from 0"),
        (
            ["score", "demo@0.5", "--tasks", "demo", "--log-samples", "no/such/x"],
            "the folder to write x to does not exist",
        ),
        (["score", "demo@two", "--tasks", "demo"], "lam 'two' is not a number"),
        (["score", "nope.gguf", "--tasks", "demo"], "is not a model"),
        (["score", "{text.gguf}", "--tasks", "demo"], "is a text that begins with"),
        (["score", "demo@0.5", "--tasks", "demo", "--type", "Q9"], "unknown output type 'Q9'"),
        (["generate", "demo@0.5", "--prompts", "nope"], "unknown prompts 'nope'"),
        (["generate", "demo@0.5", "--prompts", "demo", "--max-tokens", "100000"], "smaller --max-tokens"),
        (["generate", "demo@0.5", "--prompts", "demo", "--max-tokens", "9999", "-o", "x"], "smaller --max-tokens"),
        (["generate", "demo@0.5", "--prompts", "demo", "--temperature", "-1"], "temperature is -1.0; it must be"),
        (["generate", "demo@0.5", "--prompts", "demo", "--top-p", "1.5"], "top_p is 1.5"),
        (["generate", "demo@0.5", "--prompts", "demo", "--stop", ""], "stop string '' is empty"),
        (["generate", "demo@0.5", "--prompts", "demo", "--resume"], "--resume requires -o"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], broken: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    words: list[str], told: str,
) -> None:  # fmt: skip
    assert_refused(capsys, monkeypatch, tmp_path, words, broken, told)


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, shown = run(capsys, "--debug", "merge", "--lam", "x")
    assert status == 1
    assert "Traceback" in shown
    assert "pa_lite.errors.InputError: lam 'x' is not a number" in shown
    assert shown.splitlines()[-1].startswith("error: lam 'x' is not a number")


def test_a_closed_pipe_ends_the_command_quietly() -> None:
    command = f"{sys.executable} -m pa_lite tasks --json | head -c 10"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (len(done.stdout), done.stderr) == (10, "")


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_too_many_open_files_are_reported_with_advice(tmp_path: Path) -> None:
    code = (
        "import resource, pa_lite.cli; resource.setrlimit(resource.RLIMIT_NOFILE, (7, 7)); "
        "pa_lite.cli.main(['merge', '--lam', '0.5,0.6,0.7,0.8'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*Too many open files.*(ulimit -n 4096).*\n", done.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    """Use a pair that is large enough to interrupt its merge."""
    config = {**tiny.CONFIG, "hidden_size": 1024, "intermediate_size": 8192, "num_hidden_layers": 6}
    arrays = tiny.weights(1, config)
    tiny.write_checkpoint(tmp_path / "m", arrays, config=config)
    out = tmp_path / "out"
    out.mkdir()
    # a shell may have started us with the signal ignored, which a child would inherit
    code = "import signal, pa_lite.cli; signal.signal(signal.SIGINT, signal.default_int_handler); pa_lite.cli.main()"
    command = [sys.executable, "-c", code, "merge", str(tmp_path / "m"), str(tmp_path / "m")]
    process = subprocess.Popen(
        [*command, "--lam", "0:1:0.1", "--type", "F32", "-o", str(out)], stderr=subprocess.PIPE, text=True
    )
    while not list(out.iterdir()):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == (
        "interrupted: nothing was left behind. With --resume, partial files are kept and continued."
    )
    assert list(out.iterdir()) == []


def test_dry_run_shows_everything_and_writes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["merge", "--lam", "0,0.5", "--dry-run", "-o", tmp_path, "--schedule", "attention: 0.2", "--type", "Q4_K_M"]
    status, out, err = run(capsys, *words)
    assert (status, err) == (0, "")
    assert "attention" in out
    assert f"lam 0.5 -> {tmp_path}" in out
    assert "MB of disk needed" in out
    document = json.loads(run(capsys, *words, "--json")[1])
    assert {g["lams"] for g in document["groups"] if g["group"] == "attention"} == {"0.2"}
    assert {g["type"] for g in document["groups"]} >= {"F32", "Q4_K", "Q6_K"}
    assert document["problems"] == []
    lams = {t["name"]: t["lams"] for t in document["tensors"]}
    assert lams["blk.0.attn_q.weight"] == [0.2, 0.2]
    assert lams["blk.0.ffn_up.weight"] == [0.0, 0.5]
    assert list(tmp_path.iterdir()) == []


def test_dry_run_shows_what_would_prevent_the_merge(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"")
    status, out, _ = run(capsys, "merge", "--lam", "1", "--dry-run", "-o", tmp_path / "x.gguf", "--max-memory", "1M")
    assert status == 1
    assert "problem: " in out
    assert "exists already" in out


def test_dry_run_shows_every_mismatch(capsys: pytest.CaptureFixture[str], broken: dict[str, Path]) -> None:
    words = ["merge", broken["base"], broken["wide"], "--lam", "0.5"]
    status, out, _ = run(capsys, *words, "--dry-run")
    assert status == 1
    lines = out.splitlines()
    assert len(lines) == 6  # gate, up and down projections of two layers
    assert all(line.startswith("problem: tensor model.layers.") for line in lines)
    assert "(5 more: --dry-run shows all)" in run(capsys, *words)[2]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--schedule", "atention: 1"], "unknown tensor group 'atention'"),
        (["--vocab", "mine"], "neither base nor instruct"),
        (["--tensor-type", "attn_v"], "is not PATTERN=TYPE"),
        (["--tensor-type", "attn_v=Q99"], "unknown type"),
        (["--imatrix", "nope.dat"], "nope.dat"),
        (["--max-memory", "5M"], "--max-memory 5M is not enough"),
    ],
)
def test_bad_merge_options(capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], told: str) -> None:
    status, _, err = run(capsys, "merge", "--lam", "0.5", "-o", tmp_path, *words)
    assert status == 1
    assert err.startswith("error: ")
    assert told in err
    assert list(tmp_path.iterdir()) == []


def test_sizes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(capsys, "merge", "--lam", "0.5", "-o", tmp_path, "--max-memory", "1.5GB")[0] == 0
    status, _, err = run(capsys, "merge", "--lam", "0.5", "-o", tmp_path, "--max-memory", "much")
    assert status == 2
    assert "is not a size" in err


def test_inspect_and_diff(capsys: pytest.CaptureFixture[str], tiny_pair: tuple[Path, Path]) -> None:
    status, out, _ = run(capsys, "inspect", tiny_pair[0], "--tensors")
    assert status == 0
    assert "block_count" in out
    assert "blk.1.ffn_down.weight" in out
    assert json.loads(run(capsys, "inspect", tiny_pair[0], "--json")[1])["architecture"] == "llama"
    status, out, _ = run(capsys, "diff", *tiny_pair)
    assert status == 0
    assert "█" in out
    assert [line.split()[0] for line in out.splitlines() if line.startswith(" layer")] == ["layer", "layer"]
    assert json.loads(run(capsys, "diff", *tiny_pair, "--json")[1])["total"]["relative_norm"] > 0


def test_follow_table_json_and_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    common = ["follow", "demo@1", "--set", "demo", "--limit", 14, "--threads", 1]
    status, out, err = run(capsys, *common, "-o", tmp_path / "f.json")
    assert (status, err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert rows["prompts"][0] == "14"
    assert {"constraints", "word_count", "begin"} <= rows.keys()
    status, out, _ = run(capsys, *common, "--json")
    document = json.loads(out)
    assert document == json.loads((tmp_path / "f.json").read_text("utf-8"))
    assert (document["reference"], document["set"], len(document["answers"])) == ("demo@1", "demo", 14)
    assert document["prompts"]["n"] == 14
    assert rows["prompts"][1] == f"{100 * document['prompts']['strict']['value']:.1f}"
    assert document["constraints"]["n"] == sum(r["n"] for r in document["by_constraint"].values())
    assert run(capsys, *common, "-o", tmp_path / "f.json")[0] == 1


def test_follow_the_public_set_with_a_small_model(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "follow", "demo@1", "--limit", 5, "--threads", 1, "--max-tokens", 24)
    assert (status, err) == (0, "")
    assert "constraints" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "publik"], "unknown set 'publik': neither a known set nor an existing file. Did you mean public?"),
        (
            ["--set", "demo", "--seed", "3"],
            "a seed generates prompts of the set public, not of 'demo': leave it out.",
        ),
        (["--set", "ifeval:no.jsonl"], "no.jsonl: cannot be read: No such file or directory."),
        (["-o", "no/f.json"], "no: the folder to write f.json to does not exist."),
        (
            ["--limit", "2", "--max-tokens", "100000"],
            "prompt 1 has",
        ),
    ],
)
def test_follow_refuses(capsys: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    status, out, err = run(capsys, "follow", "demo@1", *words)
    assert (status, out) == (1, "")
    assert err.startswith(f"error: {told}")
    assert err.count("\n") == 1


def test_a_single_item_has_no_standard_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--tasks", "demo_kind", "--limit", "1"]
    status, out, _ = run(capsys, "score", "demo@0.5", *words, "-o", tmp_path / "one.json")
    assert status == 0
    assert re.search(r"demo_kind +1 +acc\S* +(0|100)\.0 +- +- ", out)
    document = json.loads((tmp_path / "one.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert document["results"]["demo_kind"]["acc_stderr,none"] == "N/A"
    assert document["pa_lite"]["tasks"][0]["stderr"] is None
    run(capsys, "sweep", "demo", *words, "--lam", "0,1", "--run", tmp_path / "run")
    status, out, _ = run(capsys, "report", tmp_path / "run", "--json")
    assert {row["stderr"] for row in json.loads(out, parse_constant=pytest.fail)["averages"]} == {None}
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "<td>unknown</td>" in page
    assert "NaN" not in page.rpartition('id="figures">')[2]


def test_errors_name_the_option_to_use(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run(capsys, "sweep", "demo", "--tasks", "demo_kind", "--limit", "2", "--lam", "0,1", "--run", tmp_path / "run")
    for option, name in (("--png", "curves.png"), ("--lm-eval", "results_demo_F16_0.json"), ("--csv", "")):
        place = tmp_path / option
        (place.touch() if not name else place.mkdir())
        if name:
            (place / name).touch()
        status, _, err = run(capsys, "report", tmp_path / "run", option, place)
        assert status == 1
        assert f"exists already. Use --force to overwrite it, or {option} for another name." in err


def test_nonfinite_weights_from_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arrays = tiny.weights(1)
    arrays["model.norm.weight"][7] = float("nan")
    folder = tiny.write_checkpoint(tmp_path / "m", arrays, "F32")
    words = ["merge", folder, folder, "--lam", "0.5", "-o", tmp_path / "x.gguf"]
    status, _, err = run(capsys, *words)
    assert status == 1
    assert "output_norm.weight at lam 0.5 is not finite (nan) at row 0, column 7" in err
    assert not (tmp_path / "x.gguf").exists()
    done = subprocess.run(
        [sys.executable, "-m", "pa_lite", *map(str, words), "--allow-nonfinite"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "x.gguf: kept 1 non-finite value: 1 in output_norm.weight" in done.stderr
    assert "RuntimeWarning" not in done.stderr
    status, _, err = run(capsys, "diff", folder, folder)
    assert status == 1
    assert "output_norm.weight has non-finite values in base or instruct" in err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_not_a_checkpoint(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.gguf")
    status, out, err = run(capsys, "inspect", tmp_path / "x.gguf")
    assert (status, out) == (1, "")
    assert err == f"error: {tmp_path / 'x.gguf'}: is a device, socket or pipe. Name a file or folder.\n"


def test_commands_that_generate_have_the_option_n_ctx(capsys: pytest.CaptureFixture[str]) -> None:
    """Errors about too little memory name this option."""
    for words in (["generate", "--prompts", "demo"], ["follow", "--set", "demo"]):
        status, _, err = run(capsys, words[0], "demo@0.5", *words[1:], "--n-ctx", "2")
        assert (status, err.count("error: ")) == (1, 1), words
