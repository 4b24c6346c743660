"""Fuzzing targets for text files: tasks, schedules, pairs, outputs, annotations, instructions, rows, journals."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from pa_lite.alpaca.alpaca_eval import load_length_data
from pa_lite.alpaca.annotations import read_annotations
from pa_lite.alpaca.journal import Journal
from pa_lite.alpaca.outputs import load_prompts
from pa_lite.alpaca.pairing import read_outputs
from pa_lite.checkpoints.pairs import models_folder, read_pairs
from pa_lite.engine.answer_text import Generation
from pa_lite.ggml.container import HeaderBytes
from pa_lite.instructions.following import check_answer, load_instructions
from pa_lite.instructions.ifeval import load_ifeval
from pa_lite.merging.output_file import PartialFile
from pa_lite.merging.schedule import parse_schedule
from pa_lite.study.texts import cut_documents, read_documents
from pa_lite.system.markers import MERGE, RESULTS, marker_line
from pa_lite.tasks.data import read_rows
from pa_lite.tasks.examples import examples_task
from pa_lite.tasks.spec import load_suite_file
from tools.fuzz.binary import BundleMutator, json_bytes, pack, unpack
from tools.fuzz.gguf import damage, some_text
from tools.fuzz.json import JsonMutator, LinesMutator, TomlMutator, Words
from tools.fuzz.oracle import Target, whole

# --- TOML ---

_TASK = Words(
    ("tasks", "defaults", "include", "override", "description", "data", "hub", "config", "configs", "revision",
     "area", "licence", "kind", "transforms", "template", "prefix", "texts", "separator", "delimiter", "shots",
     "shots_split", "sampler", "split", "group_by", "choices", "answer", "answers", "target", "partial", "stop",
     "max_tokens", "extract", "normalise", "metrics", "sample", "rows", "version", "name", "pattern", "pick"),
    ("MC", "FMC", "G", "seed", "first", ["commonsense"], ["acc"], ["f1"], ["lower"], ["gsm8k"], 0, 5, -1, True,
     "a.jsonl", {"train": "a.jsonl"}, [{"name": "n", "pattern": "(a)"}], {"sample": 10},
     {"a": {"template": "x", "data": "d.json"}}),
)  # fmt: skip
_TASK_SEEDS = (
    b"""description = "mine"
