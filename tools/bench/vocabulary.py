"""`python -m tools.bench vocabulary`: memory and time of planning and merging a small pair with a large vocabulary.

The vocabularies are generated, in the kinds and sizes of known families, or come from folders that are named: each with
tokenizer.json or tokenizer.model and their companions. The model is as small as possible, so that the vocabulary's cost
is measured. Processes are whole command lines; inputs are in the page cache. Linux only.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tools.bench.runs import BenchError, Row, Run, last_line, machine, show, write_json

_WIDTH, _LAYERS = 64, 1
_ARCHITECTURE = "LlamaForCausalLM"
# name -> (kind, tokens, added tokens, is tokenizer.json indented)
MADE = {
    "byte-level 128k": ("byte-level", 128_256, 256, False),
    "byte-level 152k": ("byte-level", 151_936, 293, True),
    "byte-level 201k": ("byte-level", 201_088, 21, True),
    "sentencepiece 256k, tokenizer.json": ("sentencepiece", 262_144, 6_242, True),
    "sentencepiece 256k, tokenizer.model": ("model", 256_000, 249, True),
}
# prints the process's peak memory at exit
_PROGRAM = """
import atexit, re, sys

def report():
    with open("/proc/self/status", encoding="ascii", errors="replace") as f:
        sys.stderr.write("\\nVmHWM " + re.search(r"VmHWM:\\s+(\\d+)", f.read())[1] + "\\n")

atexit.register(report)
from pa_lite.cli import main
main()
"""


def words(n: int, alphabet: Sequence[str], joint: str) -> list[tuple[str, str]]:
    """Return n merges (left, right) that build words of an alphabet letter by letter, some starting with `joint`."""
    out: list[tuple[str, str]] = []
    known = [joint, *alphabet]
    for left in known:  # which grows
        for right in alphabet:
            if len(out) == n:
                return out
            out.append((left, right))
            known.append(left + right)
    return out


def byte_letters() -> list[str]:
    """Return byte-level BPE's printable letters for the 256 bytes, in the order of the bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


