"""Prompts to generate for, and outputs in AlpacaEval's `model_outputs` form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pa_lite.alpaca.journal import Journal, digest, recorded_fact
from pa_lite.alpaca.prompts import Prompt, read_prompts, system_prompts, without_empty
from pa_lite.checkpoints.pairs import models_folder
from pa_lite.engine.answer_text import Generation
from pa_lite.engine.chat import chat_prompts
from pa_lite.engine.chat_options import ChatOptions, parse_date
from pa_lite.engine.chat_template import chat_facts, measured_options, template_of
from pa_lite.engine.generation import GenerationOptions, generate
from pa_lite.engine.model import Model
from pa_lite.errors import InputError
from pa_lite.progress import Progress, part_of
from pa_lite.sanitize import name_text
from pa_lite.system.atomic import check_target, write_text


@dataclass(frozen=True)
class Output:
    """One entry of a model_outputs file; `system` is the system prompt of the entry's own prompt, if it had one.

    `reasoning` is what the model wrote before its answer. `chat` says how the prompt was made where that is not the
    template's default: system prompt, template arguments, and the date where the template may print it.
    """

    instruction: str
    output: str
    generator: str
    dataset: str | None
    system: str = ""
    reasoning: str = ""
    chat: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return the entry as JSON: AlpacaEval's fields, and of the others those that say something."""
        return without_empty(asdict(self))


def demo_instructions_path() -> Path:
    """The embedded pair's verifiable instructions."""
    return models_folder() / "demo" / "data" / "instructions.jsonl"


def load_prompts(source: str) -> list[Prompt]:
    """Return the prompts of `demo`, `alpaca-eval` (from the Hub), or a file: JSON or JSONL of objects.

    An object has an `instruction` and may have `input` (or `context`), which joins it, `system` and `dataset`; see
    `content_of`. Raises InputError, naming file and entry, for what is missing or wrong and for content that would be
    lost, and what the Hub raises.
    """
    if source == "demo":
        return read_prompts(demo_instructions_path(), "demo")
    if source == "alpaca-eval":
        from pa_lite.alpaca.alpaca_eval import load_alpaca_eval

        return load_alpaca_eval()
    path = Path(source)
    if not path.exists():
        raise InputError(f"unknown prompts {source!r}: neither a file that exists nor 'demo' or 'alpaca-eval'.")
    return read_prompts(path, name_text(path.stem))


