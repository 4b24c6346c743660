"""Adapters as the instruct side: memory, reading once, the Hub, pairs, previews, models that move along the line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pa_lite
from pa_lite.checkpoints import open_pair, pairs
from pa_lite.checkpoints.hub.references import parse_hub
from pa_lite.checkpoints.pairs import _is_here, add_pair, resolve_pair
from pa_lite.errors import CheckpointError, InputError, OutputError
from pa_lite.merging import stream
from pa_lite.merging.memory import check_memory, planned_bytes, thread_bytes
from pa_lite.merging.plan import MergePlan, PlanOptions, plan_merge
from pa_lite.merging.stream import BlockWorker, run_blocks
from pa_lite.study.plan import StudyOptions, plan_study
from pa_lite.tasks.scoring import ScoreOptions
from tests.merging.test_hub_stream import asked_range, tensor_reads
from tests.merging.test_sources import read
from tests.support import adapters, families, tiny
from tests.support.ggufs import without_repositories
from tests.support.hub_server import HubServer

BASE = tiny.weights(1)


def adapter(folder: Path, rank: int = 4, **settings: Any) -> Path:
    modules = adapters.modules_of(BASE, "_proj")
    return adapters.write_peft(
        folder, adapters.factors(BASE, modules, rank), r=rank, target_modules="all-linear",
        base_model_name_or_path="org/Tiny", **settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_checkpoint(tmp_path_factory.mktemp("disk") / "Tiny", BASE)


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapter(tmp_path_factory.mktemp("disk") / "Tiny-LoRA")


def plan_of(base: Path, folder: Path, kind: str = "F32") -> MergePlan:
    return plan_merge(*open_pair(base, folder), PlanOptions(type=kind))


def test_a_rank_that_exceeds_the_memory_is_refused(base: Path, lora: Path, tmp_path: Path) -> None:
    """The factors of a block and of a complete matrix are counted."""
    large = plan_of(base, adapter(tmp_path / "large", 64))
    assert thread_bytes(large) > thread_bytes(plan_of(base, lora)) > thread_bytes(plan_of(base, base))
    bound = planned_bytes(large, 1) - thread_bytes(large) // 2
    with pytest.raises(InputError, match=r"--max-memory \d+M is not enough: this merge needs \d+M"):
        check_memory(large, 2, bound)
    assert check_memory(large, 2, planned_bytes(large, 1) + 1).threads == 1


@pytest.mark.parametrize("block_values", [1, 3000, 1 << 18])
@pytest.mark.parametrize("kind", ["linear", "tokens", "experts"])
def test_buffers_stay_within_the_estimate(
    base: Path, tmp_path: Path, kind: str, block_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pa_lite.merging import memory

    for module in (stream, memory):
        monkeypatch.setattr(module, "BLOCK_VALUES", block_values)
    folder = adapter(tmp_path / "lora", 40)
    if kind == "tokens":
        key, random = f"{adapters.PREFIX}model.embed_tokens", np.random.default_rng(1)
        arrays = {f"{key}.lora_embedding_A": random.standard_normal((9, 320), np.float32)}
        arrays[f"{key}.lora_embedding_B"] = random.standard_normal((64, 9), np.float32)
        folder = adapters.write_peft(tmp_path / "tokens", arrays, r=9, target_modules=["embed_tokens"])
    if kind == "experts":
        base, weights = families.write_checkpoint(tmp_path / "moe", "MixtralForCausalLM")
        found = adapters.modules_of(weights, *(f"experts.{i}.{w}" for i in range(8) for w in ("w1", "w2", "w3")))
        folder = adapters.write_peft(tmp_path / "e", adapters.factors(weights, found, 30), r=30, target_modules="x")
    plan = plan_of(base, folder)
    workers: set[BlockWorker] = set()

    def handle(worker: BlockWorker, block: stream.Block) -> None:
        workers.add(worker)
        for _ in worker.encode(block, (0.5,)):
            pass

    run_blocks(plan.tensors, 1, handle)
    (worker,) = workers
    assert sum(held.nbytes for held in worker._buffers._held.values()) <= thread_bytes(plan)


def test_streamed_from_the_hub_the_base_is_read_once(hub: HubServer, base: Path, lora: Path, tmp_path: Path) -> None:
    """Streamed from the Hub, as from the disk; tensors that the adapter does not change are read once, too."""
    hub.add("org/Tiny", base)
    hub.add("org/Tiny-LoRA", lora)
    wanted = pa_lite.merge(base, lora, 0.3, output=tmp_path / "disk.gguf").read_bytes()
    streamed = pa_lite.merge("org/Tiny", "org/Tiny-LoRA", 0.3, output=tmp_path / "s.gguf", stream=True, threads=2)
    assert without_repositories(streamed) == wanted
    size = (base / "model.safetensors").stat().st_size
    read_of = {
        name: sum(asked_range(r)[1] for r in tensor_reads(hub, f"hub:org/{name}")) for name in ("Tiny", "Tiny-LoRA")
    }
    assert 0.8 * size < read_of["Tiny"] <= size
    assert read_of["Tiny-LoRA"] < 2 * (lora / "adapter_model.safetensors").stat().st_size  # by two threads
    fetched = pa_lite.merge("org/Tiny", "org/Tiny-LoRA", 0.3, output=tmp_path / "f.gguf")
    assert without_repositories(fetched) == wanted
    assert _is_here(parse_hub("hub:org/Tiny-LoRA"))
    assert pa_lite.merge(base, "org/Tiny-LoRA", 0.3, output=tmp_path / "m.gguf").is_file()


def test_gguf_adapter_on_the_hub(hub: HubServer, base: Path, tmp_path: Path) -> None:
    from tests.checkpoints.adapters.test_gguf_adapter import pairs_of

    whole = pa_lite.merge(base, base, 0.0, type="F16", output=tmp_path / "base.gguf")
    file = adapters.write_gguf(tmp_path / "lora.gguf", pairs_of(whole, ["blk.0.attn_q.weight"]))
    hub.add("org/G", {"lora.gguf": file.read_bytes()})
    hub.add("org/B", {"base.gguf": whole.read_bytes()})
    wanted = read(pa_lite.merge(whole, file, 0.5, type="F32", output=tmp_path / "w.gguf"))
    for i, (name, stream_it) in enumerate((("org/G", True), ("hub:org/G/lora.gguf", True), ("org/G", False))):
        found = read(pa_lite.merge("org/B", name, 0.5, type="F32", output=tmp_path / f"{i}.gguf", stream=stream_it))
        assert all(np.array_equal(found[n], values) for n, values in wanted.items())


def test_preview_diff_and_inspect(base: Path, lora: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pairs, "config_folder", lambda: tmp_path / "config" / "pa-lite")
    preview = pa_lite.preview(base, lora, 0.5)
    assert (preview.problems, preview.remarks) == ((), ())
    found = pa_lite.diff(base, lora)
    assert found.groups["norms"].relative_norm == found.groups["embeddings"].relative_norm == 0
    product = adapters.adapted(BASE, adapters.factors(BASE, adapters.modules_of(BASE, "_proj")), 1.5)
    stored = tiny.stored(BASE, "BF16")
    name = "model.layers.0.mlp.up_proj.weight"
    change = np.linalg.norm(product[name] - BASE[name]) / np.linalg.norm(stored[name])
    assert found.tensors["blk.0.ffn_up.weight"].relative_norm == pytest.approx(change, rel=1e-4)
    add_pair("mine", str(base), str(lora))
    inspected = pa_lite.inspect("mine@0.5")
    assert set(inspected.files) == {"model.safetensors", "adapter_model.safetensors"}
    (lora.parent / "wrong").mkdir(exist_ok=True)
    (lora.parent / "wrong" / "adapter_config.json").write_text('{"peft_type": "IA3"}', "utf-8")
    with pytest.raises(CheckpointError, match="the adapter is IA3"):
        add_pair("other", str(base), str(lora.parent / "wrong"))
    add_pair("remote", "hub:org/Tiny", str(lora))


def test_a_model_moves_along_the_line_of_an_adapter(base: Path, lora: Path, tmp_path: Path) -> None:
    with pa_lite.load((base, lora), lam=0.0, type="F32") as model:
        for lam in (1.0, 0.3):
            model.lam = lam
            path = pa_lite.merge(base, lora, lam, type="F32", output=tmp_path / f"{lam}.gguf")
            with pa_lite.load(path) as file:
                texts = [[o.output for o in m.generate(["a b c", "the"], max_tokens=12)] for m in (model, file)]
                assert texts[0] == texts[1]


def test_a_changed_adapter_is_noticed_while_it_is_read(base: Path, lora: Path, tmp_path: Path) -> None:
    from pa_lite.merging.write import write_merge

    copy = shutil.copytree(lora, tmp_path / "copy")
    plan = plan_of(base, copy)
    with (copy / "adapter_model.safetensors").open("r+b") as f:
        f.truncate(5000)
    with pytest.raises(CheckpointError, match="changed while being read"):
        write_merge(plan, [(0.5, tmp_path / "out.gguf")])
    assert not (tmp_path / "out.gguf").exists()


def test_an_output_must_not_overwrite_the_adapter(base: Path, tmp_path: Path) -> None:
    from tests.checkpoints.adapters.test_gguf_adapter import pairs_of

    whole = pa_lite.merge(base, base, 0.0, type="F16", output=tmp_path / "base.gguf")
    file = adapters.write_gguf(tmp_path / "lora.gguf", pairs_of(whole, ["blk.0.attn_q.weight"]))
    with pytest.raises(OutputError, match="is an input of this merge"):
        pa_lite.merge(whole, file, 0.5, output=file, force=True)


def test_study_measures_an_adapter_and_notices_another(tmp_path: Path, demo_pair: pairs.Pair) -> None:
    """A changed scale of the adapter changes the identity of every cell."""
    demo_base, _ = demo_pair.folders
    header = {n: t for n, t in open_pair(demo_base, demo_base)[0].tensors.items() if n.endswith("attn_v.weight")}
    weights = {t.stored_name: np.zeros(t.shape, np.float32) for t in header.values()}
    arrays = adapters.factors(weights, [n.removesuffix(".weight") for n in weights])
    keys = []
    for alpha in (1, 2):
        folder = adapters.write_peft(tmp_path / "lora", arrays, target_modules=["v_proj"], lora_alpha=alpha)
        options = StudyOptions(tasks=("demo_kind",), lams=(0.0, 0.5), score=ScoreOptions(limit=3, shots=0))
        keys.append([cell.key for cell in plan_study(resolve_pair((demo_base, folder)), options).cells])
    assert not set(keys[0]) & set(keys[1])
    study = pa_lite.sweep((demo_base, folder), tasks="demo_kind", lams="0,0.5", limit=3, shots=0, run=tmp_path / "run")
    assert study.to_csv(tmp_path / "items.csv").read_text("utf-8").count("\n") > 6
