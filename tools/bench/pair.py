"""Inputs and reference programs for benchmarks of merges: a pair with the shapes of real models, a disk test.

The benchmarks run each command in a separate process:
make FOLDER SIZE VOCAB               base and instruct, random weights, invented words
floor TARGET BYTES SOURCE...         read and write as many bytes as a merge
quantize SOURCE TARGET THREADS       llama.cpp's own quantiser

The weights are bfloat16; instruct is base plus a small change of low rank. They are generated and written in pieces, so
that memory stays small. The vocabulary is byte-level BPE.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from pa_lite.errors import InputError, PaLiteError
from pa_lite.system.atomic import check_space, write_errors

Shapes = dict[str, tuple[int, ...]]

CHUNK = 1 << 20  # bytes read or written at a time; larger chunks are not faster, and uneven on some systems
_Q4_K_M = 15  # enum llama_ftype
_PIECE = 1 << 22  # weights generated at a time
_RANK = 8
_SPREAD, _CHANGE = 0.02, 0.002  # standard deviations of base's weights and of instruct's change
_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# the converter recognises pre-tokenizers by the hash of a text's ids; it cannot recognise an invented vocabulary
CONVERT = """
import sys
sys.path.insert(0, sys.argv[1])
import conversion.base
conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
import convert_hf_to_gguf
sys.argv = ["convert_hf_to_gguf.py", *sys.argv[2:]]
convert_hf_to_gguf.main()
"""
MERGEKIT = """\
merge_method: linear
dtype: bfloat16
models:
  - model: {base}
    parameters: {{weight: 0.3}}
  - model: {instruct}
    parameters: {{weight: 0.7}}
"""


@dataclass(frozen=True)
class Size:
    """A Llama with tied embeddings: the sizes that decide its tensors' shapes, and the number of files."""

    hidden: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int
    shards: int = 1


SIZES: dict[str, Size] = {
    "tiny": Size(256, 768, 2, 4, 2),
    "135m": Size(576, 1536, 30, 9, 3),  # SmolLM2-135M
    "1b": Size(2048, 8192, 16, 32, 8, shards=2),  # Llama-3.2-1B
    "3b": Size(3072, 8192, 28, 24, 8, shards=2),  # Llama-3.2-3B
}


def tensor_shapes(size: Size, vocab: int) -> Shapes:
    """Return every tensor of the checkpoint and its shape, in the order of the files."""
    d, ff = size.hidden, size.feed_forward
    kv = d // size.heads * size.kv_heads
    out: Shapes = {"model.embed_tokens.weight": (vocab, d)}
    for i in range(size.layers):
        layer = {
            "input_layernorm": (d,), "self_attn.q_proj": (d, d), "self_attn.k_proj": (kv, d),
            "self_attn.v_proj": (kv, d), "self_attn.o_proj": (d, d), "post_attention_layernorm": (d,),
            "mlp.gate_proj": (ff, d), "mlp.up_proj": (ff, d), "mlp.down_proj": (d, ff),
        }  # fmt: skip
        out |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    out["model.norm.weight"] = (d,)
    return out


def input_bytes(size: Size, vocab: int) -> int:
    """Return the size of base and instruct together on disk, without headers and vocabularies."""
    return 2 * 2 * sum(map(math.prod, tensor_shapes(size, vocab).values()))


def _bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round to nearest, ties to even; there are no infinities here."""
    bits = values.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded: npt.NDArray[np.uint32] = (bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)
    return rounded.astype(np.uint16)


def _draw(name: str, shape: tuple[int, ...]) -> Iterator[tuple[bytes, bytes]]:
    """Yield a tensor's bytes in base and in instruct, a few rows at a time; always the same for a name and shape."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) == 1:
        base = 1 + _SPREAD * rng.standard_normal(shape, np.float32)
        change = _CHANGE * rng.standard_normal(shape, np.float32)
        yield _bfloat16(base).tobytes(), _bfloat16(base + change).tobytes()
        return
    rows, columns = shape
    right = rng.standard_normal((_RANK, columns), np.float32) * np.float32(_CHANGE / math.sqrt(_RANK))
    step = max(1, _PIECE // columns)
    for start in range(0, rows, step):
        n = min(step, rows - start)
        base = rng.standard_normal((n, columns), np.float32)
        base *= np.float32(_SPREAD)
        change = rng.standard_normal((n, _RANK), np.float32) @ right
        yield _bfloat16(base).tobytes(), _bfloat16(base + change).tobytes()


def _split(shapes: Shapes, shards: int) -> list[Shapes]:
    """Return the tensors in `shards` groups of about the same size."""
    total, taken = sum(map(math.prod, shapes.values())), 0
    out: list[Shapes] = [{} for _ in range(shards)]
    for name, shape in shapes.items():
        out[min(shards - 1, taken * shards // total)][name] = shape
        taken += math.prod(shape)
    return out


def _write_header(file: BinaryIO, shapes: Shapes) -> None:
    """Write a safetensors header: its length, then JSON with each tensor's dtype, shape and offsets."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)


def _write_weights(sides: tuple[Path, Path], size: Size, vocab: int) -> None:
    groups = _split(tensor_shapes(size, vocab), size.shards)
    weight_map: dict[str, str] = {}
    for i, group in enumerate(groups, 1):
        name = f"model-{i:05}-of-{len(groups):05}.safetensors" if len(groups) > 1 else "model.safetensors"
        weight_map |= dict.fromkeys(group, name)
        with (sides[0] / name).open("wb") as base, (sides[1] / name).open("wb") as instruct:
            _write_header(base, group)
            _write_header(instruct, group)
            for tensor, shape in group.items():
                for left, right in _draw(tensor, shape):
                    base.write(left)
                    instruct.write(right)
    if len(groups) > 1:
        index = {"metadata": {"total_size": input_bytes(size, vocab) // 2}, "weight_map": weight_map}
        for side in sides:
            (side / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")


def _byte_letters() -> list[str]:
    """Return byte-level BPE's letters for the 256 bytes: printable Latin-1 is itself, the rest start at U+0100."""
    kept = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    moved = itertools.count(256)
    return [chr(byte if byte in kept else next(moved)) for byte in range(256)]


def _merges() -> Iterator[tuple[str, str]]:
    """Yield syllables, words of two of them, the same after a space, then words of three: over a million merges."""
    syllables = [a + b for a, b in itertools.product("bcdfghjklmnpqrstvwxz", "aeiou")]
    pairs = list(itertools.product(syllables, syllables))
    yield from itertools.product("bcdfghjklmnpqrstvwxz", "aeiou")
    yield from pairs
    yield from (("Ġ", a + b) for a, b in pairs)
    yield from ((a + b, c) for (a, b), c in itertools.product(pairs, syllables))


def _write_vocabulary(folder: Path, vocab: int) -> None:
    letters = _byte_letters()
    merges = list(itertools.islice(_merges(), vocab - len(_SPECIALS) - len(letters)))
    texts = [*_SPECIALS, *letters, *(a + b for a, b in merges)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": i, "content": s, **flags, "special": True} for i, s in enumerate(_SPECIALS)],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {text: i for i, text in enumerate(texts)}, "merges": [f"{a} {b}" for a, b in merges],
        },
    }  # fmt: skip
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": _SPECIALS[0], "eos_token": _SPECIALS[2],
        "model_max_length": 8192, "chat_template": _CHAT_TEMPLATE,
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


def _write_config(folder: Path, size: Size, vocab: int) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "torch_dtype": "bfloat16",
        "vocab_size": vocab, "hidden_size": size.hidden, "intermediate_size": size.feed_forward,
        "num_hidden_layers": size.layers, "num_attention_heads": size.heads, "num_key_value_heads": size.kv_heads,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": True,
        "bos_token_id": 0, "eos_token_id": 2, "attention_bias": False, "mlp_bias": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=1), "utf-8")