[defaults]
kind = "MC"
data = "rows.jsonl"
shots = 2
[tasks.colour]
template = "Q: {{ query }}\\nA:"
choices = "choices"
answer = "answer"
metrics = ["acc_norm", "acc"]
[tasks.sum]
kind = "G"
template = "{{ question }}"
answers = "[number]"
stop = ["\\n"]
max_tokens = 20
normalise = ["lower", "blanks"]
extract = [{name = "strict", pattern = "#### ({number})", pick = "last"}]
""",
    b'include = ["commonsense"]\n[override]\nsample = 10\n',
)
_SCHEDULE = Words(
    ("rules", "group", "layers", "lam"),
    ("attention", "ffn", "embeddings", "norms", "0-3", "2", 3, [0.1, 0.9], 0.5, 2, [{"lam": 1}]),
)  # fmt: skip
_NAMES = ("token_embd.weight", "blk.0.attn_q.weight", "blk.3.ffn_up.weight", "output_norm.weight")
_PAIR = Words(
    ("base", "instruct", "description", "licence", "gated", "parameters", "differs", "mine"),
    ("hub:a/b", "hub:a/b/c.gguf@main", "./base", True, 7, {"base": "a", "instruct": "b"}),
)  # fmt: skip


def _read_schedule(folder: Path) -> None:
    schedule = parse_schedule(str(folder / "schedule.toml"))
    schedule.check(4)
    assert np.isfinite([schedule.lam_of(name, 0.7, 4) for name in _NAMES]).all(), "a lam is not finite"


# --- outputs, annotations, prompts, AlpacaEval's own files ---

_OUTPUT_FILES = ("outputs.json", "annotations.json", "prompts.json", "alpaca_eval.json", "df_gamed.csv")
_OUTPUT = Words(
    ("instruction", "output", "generator", "dataset", "output_1", "output_2", "generator_1", "generator_2",
     "annotator", "preference", "index", "input", "context", "system", "messages", "images"),
    (0, 1, 1.5, 2, 2.5, "model", {"instruction": "i", "output": "o"}),
)  # fmt: skip


def _output_seeds() -> list[bytes]:
    answers = [{"instruction": f"i{i}", "output": "an answer", "generator": "m", "dataset": "d"} for i in range(2)]
    judged = [
        {
            "instruction": "i",
            "output_1": "a",
            "output_2": "b",
            "generator_1": "x",
            "generator_2": "y",
            "annotator": "j",
            "preference": p,
        }
        for p in (1, 2.0, 1.5, 0, None)
    ]
    table = b"index,preference,std_delta_len,instruction_difficulty\n0,0.5,0.1,-0.2\n1,,0.1,0.3\n"
    return [
        pack({"outputs.json": json_bytes(answers)}, _OUTPUT_FILES),
        pack({"annotations.json": json_bytes(judged)}, _OUTPUT_FILES),
        pack({"prompts.json": json_bytes(answers)}, _OUTPUT_FILES),
        pack({"prompts.json": b"\n".join(map(json_bytes, answers))}, _OUTPUT_FILES),
        pack({"alpaca_eval.json": json_bytes(answers), "df_gamed.csv": table}, _OUTPUT_FILES),
    ]  # fmt: skip


def _read_outputs(folder: Path) -> None:
    read: dict[str, Callable[[Path], object]] = {"outputs.json": lambda path: read_outputs(path, allow_empty=True),
    "annotations.json": read_annotations,
            "prompts.json": lambda path: load_prompts(str(path))}  # fmt: skip
    if (folder / "df_gamed.csv").exists():
        load_length_data(folder)
    for name, reader in read.items():
        if (folder / name).exists():
            reader(folder / name)


# --- rows of tasks ---

_ROW_FILES = ("rows.jsonl", "rows.json", "rows.csv")
_ROW = JsonMutator(Words(("query", "choices", "answer", "split", "data"), ("dev", 0, [], {"data": []})))


def mutate_table(data: bytes, random: Random) -> bytes:
    """Return a CSV file with a cell, a line or a quotation mark changed."""
    lines = data.split(b"\n")
    i = random.randrange(len(lines))
    choice = random.randrange(6)
    if choice == 0:
        lines.insert(i, random.choice((b"", b'"', b'"\n"', b",,,", b"=1+1,@x", b"a" * 200_000, random.choice(lines))))
    elif choice == 1 and len(lines) > 1:
        del lines[i]
    elif choice == 2:
        return damage(data, random)
    else:
        cells = lines[i].split(b",")
        k = random.randrange(len(cells))
        other = (b"", b'"', b'""', b'"a""b"', b"nan", b"inf", b"1e999", b"-1", b"9" * 5000, b"1_0", b"\xef\xbb\xbf")
        cells[k] = random.choice((*other, some_text(random, cells[k])))
        lines[i] = b",".join(cells)
    return b"\n".join(lines)


def _row_seeds() -> list[bytes]:
    rows = [{"split": "dev", "query": "a\u2028b", "choices": ["x", "y"], "answer": i} for i in range(2)]
    return [
        pack({"rows.jsonl": b"\n".join(map(json_bytes, rows))}, _ROW_FILES),
        pack({"rows.json": json_bytes({"version": 1, "data": rows})}, _ROW_FILES),
        pack({"rows.csv": b'split,query,answer\r\ndev,"a, ""b""",1\r\ndev,"two\nlines",0\r\n'}, _ROW_FILES),
        pack({"rows.csv": b"\xef\xbb\xbfquery;answer\n" + b"".join(b"q%d;%d\n" % (i, i % 2) for i in range(8))},
             _ROW_FILES),
    ]  # fmt: skip


def _read_rows(folder: Path) -> None:
    for name in _ROW_FILES:
        if (folder / name).exists():
            rows = read_rows(folder / name)
            for i in range(len(rows)):
                assert isinstance(rows.row(i), dict)
                assert rows.where(i)
            examples_task(folder / name)


# --- plain text ---

_TEXT_FILES = ("notes.txt", "rows.jsonl")
_TEXT_ROW = JsonMutator(Words(("text", "id"), ("", 1)))


