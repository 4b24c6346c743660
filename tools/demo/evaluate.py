"""Measure the demo pair along lam with PyTorch: few-shot accuracy and instruction following.

python -m tools.demo evaluate models/demo [--split dev] [--lam 0,0.1,...]
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from pa_lite.instructions.checks import followed
from tools.demo.model import Llama, Shape, load_weights
from tools.demo.texts import BOS, IM_END, LINE, chat
from tools.demo.world import FAMILIES, Row, read_rows

SHOTS = 8
MAX_NEW = 20


def prompt(row: Row, shots: list[tuple[str, str]]) -> str:
    """Return the few-shot prompt of a row; a context in the row replaces the shots."""
    pairs = [(q, a) for q, a in row["context"]] if "context" in row else shots
    return BOS + "\n".join([f"{LINE.format(query=q)} {a}" for q, a in pairs] + [LINE.format(query=row["query"])])


def draw_shots(data: Path, family: str, seed: int) -> list[tuple[str, str]]:
    """Return a family's exemplars, chosen by seed; they are the same for all its items."""
    rows = read_rows(data, family, "shots")
    chosen = random.Random(seed).sample(rows, SHOTS) if rows else []
    return [(r["query"], r["choices"][r["answer"]]) for r in chosen]


class Scorer:
    """Scores one model on the suites."""

    def __init__(self, model: Llama, tokenizer: Tokenizer, data: Path) -> None:
        """Keep the model, the tokenizer and the data."""
        self.model, self.tokenizer, self.data = model, tokenizer, data
        self.stop = tokenizer.token_to_id(IM_END)

    def ids(self, text: str) -> list[int]:
        """Return the token ids of a text with its special tokens written out."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def few_shot(self, family: str, split: str, shot_seed: int = 0) -> list[tuple[str, bool]]:
        """Return (group, is right) for each row."""
        rows = read_rows(self.data, family, split)
        shots = draw_shots(self.data, family, shot_seed)
        prompts = [self.ids(prompt(r, shots)) for r in rows]
        found: list[tuple[str, bool]] = []
        last = self._last_logits(prompts)
        for row, logits in zip(rows, last, strict=True):
            choices = [self.ids(f" {c}") for c in row["choices"]]
            assert all(len(c) == 1 for c in choices)
            best = int(torch.argmax(logits[[c[0] for c in choices]]))
            found.append((row["group"], best == row["answer"]))
        return found

    @torch.no_grad()
    def _last_logits(self, prompts: list[list[int]]) -> Tensor:
        """Return the logits after each prompt; rows are padded on the right, which a causal model does not see."""
        out = []
        for i in range(0, len(prompts), 64):
            part = prompts[i : i + 64]
            length = max(map(len, part))
            ids = torch.tensor([p + [0] * (length - len(p)) for p in part])
            hidden = self.model.hidden(ids)[torch.arange(len(part)), [len(p) - 1 for p in part]]
            out.append(hidden @ self.model.embed_tokens.weight.T)
        return torch.cat(out)

    def responses(self, rows: list[Row]) -> list[str | None]:
        """Return greedy responses to instructions; None where no end-of-turn token came."""
        texts = ["".join(t for t, _ in chat(r["instruction"], None)) for r in rows]
        prompts = [self.ids(t) for t in texts]
        new: list[list[int]] = [[] for _ in rows]
        active = list(range(len(rows)))
        done: dict[int, str] = {}
        for _ in range(MAX_NEW):
            if not active:
                break
            picks = self._last_logits([prompts[i] + new[i] for i in active]).argmax(-1).tolist()
            for i, token in zip(active, picks, strict=True):
                if token == self.stop:
                    done[i] = self.tokenizer.decode(new[i])
                new[i].append(token)
            active = [i for i in active if i not in done]
        return [done.get(i) for i in range(len(rows))]

    def follow(self, split: str) -> list[tuple[str, bool]]:
        """Return (kind, is followed) for each instruction."""
        rows = read_rows(self.data, "instructions", split)
        texts = self.responses(rows)
        return [(r["kind"], t is not None and followed(t, r["checks"])) for r, t in zip(rows, texts, strict=True)]


def rate(found: list[tuple[str, bool]], group: str | None = None) -> float:
    """Return the share of rows that are right, of one group if given."""
    hits = [hit for g, hit in found if group is None or g == group]
    return sum(hits) / len(hits) if hits else math.nan


def majority(data: Path, family: str, split: str) -> float:
    """Return the share of the most frequent answer among a family's rows."""
    answers = [r["choices"][r["answer"]] for r in read_rows(data, family, split)]
    return max(answers.count(a) for a in set(answers)) / len(answers)


def chance(data: Path, family: str, split: str) -> float:
    """Return the expected accuracy of a uniform guess."""
    rows = read_rows(data, family, split)
    return sum(1 / len(r["choices"]) for r in rows) / len(rows)


def measure(
    base: dict[str, Tensor], instruct: dict[str, Tensor], lam: float, data: Path, tokenizer: Tokenizer, split: str
) -> dict[str, Any]:
    """Return all figures of one model on the line between two state dicts."""
    model = Llama(Shape())
    model.load_state_dict({n: b + lam * (instruct[n] - b) for n, b in base.items()})
    model.eval()
    scorer = Scorer(model, tokenizer, data)
    found = {f: scorer.few_shot(f, split) for f in FAMILIES}
    follow = scorer.follow(split)
    facts = [x for f in FAMILIES if f not in ("lookup", "labels") for x in found[f]]
    variance = sum(rate(x) * (1 - rate(x)) / len(x) for x in found.values()) / len(FAMILIES) ** 2
    return {
        "lam": lam,
        "icl": sum(map(rate, found.values())) / len(FAMILIES),
        "se": math.sqrt(variance),
        "told": rate(facts, "told"),
        "chat": rate(facts, "chat"),
        "follow": rate(follow),
        "follow_se": math.sqrt(rate(follow) * (1 - rate(follow)) / len(follow)),
        "families": {f: rate(x) for f, x in found.items()},
        "kinds": {k: rate(follow, k) for k in dict.fromkeys(k for k, _ in follow)},
    }


def show(result: dict[str, Any]) -> str:
    """Return one line of the table."""
    families = " ".join(f"{f}={v:.2f}" for f, v in result["families"].items())
    head = "lam {lam:.2f} icl {icl:.3f} (se {se:.3f}) told {told:.3f} chat {chat:.3f} follow {follow:.3f} | "
    return head.format(**result) + families


def main() -> None:
    """Print the table along lam."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pair", type=Path, help="folder with base/, instruct/ and data/")
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--lam", default="0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1")
    parser.add_argument("--kinds", action="store_true", help="also show each kind of instruction")
    parser.add_argument("--json", type=Path, help="write all numbers there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    base, instruct = load_weights(args.pair / "base"), load_weights(args.pair / "instruct")
    tokenizer = Tokenizer.from_file(str(args.pair / "base" / "tokenizer.json"))
    data = args.pair / "data"
    for family in FAMILIES:
        uniform, top = chance(data, family, args.split), majority(data, family, args.split)
        print(f"{family}: uniform chance {uniform:.3f}, majority {top:.3f}")
    results = []
    for lam in map(float, args.lam.split(",")):
        results.append(measure(base, instruct, lam, data, tokenizer, args.split))
        print(show(results[-1]), flush=True)
        if args.kinds:
            print("   ", " ".join(f"{k}={v:.2f}" for k, v in results[-1]["kinds"].items()))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
