"""The demo world's evaluation suites, fixed before any training, as JSON lines. No torch here.

Run it to write the data: python -m tools.demo data [--out models/demo/data]
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.demo.texts import Instructions, facts
from tools.demo.words import ATTRIBUTES, NOUNS, WORLD_SEED, Words, make_words

Row = dict[str, Any]

FAMILIES = (*ATTRIBUTES, "kind", "opposite", "lookup", "labels")
CONTEXT_PAIRS = {"dev": 120, "test": 240}  # rows of the families whose exemplars are part of the row
REQUESTS = {"dev": 16, "test": 24}  # instructions of each kind
SHOTS = 32


def _row(split: str, query: str, choices: list[str], answer: str, group: str) -> Row:
    return {"split": split, "query": query, "choices": choices, "answer": choices.index(answer), "group": group}


def _relation_rows(words: Words, rng: random.Random, relation: str) -> list[Row]:
    values = list({**ATTRIBUTES, "kind": tuple(NOUNS)}.get(relation, ()))
    rows: list[Row] = []
    for split, group in (("shots", "seen"), ("dev", "told"), ("dev", "chat"), ("test", "told"), ("test", "chat")):
        found = facts(words, [group if group == "seen" else f"{group}_{split}"])[relation]
        pool = facts(words, [group] if group == "seen" else [f"told_{split}", f"chat_{split}"])[relation]
        rng.shuffle(found)
        if group == "seen":
            found = _balanced(found, SHOTS)
        for _, x, v in found:
            choices = values or _distractors(rng, [f[2] for f in pool if f[2] != x], v)
            rows.append(_row(split, x, choices, v, group))
    return rows


def _balanced(found: list[tuple[str, str, str]], n: int) -> list[tuple[str, str, str]]:
    """Return the first n facts in an order that cycles through the values."""
    turn: dict[str, int] = {}
    order = []
    for i, fact in enumerate(found):
        turn[fact[2]] = turn.get(fact[2], 0) + 1
        order.append((turn[fact[2]], i))
    return [found[i] for _, i in sorted(order)][:n]


def _distractors(rng: random.Random, others: list[str], answer: str) -> list[str]:
    choices = [answer, *rng.sample([o for o in others if o != answer], 7)]
    rng.shuffle(choices)
    return choices


def _lookup_row(words: Words, rng: random.Random, split: str) -> Row:
    """Return a row of eight pairs of symbols and one key repeated; none of the keys occurs in training."""
    half = len(words.held_keys) // 2
    keys = rng.sample(words.held_keys[:half] if split == "dev" else words.held_keys[half:], 8)
    values = rng.sample([s for s in words.symbols if s not in keys], 8)
    at = rng.randrange(8)
    choices = rng.sample(values, 8)
    context = [list(pair) for pair in zip(keys, values, strict=True)]
    return {**_row(split, keys[at], choices, values[at], "told"), "context": context}


def _labels_row(words: Words, rng: random.Random, split: str) -> Row:
    """Return a row of nine `seen` nouns with an invented label for each of three kinds, and a `told` noun to label."""
    kinds = rng.sample(list(NOUNS), 3)
    label = dict(zip(kinds, rng.sample(words.symbols, 3), strict=True))
    seen, told = words.nouns["seen"], words.nouns[f"told_{split}"]
    shown = [[n, label[k]] for k in kinds for n in rng.sample([n for n, of in seen.items() if of == k], 3)]
    rng.shuffle(shown)
    query = rng.choice([n for n, of in told.items() if of in label])
    return {**_row(split, query, rng.sample(list(label.values()), 3), label[told[query]], "told"), "context": shown}


def few_shot_rows(words: Words) -> dict[str, list[Row]]:
    """Return all rows of all few-shot families, by family."""
    out: dict[str, list[Row]] = {}
    for family in FAMILIES:
        rng = random.Random(f"{WORLD_SEED} {family}")
        if family in ("lookup", "labels"):
            make = _lookup_row if family == "lookup" else _labels_row
            out[family] = [make(words, rng, split) for split, n in CONTEXT_PAIRS.items() for _ in range(n)]
        else:
            out[family] = _relation_rows(words, rng, family)
    return out


def instruction_rows(words: Words) -> list[Row]:
    """Return verifiable instructions about `told` words, which no chat mentions."""
    rows: list[Row] = []
    for split, n in REQUESTS.items():
        rng = random.Random(f"{WORLD_SEED} instructions {split}")
        source = Instructions(words, [f"told_{split}"])
        for kind in Instructions.KINDS:
            made: dict[str, Row] = {}
            while len(made) < n:
                r = source.make(rng, kind)
                made[r.instruction] = {
                    "split": split, "kind": kind, "instruction": r.instruction, "checks": r.checks,
                }  # fmt: skip
            rows += made.values()
    return rows


def write_data(out: Path) -> Mapping[str, int]:
    """Write every suite as OUT/<name>.jsonl; return the number of rows by name."""
    words = make_words()
    suites = {**few_shot_rows(words), "instructions": instruction_rows(words)}
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in suites.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return {name: len(rows) for name, rows in suites.items()}


def read_rows(data: Path, name: str, split: str) -> list[Row]:
    """Return the rows of one split of one suite."""
    lines = (data / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [r for r in map(json.loads, lines) if r["split"] == split]


def main() -> None:
    """Write the evaluation data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("models/demo/data"))
    print(write_data(parser.parse_args().out))


if __name__ == "__main__":
    main()
