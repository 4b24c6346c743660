"""Readers take linear work, not quadratic: each reads a file and one four times as large."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

pytest.importorskip("resource", reason="the targets' limits are POSIX's")

from pa_lite.errors import PaLiteError
from pa_lite.ggml.container import gguf_header_bytes
from pa_lite.ggml.kernels import tensor_type
from pa_lite.ggml.metadata import array, string
from tests.support import tiny
from tools.fuzz.binary import json_bytes, pack, pack_safetensors, write_fields
from tools.fuzz.oracle import whole
from tools.fuzz.targets import TARGETS

_N = 500


def _gguf(fields: dict[str, Any], names: list[str]) -> bytes:
    header, _, size = gguf_header_bytes("llama", fields, {name: (tensor_type("F32"), (1,)) for name in names})
    return header + bytes(size - len(header))


def _tokens(n: int) -> bytes:
    texts, merges = [f"t{i}" for i in range(n)], [f"t{i} t{i + 1}" for i in range(n)]
    lists = {"tokens": array("STRING", texts), "token_type": array("INT32", [1] * n), "merges": array("STRING", merges)}
    return _gguf({f"tokenizer.ggml.{key}": value for key, value in lists.items()}, ["token_embd.weight"])


def _tokenizer(n: int) -> bytes:
    vocab = {letter: i for i, letter in enumerate(tiny.byte_letters())} | {f"t{i}": 256 + i for i in range(n)}
    model = {"vocab": vocab, "merges": [[f"t{i}", f"t{i + 1}"] for i in range(n - 1)]}
    added = [{"id": 256 + i, "content": f"t{i}", "special": True} for i in range(n)]
    step = {"type": "ByteLevel", "add_prefix_space": False}
    config = {"architectures": ["LlamaForCausalLM"], "vocab_size": 256 + n}
    definition = {"model": model, "added_tokens": added, "pre_tokenizer": step}
    files = {"config.json": json_bytes(config), "tokenizer.json": json_bytes(definition)}
    return pack(files, ("config.json", "tokenizer.json"))


def _line(text: bytes) -> Callable[[int], bytes]:
    return lambda n: text * n


# (target, its part that is large, input with n of these)
_LARGE: list[tuple[str, str, Callable[[int], bytes]]] = [
    ("gguf", "tensors", lambda n: _gguf({}, [f"t{i}" for i in range(n)])),
    ("gguf", "keys", lambda n: _gguf({f"k{i}": string("") for i in range(n)}, ["t"])),
    ("gguf", "tokens", _tokens),
    ("safetensors", "tensors of no size", lambda n: pack_safetensors(
        json_bytes({f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(n)}), b"")),
    ("folder", "shards", lambda n: pack(
        {"index": json_bytes({"weight_map": {f"t{i}": f"s{i}.safetensors" for i in range(n)}})}, ("", "index"))),
    ("tokenizer", "tokens", _tokenizer),
    ("sentencepiece", "pieces", lambda n: write_fields([(1, 2, write_fields([(1, 2, b"t%d" % i)])) for i in range(n)])),
    ("schedule", "tables", lambda n: b"".join(b"[t%d]\n" % i for i in range(n))),
    ("schedule", "tables within tables", lambda n: b"".join(b"[a.t%d.b]\n" % i for i in range(n))),
    ("schedule", "rules", _line(b"[[rules]]\nlam = 0.5\n")),
    ("schedule", "numbers", lambda n: b"x = [" + b"1," * n + b"]"),
    ("pairs", "pairs", lambda n: b"".join(b'[p%d]\nbase = "a"\ninstruct = "b"\n' % i for i in range(n))),
    ("outputs", "answers", lambda n: pack(
        {"outputs": json_bytes([{"instruction": f"i{i}", "output": "x"} for i in range(n)])}, ("outputs",))),
    ("rows", "lines", lambda n: pack({"rows.jsonl": b"{}\n" * n}, ("rows.jsonl",))),
    ("rows", "rows of a table", lambda n: pack({"csv": b"a,b\n" + b"1,2\n" * n}, ("", "", "csv"))),
    ("journals", "results", lambda n: pack(
        {"journal": b'{"facts": {}}\n' + b'{"place": 1, "result": 1}\n' * n}, ("journal",))),
]  # fmt: skip


def _lines(name: str, data: bytes, folder: Path) -> int:
    """Return how many lines of Python a reader runs for an input: the same on every machine, busy or not."""
    folder.mkdir()
    for file, content in TARGETS[name].files(data).items():
        (folder / file).write_bytes(content)
    n = 0

    def count(_frame: FrameType, _event: str, _argument: object) -> Any:
        nonlocal n
        n += 1
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        with contextlib.suppress(PaLiteError):
            TARGETS[name].read(folder)
    finally:
        sys.settrace(before)
    return n


@pytest.mark.parametrize(("name", "what", "make"), _LARGE, ids=[f"{name}-{what}" for name, what, _ in _LARGE])
def test_a_file_four_times_as_large_takes_linear_work(
    tmp_path: Path, name: str, what: str, make: Callable[[int], bytes]
) -> None:
    """Quadratic work would be sixteen times as much."""
    small, large = make(_N), make(4 * _N)
    _lines(name, small, tmp_path / "warm")  # loads modules, fills caches
    before, after = _lines(name, small, tmp_path / "small"), _lines(name, large, tmp_path / "large")
    assert before
    assert after < 6 * before, f"{what}: {before} lines, then {after}"


def test_quadratic_work_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def square(folder: Path) -> None:
        n = len((folder / "x").read_bytes())
        for _ in range(n):
            for _ in range(n):
                pass

    monkeypatch.setitem(TARGETS, "square", replace(TARGETS["gguf"], read=square, files=whole("x")))
    counted = [_lines("square", bytes(n), tmp_path / f"{n}") for n in (50, 200)]
    assert counted[1] > 12 * counted[0]
