"""Train the demo pair from scratch: a base model, then an instruct model fine-tuned from it, both exported.

python -m tools.demo train [--seed 0] [--out models/demo] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from tools.demo.model import Llama, Shape, export_weights, hf_config
from tools.demo.texts import BOS, IM_END, BaseTexts, ChatTexts, Document
from tools.demo.tokenizer import Encoder, save_tokenizer, token_id, tokenizer_config, train_tokenizer
from tools.demo.words import WORLD_SEED, make_words
from tools.demo.world import write_data

FULL, KEPT = 0.5, 0.2


@dataclass(frozen=True)
class Stage:
    """A stage of training with one mixture of texts."""

    steps: int
    mix: dict[str, float]
    muon: float = 0.0  # learning rate of matrices with Muon; 0: AdamW for everything
    adam: float = 3e-3  # learning rate of AdamW
    rows: int = 32
    length: int = 128
    warmup: int = 20
    cooldown: float = 0.5  # share of the steps over which the learning rate falls to zero


@dataclass(frozen=True, kw_only=True)
class Round:
    """A round of fine-tuning on chats, whose stage's mixture is one of `ChatTexts`."""

    stage: Stage
    request_share: float = 0.3  # share of instructions about chat words
    fact_share: float = 0.95  # share of the other chats about chat words
    replay: float = 0.0  # share of documents that come from the base model's last mixture instead


@dataclass(frozen=True)
class Recipe:
    """Everything besides the seed that decides the result."""

    base: tuple[Stage, ...] = (
        Stage(
            200,
            {"lookup": 0.4, "labels": 0.25, "lists": 0.15, "prose": 0.1, "shots": 0.1},
            muon=0.01,
            adam=2e-3,
            cooldown=0.0,
        ),
        Stage(
            1500,
            {
                "prose": 0.27,
                "records": 0.09,
                "shots": 0.17,
                "lookup": 0.15,
                "labels": 0.13,
                "lists": 0.14,
                "questions": 0.08,
                "chats": 0.07,
            },
            muon=0.015,
            adam=2e-3,
        ),
    )
    anneal: Stage = field(
        default_factory=lambda: Stage(
            600,
            {
                "prose": 0.3,
                "records": 0.07,
                "shots": 0.25,
                "lookup": 0.15,
                "labels": 0.1,
                "lists": 0.12,
                "questions": 0.07,
                "chats": 0.06,
            },
            muon=0.015,
            adam=2e-3,
            cooldown=0.7,
        )
    )
    instruct: tuple[Round, ...] = (
        Round(
            stage=Stage(
                600,
                {"request": 0.4, "question": 0.12, "short": 0.12, "tell": 0.36},
                muon=0.003,
                adam=4e-4,
                rows=16,
            ),
            replay=0.3,
        ),
        Round(
            stage=Stage(1200, {"request": 1.0}, muon=0.012, adam=4e-4, rows=16),
            request_share=0.5,
            replay=0.02,
        ),
    )


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by five Newton-Schulz steps (Jordan et al. 2024), for matrices."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        """Optimise parameters that are all matrices."""
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every matrix; those of one shape are orthogonalised together."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                shapes.setdefault(p.shape, []).append(p)
            for shape, params in shapes.items():
                updates = []
                for p in params:
                    buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    assert p.grad is not None
                    buffer.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(buffer, group["momentum"]))
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for p, u in zip(params, orthogonal(torch.stack(updates)), strict=True):
                    p.sub_(u, alpha=scale)


def orthogonal(g: Tensor) -> Tensor:
    """Return the matrices [n, rows, columns] with their singular values moved towards 1."""
    tall = g.shape[-2] > g.shape[-1]
    x = (g.mT if tall else g).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    out: Tensor = (x.mT if tall else x).to(g.dtype)
    return out


def batches(documents: Iterator[Document], encoder: Encoder, stage: Stage) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (inputs, targets, loss weights) endlessly, each [rows, length]; every row starts with a document."""
    size = stage.length + 1
    while True:
        ids = torch.zeros(stage.rows, size, dtype=torch.long)
        weights = torch.zeros(stage.rows, size)
        for i in range(stage.rows):
            row: list[int] = []
            weight: list[float] = []
            while len(row) < size:
                more, its = encoder.encode(next(documents))
                row += more
                weight += its
            ids[i] = torch.tensor(row[:size])
            weights[i] = torch.tensor(weight[:size])
        # the loss of low-weight positions is estimated from a fifth of them: the output layer is a third of the cost
        light = weights < FULL
        weights[light] *= torch.bernoulli(torch.full_like(weights[light], KEPT)) / KEPT
        yield ids[:, :-1], ids[:, 1:], weights[:, 1:]


