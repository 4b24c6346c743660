from __future__ import annotations

import json
import multiprocessing
import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

import pa_lite
from pa_lite.alpaca import outputs
from pa_lite.alpaca.journal import Journal, digest
from pa_lite.alpaca.outputs import (
    Output,
    OutputsTarget,
    answer_prompts,
    demo_instructions_path,
    facts_of,
    generator_name,
    load_prompts,
    to_json,
    write_outputs,
)
from pa_lite.alpaca.pairing import read_outputs
from pa_lite.alpaca.prompts import Prompt
from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.context import Context
from pa_lite.engine.generation import GenerationOptions
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.errors import InputError, OutputError
from pa_lite.ggml.metadata import float32, string, uint32
from pa_lite.instructions.following import load_instructions

PLAIN = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def test_prompts_are_read_from_json_and_jsonl(tmp_path: Path) -> None:
    rows = [{"instruction": "Say it.", "dataset": "helpful_base"}, {"instruction": "Again.", "other": 1}]
    path = tmp_path / "mine.json"
    expected = [Prompt("Say it.", "helpful_base"), Prompt("Again.", "mine")]
    path.write_text(json.dumps(rows), "utf-8")
    assert load_prompts(str(path)) == expected
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n", "utf-8")
    assert load_prompts(str(path)) == expected
    assert len(load_prompts("demo")) >= 300


def test_prompts_include_inputs_and_system_prompts(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"instruction": "Which animal?", "input": "Kani keeps a hen.", "output": "hen", "dataset": None},
        {"instruction": "Which animal?", "context": "Kesa keeps a goat.", "system": "Answer in one word.", "id": 2},
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    assert load_prompts(str(path)) == [
        Prompt("Which animal?\n\nKani keeps a hen.", None),
        Prompt("Which animal?\n\nKesa keeps a goat.", "mine", "Answer in one word."),
    ]
    path.write_text(json.dumps({**rows[0], "images": ["hen.png"]}), "utf-8")
    with pytest.raises(InputError, match=r"mine.jsonl: entry 1 has images, audio or video under 'images'"):
        load_prompts(str(path))


def test_system_prompt_of_a_prompt_reaches_model_and_outputs(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    prompts = [Prompt("the man", None), Prompt("the man", "x", "Be brief.")]
    options = GenerationOptions(max_tokens=8)
    with Model(tiny_ggufs["F32"], EngineOptions(threads=1)) as model:
        write_outputs(model, prompts, "tiny", OutputsTarget(tmp_path / "out.json"), options)
        alone = [
            g.text.strip()
            for s in ("", "Be brief.")
            for g in answer_prompts(model, prompts[:1], options, ChatOptions(system=s))
        ]
        with pytest.raises(InputError, match=r"prompt 2 already has a system prompt\. Omit --system"):
            answer_prompts(model, prompts, options, ChatOptions(system="Be kind."))
        facts = [facts_of(model, [Prompt("a", "x", system)], options) for system in ("", "Be brief.")]
    rows = json.loads((tmp_path / "out.json").read_text("utf-8"))
    common = {"instruction": "the man", "generator": "tiny"}
    assert rows == [
        {**common, "output": alone[0], "dataset": None},
        {**common, "output": alone[1], "dataset": "x", "system": "Be brief."},
    ]
    assert alone[0] != alone[1]
    assert [o.instruction for o in read_outputs(tmp_path / "out.json", True)] == ["the man", "Be brief.\n\nthe man"]
    assert facts[0]["prompts"] == digest([{"instruction": "a", "dataset": "x"}])  # the same as in older journals
    assert facts[0]["prompts"] != facts[1]["prompts"]


def test_prompt_files_with_byte_order_mark_and_unicode_line_separator(tmp_path: Path) -> None:
    """A byte order mark is skipped, and U+2028 in a string does not end a line."""
    path = tmp_path / "p.jsonl"
    for text in (
        '{"instruction": "a\u2028b"}\r\n{"instruction": "c"}\n',
        '[{"instruction": "a\u2028b"}, {"instruction": "c"}]',
    ):
        path.write_bytes(text.encode("utf-8-sig"))
        assert [p.instruction for p in load_prompts(str(path))] == ["a\u2028b", "c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "p.json:1: is not JSON"),
        ("[]", "has no entries"),
        ('[{"instruction": ""}]', "entry 1 has an empty string under 'instruction'"),
        ('{"instruction": "x"}\n3', "p.json:2: is not a JSON object"),
    ],
)
def test_malformed_prompt_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=message):
        load_prompts(str(path))
    with pytest.raises(InputError, match="unknown prompts 'alpaca'"):
        load_prompts("alpaca")


