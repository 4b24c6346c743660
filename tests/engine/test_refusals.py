"""Files that would crash llama.cpp are refused in one line; each also crashes a process that loads it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pa_lite
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.refusals import check_loadable
from pa_lite.errors import CheckpointError
from pa_lite.ggml.container import read_gguf_header
from pa_lite.ggml.kernels import TensorType, tensor_type
from pa_lite.ggml.metadata import Field, Metadata, array, boolean, string, uint32
from pa_lite.merging.plan import PlanOptions
from tests.support.families import write_checkpoint
from tests.support.ggufs import write_gguf_header

ONE = EngineOptions(threads=1)
Tensors = dict[str, tuple[TensorType, tuple[int, ...]]]
_LOAD = """
import sys, llama_cpp.llama_cpp as lib
model = lib.llama_model_load_from_file(sys.argv[1].encode(), lib.llama_model_default_params())
context = lib.llama_init_from_model(model, lib.llama_context_default_params()) if model else None
if context:
    vocab = lib.llama_model_get_vocab(model)
    for special in (False, True):
        lib.llama_tokenize(vocab, b"A\\n", 2, (lib.llama_token * 8)(), 8, special, special)
    lib.llama_decode(context, lib.llama_batch_get_one((lib.llama_token * 2)(5, 6), 2))