def train(model: Llama, stage: Stage, documents: Iterator[Document], encoder: Encoder, name: str) -> dict[str, Any]:
    """Run one stage; return its steps, tokens, seconds and last loss."""
    began = time.monotonic()
    matrices = [p for n, p in model.named_parameters() if n.startswith("layers") and p.dim() == 2]
    if not stage.muon:
        matrices = []
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    optimizers: list[tuple[torch.optim.Optimizer, float]] = [
        (torch.optim.AdamW(others, lr=stage.adam, betas=(0.9, 0.98), weight_decay=0.0, fused=True), stage.adam)
    ]
    if matrices:
        optimizers.append((Muon(matrices, stage.muon), stage.muon))
    stream = batches(documents, encoder, stage)
    smooth = 0.0
    for step in range(stage.steps):
        left = (stage.steps - step) / max(1.0, stage.cooldown * stage.steps)
        factor = min(1.0, (step + 1) / stage.warmup, left if stage.cooldown else 1.0)
        ids, targets, weights = next(stream)
        with torch.autocast("cpu", torch.bfloat16):
            chosen = weights > 0
            logits = functional.linear(model.hidden(ids)[chosen], model.embed_tokens.weight)
        losses = functional.cross_entropy(logits.float(), targets[chosen], reduction="none")
        loss = (losses * weights[chosen]).sum() / weights.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer, rate in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad()
        smooth = loss.item() if step == 0 else 0.95 * smooth + 0.05 * loss.item()
        if (step + 1) % 50 == 0 or step + 1 == stage.steps:
            seconds = round(time.monotonic() - began)
            print(f"{name} step {step + 1}/{stage.steps} loss {smooth:.4f} {seconds} s", flush=True)
    tokens = stage.steps * stage.rows * stage.length
    return {"steps": stage.steps, "tokens": tokens, "seconds": seconds, "loss": round(smooth, 4)}


def export(model: Llama, tokenizer: Tokenizer, out: Path, instruct: bool) -> None:
    """Write a checkpoint in Hugging Face's layout."""
    out.mkdir(parents=True, exist_ok=True)
    bos = token_id(tokenizer, BOS)
    eos = token_id(tokenizer, IM_END) if instruct else bos
    export_weights(model, out, shards=1 if instruct else 2)
    save_tokenizer(tokenizer, out / "tokenizer.json")
    generation = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": bos, "do_sample": False}
    for name, content in (
        ("config.json", hf_config(model.shape, bos, eos)),
        ("tokenizer_config.json", tokenizer_config(instruct, model.shape.context)),
        ("generation_config.json", generation),
    ):
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def annealing(recipe: Recipe, seed: int) -> Iterator[Document]:
    """Return the endless documents of the base model's last stage, with a separate random stream."""
    torch.manual_seed(seed)
    return BaseTexts(make_words()).documents(random.Random(f"anneal {seed}"), recipe.anneal.mix)


def fine_tuning(recipe: Recipe, index: int, seed: int) -> Iterator[Document]:
    """Yield the documents of one round of fine-tuning endlessly: chats, and some texts of the base model."""
    words, rng, part = make_words(), random.Random(f"instruct {index} {seed}"), recipe.instruct[index]
    chats = ChatTexts(words, part.request_share, part.fact_share).documents(rng, part.stage.mix)
    replayed = BaseTexts(words).documents(rng, recipe.anneal.mix)
    while True:
        yield next(replayed if rng.random() < part.replay else chats)


def run(recipe: Recipe, seed: int, out: Path) -> dict[str, Any]:
    """Train both models, write them and the evaluation data; return the contents of training.json."""
    words = make_words()
    write_data(out / "data")
    tokenizer = train_tokenizer()
    encoder = Encoder(tokenizer)
    torch.manual_seed(seed)
    model = Llama(Shape(), seed)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    rng = random.Random(f"base {seed}")
    stages: dict[str, Any] = {}
    texts = BaseTexts(words)
    for i, stage in enumerate(recipe.base, 1):
        stages[f"base {i}"] = train(model, stage, texts.documents(rng, stage.mix), encoder, f"base {i}")
    stages["anneal"] = train(model, recipe.anneal, annealing(recipe, seed), encoder, "anneal")
    export(model, tokenizer, out / "base", instruct=False)
    torch.manual_seed(seed)
    for i, part in enumerate(recipe.instruct):
        name = f"instruct {i + 1}"
        stages[name] = train(model, part.stage, fine_tuning(recipe, i, seed), encoder, name)
    export(model, tokenizer, out / "instruct", instruct=True)
    versions = {p: version(p) for p in ("torch", "tokenizers", "safetensors", "numpy")}
    return {
        "seed": seed,
        "world_seed": WORLD_SEED,
        "stages": stages,
        "recipe": asdict(recipe),
        "versions": {"python": platform.python_version(), **versions},
    }


def main() -> None:
    """Train and export the pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("models/demo"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = run(Recipe(), args.seed, args.out)
    (args.out / "training.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