def make_pair(folder: Path, size: Size, vocab: int) -> None:
    """Write FOLDER/base and FOLDER/instruct; FOLDER appears only when both are complete.

    Raises InputError for a vocabulary of an impossible size, OutputError when the disk is too small.
    """
    if not 259 <= vocab <= 1_000_000:
        raise InputError(f"--vocab {vocab}: must be from 259 to 1000000.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    check_space(folder.parent, input_bytes(size, vocab) + 40 * vocab * 2)
    growing = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(growing, ignore_errors=True)
    sides = growing / "base", growing / "instruct"
    try:
        with write_errors(growing):
            for side in sides:
                side.mkdir(parents=True)
                _write_config(side, size, vocab)
                _write_vocabulary(side, vocab)
            _write_weights(sides, size, vocab)
            growing.replace(folder)
    finally:
        shutil.rmtree(growing, ignore_errors=True)


def weights(pair: Path) -> list[Path]:
    """Return the safetensors files of base and instruct."""
    return [f for side in ("base", "instruct") for f in sorted((pair / side).glob("*.safetensors"))]


def warm(pair: Path) -> None:
    """Read all of base and instruct once, to put them into the page cache."""
    for file in weights(pair):
        with file.open("rb", buffering=0) as f:
            while f.read(CHUNK):
                pass


def run_floor(target: str, size: str, *sources: str) -> None:
    """Read the sources and write `size` bytes of them, alternating as a merge does; print the seconds of each."""
    buffer, due, read, written = memoryview(bytearray(CHUNK)), int(size), 0, 0
    total = sum(os.path.getsize(source) for source in sources)
    spent = {"read": 0.0, "write": 0.0}
    begin = time.perf_counter()
    out = os.open(target, os.O_WRONLY | os.O_CREAT)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(out, 0, due)
    for source in sources:
        descriptor = os.open(source, os.O_RDONLY)
        while True:
            start = time.perf_counter()
            spent["write"] += start - begin
            n = os.readv(descriptor, [buffer])
            begin = time.perf_counter()
            spent["read"] += begin - start
            if not n:
                break
            read += n
            while written < due * read // total:
                written += os.write(out, buffer[: min(CHUNK, due * read // total - written)])
        os.close(descriptor)
    os.fsync(out)
    spent["write"] += time.perf_counter() - begin
    print(json.dumps(spent))


def run_quantize(source: str, target: str, threads: str) -> None:
    """Quantise source to target as Q4_K_M with llama.cpp's own quantiser; print the seconds of the call itself."""
    import llama_cpp  # slow to import

    llama_cpp.llama_backend_init()
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.nthread, settings.ftype = int(threads), _Q4_K_M
    start = time.perf_counter()
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), settings):
        sys.exit("llama_model_quantize failed")
    print(json.dumps({"seconds": time.perf_counter() - start}))


def run_make(folder: str, size: str, vocab: str) -> None:
    """Make the pair in a separate process, so that its memory does not count as that of the measured program."""
    make_pair(Path(folder), SIZES[size], int(vocab))


COMMANDS: dict[str, Callable[..., None]] = {"make": run_make, "floor": run_floor, "quantize": run_quantize}


def main(command: str, *words: str) -> None:
    """Run one command; an error becomes one line."""
    try:
        COMMANDS[command](*words)
    except (PaLiteError, OSError) as e:
        sys.exit(f"error: {e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
