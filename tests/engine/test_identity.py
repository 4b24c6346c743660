"""A model's identity covers everything that can change a prompt or a logit, but no names or descriptions."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pa_lite
from pa_lite.checkpoints import open_checkpoint
from pa_lite.checkpoints.fingerprint import header_inputs, identity
from pa_lite.checkpoints.pairs import Pair
from pa_lite.engine.in_memory import InMemoryModel
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.model_reference import open_model
from pa_lite.ggml.container import read_gguf_header
from pa_lite.ggml.metadata import Field, Metadata, array, boolean, float32, string, uint32
from pa_lite.merging.align import RowMaps
from pa_lite.merging.plan import MergePlan, PlanOptions, plan_merge
from pa_lite.merging.schedule import parse_schedule
from pa_lite.tasks.results import results_document

ONE = EngineOptions(threads=1)
NAMES = [
    "general.name", "general.basename", "general.finetune", "general.version", "general.author", "general.organization",
    "general.description", "general.quantized_by", "general.size_label", "general.license", "general.license.name",
    "general.license.link", "general.url", "general.doi", "general.uuid", "general.repo_url", "general.tags",
    "general.languages", "general.datasets", "general.base_model.0.name", "general.base_model.count",
    "general.dataset.0.url", "general.source.url", "pa_lite.lam", "pa_lite.version", "split.no", "split.count",
]  # fmt: skip


def other(entry: Field) -> Field:
    """Return a value of the same type with one difference."""
    value = entry.value
    if entry.type == "ARRAY":
        last = other(Field(entry.item or "", value[-1])).value
        return replace(entry, value=[*value[:-1], last])
    if isinstance(value, str):
        return replace(entry, value=f"{value}x")
    return replace(entry, value=not value if isinstance(value, bool) else value + 1)


@pytest.fixture(scope="module")
def plan(demo_pair: Pair) -> MergePlan:
    return plan_of(demo_pair)


def plan_of(pair: Pair, **options: object) -> MergePlan:
    chosen = PlanOptions(**{"type": "F16", **options})  # type: ignore[arg-type]
    return plan_merge(open_checkpoint(pair.base), open_checkpoint(pair.instruct), chosen)


def test_all_header_keys_except_names_change_the_identity(plan: MergePlan) -> None:
    metadata: Metadata = {
        **plan.at(0.5).metadata, "general.sampling.temp": float32(0.6),
        "tokenizer.chat_template.rag": string("{{ x }}"), "llama.some.key.to_come": boolean(True),
        "new.key": array("INT32", list(range(5000))),
        **{name: string("a") for name in NAMES},
    }  # fmt: skip
    before = header_inputs("llama", metadata)
    assert "general.file_type" in before
    for key, entry in metadata.items():
        counts = key not in NAMES and not key.startswith(("pa_lite.", "general.base_model."))
        changed = header_inputs("llama", {**metadata, key: other(entry)})
        assert (changed != before) == counts, key
        without = header_inputs("llama", {k: e for k, e in metadata.items() if k != key})
        assert (without != before) == counts, key
    assert header_inputs("qwen2", metadata) != before
    assert header_inputs("llama", {**metadata, "new": uint32(1)}) != header_inputs(
        "llama", {**metadata, "new": float32(1)}
    )


def test_similar_values_have_different_identities() -> None:
    """Texts with the same concatenation, empty arrays, types, and values with the same JSON."""
    fields = [
        array("STRING", ["ab", "c"]), array("STRING", ["a", "bc"]), array("STRING", []), array("INT32", []),
        array("STRING", ["x" * 100]), string("x" * 100), string("1"), uint32(1), float32(1), boolean(True),
        array("STRING", ["a"] * 4096), array("STRING", ["a"] * 4097), string("\ud800"), string("é"), float32(0.1),
    ]  # fmt: skip
    assert len({identity(header_inputs("llama", {"key": f})) for f in fields}) == len(fields)


def test_a_name_with_phi_3_changes_the_identity() -> None:
    """llama.cpp then drops white space after control tokens, so this part of a name counts."""
    named = {
        name: header_inputs("llama", {"general.name": string(name)}) for name in ("A", "B", "Phi-3 mini", "my-phi3")
    }
    assert named["A"] == named["B"] != named["Phi-3 mini"] == named["my-phi3"]


def test_a_pair_in_memory_and_its_file_have_the_same_header(demo_pair: Pair, tmp_path: Path) -> None:
    (file,) = pa_lite.merge(pair="demo", lam=(0.7,), plan=PlanOptions(type="F16"), output=tmp_path / "x.gguf")
    plan = plan_of(demo_pair)
    header = read_gguf_header(file)
    assert header_inputs("llama", header.metadata) == plan.header_inputs
    with Model(file, ONE) as loaded, open_model("demo@0.7", ONE) as merged:
        assert loaded.header_inputs() == merged.header_inputs()
        assert merged.identity() == plan.at(0.7).identity
        assert len({loaded.identity(), merged.identity(), loaded.fingerprint(), merged.fingerprint()}) == 4
        with Model(file, ONE) as again:
            assert (again.identity(), again.fingerprint()) == (loaded.identity(), loaded.fingerprint())


def test_a_moved_model_has_the_identity_of_its_new_lam(plan: MergePlan) -> None:
    norms = parse_schedule("norms: 0.4")
    with InMemoryModel(plan, 0.3, ONE) as moved:
        first = moved.model.identity()
        moved.move(0.6)
        assert moved.model.identity() == plan.at(0.6).identity != first
        moved.move(0.3, norms)
        with_schedule = moved.model.identity()
        assert with_schedule != first
        moved.move(0.3, parse_schedule("norms:  0.4"))  # the same lams, spelled differently
        assert moved.model.identity() == with_schedule


def test_everything_that_determines_a_tensor_changes_the_identity(demo_pair: Pair, plan: MergePlan) -> None:
    same = plan_of(demo_pair)
    assert same.at(0.5).identity == plan.at(0.5).identity
    tensors = plan.tensors
    n = len(plan.vocabulary.tokens)
    rows = np.arange(n)
    changes = {
        "lam": plan.at(0.6).identity,
        "type": plan_of(demo_pair, type="Q8_0").at(0.5).identity,
        "one tensor's type": plan_of(demo_pair, type="Q8_0", tensor_types=(("attn_v", "F16"),)).at(0.5).identity,
        "schedule": plan_of(demo_pair, schedule=parse_schedule("norms: 0.4")).at(0.5).identity,
        "vocabulary": plan_of(demo_pair, vocab="base").at(0.5).identity,
    }
    first = tensors[0]
    assert first.instruct is not None
    for what, tensor in {
        "copied": replace(first, base=None),
        "constant": replace(first, base=None, instruct=None, constant=np.ones(first.shape, np.float32)),
        "another constant": replace(first, base=None, instruct=None, constant=np.zeros(first.shape, np.float32)),
        "rows": replace(first, maps=RowMaps(rows, rows)),
        "other rows": replace(first, maps=RowMaps(np.where(rows == 7, -1, rows), rows)),
        "importance": replace(first, importance=np.ones((1, first.shape[-1]), np.float32)),
        "shift": replace(first, instruct=replace(first.instruct, shift=1.0)),
    }.items():
        changes[what] = replace(plan, tensors=(tensor, *tensors[1:])).at(0.5).identity
    assert len({plan.at(0.5).identity, *changes.values()}) == 1 + len(changes)


def test_the_base_tokenizer_counts_where_it_aligns_rows(demo_pair: Pair, tmp_path: Path) -> None:
    """The header does not show it, as the vocabulary in the file is instruct's."""
    pair = Pair(name="mine", base=tmp_path / "base", instruct=demo_pair.folders[1])
    shutil.copytree(demo_pair.folders[0], tmp_path / "base")
    before = plan_of(pair)
    path = tmp_path / "base" / "tokenizer.json"
    table = json.loads(path.read_text("utf-8"))
    vocabulary = table["model"]["vocab"]
    a, b = [token for token in vocabulary if token.startswith("Ġ") and len(token) > 4][:2]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    path.write_text(json.dumps(table), "utf-8")
    after = plan_of(pair)
    assert after.header_inputs == before.header_inputs
    assert after.fingerprints == before.fingerprints
    assert after.at(0.5).identity != before.at(0.5).identity
    # merge --resume does not continue the earlier file
    assert after.at(0.5).metadata != before.at(0.5).metadata


def test_results_have_the_identity_of_their_model() -> None:
    with pa_lite.load("demo@0.7", ONE) as loaded:
        known = loaded.model.identity()
        scored = results_document(loaded.score(["demo_kind"]), "demo@0.7")
        assert scored["pa_lite"]["identity"] == known
        assert loaded.follow("demo", limit=1).to_document()["identity"] == known
