"""Generation of answers to prompts, written in AlpacaEval's `model_outputs` format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pa_lite.alpaca.journal import Journal, digest, recorded_fact
from pa_lite.alpaca.prompts import Prompt, read_lines, read_prompts, system_prompts, without_empty
from pa_lite.checkpoints.pairs import models_folder
from pa_lite.engine.answer_text import Generation, OuterSpaces
from pa_lite.engine.answers import Piece
from pa_lite.engine.chat import chat_prompts
from pa_lite.engine.chat_options import ChatOptions, parse_date
from pa_lite.engine.chat_template import chat_facts, measured_options, template_of
from pa_lite.engine.generation import GenerationOptions, generate
from pa_lite.engine.model import Model
from pa_lite.errors import InputError
from pa_lite.progress import Progress, part_of
from pa_lite.sanitize import name_text
from pa_lite.system.atomic import check_target, write_text

_EVERYDAY = Path(__file__).with_name("everyday.jsonl")


@dataclass(frozen=True, kw_only=True)
class Output:
    """One entry of a model_outputs file; `system` is the prompt's own system prompt, if it had one.

    `reasoning` is what the model wrote before its answer. `chat` records what differs from the chat template's
    defaults: system prompt, template arguments, and the date where the template may print it.
    """

    instruction: str
    output: str
    generator: str
    dataset: str | None
    system: str = ""
    reasoning: str = ""
    chat: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return the entry as JSON: AlpacaEval's fields, and the other fields that are not empty."""
        return without_empty(asdict(self))


@dataclass(frozen=True, kw_only=True)
class OutputPiece:
    """A new part of the answer to the prompt with this index, without white space at both ends of the whole.

    Only the last piece of an answer has a `finish_reason` (see `Generation.reason`); it has no text.
    """

    index: int
    text: str = ""
    reasoning: str = ""
    finish_reason: str = ""


def demo_instructions_path() -> Path:
    """Return the path of the embedded pair's verifiable instructions."""
    return models_folder() / "demo" / "data" / "instructions.jsonl"


def load_prompts(source: str) -> list[Prompt]:
    """Return the prompts of `everyday`, `demo`, `alpaca-eval` (from the Hub), or of a JSON or JSONL file of objects.

    `everyday` are 60 requests of many kinds, embedded in pa-lite.

    A file whose name ends in .txt has one prompt a line; empty lines are skipped. An object has an `instruction` and
    may have `input` (or `context`, appended to the instruction), `system` and `dataset`; see `content_of`. Raises
    InputError, naming file and entry, for missing or wrong fields and for content that would be lost, and PaLiteError
    when the download fails.
    """
    if source == "demo":
        return read_prompts(demo_instructions_path(), "demo", split="test")
    if source == "alpaca-eval":
        from pa_lite.alpaca.alpaca_eval import load_alpaca_eval

        return load_alpaca_eval()
    if source == "everyday":
        return read_prompts(_EVERYDAY, source)
    path = Path(source)
    if not path.exists():
        raise InputError(f"unknown prompts {source!r}: not an existing file, 'demo', 'everyday' or 'alpaca-eval'.")
    reader = read_lines if path.suffix.lower() == ".txt" else read_prompts
    return reader(path, name_text(path.stem))


def answer_prompts(
    model: Model,
    prompts: Sequence[Prompt],
    options: GenerationOptions | None = None,
    chat: ChatOptions | None = None,
    journal: Journal | None = None,
    progress: Progress | None = None,
    on_piece: Callable[[OutputPiece], None] | None = None,
) -> list[Generation]:
    """Return the model's answer to every prompt, through its chat template, in the prompts' order.

    The chat options are resolved first (see `measured_options`); callers that record them resolve them themselves.
    Answers in `journal` (made with `facts_of` of the same arguments) are reused, and new ones are added to it as they
    arrive; a sampled answer is the same either way. `progress` is called as by `generate`, with reused answers
    counted. `on_piece` gets the new answers as they grow. Raises what generate and chat_prompts raise.
    """
    chat = measured_options(template_of(model), chat, model.name)
    systems = system_prompts(prompts, chat.system)
    chats = chat_prompts(model, [p.instruction for p in prompts], chat, systems)
    done = {} if journal is None else journal.results_as(Generation, Generation.is_possible)
    missing = [i for i in range(len(prompts)) if i not in done]

    def keep(k: int, generation: Generation) -> None:
        done[missing[k]] = generation
        if journal is not None:
            journal.add(missing[k], asdict(generation))
        if on_piece is not None:
            on_piece(OutputPiece(index=missing[k], finish_reason=generation.reason))

    spaces = {i: OuterSpaces() for i in missing}

    def pass_on(k: int, piece: Piece) -> None:
        text = spaces[missing[k]].feed(piece.text)
        if on_piece is not None and (text or piece.reasoning):
            on_piece(OutputPiece(index=missing[k], text=text, reasoning=piece.reasoning))

    if progress is not None:
        progress("generate", len(done), len(prompts), "answers")
    tokens, reasoning = [chats.tokens[i] for i in missing], [chats.reasoning[i] for i in missing]
    rest = part_of(progress, "generate", len(done), len(prompts), "answers")
    growing = None if on_piece is None else pass_on
    generate(model, tokens, options, rest, on_done=keep, streams=missing, reasoning=reasoning, on_piece=growing)
    return [done[i] for i in range(len(prompts))]


