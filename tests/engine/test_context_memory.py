"""A context's memory is estimated; where the system grants less, a smaller context is used, and that is logged."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest

import pa_lite
from pa_lite.engine import llama
from pa_lite.engine.context_memory import ContextSize, needs, shrinking
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.merging.plan import PlanOptions
from tests.support import tiny

ONE = EngineOptions(threads=1)
SHAPES = [
    ContextSize(n_ctx=512, n_seq_max=1, unified=True, n_batch=128, n_outputs=128, cache_type="F32"),
    ContextSize(n_ctx=4096, n_seq_max=64, unified=True, n_batch=128, n_outputs=128, cache_type="F32"),
    ContextSize(n_ctx=2048, n_seq_max=64, unified=True, n_batch=64, n_outputs=64, cache_type="F16"),
    ContextSize(n_ctx=2048, n_seq_max=8, unified=False, n_batch=512, n_outputs=8, cache_type="F32"),
    ContextSize(n_ctx=8192, n_seq_max=16, unified=False, n_batch=512, n_outputs=16, cache_type="F16"),
    ContextSize(n_ctx=8192, n_seq_max=1, unified=True, n_batch=512, n_outputs=512, cache_type="F32"),
]


def real(model: Model, wish: ContextSize) -> tuple[float, float]:
    """Return the bytes of the cache and of the compute buffer, from llama.cpp's log."""
    llama.fresh_words()
    with model.context(
        wish.n_ctx, wish.n_seq_max, wish.unified, wish.n_outputs, wish.n_batch, cache_type=wish.cache_type
    ):
        said = " ".join(llama._last_words)
    cache = [float(x) for x in re.findall(r"size =\s+([\d.]+) MiB \(\s*\d+ cells", said)]
    compute = [float(x) for x in re.findall(r"compute buffer size =\s+([\d.]+) MiB", said)]
    assert cache
    assert compute
    return sum(cache) * 2**20, sum(compute) * 2**20


@pytest.fixture(scope="module")
def wider(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with buffers that are larger than rounding: 256 wide, 8 heads, 4 layers."""
    folder = tmp_path_factory.mktemp("wider")
    config = tiny.CONFIG | {
        "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8,
        "num_key_value_heads": 4, "max_position_embeddings": 65536,
    }  # fmt: skip
    tiny.write_checkpoint(folder / "m", tiny.weights(1, config), "F16", config=config)
    return pa_lite.merge(str(folder / "m"), str(folder / "m"), (1.0,), plan=PlanOptions(type="F16"), output=folder)[0]


@pytest.mark.parametrize("wish", SHAPES)
def test_the_memory_estimate_is_at_least_what_llama_cpp_takes(
    wider: Path, wish: ContextSize, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama, "_last_words", deque[str]())  # unlimited
    with Model(wider, ONE) as model:
        cache, compute = real(model, wish)
        reckoned = needs(model, wish)
    assert reckoned.cache == pytest.approx(cache, rel=0.02)
    assert compute <= reckoned.batch * 1.1 + 500_000
    assert reckoned.batch <= 4 * compute + 4_000_000
    assert reckoned.weights == pytest.approx(wider.stat().st_size, rel=0.05)


def test_smaller_contexts_are_tried_in_order() -> None:
    def make(kind: str, n_batch: int) -> list[ContextSize]:
        return [
            ContextSize(n_ctx=n, n_seq_max=1, unified=True, n_batch=n_batch, n_outputs=1, cache_type=kind)
            for n in (1000 + n_batch, 1000)
        ]

    told = [(w.cache_type, w.n_batch, w.n_ctx) for w in shrinking(make, "F32", True, 32)]
    assert told == [
        ("F32", 32, 1032), ("F32", 32, 1000), ("F16", 32, 1032), ("F16", 32, 1000),
        ("F16", 16, 1016), ("F16", 16, 1000), ("F16", 8, 1008), ("F16", 8, 1000),
    ]  # fmt: skip
    assert {w.cache_type for w in shrinking(make, "F32", False, 32)} == {"F32"}
    assert {w.cache_type for w in shrinking(make, "F16", True, 32)} == {"F16"}


_LIMITED = """
import logging, resource, sys
from pathlib import Path
from pa_lite.engine import context_memory
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.scoring import scoring_context
from pa_lite.errors import EngineError
logging.basicConfig(level=logging.WARNING, format="%(message)s")
context_memory.available_memory = lambda: 0  # unknown
with Model(Path(sys.argv[1]), EngineOptions(threads=1)) as model:
    with scoring_context(model, 100) as context:
        context.decode([5], [0], [0], [0], [True])
    for extra in map(int, sys.argv[2:]):
        held = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (held + extra, resource.RLIM_INFINITY))
        try:
            with scoring_context(model, 30000) as context:
                context.decode([5] * 16, list(range(16)), [0] * 16, [0] * 16, [True] * 16)
                print(context.n_ctx, context.n_batch)
        except EngineError as e:
            print("error:", e)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA")
def test_contexts_shrink_under_a_real_memory_limit(wider: Path) -> None:
    """30,000 tokens of 4 KB: 123 MB of cache in F32, half of that in F16. The limit is found when memory is requested.

    At some of these limits llama.cpp itself would crash, while it reserves memory or in the first decode.
    """
    limits = [20, 110, 130, 150, 200, 400, 700]
    words = [sys.executable, "-c", _LIMITED, str(wider), *(str(n * 1_000_000) for n in limits)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(limits)
    assert lines[0].endswith(
        "no room for 30000 tokens (cache F16, batches of 16): it needs 62 MB of cache and 18 MB for a batch, in "
        "addition to weights of 4.9 MB; the system does not grant 122 MB of memory. Allow a shorter context (--n-ctx), "
        "use fewer shots, or take a smaller model or type."
    )
    got = [line.split() for line in lines if not line.startswith("error")]
    assert got[-1] == ["30208", "128"]  # the largest context: 30,128 cells, padded
    sizes = [int(n_batch) for _, n_batch in got]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 1
    assert "(cache F16, batches of 16), not 30128 tokens (cache F32, batches of 128)" in done.stderr
