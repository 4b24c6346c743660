"""Tables of the gguf package: types with numbers and sizes, keys, and tensor names."""

from __future__ import annotations

import ast
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest

import pa_lite
from pa_lite.checkpoints.families.family import SHAPES
from pa_lite.checkpoints.families.table import FAMILIES
from pa_lite.errors import CheckpointError
from pa_lite.ggml import gguf_tables, kernels
from pa_lite.ggml.container import read_gguf_header
from pa_lite.ggml.kernels import TYPE_IDS, tensor_type
from tests.support.ggufs import write_gguf_header

PACKAGE = Path(pa_lite.__file__).parent
ARCHITECTURES = list(gguf.MODEL_ARCH_NAMES.values())


def run(code: str) -> Any:
    """Run code in a fresh process and return what it prints, as JSON."""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(found.stdout)


@pytest.mark.parametrize("name", TYPE_IDS)
def test_sizes_equal_the_installed_ggmls(name: str) -> None:
    held = tensor_type(name)
    traits = kernels._library().ggml_get_type_traits(held.id).contents
    assert (held.block, held.size) == (traits.blck_size, traits.type_size)
    assert traits.type_name.decode().upper() == name


def test_an_unsupported_tensor_type_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    number, block, size = gguf_tables.TENSOR_TYPES["Q8_K"]
    held = kernels.TensorType(name="Q8_K", id=number, block=block, size=size)
    write_gguf_header(path, "llama", {}, {"a.weight": (held, (2, 256))})
    with pytest.raises(CheckpointError, match=r"tensor a\.weight is stored as Q8_K, which pa-lite cannot read"):
        read_gguf_header(path)
    unknown = kernels.TensorType(name="?", id=4000, block=1, size=4)
    write_gguf_header(path, "llama", {}, {"a.weight": (unknown, (2, 64))})
    with pytest.raises(CheckpointError, match=r"tensor a\.weight has the unknown type 4000"):
        read_gguf_header(path)


def plain_map(architecture: str) -> dict[str, str]:
    return {stored: name for stored, (_, name) in gguf_tables.tensor_names(architecture).mapping.items()}


FRESH = """
import gguf, importlib, json, sys
names = {}
for architecture, name in gguf.MODEL_ARCH_NAMES.items():
    module = importlib.reload(gguf.tensor_mapping)
    made = module.get_tensor_name_map(architecture, 1)
    names[name] = {stored: found for stored, (_, found) in made.mapping.items()}
json.dump(names, sys.stdout)
"""


def test_tensor_maps_equal_those_of_a_fresh_process_in_any_order() -> None:
    fresh = run(FRESH)
    assert len(fresh) == len(ARCHITECTURES) > 100
    for order in (ARCHITECTURES, ARCHITECTURES[::-1]):
        gguf_tables.tensor_names.cache_clear()
        for architecture in order:
            assert plain_map(architecture) == fresh[architecture], architecture


def test_creating_a_map_does_not_change_another() -> None:
    """In gguf it does: after ARCTIC, LLAMA's post_attention_layernorm maps to another tensor, or none."""
    maps = []
    for order in itertools.permutations(("llama", "arctic")):
        gguf_tables.tensor_names.cache_clear()
        maps.append({architecture: plain_map(architecture) for architecture in order})
    assert maps[0] == maps[1]
    code = "import gguf, json; a = gguf.MODEL_ARCH; make = lambda x: gguf.get_tensor_name_map(x, 1).mapping; "
    code += "keys = lambda x: sorted(make(x)); before = keys(a.LLAMA); keys(a.ARCTIC); "
    code += "print(json.dumps([before, keys(a.LLAMA)]))"
    before, after = run(code)
    assert sorted(maps[0]["llama"]) == before
    # if gguf fixes this, the two maps are equal and the copies of its class are not needed any more
    assert before != after


def test_names_of_families_do_not_depend_on_earlier_calls() -> None:
    code = """
import json, sys
from pa_lite.checkpoints.families.table import FAMILIES
from pa_lite.ggml.gguf_tables import tensor_names
import gguf
{before}
print(json.dumps([[name, dict(FAMILIES[name].names)] for name in {order}]))
"""
    order = list(FAMILIES)
    others = "[tensor_names(a) for a in gguf.MODEL_ARCH_NAMES.values()]"
    theirs = "[gguf.get_tensor_name_map(a, 1) for a in gguf.MODEL_ARCH_NAMES]"
    alone = dict(run(code.format(before="", order=order)))
    for before in (others, theirs):
        assert dict(run(code.format(before=before, order=order[::-1]))) == alone
    assert {name: dict(family.names) for name, family in FAMILIES.items()} == alone


def test_loading_the_tables_does_not_load_the_package() -> None:
    code = "import json, sys, pa_lite.checkpoints.hf_to_gguf as m; [f.names for f in m.FAMILIES.values()]; "
    code += "print(json.dumps(['gguf' in sys.modules, 'yaml' in sys.modules]))"
    assert run(code) == [False, False]


@pytest.mark.parametrize(
    ("architecture", "stored", "name"),
    [
        ("llama", "model.layers.#.self_attn.q_proj.weight", "blk.#.attn_q.weight"),
        ("llama", "model.layers.#.post_attention_layernorm.weight", "blk.#.ffn_norm.weight"),
        ("olmo2", "model.layers.#.post_attention_layernorm.weight", "blk.#.post_attention_norm.weight"),
        ("gemma3", "model.layers.#.pre_feedforward_layernorm.weight", "blk.#.ffn_norm.weight"),
        ("llama", "model.layers.#.block_sparse_moe.experts.@.w2.weight", "blk.#.ffn_down_exps.weight"),
        ("qwen3moe", "model.layers.#.mlp.experts.@.gate_proj.weight", "blk.#.ffn_gate_exps.weight"),
        ("phi3", "model.layers.#.mlp.gate_up_proj.weight", "blk.#.ffn_up.weight"),
        ("qwen2", "model.layers.#.self_attn.k_proj.bias", "blk.#.attn_k.bias"),
        ("llama", "model.embed_tokens.weight", "token_embd.weight"),
        ("llama", "lm_head.weight", "output.weight"),
        ("llama", "model.layers.#.self_attn.rotary.weight", None),
    ],
)
def test_gguf_name_returns_known_names(architecture: str, stored: str, name: str | None) -> None:
    assert gguf_tables.gguf_name(architecture, stored) == name


def test_families_have_the_tensors_whose_shapes_they_give() -> None:
    held = {name.removeprefix("blk.#.") for family in FAMILIES.values() for name in family.names.values()}
    held |= {n.removeprefix("blk.#.") for f in FAMILIES.values() for names in f.fused_names.values() for n in names}
    assert held >= SHAPES.keys()


def keys_of(holder: Any) -> Iterator[str]:
    for name, value in vars(holder).items():
        if isinstance(value, str) and not name.startswith("_"):
            yield value
        elif isinstance(value, type):
            yield from keys_of(value)


def test_literal_keys_exist_in_gguf() -> None:
    """Keys written as strings in messages and lookups are gguf's, or listed as missing there."""
    known = set(keys_of(gguf.Keys))
    lacking = {"tokenizer.ggml.cls_token_id"}
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"(?:tokenizer\.ggml|general|imatrix|split)\.[a-z_.]*[a-z]\b", node.value))
    starts = {key.rsplit(".", 1)[0] for key in known}  # which docstrings name
    assert found - known - lacking - starts == set()
    assert len(found) > 10