def facts_of(
    model: Model,
    prompts: Sequence[Prompt],
    options: GenerationOptions | None = None,
    chat: ChatOptions | None = None,
) -> dict[str, str]:
    """Return everything that determines the answers, mostly as digests; resuming a journal requires equal facts.

    The chat options must be resolved. The date is not digested, and is present only where the template may print it.
    The number of prompts that run at a time is left out: it changes answers only by rounding.
    """
    chat = chat or ChatOptions()
    chosen = {key: value for key, value in asdict(options or GenerationOptions()).items() if key != "parallel"}
    template = template_of(model)
    chat_inputs = chat_facts(template, chat, model.name)
    optional: dict[str, str] = {}
    if "template_args" in chat_inputs:
        optional["template arguments (--template-arg)"] = digest(chat_inputs["template_args"])
    if "date" in chat_inputs:
        optional["date"] = chat_inputs["date"]
    return {
        **model.inputs(),
        "chat template": digest(template),
        "system prompt": digest(chat.system),
        **optional,
        "prompts": digest([p.document() for p in prompts]),
        "options": digest(chosen),
    }


def generator_name(reference: str) -> str:
    """Return a model's name in outputs and annotations: PAIR@LAM as it is, a file name without folder and .gguf."""
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
    """Return answers, stripped, in AlpacaEval's format; `generator` names the model, `chat` is from `chat_facts`."""
    return [
        Output(
            instruction=p.instruction,
            output=a.text.strip(),
            generator=generator,
            dataset=p.dataset,
            system=p.system,
            reasoning=a.reasoning,
            chat=chat or {},
        )
        for p, a in zip(prompts, answers, strict=True)
    ]


def generate_outputs(
    model: Model,
    prompts: Sequence[Prompt],
    generator: str,
    options: GenerationOptions | None = None,
    chat: ChatOptions | None = None,
    progress: Progress | None = None,
    on_piece: Callable[[OutputPiece], None] | None = None,
) -> list[Output]:
    """Answer every prompt through the model's chat template; `generator` names the model in the outputs."""
    template = template_of(model)
    chat = measured_options(template, chat, model.name)
    answers = answer_prompts(model, prompts, options, chat, None, progress, on_piece)
    return to_outputs(prompts, answers, generator, chat_facts(template, chat, model.name))


@dataclass(frozen=True)
class OutputsTarget:
    """A model_outputs file to write: `resume` continues an interrupted run, `force` overwrites existing results."""

    path: Path
    resume: bool = False
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class Written:
    """Counts for a written model_outputs file: answers, those reused from an earlier run, and how they ended.

    `reasons` counts answers by `Generation.reason`; `n_reasoning_cut` counts those cut at the token limit while still
    reasoning; `chat` is from `chat_facts`.
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

    Until then answers are kept in a journal next to it, so that a run killed at any moment can be resumed without
    losing one. A resumed run keeps the date of its start. Raises OutputError when the file exists or cannot be
    written, or the journal is of other inputs.
    """
    check_target(target.path, target.force)
    if target.resume:
        chat = with_recorded_date(chat, target.path)
    template = template_of(model)
    chat = measured_options(template, chat, model.name)
    facts, chat_inputs = facts_of(model, prompts, options, chat), chat_facts(template, chat, model.name)
    with Journal(target.path, facts, len(prompts), target.resume, target.force) as journal:
        check_target(target.path, target.force)  # again, under the lock: another process may have finished since
        n_resumed = len(journal.results)
        answers = answer_prompts(model, prompts, options, chat, journal, progress)
        write_text(target.path, to_json(to_outputs(prompts, answers, generator, chat_inputs)))
        journal.finish()
    reasons = {name: sum(a.reason == name for a in answers) for name in ("end", "stop", "length", "reasoning")}
    n_tokens = sum(a.n_tokens for a in answers)
    n_cut = sum(a.reason == "length" and bool(a.reasoning) and not a.text for a in answers)
    return Written(
        path=str(target.path),
        generator=generator,
        n=len(answers),
        n_resumed=n_resumed,
        n_tokens=n_tokens,
        reasons=reasons,
        n_reasoning_cut=n_cut,
        chat=chat_inputs,
    )


def with_recorded_date(chat: ChatOptions | None, target: Path) -> ChatOptions:
    """Return the options with the date from the journal next to `target`, unless they set a date."""
    chat = chat or ChatOptions()
    recorded = recorded_fact(target, "date")
    if chat.date is not None or recorded is None:
        return chat
    try:
        return replace(chat, date=parse_date(recorded))
    except InputError:  # damaged: opening the journal will report that the date differs
        return chat


def to_json(outputs: Sequence[Output]) -> str:
    """Return the content of a model_outputs file."""
    return json.dumps([o.document() for o in outputs], indent=2, ensure_ascii=False) + "\n"
