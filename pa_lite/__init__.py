"""pa-lite: partial adaptation of language models, `M(lam) = B + lam * (I - B)`, on consumer hardware.

The library's surface: `merge`, `load` (a model with `.score`, `.generate`, `.follow`), `sweep`, `plan_sweep`, `search`,
`demo`. Heavy parts load when used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pa_lite.system.compiled import keep_compiled_files_whole

keep_compiled_files_whole()  # before anything larger is imported, and compiled

from pa_lite.errors import PaLiteError  # noqa: E402

if TYPE_CHECKING:
    from pa_lite.alpaca.outputs import Output
    from pa_lite.checkpoints import Location
    from pa_lite.engine.chat_options import ChatOptions
    from pa_lite.engine.generation import GenerationOptions
    from pa_lite.engine.model import EngineOptions, Model
    from pa_lite.instructions.following import FollowResult
    from pa_lite.instructions.sets import InstructionSet
    from pa_lite.merging.plan import PlanOptions
    from pa_lite.merging.stream import Progress
    from pa_lite.merging.write import MergeOptions
    from pa_lite.study.demo import DemoResult
    from pa_lite.study.estimate import Estimate
    from pa_lite.study.goal import Goal
    from pa_lite.study.plan import StudyOptions
    from pa_lite.study.search.halving import Found, SearchOptions
    from pa_lite.study.search.run import Schedules
    from pa_lite.study.summary import Study
    from pa_lite.tasks.scoring import ScoreOptions, SuiteResult

__all__ = ["LoadedModel", "PaLiteError", "demo", "load", "merge", "plan_sweep", "search", "sweep"]


def merge(
    base: str | Location | None = None,
    instruct: str | Location | None = None,
    lams: Sequence[float] = (0.7,),
    *,
    pair: str | None = None,
    plan: PlanOptions | None = None,
    output: str | Path | None = None,
    options: MergeOptions | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Write M(lam) of base and instruct as a GGUF file for every lam; without the two, the pair's (`demo`).

    The two are folders with safetensors files, GGUF files, or `hub:org/name[@revision]`.
    `plan` says what the result shall be (type, schedule, vocabulary, ...), `options` how it is written. `output` is a
    file (for one lam) or a folder that exists; by default files get their own names in the working directory. Returns
    the files written, in the order of lams. Raises PaLiteError.
    """
    from pa_lite.merging.write import merge_checkpoints, resolve_inputs

    inputs = resolve_inputs(base, instruct, pair)
    target = None if output is None else Path(output)
    return merge_checkpoints(*inputs, lams, plan, target, options, progress)


class LoadedModel:
    """A model reference, loaded; made by `load`, valid within its `with` block."""

    def __init__(self, model: Model, reference: str) -> None:
        self.model, self.reference = model, reference

    def score(
        self, tasks: Sequence[str], options: ScoreOptions | None = None, progress: Progress | None = None
    ) -> SuiteResult:
        """Few-shot accuracy on tasks or suites by name. See `pa_lite.tasks.scoring.score_tasks`."""
        from pa_lite.tasks.scoring import score_tasks
        from pa_lite.tasks.spec import find_tasks

        return score_tasks(self.model, find_tasks(tasks), options, progress)

    def generate(
        self,
        prompts: str | Sequence[str],
        options: GenerationOptions | None = None,
        *,
        system: str = "",
        chat: ChatOptions | None = None,
        progress: Progress | None = None,
    ) -> list[Output]:
        """Answers to `demo`, to a prompt file, or to a list of instructions, in AlpacaEval's form.

        Greedy unless `options` say otherwise. `chat` says how prompts are made (system prompt, template arguments,
        date); `system` is short for its system prompt, and goes before it. `pa_lite.alpaca.outputs.write_outputs`
        writes them to a file as they come, and continues where it was killed.
        """
        from dataclasses import replace

        from pa_lite.alpaca.outputs import generate_outputs, generator_name, load_prompts
        from pa_lite.alpaca.prompts import Prompt
        from pa_lite.engine.chat_options import ChatOptions

        loaded = load_prompts(prompts) if isinstance(prompts, str) else [Prompt(p, "custom") for p in prompts]
        chat = chat or ChatOptions()
        chat = replace(chat, system=system or chat.system)
        return generate_outputs(self.model, loaded, generator_name(self.reference), options, chat, progress)

    def follow(
        self,
        instructions: str | InstructionSet = "public",
        limit: int | None = None,
        max_tokens: int | None = None,
        parallel: int = 16,
        progress: Progress | None = None,
        *,
        chat: ChatOptions | None = None,
    ) -> FollowResult:
        """How well verifiable instructions are followed: a set, or its name (see `pa_lite.instructions.sets.find_set`).

        At most `limit` of it are taken. `max_tokens` is by default what the set's answers need, but never more than
        half of the context.
        """
        from pa_lite.instructions.following import follow_instructions
        from pa_lite.instructions.sets import find_set

        chosen = find_set(instructions) if isinstance(instructions, str) else instructions
        chosen = chosen.limited(limit)
        tokens = max_tokens or self.model.answer_tokens(chosen.max_tokens)
        return follow_instructions(self.model, chosen.instructions, tokens, progress, chosen.must_end, parallel, chat)


