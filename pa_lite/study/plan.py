"""Planning of a study: cells, their inputs, chunks, and resources. Reads only headers and task rows."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pa_lite.alpaca.outputs import load_prompts
from pa_lite.alpaca.prompts import Prompt
from pa_lite.checkpoints import open_pair
from pa_lite.checkpoints.pairs import Pair, find_pair
from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.chat_template import chat_facts, measured_options, template_in
from pa_lite.engine.model_reference import parse_reference
from pa_lite.engine.options import METHOD, EngineOptions
from pa_lite.errors import InputError
from pa_lite.ggml.quant_types import type_name
from pa_lite.instructions.sets import find_set
from pa_lite.merging.lams import read_lams
from pa_lite.merging.plan import MergePlan, PlanOptions, plan_merge
from pa_lite.merging.schedule import Schedule, read_schedule
from pa_lite.sanitize import name_text
from pa_lite.study.curves import MOST_TASKS
from pa_lite.study.records import InstructAnswer
from pa_lite.study.store import Cell, StoredCell
from pa_lite.study.texts import cut_documents, read_documents
from pa_lite.study.unlabelled import AgreementWorkload, InstructWorkload, TextWorkload
from pa_lite.study.workload import Workload
from pa_lite.study.workloads import AnswersWorkload, FollowWorkload, TaskWorkload
from pa_lite.system.machine import cores
from pa_lite.tasks.examples import Examples, as_examples, find_specs
from pa_lite.tasks.prompts import prepare_draws
from pa_lite.tasks.scoring import ScoreOptions
from pa_lite.tasks.spec import TaskSpec, split_names

_log = logging.getLogger(__name__)
_SMALL = 30_000_000  # parameters below which one model per core is faster than several threads per model
# (parameters up to, items in a chunk): a kill loses a chunk, so larger models get smaller ones
_CHUNKS = ((100_000_000, 512), (1_000_000_000, 128), (4_000_000_000, 64))
_LEAST_CHUNK = 32
_ALPACA_TOKENS = 1024  # most new tokens of an answer
_RECORD_BYTES = 600  # approximate size of an item's record in the results file
_CELL_BYTES = 6000  # approximate size of a cell's inputs in the results file
_CONTEXT_BYTES = 300_000_000
TEXT_BYTES = 100_000  # of text that are scored by default
_WINDOW = 1024  # most tokens of a window of text
_WINDOW_BYTES = 3  # of a token, for the length of passages: most then fit into one window


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What to measure and how.

    `types` are weight types; `tasks` names of tasks, suites or files; `examples` a table of own rows, which is one more
    task; `follow` an instruction set (`public`, `demo`, a file) or "", limited to `follow_limit` instructions;
    `workers` the number of models at a time, where 0 chooses by their size. `alpaca` names prompts (`alpaca-eval`, a
    file), limited to `alpaca_limit`; `judge` compares the answers with those in the file `reference`, by default with
    those at lam 1, and is itself compared with the known preferences in the file `calibration`, if given. `chat`
    applies to the prompts of instructions and answers; in a plan it is resolved (see `measured_options`).
    `extrapolate` allows lams outside [0, 1].

    Two measures need no right answers. `text` are files and folders of plain text, of which up to `text_limit` bytes
    are scored (0: all). `prompts` names prompts (`everyday`, `demo`, `alpaca-eval`, a file), limited to
    `prompts_limit` evenly spaced ones, that the instruct model answers and all lams are compared with. One of `tasks`,
    `examples`, `text` and `prompts` is required.
    """

    lams: tuple[float, ...] = tuple(i / 10 for i in range(11))
    tasks: tuple[str, ...] = ()
    examples: Examples | None = None
    types: tuple[str, ...] = ("F16",)
    follow: str = ""
    follow_limit: int | None = None
    score: ScoreOptions = field(default_factory=ScoreOptions)
    schedule: Schedule = field(default_factory=Schedule)
    engine: EngineOptions = field(default_factory=EngineOptions)
    workers: int = 0
    alpaca: str = ""
    alpaca_limit: int | None = None
    judge: str = ""
    reference: Path | None = None
    calibration: Path | None = None
    chat: ChatOptions = field(default_factory=ChatOptions)
    extrapolate: bool = False
    text: tuple[Path, ...] = ()
    text_limit: int = TEXT_BYTES
    prompts: str = ""
    prompts_limit: int | None = None

    def __post_init__(self) -> None:
        """Convert lams, names, types in any case, schedule and path from strings. Raises InputError."""
        for name, value in {
            "lams": read_lams(self.lams, self.extrapolate),
            "tasks": split_names(self.tasks),
            "examples": None if self.examples is None else as_examples(self.examples),
            "types": tuple(map(type_name, split_names(self.types, "types"))),
            "schedule": read_schedule(self.schedule),
            "reference": None if self.reference is None else Path(self.reference),
            "calibration": None if self.calibration is None else Path(self.calibration),
            "text": tuple(map(Path, [self.text] if isinstance(self.text, (str, Path)) else self.text)),
        }.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class PlannedCell:
    """A cell and the index of its workload; `kept` is a stale result used instead (--keep-stale), if any."""

    cell: Cell
    workload: int
    kept: StoredCell | None = None

    @property
    def key(self) -> str:
        """The key of its result in the store."""
        return self.cell.key if self.kept is None else self.kept.key


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """Everything that a sweep will do. `chunk` is the number of items that are scored and committed together.

    `n_values` is the number of parameters of each model, `model_bytes` the size of the largest. The pairs that a judge
    compares are known only once all answers exist, so they get a separate plan (see `plan_judging`).

    `before` is the plan of instruct's answers, if lams are compared with them. It runs first; `with_answers` then gives
    the plan that can be run. `answers` are the answers by weight type, once they are known.
    """

    pair: str
    options: StudyOptions
    merges: Mapping[str, MergePlan]
    workloads: tuple[Workload[Any], ...]
    cells: tuple[PlannedCell, ...]
    chunk: int
    n_values: int
    model_bytes: int
    before: StudyPlan | None = None
    answers: Mapping[str, tuple[InstructAnswer, ...]] | None = None

    @property
    def n_items(self) -> int:
        """The number of items in all cells."""
        return sum(c.cell.n_items for c in self.cells)

    @property
    def keys(self) -> list[str]:
        """The keys of the cells' results in the store, in the order of the cells."""
        return [c.key for c in self.cells]

    @property
    def workers(self) -> int:
        """The number of models at a time."""
        if self.options.workers:
            return self.options.workers
        return min(len(self.options.lams), self.options.engine.threads or cores()) if self.n_values < _SMALL else 1

    @property
    def threads(self) -> int:
        """The number of threads of each worker."""
        return max(1, (self.options.engine.threads or cores()) // self.workers)

    @property
    def memory(self) -> int:
        """The approximate peak memory in bytes: each worker's model and context."""
        return self.workers * (self.model_bytes + _CONTEXT_BYTES)

    @property
    def disk(self) -> int:
        """The approximate size of the results in bytes."""
        return self.n_items * _RECORD_BYTES + len(self.cells) * _CELL_BYTES


def environment() -> dict[str, str]:
    """Return the versions and the platform that cells are measured with."""
    names = ("pa-lite", "llama-cpp-python", "numpy")
    return {**{n: importlib.metadata.version(n) for n in names}, "python": platform.python_version(),
            "platform": platform.platform()}  # fmt: skip


def _check_options(options: StudyOptions) -> None:
    """Raise InputError for options that contradict each other, before anything is opened."""
    if not options.lams or any(a >= b for a, b in zip(options.lams, options.lams[1:], strict=False)):
        given = ", ".join(f"{lam:g}" for lam in options.lams)
        raise InputError(f"lams must increase, without duplicates: 0,0.5,1 or 0:1:0.1. Given: {given or 'none'}.")
    if bool(options.alpaca) != bool(options.judge):
        raise InputError("--alpaca and --judge require each other: give both.")
    if options.calibration is not None and not options.judge:
        raise InputError("--calibration compares a judge with known preferences: add --alpaca and --judge.")
    if options.text_limit < 0:
        raise InputError(f"--text-limit {options.text_limit} is negative: it is a number of bytes, or 0 for all.")
    if options.prompts_limit is not None and options.prompts_limit < 1:
        raise InputError(f"--prompts-limit {options.prompts_limit} is less than 1.")
    if options.alpaca and options.reference is None and 1.0 not in options.lams:
        raise InputError("the reference answers are those at lam 1, which is missing: add it, or use --reference.")
    if options.judge:
        parse_reference(options.judge)
    if len(set(options.types)) != len(options.types):
        raise InputError(f"types {', '.join(options.types)}: duplicate type.")


def plan_study(pair: str | Pair, options: StudyOptions) -> StudyPlan:
    """Read the pair's headers and the tasks' rows, and return the plan.

    Raises InputError for lams that do not increase, no task, and unknown tasks or instructions, and what opening the
    pair and planning its merge raise.
    """
    _check_options(options)
    # 1. Plan a merge for each weight type. They differ only in the types of their tensors, so the first gives the
    #    vocabulary, the chat template and the number of parameters.
    found = find_pair(pair) if isinstance(pair, str) else pair
    base, instruct = open_pair(found.base, found.instruct)
    merges = {
        weight_type: plan_merge(base, instruct, PlanOptions(type=weight_type, schedule=options.schedule))
        for weight_type in options.types
    }
    first = next(iter(merges.values()))
    # 2. Resolve the chat options. Values that a chat template would take from its environment, such as today's date,
    #    are fixed here, so that all lams and resumed runs use the same prompts.
    options, chat_inputs = _resolve_chat(options, first)
    # 3. Prepare the workloads: items are chosen and prompts rendered once, and are the same at every lam.
    workloads = plan_workloads(options, chat_inputs, context_length(first, options.engine))
    for remark in (*first.choices, *first.doubts):
        _log.warning("%s", remark)
    # 4. Make a cell for each type, lam and workload, identified by everything that determines its numbers, including
    #    the chunk size: items in the same batch change each other's scores by rounding. Cells of a lam are adjacent, so
    #    that a worker builds the lam once for all of them.
    chunk = next((size for limit, size in _CHUNKS if first.n_values <= limit), _LEAST_CHUNK)
    plan = StudyPlan(
        pair=found.name, options=options, merges=merges, workloads=workloads, cells=(), chunk=chunk,
        n_values=first.n_values, model_bytes=max(m.data_bytes for m in merges.values()),
    )  # fmt: skip
    plan = replace(plan, cells=_cells(plan))
    return replace(plan, before=_plan_answers(plan, chat_inputs)) if options.prompts else plan


def with_workloads(plan: StudyPlan, workloads: Sequence[Workload[Any]], lams: Sequence[float]) -> StudyPlan:
    """Return the plan with other workloads at other lams. Those compared with instruct's answers must stay last."""
    plan = replace(plan, workloads=tuple(workloads), options=replace(plan.options, lams=tuple(lams)))
    return replace(plan, cells=_cells(plan))


def _cells(plan: StudyPlan) -> tuple[PlannedCell, ...]:
    """Return the cells of a plan's workloads. A workload that differs by weight type is there once for each type."""
    by_kind: dict[str, list[int]] = {}
    for i, workload in enumerate(plan.workloads):
        by_kind.setdefault(workload.kind, []).append(i)
    agreements = by_kind.get(AgreementWorkload.kind, [])
    return tuple(
        PlannedCell(plan_cell(merge, plan.options, weight_type, lam, workload, plan.chunk), i)
        for k, (weight_type, merge) in enumerate(plan.merges.items())
        for lam in plan.options.lams
        for i, workload in enumerate(plan.workloads)
        if i not in agreements or i == agreements[k]
    )


def _plan_answers(plan: StudyPlan, chat_inputs: Mapping[str, Any]) -> StudyPlan:
    """Return the plan of the instruct model's answers, at each weight type: lam 1 without a schedule."""
    options = replace(plan.options, lams=(1.0,), schedule=Schedule())
    prompts, name = _prompts(options)
    workload = InstructWorkload(name=name, prompts=prompts, chat=options.chat, chat_facts=chat_inputs)
    before = replace(plan, options=options, workloads=(workload,))
    return replace(before, cells=_cells(before))


def _prompts(options: StudyOptions) -> tuple[tuple[Prompt, ...], str]:
    """Return the prompts that instruct answers, and their name."""
    prompts = load_prompts(options.prompts)
    n = len(prompts) if options.prompts_limit is None else min(len(prompts), options.prompts_limit)
    return tuple(prompts[i * len(prompts) // n] for i in range(n)), name_text(Path(options.prompts).stem)


def with_answers(plan: StudyPlan, answers: Mapping[str, Sequence[InstructAnswer]]) -> StudyPlan:
    """Return a plan in which lams are compared with these answers of instruct, by weight type."""
    kept = {weight_type: tuple(answers[weight_type]) for weight_type in plan.merges}
    each = iter(kept.values())
    workloads = tuple(w.of(next(each)) if isinstance(w, AgreementWorkload) else w for w in plan.workloads)
    plan = replace(plan, workloads=workloads, answers=kept)
    return replace(plan, cells=_cells(plan))


def context_length(merge: MergePlan, engine: EngineOptions) -> int:
    """Return the most tokens of a request to the merged model, as its header and the options say."""
    entry = merge.instruct.metadata.get(f"{merge.instruct.architecture}.context_length")
    trained = entry.value if entry is not None and isinstance(entry.value, int) else _WINDOW
    return max(1, min(trained, engine.n_ctx or trained))


def _resolve_chat(options: StudyOptions, merge: MergePlan) -> tuple[StudyOptions, dict[str, Any]]:
    """Return the options with `chat` resolved for the merged models' template, and its `chat_facts`.

    Raises InputError for chat options when no workload uses them.
    """
    if options.follow or options.alpaca or options.prompts:
        template, name = template_in(merge.at(options.lams[-1]).metadata), merge.instruct.name
        chat = measured_options(template, options.chat, name)
        return replace(options, chat=chat), chat_facts(template, chat, name)
    for given, name in ((options.chat.system, "--system"), (options.chat.template_args, "--template-arg")):
        if given:
            raise InputError(f"{name} applies to instructions only: add --follow or --alpaca.")
    return options, {}


def plan_workloads(
    options: StudyOptions, chat_inputs: Mapping[str, Any], context: int = _WINDOW
) -> tuple[Workload[Any], ...]:
    """Return the workloads: tasks first, then text, followed instructions last. `chat_inputs` is from `chat_facts`.

    `context` is the most tokens of a window of text. Raises InputError for unknown or malformed tasks, text, prompts
    and instructions.
    """
    score = options.score
    specs = find_specs(options.tasks, options.examples)
    if not specs and not options.text and not options.prompts:
        raise InputError("no task given (--tasks, or --examples for a table of your own).")
    if len(specs) > MOST_TASKS:
        raise InputError(
            f"{len(specs)} tasks given (--tasks), but a study has at most {MOST_TASKS}. Split them into several runs."
        )
    workloads: list[Workload[Any]] = [_task_workload(spec, score) for spec in specs]
    if options.text:
        workloads.append(text_workload(options, min(context, _WINDOW)))
    if options.alpaca:
        prompts = tuple(load_prompts(options.alpaca)[: options.alpaca_limit])
        name = name_text(Path(options.alpaca).stem)
        workloads.append(
            AnswersWorkload(
                name=name, prompts=prompts, max_tokens=_ALPACA_TOKENS, chat=options.chat, chat_facts=chat_inputs
            )
        )
    if options.prompts:
        prompts, name = _prompts(options)
        workloads += [AgreementWorkload(name=name, n_prompts=len(prompts))] * len(options.types)
    if options.follow:
        chosen = find_set(options.follow).limited(options.follow_limit)
        follow = FollowWorkload(
            name=chosen.name, instructions=tuple(chosen.instructions), max_tokens=chosen.max_tokens,
            must_end=chosen.must_end, chat=options.chat, chat_facts=chat_inputs,
        )  # fmt: skip
        workloads.append(follow)
    return tuple(workloads)


def _task_workload(spec: TaskSpec, options: ScoreOptions) -> TaskWorkload:
    first, *more = prepare_draws(spec, options.shots, options.limit, options.all_seeds, options.split)
    return TaskWorkload(first, options, tuple(more))


def text_workload(options: StudyOptions, window: int) -> TextWorkload:
    """Return the workload of the texts in windows of up to `window` tokens, and log what of them is left out."""
    passages = cut_documents(read_documents(options.text), _WINDOW_BYTES * window, options.text_limit or None)
    for remark in passages.remarks:
        _log.warning("%s", remark)
    name = name_text(options.text[0].resolve().name) or "text"
    more = f" and {len(options.text) - 1} more" if len(options.text) > 1 else ""
    return TextWorkload(name=name + more, passages=passages.texts, window=window, document_of=passages.clusters)


def plan_cell(
    merge: MergePlan, options: StudyOptions, weight_type: str, lam: float, workload: Workload[Any], chunk: int
) -> Cell:
    """Return the cell of a workload at a lam and weight type, with everything that determines its numbers."""
    inputs = {
        "identity": merge.at(lam, options.schedule).identity,
        "base": merge.fingerprints[0], "instruct": merge.fingerprints[1],
        "header": merge.header_inputs, "recipe": merge.recipe, "schedule": options.schedule.text,
        "engine": options.engine.inputs, "chunk": chunk, "method": METHOD,
        "llama_cpp_python": importlib.metadata.version("llama-cpp-python"), "work": dict(workload.facts),
    }  # fmt: skip
    return Cell(
        lam=lam, type=weight_type, kind=workload.kind, name=workload.name, n_items=workload.n_items, inputs=inputs
    )
