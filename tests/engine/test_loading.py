"""Files that would end the process are refused in one line; each also kills a process that lets llama.cpp have it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pa_lite.checkpoints.gguf_file import read_gguf_header
from pa_lite.checkpoints.source import Field, Metadata, array, string, uint32
from pa_lite.engine.loading import most_that_fit
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.errors import CheckpointError, EngineError, InputError
from pa_lite.kernels import TensorType, tensor_type
from tests.ggufs import write_gguf_header

ONE = EngineOptions(threads=1)
Tensors = dict[str, tuple[TensorType, tuple[int, ...]]]
_LOAD = """
import sys, llama_cpp.llama_cpp as lib
model = lib.llama_model_load_from_file(sys.argv[1].encode(), lib.llama_model_default_params())
context = lib.llama_init_from_model(model, lib.llama_context_default_params()) if model else None
if context:
    lib.llama_tokenize(lib.llama_model_get_vocab(model), b"A\\n", 2, (lib.llama_token * 8)(), 8, False, False)
    lib.llama_decode(context, lib.llama_batch_get_one((lib.llama_token * 2)(5, 6), 2))
sys.exit(0 if context else 3)
"""


def float32(value: float) -> Field:
    return Field("FLOAT32", value)


def changed(source: Path, target: Path, fields: Metadata, types: dict[str, str]) -> Path:
    """A whole copy of a GGUF file with other metadata, and tensors of other types (zeros)."""
    header = read_gguf_header(source)
    metadata = {k: v for k, v in header.metadata.items() if k != "general.architecture"} | fields
    tensors: Tensors = {
        t.name: (tensor_type(types[t.name]) if t.name in types else t.type, t.shape) for t in header.tensors.values()
    }
    placed = write_gguf_header(target, "llama", metadata, tensors)
    data = np.memmap(source, np.uint8, "r")
    with target.open("r+b") as f:
        for name, old in header.tensors.items():
            if name not in types:
                f.seek(placed[name].offset)
                f.write(data[old.offset : old.offset + old.nbytes].tobytes())
    return target


def loads_in_another_process(path: Path) -> int:
    """Exit status of a process that loads the file, tokenises and decodes; negative when a signal ended it."""
    words = [sys.executable, "-c", _LOAD, str(path)]
    environment = {"GGML_NO_BACKTRACE": "1", "PATH": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, capture_output=True, check=False, env=environment).returncode


RMS, SCALING = "llama.attention.layer_norm_rms_epsilon", "llama.rope.scaling.type"
FATAL: list[tuple[Metadata, dict[str, str], str]] = [
    ({"llama.block_count": uint32(0)}, {}, "block_count is missing or not from 1 to 512"),
    ({"llama.block_count": uint32(100_000)}, {}, "block_count is missing or not from 1 to 512"),
    ({"llama.expert_count": uint32(2000)}, {}, "expert_count is 2000, more than 1024"),
    ({"llama.expert_used_count": uint32(2)}, {}, "expert_used_count is 2, expert_count 0"),
    ({"llama.expert_count": uint32(4)}, {}, "expert_used_count is 0, expert_count 4"),
    ({RMS: float32(-1.0)}, {}, "layer_norm_rms_epsilon is -1.0"),
    ({RMS: float32(float("nan"))}, {}, "layer_norm_rms_epsilon is nan"),
    ({SCALING: string("sideways")}, {}, "rope.scaling.type is 'sideways', none of none, linear"),
    ({"tokenizer.ggml.tokens": array("STRING", ["a"] * 320)}, {}, "two equal tokens, 'a'"),
    ({}, {"blk.0.attn_norm.weight": "F16"}, "attn_norm.weight is of type F16; norms must be F32"),
    ({}, {"blk.0.ffn_up.weight": "I32"}, "ffn_up.weight is of type I32, which holds no weights"),
    ({}, {"blk.0.ffn_up.weight": "F64"}, "ffn_up.weight is of type F64, which holds no weights"),
]


@pytest.mark.parametrize(("fields", "types", "told"), FATAL)
def test_fatal_files_are_refused(
    tiny_ggufs: dict[str, Path], tmp_path: Path, fields: Metadata, types: dict[str, str], told: str
) -> None:
    path = changed(tiny_ggufs["F32"], tmp_path / "x.gguf", fields, types)
    with pytest.raises(CheckpointError, match=told) as caught:
        Model(path, ONE)
    assert str(path) in str(caught.value)
    assert loads_in_another_process(path) < 0  # else we refuse what llama.cpp survives


def test_the_unchanged_copy_loads(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    path = changed(tiny_ggufs["F32"], tmp_path / "x.gguf", {}, {})
    assert loads_in_another_process(path) == 0
    with Model(path, ONE) as model, model.context(256) as context:
        context.decode([5], [0], [(0,)], [True])


def test_a_sentencepiece_vocabulary_needs_its_bytes(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    texts = [f"<0x{b:02X}>" for b in range(256)] + [f"t{i}" for i in range(64)]
    texts[0x41] = "A"  # stands for its byte as well
    fields = {"tokenizer.ggml.model": string("llama"), "tokenizer.ggml.tokens": array("STRING", texts)}
    with Model(changed(tiny_ggufs["F32"], tmp_path / "a.gguf", fields, {}), ONE) as model:
        assert model.tokenize("A", add_special=False)[-1] == 0x41
    texts[0x0A] = "newline"
    fields["tokenizer.ggml.tokens"] = array("STRING", texts)
    path = changed(tiny_ggufs["F32"], tmp_path / "b.gguf", fields, {})
    with pytest.raises(CheckpointError, match="no token for the byte <0x0A>"):
        Model(path, ONE)
    assert loads_in_another_process(path) < 0


def test_too_little_alignment(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    """Alignment 16 in a file whose tensors lie by 32: only the header is looked at, as tensors may not be reached."""
    header = read_gguf_header(tiny_ggufs["F32"])
    metadata = {k: v for k, v in header.metadata.items() if k != "general.architecture"}
    write_gguf_header(tmp_path / "x.gguf", "llama", metadata | {"general.alignment": uint32(16)}, {})
    with pytest.raises(CheckpointError, match=r"general\.alignment is 16, less than 32"):
        Model(tmp_path / "x.gguf", ONE)


@pytest.mark.parametrize("most", [0, 1, 2, 31, 33, 80])
def test_the_most_that_fit_is_found_in_few_tries(most: int) -> None:
    for room in range(most + 1):
        tried: list[int] = []

        def fits(n: int, room: int = room, tried: list[int] = tried) -> bool:
            tried.append(n)
            return n <= room

        assert most_that_fit(most, fits) == room
        assert tried[0] == most
        assert len(tried) <= most.bit_length() + 2
    assert most_that_fit(most, lambda _n: False) is None


def test_layers_are_tried_again_when_a_context_does_not_fit(
    tiny_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pretended GPU whose memory holds three layers, or one beside a context of 500 cells; the model runs on."""
    load, create = Model._try, Model._new_context
    tried: list[int] = []

    def try_layers(self: Model, gpu_layers: int) -> bool:
        tried.append(gpu_layers)
        if gpu_layers > 3:
            self.close()
            return False
        done = load(self, gpu_layers)
        self.gpu_layers = gpu_layers
        return done

    def new_context(self: Model, n_ctx: int, *more: object) -> object:
        return create(self, n_ctx, *more) if self.gpu_layers <= (1 if n_ctx >= 500 else 3) else None  # type: ignore[arg-type]

    monkeypatch.setattr(Model, "_try", try_layers)
    monkeypatch.setattr(Model, "_new_context", new_context)
    with Model(tiny_ggufs["F32"], ONE) as model:
        monkeypatch.setattr(Model, "n_layers", 4)
        with model.context(256):
            pass
        model._load(most=5)
        assert model.gpu_layers == 3
        assert tried[1] == 5
        with model.context(256), pytest.raises(EngineError, match="no room for a context of 500"), model.context(500):
            pass  # another context is open: the model cannot be loaded anew beneath it
        assert model.gpu_layers == 3
        with model.context(500) as context:
            assert model.gpu_layers == 1
            context.decode([5], [0], [(0,)], [True])
            assert np.isfinite(context.logits(0)).all()


@pytest.mark.parametrize("layers", [-2, "most", 1.5])
def test_bad_layers(tiny_ggufs: dict[str, Path], layers: object) -> None:
    with pytest.raises(InputError, match="must be auto, -1"):
        Model(tiny_ggufs["F32"], EngineOptions(gpu_layers=layers))  # type: ignore[arg-type]