@contextmanager
def load(reference: str, options: EngineOptions | None = None, kind: str = "F16") -> Iterator[LoadedModel]:
    """Load `FILE.gguf` or `PAIR@LAM` (merged as `kind` for as long as it is used): `with load("demo@0.7") as m: ...`.

    Raises PaLiteError.
    """
    from pa_lite.engine.model_reference import open_model

    with open_model(reference, options, kind) as model:
        yield LoadedModel(model, reference)


def sweep(
    pair: str,
    options: StudyOptions,
    folder: str | Path,
    *,
    engine: str = "local",
    address: str | None = None,
    keep_stale: bool = False,
    progress: Progress | None = None,
) -> Study:
    """Measure a pair at every lam of `options`, in a run folder, going on where an earlier run stopped.

    `engine` is `local` or `ray` (extra `cluster`; `address` of a running cluster). What an earlier run measured from
    other inputs is measured again, or kept with `keep_stale`, which the study says. Raises PaLiteError.
    """
    from pa_lite.study.sweep import sweep_pair

    return sweep_pair(pair, options, Path(folder), progress, engine, address, keep_stale)


def plan_sweep(
    pair: str, options: StudyOptions, folder: str | Path | None = None, keep_stale: bool = False
) -> Estimate:
    """What a sweep would take, given what an earlier run finished; times a few items. Raises PaLiteError."""
    from pa_lite.study.sweep import estimate_pair

    return estimate_pair(pair, options, None if folder is None else Path(folder), keep_stale)


def search(
    pair: str,
    options: StudyOptions,
    goal: Goal | None = None,
    search: SearchOptions | None = None,
    schedules: bool = False,
    *,
    progress: Progress | None = None,
) -> tuple[Found, Schedules | None]:
    """The best of the lams of `options` for a goal, with a part of the grid's work; then, if asked, coarse schedules.

    Raises PaLiteError.
    """
    from pa_lite.study.goal import Goal
    from pa_lite.study.plan import plan_study
    from pa_lite.study.search.run import check_no_schedule, find_lam, find_schedule

    plan, goal = plan_study(pair, options), goal or Goal()
    if schedules:
        check_no_schedule(plan)  # before any work
    found = find_lam(plan, goal, search, progress)
    return found, find_schedule(plan, found.lam, goal, search, progress) if schedules else None


def demo(output: str | Path = "pa-lite-demo", progress: Progress | None = None) -> DemoResult:
    """The whole study of the embedded pair; writes it, results.json, chart.svg and report.html into `output`."""
    from pa_lite.study.demo import run_demo

    return run_demo(Path(output), progress)
