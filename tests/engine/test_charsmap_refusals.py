"""Tables that normalise texts are refused if a letter in a prompt would crash llama.cpp, and only then."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from pa_lite.engine.charsmap_refusals import LONGEST, charsmap_fault
from pa_lite.engine.refusals import check_loadable
from pa_lite.errors import CheckpointError
from pa_lite.ggml.container import read_gguf_header
from pa_lite.ggml.metadata import Field, array, string, uint32
from tests.engine.test_refusals import changed

Units = dict[int, int]
_TOKENIZE = """
import json, sys, llama_cpp.llama_cpp as lib
model = lib.llama_model_load_from_file(sys.argv[1].encode(), lib.llama_model_default_params())
if not model:
    sys.exit(3)
vocab = lib.llama_model_get_vocab(model)
for text in json.load(sys.stdin):
    raw = text.encode()
    lib.llama_tokenize(vocab, raw, len(raw), (lib.llama_token * 4096)(), 4096, False, False)
"""


def table(units: Units, texts: bytes = b"abc\0", size: int = 1024) -> bytes:
    """Return a double array with the given entries (others are 0) and the strings after it."""
    entries = b"".join(units.get(i, 0).to_bytes(4, "little") for i in range(size))
    return len(entries).to_bytes(4, "little") + entries + texts


def letter(char: str, base: int, is_leaf: bool = True) -> int:
    """Return the entry for a character; `base` is combined with its index for the next one."""
    return ord(char) | is_leaf << 8 | base << 10


ROOT = {0: 256 << 10}
Q = 256 ^ ord("q")
SOUND = table({**ROOT, Q: letter("q", 512), Q ^ 512: 0})
# the fault that is reported -> a table in which the letter q leads to it
FAULTS = {
    "points to entry 262513 of 1024": table({**ROOT, Q: letter("q", 1 << 18)}),
    "points to byte 99 of strings of 4 bytes": table({**ROOT, Q: letter("q", 512), Q ^ 512: 99}),
    "has a string without a terminating NUL": table({**ROOT, Q: letter("q", 512)}, b"abc"),
    "points to entry 1791 of 1024": table({**ROOT, Q: letter("q", 1792, is_leaf=False)}),
}


def model_with(source: Path, target: Path, held: bytes) -> Path:
    """Write the tiny model with a unigram tokenizer that normalises by a table."""
    tokens = ["<pad>", "</s>", "<unk>", *(f"t{i}" for i in range(317))]
    fields = {
        "tokenizer.ggml.model": string("t5"), "tokenizer.ggml.pre": string("default"),
        "tokenizer.ggml.tokens": array("STRING", tokens), "tokenizer.ggml.scores": array("FLOAT32", [-1.0] * 320),
        "tokenizer.ggml.token_type": array("INT32", [1] * 320), "tokenizer.ggml.eos_token_id": uint32(1),
        "tokenizer.ggml.bos_token_id": uint32(0),
        "tokenizer.ggml.precompiled_charsmap": Field("ARRAY", list(held), "UINT8"),
    }  # fmt: skip
    return changed(source, target, fields, {})


def tokenises_in_another_process(path: Path, texts: list[str]) -> int:
    """Return the exit status of a process that loads a file and tokenises texts; negative for a signal."""
    words, environment = [sys.executable, "-c", _TOKENIZE, str(path)], {"GGML_NO_BACKTRACE": "1", "PATH": ""}
    request = json.dumps(texts).encode()
    return subprocess.run(words, input=request, capture_output=True, check=False, env=environment).returncode


@pytest.mark.parametrize("told", FAULTS)
def test_a_table_with_which_a_letter_crashes_llama_cpp_is_refused(
    tiny_ggufs: dict[str, Path], tmp_path: Path, told: str
) -> None:
    path = model_with(tiny_ggufs["F32"], tmp_path / "x.gguf", FAULTS[told])
    with pytest.raises(CheckpointError, match=f"precompiled_charsmap {told}"):
        check_loadable(read_gguf_header(path))
    every = [chr(n) + more for n in range(1, 256) for more in ("", *map(chr, range(1, 128)))]
    assert tokenises_in_another_process(path, ["Hello, world"]) == 0  # so one trial text is not enough
    assert tokenises_in_another_process(path, every) < 0


def test_a_valid_table_is_accepted_and_used(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    assert charsmap_fault(SOUND) is None
    path = model_with(tiny_ggufs["F32"], tmp_path / "x.gguf", SOUND)
    check_loadable(read_gguf_header(path))
    assert tokenises_in_another_process(path, ["q", "qq hello"]) == 0


def test_a_long_replacement_is_refused() -> None:
    units = {**ROOT, Q: letter("q", 512)}
    assert charsmap_fault(table(units, b"a" * LONGEST + b"\0")) is None
    longer = table(units, b"a" * (LONGEST + 1) + b"\0")
    assert charsmap_fault(longer) == "has a replacement of 1025 bytes, more than 1024"


@pytest.mark.parametrize("held", [b"", b"\0\0\0", b"\4\0\0\0", b"\4\0\0\0\0\0\0\0", b"\xff\xff\xff\xff\0\0\0\0\0"])
def test_a_truncated_table_is_refused(held: bytes) -> None:
    assert charsmap_fault(held) == f"is cut off: it has {len(held)} bytes"


def test_random_tables_that_pass_do_not_crash_on_any_text(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    draw, texts = random.Random(1), [chr(a) + chr(b) for a in range(1, 128) for b in range(1, 128)]
    verdicts = []
    for i in range(12):
        units = {**ROOT, **{256 ^ c: letter(chr(c), draw.choice((256, 512, 768, 1024, 3)), draw.random() < 0.7)
                            for c in draw.sample(range(97, 123), 1 + i % 3)}}  # fmt: skip
        units |= {draw.randrange(1024): draw.randrange(6) for _ in range(40)}
        held = table(units, b"ab\0c\0")
        verdicts.append(charsmap_fault(held) is None)
        if verdicts[-1]:
            path = model_with(tiny_ggufs["F32"], tmp_path / "x.gguf", held)
            assert tokenises_in_another_process(path, texts) == 0
    assert {True, False} == set(verdicts)