def make_tokenizer(folder: Path, kind: str, size: int, n_added: int, indented: bool = False) -> dict[str, Any]:
    """Write a tokenizer of `size` tokens, the last `n_added` of them added ones; return its entries for config.json.

    `kind` is byte-level or sentencepiece (a tokenizer.json), or model (also a tokenizer.model).
    """
    n = size - n_added
    specials = [f"<|special_{i}|>" for i in range(n_added)]
    added = [
        {"id": n + i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True} for i, t in enumerate(specials)
    ]  # fmt: skip
    model: dict[str, Any] = {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False}
    if kind == "byte-level":
        letters = byte_letters()
        merges = words(n - len(letters), letters[97:123] + letters[200:220], letters[32])
        texts = letters + [a + b for a, b in merges]
        normalizer, first = None, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    else:
        bytes_ = ["<unk>", *(f"<0x{b:02X}>" for b in range(256))]
        letters = [chr(c) for c in (*range(97, 123), *range(0x430, 0x450))]
        merges = words(n - len(bytes_) - len(letters) - 1, letters, "▁")
        texts = [*bytes_, "▁", *letters, *(a + b for a, b in merges)]
        # as in converted vocabularies: every way to build a token is a merge
        made = set(texts)
        merges += [(t[:1], t[1:]) for t in texts if len(t) > 3 and t[1:] in made]
        normalizer = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        first = {}
        model |= {"byte_fallback": True, "unk_token": "<unk>"}
    document = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": first or None, "post_processor": None, "decoder": None,
        "model": {**model, "vocab": {t: i for i, t in enumerate(texts)}, "merges": [list(pair) for pair in merges]},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, ensure_ascii=False, indent=1 if indented else None)
    (folder / "tokenizer.json").write_text(text, "utf-8")
    settings = {"added_tokens_decoder": {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    if kind == "model":
        (folder / "tokenizer.model").write_bytes(sentencepiece_model(texts))
    return {"vocab_size": size, "bos_token_id": n, "eos_token_id": n}


def sentencepiece_model(texts: Sequence[str]) -> bytes:
    """Return a tokenizer.model of these pieces, the first of them unknown, as sentencepiece writes it."""
    out = bytearray()
    for i, text in enumerate(texts):
        raw = text.encode()
        kind = 2 if i == 0 else 6 if text.startswith("<0x") else 1
        piece = b"\x0a" + bytes([len(raw)]) + raw + b"\x15" + np.float32(-i).tobytes()
        piece += b"" if kind == 1 else b"\x18" + bytes([kind])
        out += b"\x0a" + bytes([len(piece)]) + piece
    return bytes(out) + b"\x12\x02\x18\x02"  # trained as BPE


def make_pair(folder: Path, tokenizer: Path, config: dict[str, Any]) -> tuple[Path, Path]:
    """Write base and instruct: small Llamas with the files of a tokenizer."""
    size, d = config["vocab_size"], _WIDTH
    shape = {
        "architectures": [_ARCHITECTURE], "model_type": "llama", "hidden_size": d, "intermediate_size": d,
        "num_hidden_layers": _LAYERS, "num_attention_heads": 4, "num_key_value_heads": 4, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": True,
    }  # fmt: skip
    sides = folder / "base", folder / "instruct"
    for seed, side in enumerate(sides):
        side.mkdir(parents=True)
        for file in tokenizer.iterdir():
            if file.is_file() and file.name != "config.json":
                shutil.copyfile(file, side / file.name)
        (side / "config.json").write_text(json.dumps({**shape, **config}), "utf-8")
        rng = np.random.default_rng(seed)
        tensors = {"model.embed_tokens.weight": (size, d), "model.norm.weight": (d,)}
        for i in range(_LAYERS):
            p = f"model.layers.{i}."
            tensors |= {p + f"{kind}_layernorm.weight": (d,) for kind in ("input", "post_attention")}
            tensors |= {p + f"self_attn.{x}_proj.weight": (d, d) for x in "qkvo"}
            tensors |= {p + f"mlp.{x}_proj.weight": (d, d) for x in ("gate", "up", "down")}
        from safetensors.numpy import save_file

        weights = {name: rng.standard_normal(shape, np.float32).astype(np.float16) for name, shape in tensors.items()}
        save_file(weights, side / "model.safetensors")
    return sides


def size_of_tokenizer(folder: Path) -> int:
    """Return the number of tokens of a tokenizer.json. Raises BenchError when it is missing."""
    try:
        document = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        return 1 + int(max([*document["model"]["vocab"].values(), *(t["id"] for t in document["added_tokens"])]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise BenchError(f"{folder}: has no tokenizer.json of a BPE vocabulary ({e!r:.100})") from e


def run_merge(what: str, pair: tuple[Path, Path], *options: str | Path) -> Run:
    """Run `pa-lite merge` in a cold process; return its time, its VmHWM, and what it printed with --json."""
    command = [sys.executable, "-c", _PROGRAM, "merge", *pair, "--lam", "0.5", *options]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    said, _, peak = done.stderr.rpartition("VmHWM ")
    found = json.loads(done.stdout) if done.stdout.lstrip().startswith("{") else {}
    if (done.returncode and not found.get("problems")) or not peak:  # a dry run with problems exits with 1
        raise BenchError(f"{what}: {last_line(said or done.stderr)}")
    return Run(what, seconds, int(peak) * 1024, 0, found)


def measure(name: str, pair: tuple[Path, Path], scratch: Path, bound: int, rounds: int) -> tuple[list[Row], list[Run]]:
    """Measure planning and merging of one pair."""
    target = scratch / "merged.gguf"
    common: list[str | Path] = ["-o", target, "--max-memory", f"{bound}M"]
    plans = [run_merge(f"{name}: plan", pair, *common, "--dry-run", "--json") for _ in range(rounds)]
    if plans[0].printed["problems"]:
        raise BenchError(f"{name}: {plans[0].printed['problems'][0]}")
    merges = [run_merge(f"{name}: merge", pair, *common, "--force") for _ in range(rounds)]
    target.unlink()
    rows = []
    for what, runs in (("plan", plans), ("merge", merges)):
        peak = max(run.peak for run in runs)
        seconds = [run.seconds for run in runs]
        rows.append(Row(f"{name}: {what}", seconds, peak, None, f"<= {bound} MB", peak <= bound * 1e6))
    estimate, peak = plans[0].printed["memory"], max(run.peak for run in merges)
    ratio = estimate / peak
    rows.append(Row(f"{name}: estimate over peak", (), estimate, ratio, "1 to 1.15x", 1 <= ratio <= 1.15))
    return rows, plans + merges


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("folders", nargs="*", type=Path, help="tokenizers to measure instead of generated ones")
    parser.add_argument("--only", action="append", choices=list(MADE), help="one of the generated vocabularies")
    parser.add_argument("--max-memory", type=int, default=256, metavar="MB", help="the limit that must hold")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each")
    parser.add_argument("--json", type=Path, help="write all measurements to this file")


def run(options: argparse.Namespace) -> None:
    """Measure every vocabulary and print the table."""
    if sys.platform != "linux":
        raise BenchError("the peak of a process is only known on Linux")
    rows: list[Row] = []
    runs: list[Run] = []
    for name in map(str, options.folders) if options.folders else options.only or MADE:
        with tempfile.TemporaryDirectory() as made:
            scratch = Path(made)
            if options.folders:
                pair = make_pair(scratch, Path(name), {"vocab_size": size_of_tokenizer(Path(name))})
            else:
                config = make_tokenizer(scratch / "tokenizer", *MADE[name])
                pair = make_pair(scratch, scratch / "tokenizer", config)
            found = measure(name, pair, scratch, options.max_memory, options.rounds)
            rows += found[0]
            runs += found[1]
    show(rows)
    if options.json:
        write_json(options.json, vars(options), machine(None), rows, runs)
