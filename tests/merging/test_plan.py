from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pa_lite.checkpoints import open_checkpoint
from pa_lite.errors import CheckpointError, InputError, MismatchError
from pa_lite.merging.plan import MergePlan, PlanOptions, plan_merge
from tests.support import tiny


def planned(base: Path, instruct: Path, kind: str = "Q8_0") -> MergePlan:
    return plan_merge(open_checkpoint(base), open_checkpoint(instruct), PlanOptions(type=kind))


def test_types_and_order(tiny_pair: tuple[Path, Path]) -> None:
    plan = planned(*tiny_pair)
    types = {t.name: t.type.name for t in plan.tensors}
    assert types["token_embd.weight"] == "Q8_0"
    assert types["blk.0.ffn_down.weight"] == "Q8_0"
    assert types["blk.1.attn_norm.weight"] == types["output_norm.weight"] == "F32"
    names = [t.name for t in plan.tensors]
    assert names[:3] == ["output_norm.weight", "token_embd.weight", "blk.0.attn_k.weight"]
    assert names.index("blk.1.attn_k.weight") > names.index("blk.0.ffn_up.weight")


def test_rows_that_blocks_do_not_divide_become_f16(tmp_path: Path) -> None:
    config = {**tiny.CONFIG, "intermediate_size": 80}
    arrays = tiny.weights(1, config)
    folder = tiny.write_checkpoint(tmp_path / "m", arrays, config=config)
    types = {t.name: t.type.name for t in planned(folder, folder).tensors}
    assert types["blk.0.ffn_down.weight"] == "F16"
    assert types["blk.0.ffn_up.weight"] == "Q8_0"


def test_metadata_records_the_provenance(tiny_pair: tuple[Path, Path]) -> None:
    metadata = planned(*tiny_pair, "F16").at(0.7).metadata
    values = {key: entry.value for key, entry in metadata.items()}
    assert values["general.base_model.count"] == 2
    assert values["general.base_model.0.name"].endswith("-base")
    assert values["general.base_model.1.name"].endswith("-instruct")
    assert values["general.file_type"] == 1
    assert values["pa_lite.lam"] == float(np.float32(0.7))
    assert "general.architecture" not in values  # written by the container


def test_an_unknown_type_is_rejected(tiny_pair: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match=r"unknown output type 'Q8_7'.*Q8_0"):
        planned(*tiny_pair, "q8_7")


def test_different_shapes_name_the_tensor_and_both_shapes(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    config = {**tiny.CONFIG, "intermediate_size": 128}
    other = tiny.write_checkpoint(tmp_path / "wide", tiny.weights(3, config), config=config)
    message = r"tensor model.layers.\d.mlp.\w+_proj.weight has shape \[.*96.*\] in .*base/.* but \[.*128.*\] in .*wide/"
    with pytest.raises(MismatchError, match=message):
        planned(tiny_pair[0], other)


def test_a_tensor_on_one_side_only_is_rejected(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.bias"
    other = tiny.write_checkpoint(tmp_path / "biased", {**tiny.weights(3), name: np.ones(64, np.float32)})
    for pair in ((tiny_pair[0], other), (other, tiny_pair[1])):
        with pytest.raises(MismatchError, match=rf"tensor {name} of shape \[64\] is in .*biased but not in"):
            planned(*pair)


def test_different_head_counts_are_rejected(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    config = {**tiny.CONFIG, "num_attention_heads": 8, "num_key_value_heads": 4}
    other = tiny.write_checkpoint(tmp_path / "heads", tiny.weights(3), config=config)
    with pytest.raises(MismatchError, match=r"llama.attention.head_count is 4 in .*base but 8 in .*heads"):
        planned(tiny_pair[0], other)


def test_another_tokenizer_is_rejected(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = tiny.write_checkpoint(tmp_path / "words", tiny.weights(3))
    tokenizer = json.loads((other / "tokenizer.json").read_text("utf-8"))
    tokenizer["model"]["vocab"] = {t + "x" * (i % 3): i for t, i in tokenizer["model"]["vocab"].items()}
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    with pytest.raises(MismatchError, match=r"only \d+ of the 267 tokens of .*words are in .*base"):
        planned(tiny_pair[0], other)


def test_settings_that_differ_are_reported(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    config = {**tiny.CONFIG, "rope_theta": 5e5}
    other = tiny.write_checkpoint(tmp_path / "rope", tiny.weights(3), config=config)
    plan = planned(tiny_pair[0], other)
    assert plan.remarks == ("llama.rope.freq_base is 10000 in base, 500000 in instruct: instruct's is used",)
    assert plan.at(0.5).metadata["llama.rope.freq_base"].value == 5e5


def test_the_vocabulary_must_match_the_embedding(tmp_path: Path) -> None:
    config = {**tiny.CONFIG, "vocab_size": 330}
    folder = tiny.write_checkpoint(tmp_path / "m", tiny.weights(1), config=config)
    with pytest.raises(CheckpointError, match=r"shape \[320, 64\], but config.json requires \[330, 64\]"):
        planned(folder, folder)