def test_outputs_have_alpacaevals_format() -> None:
    with pa_lite.load("demo@1", EngineOptions(threads=1)) as model:
        made = model.generate(["What is the job of Kani?", "Greet me."], GenerationOptions(max_tokens=16))
    document = json.loads(to_json(made))
    assert [d["instruction"] for d in document] == ["What is the job of Kani?", "Greet me."]
    assert all(set(d) == {"instruction", "output", "generator", "dataset"} for d in document)
    assert {d["generator"] for d in document} == {"demo@1"}
    assert all(isinstance(o, Output) for o in made)


def prompts_file(folder: Path, n: int) -> Path:
    path = folder / "prompts.json"
    path.write_text(json.dumps([{"instruction": f"the man {i % 50}"} for i in range(n)]), "utf-8")
    return path


def answer(model_path: Path, prompts: Path, target: Path) -> None:
    """Run one process's generation, without the chat template, which would take most of the time."""
    options = GenerationOptions(max_tokens=30, temperature=0.8, parallel=3)
    with Model(model_path, EngineOptions(threads=1, cache_type="F32")) as model:
        del model.header.metadata["tokenizer.chat_template"]
        write_outputs(model, load_prompts(str(prompts)), "tiny", OutputsTarget(target, resume=True), options)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_twelve_kills_lose_and_repeat_nothing(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    """Processes are killed at random moments, then one runs to completion."""
    n, rng = 400, random.Random(11)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.alpaca.test_outputs", "llama_cpp"])
    prompts = prompts_file(tmp_path, n)
    out, journal = tmp_path / "out.json", tmp_path / ".out.json.part"
    lines: list[bytes] = []
    for kill in range(12):
        process = context.Process(target=answer, args=(tiny_ggufs["F32"], prompts, out))
        process.start()
        aim = len(lines) + rng.randint(1, 25) if kill else 0  # the first is killed before it does anything
        while process.is_alive() and count_lines(journal) < aim:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.02)
        assert process.is_alive()
        process.kill()
        process.join()
        left = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
        whole = [line for line in left if line.endswith(b"\n")]
        assert whole[: len(lines)] == lines  # earlier lines are unchanged
        assert not out.exists()
        lines = whole
    indices = [json.loads(line)["place"] for line in lines[1:]]
    assert n > len(indices) == len(set(indices)) >= 11
    answer(tiny_ggufs["F32"], prompts, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.json", "prompts.json"]
    answer(tiny_ggufs["F32"], prompts, tmp_path / "fresh.json")
    pair = [json.loads(p.read_text("utf-8")) for p in (out, tmp_path / "fresh.json")]
    assert sum(a != b for a, b in zip(*pair, strict=True)) <= 2  # other batches round differently: see generate


def count_lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def test_resume_refuses_changed_prompts_models_and_options(
    tiny_ggufs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = load_prompts(str(prompts_file(tmp_path, 4)))
    target = OutputsTarget(tmp_path / "out.json", resume=True)
    short = GenerationOptions(max_tokens=4)

    def stopped(*_: object) -> str:
        raise KeyboardInterrupt

    one = EngineOptions(threads=1)
    with Model(tiny_ggufs["F32"], one) as model, Model(tiny_ggufs["F16"], one) as other:
        with monkeypatch.context() as patch:
            patch.setattr(outputs, "to_json", stopped)  # after all answers, before the file
            with pytest.raises(KeyboardInterrupt):
                write_outputs(model, prompts, "tiny", target, short)
        with pytest.raises(OutputError, match="as the prompts changed"):
            write_outputs(model, prompts[:3], "tiny", target, short)
        with pytest.raises(OutputError, match="as the options changed"):
            write_outputs(model, prompts, "tiny", target, GenerationOptions(max_tokens=5))
        with pytest.raises(OutputError, match="as the system prompt changed"):
            write_outputs(model, prompts, "tiny", target, short, ChatOptions(system="Be kind."))
        with pytest.raises(OutputError, match="as the model and the tokenizer and settings of the model changed"):
            write_outputs(other, prompts, "tiny", target, short)  # the header names the weight type
        for key, value in (("tokenizer.ggml.eos_token_id", uint32(5)), ("llama.rope.freq_base", float32(500))):
            with monkeypatch.context() as patch:
                patch.setitem(model.header.metadata, key, value)
                with pytest.raises(OutputError, match=r"as the tokenizer and settings of the model changed\."):
                    write_outputs(model, prompts, "tiny", target, short)
        with monkeypatch.context() as patch:
            patch.setitem(model.header.metadata, "tokenizer.chat_template", string(f"{PLAIN} "))
            with pytest.raises(OutputError, match="as the tokenizer and settings of the model and the chat template"):
                write_outputs(model, prompts, "tiny", target, short)
        with (
            Model(tiny_ggufs["F32"], EngineOptions(threads=2, n_batch=64)) as smaller,
            pytest.raises(OutputError, match=r"as the settings of the engine changed\."),
        ):
            write_outputs(smaller, prompts, "tiny", target, short)
        with monkeypatch.context() as patch:
            patch.setattr("importlib.metadata.version", lambda _name: "0.0.1")
            with pytest.raises(OutputError, match=r"as the version of llama\.cpp changed\."):
                write_outputs(model, prompts, "tiny", target, short)
        metadata = {**model.header.metadata, "general.name": string("another name")}
        monkeypatch.setattr(model, "header", replace(model.header, metadata=metadata))
        monkeypatch.setattr(Context, "decode", stopped)  # no answer is missing
        written = write_outputs(model, prompts, "tiny", target, GenerationOptions(max_tokens=4, parallel=1))
    assert (written.n, written.n_resumed, sum(written.reasons.values())) == (4, 4, 4)
    assert len(json.loads(target.path.read_text("utf-8"))) == 4


def test_resume_refuses_a_journal_that_lacks_facts(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    """pa-lite 0.1.0 recorded the weights, the template, the prompts and the options."""
    prompts = load_prompts(str(prompts_file(tmp_path, 4)))
    with Model(tiny_ggufs["F32"], EngineOptions(threads=1)) as model:
        whole = facts_of(model, prompts)
        kept = ("model", "chat template", "system prompt", "prompts", "options")
        with Journal(tmp_path / "out.json", {name: whole[name] for name in kept}, 4) as journal:
            journal.add(0, {"text": "old", "n_tokens": 1, "ended": True, "reason": "end"})
        with pytest.raises(
            OutputError, match="pa-lite started it and did not record the tokenizer and settings of the model, the"
        ):
            write_outputs(model, prompts, "tiny", OutputsTarget(tmp_path / "out.json", resume=True))
        write_outputs(model, prompts, "tiny", OutputsTarget(tmp_path / "out.json", resume=True, force=True))
    assert "old" not in (tmp_path / "out.json").read_text("utf-8")


def test_refused_run_leaves_no_files(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    prompts = [Prompt("fine", "x"), Prompt("the man " * 400, "x")]
    with Model(tiny_ggufs["F32"], EngineOptions(threads=1)) as model:
        with pytest.raises(InputError, match=r"prompt 2 has .* exceed the context of .*, 512 tokens"):
            write_outputs(model, prompts, "tiny", OutputsTarget(tmp_path / "out.json"))
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "out.json").write_text("mine", "utf-8")
        with pytest.raises(OutputError, match="exists already"):
            write_outputs(model, prompts[:1], "tiny", OutputsTarget(tmp_path / "out.json"))
    assert [p.read_text("utf-8") for p in tmp_path.iterdir()] == ["mine"]


def test_generator_name_has_no_folder() -> None:
    assert generator_name("demo@0.7") == "demo@0.7"
    assert generator_name("/models/Judge-7B.Q4_K_M.gguf") == "Judge-7B.Q4_K_M"


def test_output_that_another_process_finished_is_kept(
    tiny_ggufs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, open_journal = tmp_path / "a.json", Journal._open

    def late(self: Journal) -> tuple[BinaryIO, bool]:
        opened = open_journal(self)
        target.write_text("another's", "utf-8")
        return opened

    monkeypatch.setattr(Journal, "_open", late)
    with (
        Model(tiny_ggufs["F32"], EngineOptions(threads=1)) as model,
        pytest.raises(OutputError, match="exists already"),
    ):
        write_outputs(model, [Prompt("a", "x")], "m", OutputsTarget(target), GenerationOptions(max_tokens=2))
    assert target.read_text("utf-8") == "another's"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_demo_prompts_are_those_of_the_test_split() -> None:
    asked = [instruction.text for instruction in load_instructions(demo_instructions_path(), split="test")]
    assert [prompt.instruction for prompt in load_prompts("demo")] == asked
