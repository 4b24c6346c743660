"""A study planned: which cells, from which inputs, in which chunks; what it will take. Reads headers and task rows."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pa_lite.alpaca.outputs import load_prompts
from pa_lite.checkpoints import open_checkpoint
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
from pa_lite.study.store import Cell, StoredCell
from pa_lite.study.workloads import AnswersWorkload, FollowWorkload, TaskWorkload, Workload
from pa_lite.system.machine import cores
from pa_lite.tasks.prompts import prepare_task
from pa_lite.tasks.scoring import ScoreOptions
from pa_lite.tasks.spec import find_tasks, split_names

_log = logging.getLogger(__name__)
_SMALL = 30_000_000  # parameters below which threads would wait for each other: a model for each core instead
# parameters up to which a chunk has so many items: the larger the model, the less a kill may undo
_CHUNKS = ((100_000_000, 512), (1_000_000_000, 128), (4_000_000_000, 64))
_LEAST_CHUNK = 32
_ALPACA_TOKENS = 1024  # new ones of an answer at most
_RECORD_BYTES = 600  # an item's record in the results file, about
_CELL_BYTES = 6000  # a cell's inputs in the results file, about
_CONTEXT_BYTES = 300_000_000


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What to measure and how: this holds the only defaults.

    `types` are the weights' types; `tasks` names of tasks, suites or files; `follow` a set of instructions (`public`,
    `demo`, a file) or none, `follow_limit` a count of them; `workers` models at a time, 0 decides by their size.
    `alpaca` names prompts (`alpaca-eval`, a file) whose answers `judge` compares with those in the file `reference`,
    or, without one, with instruct's own (lam 1); `alpaca_limit` is a count of them. `chat` says how the prompts of
    instructions and answers are made; a plan has it settled (see `measured_options`).
    """

    lams: tuple[float, ...] = tuple(i / 10 for i in range(11))
    tasks: tuple[str, ...] = ()
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
    chat: ChatOptions = field(default_factory=ChatOptions)

    def __post_init__(self) -> None:
        """Take lams, names, types in any case, schedule and path as strings, too. Raises InputError."""
        for name, value in {
            "lams": read_lams(self.lams),
            "tasks": split_names(self.tasks),
            "types": tuple(map(type_name, split_names(self.types, "types"))),
            "schedule": read_schedule(self.schedule),
            "reference": None if self.reference is None else Path(self.reference),
        }.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class PlannedCell:
    """A cell and the index of its work. `kept` is an older result that stands in for it (--keep-stale), if any."""

    cell: Cell
    work: int
    kept: StoredCell | None = None

    @property
    def key(self) -> str:
        """The key under which the store has its result."""
        return self.cell.key if self.kept is None else self.kept.key


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """Everything that a sweep will do. `chunk` is the number of items that are scored and committed together.

    `n_values` are the parameters of each of its models, `model_bytes` what the largest takes. The pairs that a judge
    compares are known only when all answers are there: they are a plan of their own (see `plan_judging`).
    """

    pair: str
    options: StudyOptions
    merges: Mapping[str, MergePlan]
    works: tuple[Workload[Any], ...]
    cells: tuple[PlannedCell, ...]
    chunk: int
    n_values: int
    model_bytes: int

    @property
    def n_items(self) -> int:
        """Items in all cells."""
        return sum(c.cell.n_items for c in self.cells)

    @property
    def keys(self) -> list[str]:
        """The keys under which the store has the cells' results, in the cells' order."""
        return [c.key for c in self.cells]

    @property
    def workers(self) -> int:
        """Models at a time."""
        if self.options.workers:
            return self.options.workers
        return min(len(self.options.lams), self.options.engine.threads or cores()) if self.n_values < _SMALL else 1

    @property
    def threads(self) -> int:
        """Threads of each worker."""
        return max(1, (self.options.engine.threads or cores()) // self.workers)

    @property
    def memory(self) -> int:
        """Bytes of memory at the peak, about: the models, a context each, and what is left of planning."""
        return self.workers * (self.model_bytes + _CONTEXT_BYTES)

    @property
    def disk(self) -> int:
        """Bytes that the results take, about."""
        return self.n_items * _RECORD_BYTES + len(self.cells) * _CELL_BYTES


def environment() -> dict[str, str]:
    """What a cell was measured with."""
    names = ("pa-lite", "llama-cpp-python", "numpy")
    return {**{n: importlib.metadata.version(n) for n in names}, "python": platform.python_version(),
            "platform": platform.platform()}  # fmt: skip


def _check_options(options: StudyOptions) -> None:
    """Raise InputError for options that do not go together, before anything is opened."""
    if not options.lams or any(a >= b for a, b in zip(options.lams, options.lams[1:], strict=False)):
        told = ", ".join(f"{lam:g}" for lam in options.lams)
        raise InputError(f"lams {told or '(none)'} must rise, each named once: e.g. 0,0.5,1 or 0:1:0.1.")
    if bool(options.alpaca) != bool(options.judge):
        raise InputError("answers and a judge belong together: name both (--alpaca, --judge).")
    if options.alpaca and options.reference is None and 1.0 not in options.lams:
        raise InputError("lam 1 must be among the lams: its answers are the reference. Or name one (--reference).")
    if options.judge:
        parse_reference(options.judge)
    if len(set(options.types)) != len(options.types):
        raise InputError(f"types {', '.join(options.types)}: one is named twice.")


def plan_study(pair: str | Pair, options: StudyOptions) -> StudyPlan:
    """Read the pair's headers and the tasks' rows, and lay out the cells.

    Raises InputError for lams that do not rise, no task, or what naming tasks and instructions wrongly raises; what
    opening and planning a merge of the pair raises.
    """
    _check_options(options)
    # 1. How each type of weights is merged. The merges differ in their tensors' types alone: the first stands for all
    #    where the vocabulary, the chat template or the number of parameters is asked for.
    found = find_pair(pair) if isinstance(pair, str) else pair
    base, instruct = open_checkpoint(found.base), open_checkpoint(found.instruct)
    merges = {
        kind: plan_merge(base, instruct, PlanOptions(type=kind, schedule=options.schedule)) for kind in options.types
    }
    first = next(iter(merges.values()))
    # 2. How prompts are made. What a chat template would else take from its surroundings, such as today's date, is
    #    settled here, so that all lams get the same prompts and a run that is resumed goes on with them.
    options, made = _settle_chat(options, first)
    # 3. What is measured: items are drawn and prompts are rendered once, and are the same at every lam.
    works = plan_works(options, made)
    for remark in first.choices:
        _log.warning("%s", remark)
    # 4. One cell for each type, lam and workload, known by everything that decides its numbers. The chunk is part of
    #    that, as items that share a batch move each other's scores by rounding. Cells of one lam stand together: a
    #    worker builds the lam once and runs them all.
    chunk = next((size for limit, size in _CHUNKS if first.n_values <= limit), _LEAST_CHUNK)
    cells = [
        PlannedCell(_cell(merge, options, kind, lam, work, chunk), i)
        for kind, merge in merges.items()
        for lam in options.lams
        for i, work in enumerate(works)
    ]
    return StudyPlan(
        pair=found.name, options=options, merges=merges, works=works, cells=tuple(cells), chunk=chunk,
        n_values=first.n_values, model_bytes=max(m.data_bytes for m in merges.values()),
    )  # fmt: skip


def _settle_chat(options: StudyOptions, merge: MergePlan) -> tuple[StudyOptions, dict[str, Any]]:
    """The options with those of chat prompts settled for the merged models' template, and what of these counts there.

    Raises InputError where nothing would use them.
    """
    if options.follow or options.alpaca:
        template, name = template_in(merge.at(options.lams[-1]).metadata), merge.instruct.name
        chat = measured_options(template, options.chat, name)
        return replace(options, chat=chat), chat_facts(template, chat, name)
    for given, name in ((options.chat.system, "--system"), (options.chat.template_args, "--template-arg")):
        if given:
            raise InputError(f"{name} is about instructions, and none are measured: name some (--follow, --alpaca).")
    return options, {}


def plan_works(options: StudyOptions, made: Mapping[str, Any]) -> tuple[Workload[Any], ...]:
    """Return the tasks, and last the instructions; `made` is what `chat_facts` says of the chat prompts.

    Raises InputError, naming what is unknown or wrong.
    """
    score = options.score
    specs = find_tasks(options.tasks)
    if not specs:
        raise InputError("no task was named (--tasks).")
    if len(specs) > MOST_TASKS:
        raise InputError(
            f"{len(specs)} tasks are named (--tasks); a study has at most {MOST_TASKS}. Divide them among several runs."
        )
    works: list[Workload[Any]] = [
        TaskWorkload(prepare_task(spec, score.shots, score.limit, score.seed, score.split), score) for spec in specs
    ]
    if options.alpaca:
        prompts = tuple(load_prompts(options.alpaca)[: options.alpaca_limit])
        name = name_text(Path(options.alpaca).stem)
        works.append(
            AnswersWorkload(name=name, prompts=prompts, max_tokens=_ALPACA_TOKENS, chat=options.chat, chat_facts=made)
        )
    if options.follow:
        chosen = find_set(options.follow).limited(options.follow_limit)
        follow = FollowWorkload(
            name=chosen.name, instructions=tuple(chosen.instructions), max_tokens=chosen.max_tokens,
            must_end=chosen.must_end, chat=options.chat, chat_facts=made,
        )  # fmt: skip
        works.append(follow)
    return tuple(works)


def _cell(merge: MergePlan, options: StudyOptions, kind: str, lam: float, work: Workload[Any], chunk: int) -> Cell:
    inputs = {
        "identity": merge.at(lam).identity, "base": merge.fingerprints[0], "instruct": merge.fingerprints[1],
        "header": merge.header_inputs, "recipe": merge.recipe, "schedule": options.schedule.text,
        "engine": options.engine.inputs, "chunk": chunk, "method": METHOD,
        "llama_cpp_python": importlib.metadata.version("llama-cpp-python"), "work": dict(work.facts),
    }  # fmt: skip
    return Cell(lam, kind, work.kind, work.name, work.n_items, inputs)
