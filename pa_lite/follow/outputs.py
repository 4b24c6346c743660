"""Prompts to generate for, and outputs in AlpacaEval's `model_outputs` form."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pa_lite.checkpoints.pairs import models_folder
from pa_lite.documents import parse_json
from pa_lite.engine.chat import chat_prompts
from pa_lite.engine.generation import Generation, GenerationOptions, generate
from pa_lite.engine.model import Model
from pa_lite.errors import InputError
from pa_lite.files import check_target, write_text
from pa_lite.follow.instructions import load_instructions
from pa_lite.follow.journal import Journal, digest


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
        text = path.read_bytes().decode("utf-8-sig")
        is_list = text.lstrip().startswith("[")
        lines = text.split("\n")  # and not splitlines: a text may hold U+2028
        rows = parse_json(text) if is_list else [parse_json(line) for line in lines if line.strip()]
    except FileNotFoundError:
        raise InputError(
            f"unknown prompts {source!r}: neither a file that exists nor 'demo' or 'alpaca-eval'."
        ) from None
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror}.") from e
    except ValueError as e:
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


def answer_prompts(
    model: Model,
    prompts: Sequence[Prompt],
    options: GenerationOptions | None = None,
    system: str = "",
    journal: Journal | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_tokens: Callable[[int], None] | None = None,
) -> list[Generation]:
    """The model's answer to every prompt, through its chat template, in the prompts' order.

    What `journal` (made with `facts_of` of the same arguments) holds already is taken from it, and what is new is
    written to it as it comes; a sampled answer is the same either way. `progress` gets (answers done, answers in all),
    `on_tokens` the number of tokens of each step. Raises what generate and chat_prompts raise.
    """
    tokens = chat_prompts(model, [p.instruction for p in prompts], system)
    done = {} if journal is None else journal.results_as(Generation)
    places = [i for i in range(len(prompts)) if i not in done]

    def keep(k: int, generation: Generation) -> None:
        done[places[k]] = generation
        if journal is not None:
            journal.add(places[k], asdict(generation))
        if progress is not None:
            progress(len(done), len(prompts))

    if progress is not None:
        progress(len(done), len(prompts))
    generate(model, [tokens[i] for i in places], options, on_done=keep, streams=places, on_tokens=on_tokens)
    return [done[i] for i in range(len(prompts))]


def facts_of(
    model: Model, prompts: Sequence[Prompt], options: GenerationOptions | None = None, system: str = ""
) -> dict[str, str]:
    """What decides the answers, as digests: a journal of other facts cannot be continued.

    How many prompts run at a time is none of them: it decides no more than a rounding error.
    """
    chosen = {key: value for key, value in asdict(options or GenerationOptions()).items() if key != "parallel"}
    template = model.header.metadata.get("tokenizer.chat_template")
    return {
        **model.inputs(),
        "chat template": digest(str(template.value) if template else None),
        "system prompt": digest(system),
        "prompts": digest([asdict(p) for p in prompts]),
        "options": digest(chosen),
    }


def generator_name(reference: str) -> str:
    """The name in outputs and annotations of a model: PAIR@LAM as it is, a file's without folder and ending."""
    path = Path(reference)
    return path.stem if path.suffix == ".gguf" else reference


def to_outputs(prompts: Sequence[Prompt], answers: Sequence[Generation], generator: str) -> list[Output]:
    """Answers, blanks at their ends removed, in AlpacaEval's form; `generator` names the model."""
    return [Output(p.instruction, a.text.strip(), generator, p.dataset) for p, a in zip(prompts, answers, strict=True)]


def generate_outputs(
    model: Model,
    prompts: Sequence[Prompt],
    generator: str,
    options: GenerationOptions | None = None,
    system: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> list[Output]:
    """Answer every prompt through the model's chat template; `generator` names the model in the outputs."""
    return to_outputs(prompts, answer_prompts(model, prompts, options, system, None, progress), generator)


@dataclass(frozen=True)
class Target:
    """A model_outputs file to write: `resume` continues what a killed run left, `force` overwrites what is there."""

    path: Path
    resume: bool = False
    force: bool = False


@dataclass(frozen=True)
class Written:
    """What went into a model_outputs file: answers, those taken over from an earlier run, and how they ended."""

    path: str
    generator: str
    n: int
    n_resumed: int
    n_tokens: int
    reasons: dict[str, int]


def write_outputs(
    model: Model,
    prompts: Sequence[Prompt],
    generator: str,
    target: Target,
    options: GenerationOptions | None = None,
    system: str = "",
    progress: Callable[[int, int], None] | None = None,
    on_tokens: Callable[[int], None] | None = None,
) -> Written:
    """Answer every prompt and write the model_outputs file, whole or not at all.

    Answers lie in a journal beside it until then: a run that is killed, at any moment, is continued with `resume` and
    loses none. Raises OutputError when the file exists or cannot be written, or the journal is of other prompts.
    """
    check_target(target.path, target.force)
    facts = facts_of(model, prompts, options, system)
    with Journal(target.path, facts, len(prompts), target.resume, target.force) as journal:
        check_target(target.path, target.force)  # again: another process may have finished just now
        n_resumed = len(journal.results)
        answers = answer_prompts(model, prompts, options, system, journal, progress, on_tokens)
        write_text(target.path, to_json(to_outputs(prompts, answers, generator)))
        journal.finish()
    reasons = {name: sum(a.reason == name for a in answers) for name in ("end", "stop", "length")}
    n_tokens = sum(a.n_tokens for a in answers)
    return Written(str(target.path), generator, len(answers), n_resumed, n_tokens, reasons)


def to_json(outputs: Sequence[Output]) -> str:
    """The text of a model_outputs file."""
    return json.dumps([asdict(o) for o in outputs], indent=2, ensure_ascii=False) + "\n"