sys.exit(0 if context else 3)
"""


def float32(value: float) -> Field:
    return Field("FLOAT32", value)


def changed(source: Path, target: Path, fields: Metadata, types: dict[str, str], added: Tensors | None = None) -> Path:
    """Write a copy of a GGUF file with other metadata, and tensors of other types or added ones (zeros)."""
    header = read_gguf_header(source)
    metadata = {k: v for k, v in header.metadata.items() if k != "general.architecture"} | fields
    tensors: Tensors = {
        t.name: (tensor_type(types[t.name]) if t.name in types else t.type, t.shape) for t in header.tensors.values()
    }
    placed = write_gguf_header(target, "llama", metadata, tensors | (added or {}))
    data = np.memmap(source, np.uint8, "r")
    with target.open("r+b") as f:
        for name, old in header.tensors.items():
            if name not in types:
                f.seek(placed[name].offset)
                f.write(data[old.offset : old.offset + old.nbytes].tobytes())
    return target


def loads_in_another_process(path: Path) -> int:
    """Return the exit status of a process that loads a file, tokenises and decodes; negative for a signal."""
    words = [sys.executable, "-c", _LOAD, str(path)]
    environment = {"GGML_NO_BACKTRACE": "1", "PATH": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, capture_output=True, check=False, env=environment).returncode


RMS, SCALING = "llama.attention.layer_norm_rms_epsilon", "llama.rope.scaling.type"
FATAL: list[tuple[Metadata, dict[str, str], str]] = [
    ({"llama.block_count": uint32(0)}, {}, "block_count is missing or not from 1 to 512"),
    ({"llama.block_count": uint32(100_000)}, {}, "block_count is missing or not from 1 to 512"),
    ({"llama.expert_count": uint32(2000)}, {}, "expert_count is 2000, more than 1024"),
    ({"llama.expert_used_count": uint32(2)}, {}, "expert_used_count is 2, but expert_count is 0"),
    ({"llama.expert_count": uint32(4)}, {}, "expert_used_count is 0, but expert_count is 4"),
    ({RMS: float32(-1.0)}, {}, "layer_norm_rms_epsilon is -1.0"),
    ({RMS: float32(float("nan"))}, {}, "layer_norm_rms_epsilon is nan"),
    ({SCALING: string("sideways")}, {}, "rope.scaling.type is 'sideways', not one of none, linear"),
    ({"tokenizer.ggml.tokens": array("STRING", ["a"] * 320)}, {}, "has the token 'a' twice"),
    ({}, {"blk.0.attn_norm.weight": "F16"}, "attn_norm.weight is of type F16; norms must be F32"),
    ({}, {"blk.0.ffn_up.weight": "I32"}, "ffn_up.weight is of type I32, which is not a type of weights"),
    ({}, {"blk.0.ffn_up.weight": "F64"}, "ffn_up.weight is of type F64, which is not a type of weights"),
    ({"llama.nextn_predict_layers": uint32(3)}, {}, "nextn_predict_layers is more than llama.block_count"),
    ({"llama.expert_count": uint32(4), "llama.expert_used_count": uint32(2), "llama.expert_group_count": uint32(4)},
     {}, "expert_group_count 4, expert_group_used_count 0 and expert_count 4"),
    ({"tokenizer.ggml.model": string("none"), "llama.vocab_size": uint32(320)}, {}, "does not name the tokenizer"),
    ({"tokenizer.ggml.tokens": array("STRING", ["a", "a\0b", *(f"t{i}" for i in range(318))])}, {},
     "has the token 'a' twice"),
    ({"tokenizer.ggml.tokens": array("STRING", ["", "[EMPTY_0]", *(f"t{i}" for i in range(318))])}, {},
     r"has the token '\[EMPTY_0\]' twice"),
    ({"tokenizer.ggml.model": string("gemma4"), "tokenizer.ggml.bos_token_id": uint32(2**32 - 1)}, {},
     "add_bos_token adds BOS to texts"),
    ({"tokenizer.ggml.model": string("bert"), "tokenizer.ggml.token_type": array("INT32", [6] * 320)}, {},
     "vocabulary of words has a byte token at index 0"),
    ({"tokenizer.ggml.model": string("rwkv"),
      "tokenizer.ggml.tokens": array("STRING", [*(f"\\x{b:02x}" for b in range(256)), *(f"t{i}" for i in range(63)),
                                                "a" * 200_000])}, {}, "has a token of 200000 bytes, 'aaa"),
]  # fmt: skip
# files that llama.cpp refuses with a worse message, or runs with wrong tokens or numbers
REFUSED: list[tuple[Metadata, str]] = [
    ({"": uint32(1)}, "a key without a name"),
    ({"llama.context_length": float32(512.0)}, "context_length is 512.0 of type FLOAT32, but must be a UINT32"),
    ({"llama.context_length": uint32(0)}, "context_length is 0 of type UINT32, but must be a UINT32 from 1"),
    ({"llama.block_count": float32(2.0)}, "block_count is missing or not from 1 to 512"),
    ({"llama.attention.head_count": uint32(0)}, "head_count is 0, but must be from 1"),
    ({"llama.attention.head_count_kv": uint32(0)}, "head_count_kv is 0, but must be from 1"),
    ({"llama.attention.head_count": uint32(3)}, "head_count is 3, not a multiple of head_count_kv, 2"),
    ({"llama.attention.head_count": array("UINT32", [4])}, "head_count has 1 numbers for 2 layers"),
    ({"llama.attention.key_length": uint32(16), "llama.attention.value_length": uint32(32)},
     "key_length is 16 and value_length 32: they must be equal"),
    ({"llama.feed_forward_length": array("UINT32", [96, 0])}, r"feed_forward_length is \[96, 0\], but must be from 1"),
    ({"llama.rope.dimension_count": uint32(7)},
     "rope.dimension_count is 7, but must be an even number up to the head's width, 16"),
    ({"llama.rope.dimension_count": string("x")}, "rope.dimension_count is x, but must be an even number"),
    ({"llama.rope.dimension_count": uint32(8)}, "rope.dimension_count is 8, but key_length is 16"),
    ({RMS: Field("FLOAT64", 1e-5)}, "layer_norm_rms_epsilon is missing or not a FLOAT32"),
    ({"llama.attention.sliding_window": uint32(2**31)}, "sliding_window is 2147483648, more than 16777216"),
    ({"llama.expert_used_count": array("STRING", ["x"]), "llama.expert_count": uint32(2)},
     r"expert_used_count is \['x'\], not an integer"),
    ({"llama.expert_feed_forward_length": string("wide")}, "expert_feed_forward_length is wide, not an integer"),
    ({"llama.expert_feed_forward_length": float32(1.0)}, "expert_feed_forward_length is 1.0, not an integer"),
    ({"llama.feed_forward_length": array("UINT32", [96] * 2000)}, "feed_forward_length is .*, not an integer"),
    ({"tokenizer.ggml.pre": uint32(1)}, "tokenizer.ggml.pre is of type UINT32, not a string"),
    ({"tokenizer.chat_template": uint32(1)}, "tokenizer.chat_template is of type UINT32, not a string"),
    ({"tokenizer.chat_template.tool_use": array("STRING", ["a"])}, "tool_use is of type ARRAY, not a string"),
    ({"tokenizer.pa_lite.bos_token": array("UINT32", [1] * 2000)}, "bos_token is of type ARRAY, not a string"),
    ({"tokenizer.pa_lite.space_prefix": string("often")}, "space_prefix is 'often', not one of first, always"),
    ({"tokenizer.pa_lite.end_token_ids": array("STRING", ["a"])}, "end_token_ids is not a list of up to 1023 integers"),
    ({"tokenizer.pa_lite.end_token_ids": array("UINT32", [1] * 2000)}, "end_token_ids is not a list of up to 1023"),
    # llama.cpp reads `gpt2`, and with it a pre-tokenizer that needs a deep stack for long words
    ({"tokenizer.ggml.model": string("gpt2\0x"), "tokenizer.ggml.pre": string("gpt-4o")}, "model contains a NUL char"),
    ({"tokenizer.ggml.merges": array("STRING", ["t h", "t\0 h"])}, "merges has a NUL character at index 1"),
    ({"tokenizer.ggml.model": string("t5"), "tokenizer.ggml.tokens": array("STRING", ["é" * 501, *"abc"])},
     "has a token of 1002 bytes"),
    ({"tokenizer.ggml.tokens": array("STRING", [])}, "it has no vocabulary"),
    ({"tokenizer.ggml.tokens": array("STRING", [f"t{i}" for i in range(64)])}, r"shape \[320, 64\]; the voc"),
    ({"tokenizer.ggml.model": string("rwkv")}, r"no token for the byte \\x00"),  # it would never stop tokenising
    *(
        ({"tokenizer.ggml.model": string(kind), "tokenizer.ggml.tokens": array("STRING", ["é" * (most // 2 + 1)])},
         f"has a token of {most + 2} bytes, '.*; the limit of llama.cpp's tokenizer for {kind} is {most} ")
        for kind, most in (("rwkv", 1000), ("t5", 1000), ("plamo2", 512), ("bert", 256), ("gpt2", 10_000))
    ),
    ({"tokenizer.ggml.scores": array("FLOAT32", [0.0] * 9)}, "scores has 9 values for 320 tokens"),
    ({"tokenizer.ggml.token_type": array("FLOAT32", [1.0] * 320)}, "token_type is not a list of type INT32"),
    ({"tokenizer.ggml.token_type": uint32(1)}, "token_type is not a list of type INT32"),
    ({"tokenizer.ggml.merges": array("STRING", ["t h", "the"])}, "merges has 'the' at index 1, not two parts"),
    ({"tokenizer.ggml.merges": array("STRING", ["t h", "t "])}, "merges has 't ' at index 1, not two parts"),
    ({"tokenizer.ggml.merges": array("STRING", ["t h", "q q"])}, "merges joins 'q' and 'q' at index 1"),
    ({"tokenizer.ggml.merges": uint32(1)}, "merges is not a list of strings"),
    ({"tokenizer.ggml.bos_token_id": uint32(320)}, "bos_token_id is 320, which is not one of its 320 tokens"),
    ({"tokenizer.ggml.eot_token_id": string("x")}, "eot_token_id is x, which is not one"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "told"), REFUSED)
def test_contradictory_keys_are_refused(
    tiny_ggufs: dict[str, Path], tmp_path: Path, fields: Metadata, told: str
) -> None:
    path = changed(tiny_ggufs["F32"], tmp_path / "x.gguf", fields, {})
    with pytest.raises(CheckpointError, match=told) as caught:
        check_loadable(read_gguf_header(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_key_with_a_nul_is_refused(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    path = changed(tiny_ggufs["F32"], tmp_path / "x.gguf", {"llama.block_count\0x": uint32(1)}, {})
    with pytest.raises(CheckpointError, match=r"key 'llama.block_count\\x00x' contains a NUL character"):
        read_gguf_header(path)


@pytest.mark.parametrize("fields", [
    {"tokenizer.ggml.padding_token_id": uint32(2**32 - 1)},
    {"tokenizer.ggml.bos_token_id": uint32(2**32 - 1), "tokenizer.ggml.add_bos_token": boolean(False)},
    {"tokenizer.ggml.eom_token_id": uint32(2**32 - 1)},
    {"tokenizer.ggml.token_type": array("INT32", [1] * 999)},
    {"tokenizer.ggml.merges": array("STRING", ["t h", "not there"])},  # never applied
    {"llama.attention.head_count": array("UINT32", [4, 4])},
    {"llama.attention.sliding_window": uint32(4096)},
    {"llama.expert_count": uint32(0)},
    {"general.name": string("x" * 1000)},
])  # fmt: skip
def test_files_that_llama_cpp_runs_are_accepted(tiny_ggufs: dict[str, Path], tmp_path: Path, fields: Metadata) -> None:
    path = changed(tiny_ggufs["F32"], tmp_path / "x.gguf", fields, {})
    check_loadable(read_gguf_header(path))
    assert loads_in_another_process(path) == 0


@pytest.mark.parametrize(("fields", "types", "told"), FATAL)
def test_files_that_crash_llama_cpp_are_refused(
    tiny_ggufs: dict[str, Path], tmp_path: Path, fields: Metadata, types: dict[str, str], told: str
) -> None:
    path = changed(tiny_ggufs["F32"], tmp_path / "x.gguf", fields, types)
    with pytest.raises(CheckpointError, match=told) as caught:
        Model(path, ONE)
    assert str(path) in str(caught.value)
    assert loads_in_another_process(path) < 0  # else the check refuses what llama.cpp can run


@pytest.mark.parametrize(
    ("name", "size", "kind"),
    [("rope_freqs.weight", 8, "F16"), ("blk.0.ffn_up.bias", 96, "Q8_0"), ("blk.1.attn_q.bias", 64, "BF16")],
)
def test_tensors_of_one_dimension_must_be_f32(
    tiny_ggufs: dict[str, Path], tmp_path: Path, name: str, size: int, kind: str
) -> None:
    path = changed(tiny_ggufs["F32"], tmp_path / "x.gguf", {}, {}, {name: (tensor_type(kind), (size,))})
    with pytest.raises(CheckpointError, match=f"{name} is of type {kind}; tensors of one dimension must be F32"):
        Model(path, ONE)
    assert loads_in_another_process(path) < 0
    path = changed(tiny_ggufs["F32"], tmp_path / "y.gguf", {}, {}, {name: (tensor_type("F32"), (size,))})
    assert loads_in_another_process(path) == 0


def test_attention_needs_its_tensors(tmp_path: Path) -> None:
    """Phi-3 has queries, keys and values in one tensor, or in three if that one is missing."""
    folder, _ = write_checkpoint(tmp_path / "phi", "Phi3ForCausalLM")
    (source,) = pa_lite.merge(
        str(folder), str(folder), (1.0,), plan=PlanOptions(type="F32"), output=tmp_path / "phi.gguf"
    )
    header, data = read_gguf_header(source), source.read_bytes()
    kept = {n: t for n, t in header.tensors.items() if n != "blk.1.attn_qkv.weight"}
    metadata = {k: v for k, v in header.metadata.items() if k != "general.architecture"}
    path = tmp_path / "x.gguf"
    placed = write_gguf_header(path, "phi3", metadata, {n: (t.type, t.shape) for n, t in kept.items()})
    with path.open("r+b") as f:
        for name, target in placed.items():
            f.seek(target.offset)
            f.write(data[kept[name].offset : kept[name].offset + kept[name].nbytes])
    with pytest.raises(CheckpointError, match=r"neither blk\.1\.attn_qkv\.weight nor the three of attn_q"):
        Model(path, ONE)
    assert loads_in_another_process(path) < 0


@pytest.mark.parametrize("name", ["ssm_a", "ssm_d", "ssm_conv1d.weight", "shortconv.conv.weight"])
def test_states_and_short_convolutions_must_be_f32(tiny_ggufs: dict[str, Path], name: str) -> None:
    header = read_gguf_header(tiny_ggufs["F32"])
    tensor = replace(header.tensors["token_embd.weight"], name=f"blk.0.{name}", type=tensor_type("F16"))
    with pytest.raises(CheckpointError, match=f"blk.0.{name} is of type F16, but must be F32"):
        check_loadable(replace(header, tensors={**header.tensors, tensor.name: tensor}))


def test_integer_tables_are_accepted_and_integer_weights_refused(tiny_ggufs: dict[str, Path]) -> None:
    header = read_gguf_header(tiny_ggufs["F32"])
    for name, is_told in (("blk.0.ffn_gate_tid2eid.weight", False), ("blk.0.table", False), ("blk.0.ssm_d", True)):
        table = replace(header.tensors["output_norm.weight"], name=name, type=tensor_type("I32"))
        changed_header = replace(header, tensors={**header.tensors, name: table})
        if is_told:
            with pytest.raises(CheckpointError, match=f"{name} is of type I32, which is not a type of weights"):
                check_loadable(changed_header)
        else:
            check_loadable(changed_header)


def test_the_unchanged_copy_loads(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    path = changed(tiny_ggufs["F32"], tmp_path / "x.gguf", {}, {})
    assert loads_in_another_process(path) == 0
    with Model(path, ONE) as model, model.context(256) as context:
        context.decode([5], [0], [0], [0], [True])


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


def test_too_small_an_alignment_is_refused(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    """Alignment 16 in a file whose tensors are aligned to 32: the header alone decides."""
    header = read_gguf_header(tiny_ggufs["F32"])
    metadata = {k: v for k, v in header.metadata.items() if k != "general.architecture"}
    write_gguf_header(tmp_path / "x.gguf", "llama", metadata | {"general.alignment": uint32(16)}, {})
    with pytest.raises(CheckpointError, match=r"general\.alignment is 16, less than 32"):
        Model(tmp_path / "x.gguf", ONE)