def _text_seeds() -> list[bytes]:
    notes = "One line.\nGr\u00f6\u00dfe, \u65e5\u672c\u8a9e and \U0001f680 words without an end " * 8
    rows = [{"text": notes[:200]}, {"text": "two", "id": 1}]
    return [
        pack({"notes.txt": notes.encode()}, _TEXT_FILES),
        pack({"notes.txt": b"\xef\xbb\xbfa b\n" * 70, "rows.jsonl": b"\n".join(map(json_bytes, rows))}, _TEXT_FILES),
        pack({"rows.jsonl": b"\n".join(map(json_bytes, rows)) + b"\n"}, _TEXT_FILES),
    ]


def _read_texts(folder: Path) -> None:
    for paths in ([folder], *([folder / name] for name in _TEXT_FILES if (folder / name).exists())):
        found = read_documents(paths)
        passages = cut_documents(found, 96)
        whole_text = "".join(d.text for d in found.found if d.text.strip())
        assert "".join(passages.texts) == whole_text, "a passage is missing"
        assert all(0 < len(text.encode()) <= 96 for text in passages.texts), "a passage is too long"
        limited = cut_documents(found, 96, 300)
        assert set(limited.texts) <= set(passages.texts), "a limit cuts elsewhere"


# --- instructions ---

_INSTRUCTION_FILES = ("instructions.jsonl", "ifeval.jsonl")
_INSTRUCTION = Words(
    ("instruction", "checks", "kind", "split", "prompt", "instruction_id_list", "kwargs", "n", "nth", "relation",
     "letter", "joined", "any", "same_case", "distinct", "words", "texts", "options", "keys", "word", "text",
     "characters", "marker", "header", "divider", "left", "right", "code", "num_words", "keywords", "relation",
     "num_sentences"),
    ("word_count", "contains", "language", "divided", "sentence_count", "json", "title", "postscript", "at_least",
     "en", 1, {"kind": "word_count", "n": 2}, {"kind": "section_count", "n": 1, "header": "Part"}, {"num_words": 3},
     ["keywords:existence"], "length_constraints:number_words", "startend:quotation", [{}], [{"keywords": ["a"]}],
     {"kind": "paragraph_start", "n": 2, "nth": 1, "word": "One"}, {"kind": "postscript", "marker": "P.S."}),
)  # fmt: skip
_ANSWER = 'One. "Two" words, *three*!\n\n***\n\n* A [place]\n1. <<Title>>\n\nP.S. ' + "é x" * 30


def _instruction_seeds() -> list[bytes]:
    own = models_folder().joinpath("demo/data/instructions.jsonl").read_bytes().split(b"\n")
    public = [line.replace(b'"dev"', b'"test"') for line in own[:200:23] if line]
    ifeval = {"prompt": "p", "instruction_id_list": ["length_constraints:number_words", "keywords:existence"],
              "kwargs": [{"num_words": 5, "relation": "at least"}, {"keywords": ["a", "b"]}]}  # fmt: skip
    return [
        *(pack({"instructions.jsonl": b"\n".join(public[i : i + 3])}, _INSTRUCTION_FILES) for i in range(0, 9, 3)),
        pack({"ifeval.jsonl": json_bytes(ifeval) + b"\n"}, _INSTRUCTION_FILES),
    ]


def _read_instructions(folder: Path) -> None:
    read: dict[str, Any] = {"instructions.jsonl": load_instructions, "ifeval.jsonl": load_ifeval}
    for name, reader in read.items():
        if (folder / name).exists():
            for instruction in reader(folder / name):
                check_answer(instruction, _ANSWER)


# --- journals: our own files, which a crash or a disk error may leave in any state ---

_JOURNALS = (".out.json.part", ".m.gguf.part", ".m.gguf.part.done")
_FACTS = {"model": "a1", "prompts": "b2"}
_HEADER, _SIZE, _DIGEST = b"GGUF" + bytes(28), 64, "d1g3st"