def answer_prompts(
    model: Model,
    prompts: Sequence[Prompt],
    options: GenerationOptions | None = None,
    chat: ChatOptions | None = None,
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> list[Generation]:
    """Return the model's answer to every prompt, through its chat template, in the prompts' order.

    The chat options are settled first (see `measured_options`); who also records them settles them before.
    What `journal` (made with `facts_of` of the same arguments) holds already is taken from it, and what is new is
    written to it as it comes; a sampled answer is the same either way. `progress` gets what that of
    `generate` gets, earlier answers counted. Raises what generate and chat_prompts raise.
    """
    chat = measured_options(template_of(model), chat, model.name)
    own = system_prompts(prompts, chat.system)
    asked = chat_prompts(model, [p.instruction for p in prompts], chat, own)
    done = {} if journal is None else journal.results_as(Generation, Generation.is_possible)
    places = [i for i in range(len(prompts)) if i not in done]

    def keep(k: int, generation: Generation) -> None:
        done[places[k]] = generation
        if journal is not None:
            journal.add(places[k], asdict(generation))

    if progress is not None:
        progress("generate", len(done), len(prompts), "answers")
    tokens, reasoning = [asked.tokens[i] for i in places], [asked.reasoning[i] for i in places]
    told = part_of(progress, "generate", len(done), len(prompts), "answers")
    generate(model, tokens, options, told, on_done=keep, streams=places, reasoning=reasoning)
    return [done[i] for i in range(len(prompts))]


def facts_of(
    model: Model,
    prompts: Sequence[Prompt],
    options: GenerationOptions | None = None,
    chat: ChatOptions | None = None,
) -> dict[str, str]:
    """Return what decides the answers, mostly as digests: a journal of other facts cannot be continued.

    The chat options must be settled. The date is there as it is, and only where the template may print it. How many
    prompts run at a time is not a fact: it decides no more than a rounding error.
    """
    chat = chat or ChatOptions()
    chosen = {key: value for key, value in asdict(options or GenerationOptions()).items() if key != "parallel"}
    template = template_of(model)
    made = chat_facts(template, chat, model.name)
    own: dict[str, str] = {}
    if "template_args" in made:
        own["template arguments (--template-arg)"] = digest(made["template_args"])
    if "date" in made:
        own["date"] = made["date"]
    return {
        **model.inputs(),
        "chat template": digest(template),
        "system prompt": digest(chat.system),
        **own,
        "prompts": digest([p.document() for p in prompts]),
        "options": digest(chosen),
    }


def generator_name(reference: str) -> str:
    """Return a model's name in outputs and annotations: PAIR@LAM as it is, a file's without folder and .gguf."""
    path = Path(reference)
    if path.suffix.lower() == ".gguf":
        return name_text(path.stem)
    return name_text(path.name) if path.parent != Path() else reference


def to_outputs(
    prompts: Sequence[Prompt],
    answers: Sequence[Generation],
    generator: str,
    chat: Mapping[str, Any] | None = None,
) -> list[Output]:
    """Return answers, spaces at their ends removed, in AlpacaEval's form.

    `generator` names the model; `chat` is what `chat_facts` says of the prompts.
    """
    return [
        Output(p.instruction, a.text.strip(), generator, p.dataset, p.system, a.reasoning, chat or {})
        for p, a in zip(prompts, answers, strict=True)
    ]


def generate_outputs(
    model: Model,
    prompts: Sequence[Prompt],
    generator: str,
    options: GenerationOptions | None = None,
    chat: ChatOptions | None = None,
    progress: Progress | None = None,
) -> list[Output]:
    """Answer every prompt through the model's chat template; `generator` names the model in the outputs."""
    template = template_of(model)
    chat = measured_options(template, chat, model.name)
    answers = answer_prompts(model, prompts, options, chat, None, progress)
    return to_outputs(prompts, answers, generator, chat_facts(template, chat, model.name))


@dataclass(frozen=True)
class OutputsTarget:
    """A model_outputs file to write: `resume` continues what a killed run left, `force` overwrites what is there."""

    path: Path
    resume: bool = False
    force: bool = False


@dataclass(frozen=True)
class Written:
    """What went into a model_outputs file: answers, those taken over from an earlier run, and how they ended.

    `n_reasoning_cut` counts those among `length` that were still reasoning; `chat` is what `chat_facts` says of the
    prompts.
    """

    path: str
    generator: str
    n: int
    n_resumed: int
    n_tokens: int
    reasons: dict[str, int]
    n_reasoning_cut: int = 0
    chat: Mapping[str, Any] = field(default_factory=dict)


def write_outputs(
    model: Model,
    prompts: Sequence[Prompt],
    generator: str,
    target: OutputsTarget,
    options: GenerationOptions | None = None,
    chat: ChatOptions | None = None,
    progress: Progress | None = None,
) -> Written:
    """Answer every prompt and write the model_outputs file, whole or not at all.

    Answers lie in a journal beside it until then: a run that is killed, at any moment, is continued with `resume` and
    loses none. It keeps the date that it started with, whenever it is continued. Raises OutputError when the file
    exists or cannot be written, or the journal is of other prompts.
    """
    check_target(target.path, target.force)
    if target.resume:
        chat = with_recorded_date(chat, target.path)
    template = template_of(model)
    chat = measured_options(template, chat, model.name)
    facts, made = facts_of(model, prompts, options, chat), chat_facts(template, chat, model.name)
    with Journal(target.path, facts, len(prompts), target.resume, target.force) as journal:
        check_target(target.path, target.force)  # again: another process may have finished just now
        n_resumed = len(journal.results)
        answers = answer_prompts(model, prompts, options, chat, journal, progress)
        write_text(target.path, to_json(to_outputs(prompts, answers, generator, made)))
        journal.finish()
    reasons = {name: sum(a.reason == name for a in answers) for name in ("end", "stop", "length", "reasoning")}
    n_tokens = sum(a.n_tokens for a in answers)
    n_cut = sum(a.reason == "length" and bool(a.reasoning) and not a.text for a in answers)
    return Written(str(target.path), generator, len(answers), n_resumed, n_tokens, reasons, n_cut, made)


def with_recorded_date(chat: ChatOptions | None, target: Path) -> ChatOptions:
    """Return the options with the date of the journal beside `target`, unless they give one themselves."""
    chat = chat or ChatOptions()
    recorded = recorded_fact(target, "date")
    if chat.date is not None or recorded is None:
        return chat
    try:
        return replace(chat, date=parse_date(recorded))
    except InputError:  # damaged: the journal's facts will not be today's
        return chat


def to_json(outputs: Sequence[Output]) -> str:
    """The text of a model_outputs file."""
    return json.dumps([o.document() for o in outputs], indent=2, ensure_ascii=False) + "\n"
