"""The demo model: Hugging Face's Llama architecture in PyTorch, its initial weights, and its export."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """Sizes of the model."""

    vocab: int = 2048
    hidden: int = 256
    inner: int = 512
    layers: int = 3
    heads: int = 4
    context: int = 512
    theta: float = 10000.0
    eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


class Norm(nn.Module):
    """Root mean square norm with a learned scale."""

    def __init__(self, shape: Shape) -> None:
        """Start with scale 1."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.hidden))
        self.eps = shape.eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return functional.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary position embedding, dimension i paired with i + head_dim / 2 (Su et al. 2021; as Hugging Face)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, shape: Shape) -> None:
        """Create four square projections without bias."""
        super().__init__()
        self.heads = shape.heads
        self.q_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.k_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.v_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.o_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attend within each row of [rows, length, hidden]."""
        rows, length, hidden = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(rows, length, self.heads, -1).transpose(1, 2)

        q = rotate(split(self.q_proj(x)), cos, sin)
        k = rotate(split(self.k_proj(x)), cos, sin)
        future = torch.full((length, length), -math.inf, dtype=q.dtype).triu(1)
        # written out, this is four times faster in bfloat16 on a CPU than the fused attention and its gradient
        y = torch.softmax((q @ k.mT) * (hidden // self.heads) ** -0.5 + future, -1) @ split(self.v_proj(x))
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(rows, length, hidden))
        return out


class MLP(nn.Module):
    """SwiGLU feed-forward network."""

    def __init__(self, shape: Shape) -> None:
        """Create three projections without bias."""
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.inner, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.inner, bias=False)
        self.down_proj = nn.Linear(shape.inner, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to the last dimension."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, shape: Shape) -> None:
        """Create the parts, named as in Hugging Face's state dict."""
        super().__init__()
        self.input_layernorm = Norm(shape)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Add both to the residual stream."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Llama(nn.Module):
    """The language model, its output layer tied to the embeddings."""

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        """Create random weights from the seed, then apply `start`."""
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape)
        half = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
        angles = torch.outer(torch.arange(shape.context, dtype=torch.float32), 1.0 / shape.theta**half)
        self.cos, self.sin = angles.cos(), angles.sin()
        with torch.no_grad():
            start(self, torch.Generator().manual_seed(seed))

    def hidden(self, ids: Tensor) -> Tensor:
        """Return the final normalised hidden states [rows, length, hidden] of token ids [rows, length]."""
        x = self.embed_tokens(ids)
        if torch.is_autocast_enabled("cpu"):
            x = x.bfloat16()
        cos, sin = (t[: ids.shape[1]].to(x.dtype) for t in (self.cos, self.sin))
        for layer in self.layers:
            x = layer(x, cos, sin)
        out: Tensor = self.norm(x)
        return out

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits [rows, length, vocab]."""
        return functional.linear(self.hidden(ids), self.embed_tokens.weight)


def start(model: Llama, generator: torch.Generator) -> None:
    """Set random weights with a constructed induction circuit (Olsson et al. 2022), so that copying is learnt quickly.

    Dimension 0 of every embedding is the same, dimensions 1 to 64 distinguish words best. In layer 0, heads 0 and 1
    bring the identities of the words one and two positions back; in layer 1, heads 0 and 1 match the current word, or
    the one before it, with these and copy the word found there. All other weights are small and random; training
    changes all of them.
    """
    shape = model.shape
    width, pairs = shape.head_dim, shape.head_dim // 2

    def normal(weight: Tensor, std: float) -> None:
        weight.normal_(0.0, std, generator=generator)

    for name, p in model.named_parameters():
        if p.dim() == 2:
            writes = name.endswith(("o_proj.weight", "down_proj.weight"))
            normal(p, 0.005 if writes else 0.5 / math.sqrt(p.shape[1]))
    embed = model.embed_tokens.weight
    normal(embed, 0.02)
    embed[:, 1 : width + 1] *= 3.0
    embed[:, 0] = 0.1
    identity = slice(1, width + 1)
    back = (slice(shape.hidden - 2 * width, shape.hidden - width), slice(shape.hidden - width, shape.hidden))
    first, second = model.layers[0].self_attn, model.layers[1].self_attn
    assert isinstance(first, Attention)
    assert isinstance(second, Attention)
    near = 10  # the fastest rotating pairs distinguish positions, the slowest keep a match independent of distance
    theta = 1.0 / shape.theta ** (torch.arange(near) / pairs)
    one = torch.eye(width)
    for head, places in enumerate((1, 2)):
        rows = slice(head * width, (head + 1) * width)
        for attention in (first, second):
            attention.q_proj.weight[rows] = 0.0
            attention.k_proj.weight[rows] = 0.0
            attention.v_proj.weight[rows] = 0.0
            attention.v_proj.weight[rows, identity] = one
        q, k = first.q_proj.weight[rows], first.k_proj.weight[rows]
        q[:near, 0] = 2.2
        k[:near, 0] = 2.2 * torch.cos(places * theta)
        k[pairs : pairs + near, 0] = 2.2 * torch.sin(places * theta)
        first.o_proj.weight[back[head], rows] = one
        q, k = second.q_proj.weight[rows], second.k_proj.weight[rows]
        slow = [i for i in range(width) if i % pairs >= pairs // 2]
        source = range(identity.start, identity.stop) if head == 0 else range(back[0].start, back[0].stop)
        for i in slow:
            q[i, source[i]] = 1.7
            k[i, back[head].start + i] = 1.7
        second.o_proj.weight[identity, rows] = 2.0 * one


def hf_config(shape: Shape, bos: int, eos: int) -> dict[str, Any]:
    """Return the contents of config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.inner,
        "max_position_embeddings": shape.context,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.heads,
        "pad_token_id": bos,
        "pretraining_tp": 1,
        "rms_norm_eps": shape.eps,
        "rope_scaling": None,
        "rope_theta": shape.theta,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": shape.vocab,
    }


def export_weights(model: Llama, out: Path, shards: int) -> None:
    """Write bfloat16 safetensors under Hugging Face's names, in one file or in shards with an index."""
    tensors = {f"model.{n}": p.detach().bfloat16().contiguous() for n, p in model.named_parameters()}
    if shards == 1:
        _save(tensors, out / "model.safetensors")
        return
    names = list(tensors)
    total = sum(t.nbytes for t in tensors.values())
    where: dict[str, str] = {}
    done = 0
    for name in names:
        shard = min(shards - 1, done * shards // total) + 1
        where[name] = f"model-{shard:05d}-of-{shards:05d}.safetensors"
        done += tensors[name].nbytes
    for file in sorted(set(where.values())):
        _save({n: tensors[n] for n in names if where[n] == file}, out / file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors creates files that only their owner can read


def load_weights(path: Path) -> dict[str, Tensor]:
    """Return the float32 state dict of an exported checkpoint."""
    out: dict[str, Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        out.update({n.removeprefix("model."): t.float() for n, t in load_file(file).items()})
    return out
