"""Prompts to generate for, and outputs in AlpacaEval's `model_outputs` form."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pa_lite.checkpoints.pairs import models_folder
from pa_lite.engine.chat import chat_prompts
from pa_lite.engine.generation import GenerationOptions, generate
from pa_lite.engine.model import Model
from pa_lite.errors import InputError
from pa_lite.follow.instructions import load_instructions


@dataclass(frozen=True)
class Prompt:
    """An instruction and the data set that it belongs to."""

    instruction: str
    dataset: str


@dataclass(frozen=True)
class Output:
    """One entry of a model_outputs file."""

    instruction: str
    output: str
    generator: str
    dataset: str


def demo_instructions_path() -> Path:
    """The embedded pair's verifiable instructions."""
    return models_folder() / "demo" / "data" / "instructions.jsonl"


def load_prompts(source: str) -> list[Prompt]:
    """The prompts of `demo`, `alpaca-eval` (from the Hub), or a file: JSON or JSONL of objects with `instruction`.

    Raises InputError, naming file and entry, for what is missing or wrong, and what the Hub raises.
    """
    if source == "demo":
        return [Prompt(i.text, "demo") for i in load_instructions(demo_instructions_path())]
    if source == "alpaca-eval":
        from pa_lite.follow.alpaca import load_alpaca_eval

        return load_alpaca_eval()
    path = Path(source)
    try:
        text = path.read_text("utf-8")
        is_list = text.lstrip().startswith("[")
        rows = json.loads(text) if is_list else [json.loads(line) for line in text.splitlines() if line.strip()]
    except FileNotFoundError:
        raise InputError(
            f"unknown prompts {source!r}: neither a file that exists nor 'demo' or 'alpaca-eval'."
        ) from None
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror}.") from e
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path}: is neither a JSON list nor JSONL: {e}.") from e
    if not rows:
        raise InputError(f"{path}: has no prompts.")
    prompts = []
    for number, row in enumerate(rows, 1):
        instruction = row.get("instruction") if isinstance(row, dict) else None
        if not isinstance(instruction, str) or not instruction.strip():
            raise InputError(f"{path}: entry {number} has no text under 'instruction'.")
        prompts.append(Prompt(instruction, str(row.get("dataset", path.stem))))
    return prompts


def generate_outputs(
    model: Model,
    prompts: Sequence[Prompt],
    generator: str,
    max_tokens: int = 256,
    parallel: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> list[Output]:
    """Answer every prompt greedily through the model's chat template; `generator` names the model in the outputs."""
    tokens = chat_prompts(model, [p.instruction for p in prompts])
    made = generate(model, tokens, GenerationOptions(max_tokens, parallel=parallel), progress)
    return [Output(p.instruction, g.text.strip(), generator, p.dataset) for p, g in zip(prompts, made, strict=True)]


def to_json(outputs: Sequence[Output]) -> str:
    """The text of a model_outputs file."""
    return json.dumps([asdict(o) for o in outputs], indent=2, ensure_ascii=False) + "\n"