def _journal_seeds() -> list[bytes]:
    result = {"text": "t", "n_tokens": 1, "ended": True, "reason": "end"}
    head = marker_line(RESULTS, _JOURNALS[0], facts=_FACTS, n=5)
    lines = [{"place": 0, "result": result}, {"place": 3, "result": result}]
    start = [len(_HEADER), hashlib.sha256(_HEADER).hexdigest()]
    listed = marker_line(MERGE, _JOURNALS[1], digest=_DIGEST, start=start)
    merged = {
        ".m.gguf.part": _HEADER + bytes(32),
        ".m.gguf.part.done": listed + b"token_embd.weight\nblk.0.attn_q.weight\n",
    }
    return [
        pack({".out.json.part": head + b"".join(json_bytes(e) + b"\n" for e in lines)}, _JOURNALS),
        pack(merged, _JOURNALS),
    ]


def _read_journals(folder: Path) -> None:
    if (folder / _JOURNALS[0]).exists():
        with Journal(folder / "out.json", _FACTS, 5, resume=True) as journal:
            assert all(type(i) is int and 0 <= i < 5 for i in journal.results), "a result has no valid index"
            journal.results_as(Generation, Generation.is_possible)
            for i in sorted(set(range(journal.n)) - set(journal.results)):
                journal.add(i, {"text": "new"})
    partial = PartialFile(folder / "m.gguf", HeaderBytes((_HEADER,)), _SIZE, _DIGEST, resume=True)
    try:
        partial.open()
        assert (folder / ".m.gguf.part").stat().st_size == _SIZE
    finally:
        partial.close(False)


_LINES = LinesMutator(
    JsonMutator(Words(("facts", "place", "result", "text", "n_tokens"), (0, 4, 5, -1, 1.0, True, _FACTS)))
)

TARGETS = (
    Target("tasks", "task TOML", whole("suite.toml"), lambda folder: load_suite_file(folder / "suite.toml"),
           TomlMutator(_TASK), lambda: list(_TASK_SEEDS), longest=1 << 11),
    Target("schedule", "schedule TOML", whole("schedule.toml"), _read_schedule, TomlMutator(_SCHEDULE),
           lambda: [b'[[rules]]\ngroup = "attention"\nlam = 0.4\n[[rules]]\nlayers = "0-2"\nlam = [0.2, 0.9]\n'],
           longest=1 << 11),
    Target("pairs", "pairs.toml", whole("pairs.toml"), lambda folder: read_pairs(folder / "pairs.toml", is_own=True),
           TomlMutator(_PAIR),
           lambda: [b'[mine]\nbase = "./base"\ninstruct = "hub:a/b"\nparameters = 7\ngated = true\n'],
           longest=1 << 11),
    Target("outputs", "model_outputs, annotations, prompts, AlpacaEval's files", lambda d: unpack(d, _OUTPUT_FILES),
           _read_outputs, BundleMutator({**dict.fromkeys(_OUTPUT_FILES, JsonMutator(_OUTPUT)),
           "df_gamed.csv": mutate_table,
           "prompts.json": LinesMutator(JsonMutator(_OUTPUT))}), _output_seeds),
    Target("instructions", "instruction JSONL, and its rules on an answer", lambda d: unpack(d, _INSTRUCTION_FILES),
           _read_instructions, BundleMutator(dict.fromkeys(_INSTRUCTION_FILES,
           LinesMutator(JsonMutator(_INSTRUCTION)))),
           _instruction_seeds),
    Target("rows", "task data: JSONL, JSON, CSV", lambda d: unpack(d, _ROW_FILES), _read_rows,
           BundleMutator({"rows.jsonl": LinesMutator(_ROW), "rows.json": _ROW, "rows.csv": mutate_table}), _row_seeds,
           longest=1 << 12),
    Target("documents", "plain text and its passages", lambda d: unpack(d, _TEXT_FILES), _read_texts,
           BundleMutator({"notes.txt": damage, "rows.jsonl": LinesMutator(_TEXT_ROW)}),
           _text_seeds, longest=1 << 12),
    Target("journals", "journals of generations and merges", lambda d: unpack(d, _JOURNALS), _read_journals,
           BundleMutator({".out.json.part": _LINES, ".m.gguf.part": damage, ".m.gguf.part.done": damage}),
           _journal_seeds,
           writes=frozenset(_JOURNALS)),
)  # fmt: skip
