"""Scoring on a model with a window of eight tokens in most layers, whose cache drops older tokens."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.scoring import Request, score_requests
from pa_lite.ggml.container import read_gguf_header
from pa_lite.ggml.kernels import TensorType, tensor_type
from pa_lite.ggml.metadata import Metadata, uint32
from tests.engine.test_scoring import alone, assert_agree
from tests.support.ggufs import write_gguf_header

WINDOW, LAYERS, WIDTH, FF, HEAD, HEADS, HEADS_KV = 8, 7, 32, 48, 16, 2, 1  # every sixth layer has full attention


@pytest.fixture(scope="module")
def gemma(tiny_ggufs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Gemma 3 in F32 with the tiny Llama's vocabulary."""
    old = read_gguf_header(tiny_ggufs["F32"]).metadata
    metadata: Metadata = {k: v for k, v in old.items() if not k.startswith("llama.") and k != "general.architecture"}
    sizes = {
        "block_count": LAYERS, "context_length": 512, "embedding_length": WIDTH, "feed_forward_length": FF,
        "attention.head_count": HEADS, "attention.head_count_kv": HEADS_KV, "attention.key_length": HEAD,
        "attention.value_length": HEAD, "attention.sliding_window": WINDOW,
    }  # fmt: skip
    metadata |= {f"gemma3.{key}": uint32(value) for key, value in sizes.items()}
    metadata["gemma3.attention.layer_norm_rms_epsilon"] = old["llama.attention.layer_norm_rms_epsilon"]
    f32 = tensor_type("F32")
    shapes: dict[str, tuple[TensorType, tuple[int, ...]]] = {
        "token_embd.weight": (f32, (320, WIDTH)),
        "output_norm.weight": (f32, (WIDTH,)),
    }
    for i in range(LAYERS):
        of_layer: dict[str, tuple[int, ...]] = {
            "attn_norm": (WIDTH,), "attn_q": (HEADS * HEAD, WIDTH), "attn_k": (HEADS_KV * HEAD, WIDTH),
            "attn_v": (HEADS_KV * HEAD, WIDTH), "attn_output": (WIDTH, HEADS * HEAD), "attn_q_norm": (HEAD,),
            "attn_k_norm": (HEAD,), "post_attention_norm": (WIDTH,), "ffn_norm": (WIDTH,), "ffn_gate": (FF, WIDTH),
            "ffn_up": (FF, WIDTH), "ffn_down": (WIDTH, FF), "post_ffw_norm": (WIDTH,),
        }  # fmt: skip
        shapes |= {f"blk.{i}.{name}.weight": (f32, shape) for name, shape in of_layer.items()}
    path = tmp_path_factory.mktemp("gemma") / "tiny.gguf"
    placed = write_gguf_header(path, "gemma3", metadata, shapes)
    rng = np.random.default_rng(0)
    with path.open("r+b") as f:
        for tensor in placed.values():
            f.seek(tensor.offset)
            noise = rng.standard_normal(tensor.shape).astype(np.float32)
            f.write((1 + 0.1 * noise if len(tensor.shape) == 1 else 0.3 * noise).astype(np.float32).tobytes())
    return path


@pytest.mark.parametrize("n_batch", [5, 64])
def test_cells_that_other_branches_need_are_kept(gemma: Path, n_batch: int) -> None:
    """Long requests go far beyond the window, and the next one branches off many tokens earlier."""
    rng = random.Random(1)

    def text(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, 270) for _ in range(n))

    trunk = text(150)
    requests = [Request(trunk[:n] + text(m), n) for n in (5, 11, 20, 90, 150) for m in (3, 30, 70)]
    options = EngineOptions(threads=1, cache_type="F32", n_batch=n_batch)
    with Model(gemma, options) as model:
        assert model.n_swa == WINDOW
        assert_agree(score_requests(model, requests), [alone(model, r) for r in requests], 0.02)
