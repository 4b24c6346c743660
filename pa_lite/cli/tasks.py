"""The commands `score` and `tasks`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

import pa_lite
from pa_lite.cli.bars import bar
from pa_lite.cli.completers import files, known_tasks, one_task, task_names
from pa_lite.cli.help import NameGroup, command
from pa_lite.cli.options import (
    FORCE,
    JSON,
    OUTPUT,
    SEEDS,
    check_named,
    loads_a_model,
    takes_columns,
    takes_examples,
    takes_model,
)
from pa_lite.cli.terminal import percent, quoted, show_json, show_next, show_table, tell, tell_text

if TYPE_CHECKING:
    from pa_lite import EngineOptions, Examples, ModelRef, SuiteResult
    from pa_lite.api.tasks import Item, Measured, TaskSpec

SHOTS = click.option("--shots", type=click.IntRange(0), help="Exemplars in each prompt; by default the task's.")
SEED = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the exemplars.")

_INTERVALS = (
    "s.e., 95% interval: the uncertainty from the sample of items; items that share a passage or a question count as "
    "one cluster. Score intervals; f1_weighted has the standard error of a bootstrap."
)
_BASELINES = (
    "majority: the accuracy of always giving the most common answer of rows that are not scored; chance: of a random "
    "choice, 0 for generated answers."
)


@command("Score few-shot tasks")
@takes_model
@click.option(
    "--tasks",
    default="",
    shell_complete=task_names,
    help="Tasks, TASK/GROUP, suites or .toml files, comma-separated.",
)
@takes_examples("--output-column")
@SHOTS
@click.option("--limit", type=click.IntRange(1), help="Items of each task, over its groups; by default all.")
@SEED
@SEEDS
@click.option(
    "--mutual-info", is_flag=True, help="Also score choices by mutual information: relative to an empty context."
)
@click.option(
    "--parallel", type=click.IntRange(1, 256), default=8, show_default=True, help="Texts generated at a time."
)
@click.option(
    "--log-samples", is_flag=False, flag_value="", metavar="[FILE|FOLDER]",
    help="Log every item as JSON lines; by default one file per task next to the output.",
)  # fmt: skip
@loads_a_model
@OUTPUT
@FORCE
@JSON
def score(
    model: ModelRef,
    tasks: str,
    examples: Examples | None,
    shots: int | None,
    limit: int | None,
    seed: int,
    seeds: int,
    mutual_info: bool,
    parallel: int,
    log_samples: str | None,
    weight_type: str,
    engine: EngineOptions,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Score MODEL on few-shot tasks: choices by loglikelihood, generated answers by comparison.

    MODEL is FILE.gguf, PAIR@LAM, or a pair with --lam.

    The results file (-o) and the samples have lm-eval's format.

    \b
    pa-lite score demo@0.7 --tasks demo
    pa-lite score demo@0.7 --examples my.csv
    pa-lite score model.gguf --tasks quick -o results.json --log-samples
    """
    from pa_lite.api.tasks import (
        check_samples_target,
        check_target,
        column_names,
        results_document,
        write_document,
        write_samples,
    )  # fmt: skip

    check_named(tasks, examples)
    if output is not None and examples is not None and str(output) in column_names(examples):
        said = f"--output is the results file: name the column with --output-column {quoted(output)}."
        raise click.UsageError(said, click.get_current_context())
    if output is not None:
        check_target(output, force)
    samples = None if log_samples is None else log_samples or str((output or Path()).parent)
    if samples is not None:
        check_samples_target(samples, force)
    options = pa_lite.ScoreOptions(
        shots=shots, limit=limit, seed=seed, seeds=seeds, mutual_info=mutual_info, parallel=parallel, noise_sample=8
    )
    with bar("score") as progress, pa_lite.load(model, engine, weight_type) as loaded:
        result = loaded.score(tasks, options, progress, examples=examples)
    document = results_document(result, str(model))
    if output is not None:
        write_document(document, output, ascii_only=True)
    if samples is not None:
        write_samples(result, Path(samples))
    if as_json:
        show_json(document)
    else:
        show_scores(result)


def show_scores(result: SuiteResult) -> None:
    """Print a line for each task, more for its other metrics and the mean over its groups, and the mean over tasks."""
    from pa_lite.api.tasks import noise_over_tasks, shown_metrics

    rows = []
    for t in result.tasks:
        own, *others = shown_metrics(t)
        baselines = [f"{100 * t.majority:.1f}", f"{100 * t.chance:.1f}"]
        rows.append([t.task, str(t.n), t.metric, *_numbers(own.measured), *baselines])
        if own.macro is not None:
            rows.append(["", "", f"mean of {len(t.groups)} groups", *_numbers(own.macro), "", ""])
        rows += [["", "", m.key.removesuffix(",none"), *_numbers(m.measured), "", ""] for m in others]
        if t.n_truncated:
            tell(f"warning: {t.task}: {t.n_truncated} of {len(t.items)} prompts were cut to fit the context.", err=True)
    mean, n = result.accuracy, sum(t.n for t in result.tasks)
    numbers = [percent(x) for x in (mean.value, mean.stderr, result.majority)]
    rows.append(["mean", str(n), "", *numbers[:2], "", numbers[2], ""])
    columns = ["task", "n", "metric", "score %", "s.e.", "95% interval", "majority %", "chance %"]
    show_table(columns, rows, marked=len(rows) - 1)
    tell(_INTERVALS)
    tell(_BASELINES)
    tell_draws(result)
    if noise := noise_over_tasks(result):
        tell(
            f"Noise floor: scored one at a time, {noise['n']} requests differ by {noise['mean']:.4f} nats on average, "
            f"{noise['largest']:.4f} at most."
        )


def tell_draws(result: SuiteResult) -> None:
    """Print whether the intervals include the draw of exemplars, and the scores of each draw."""
    for remark in result.remarks:
        tell(f"note: {remark}.")
    if any(t.draws for t in result.tasks):
        seeds = result.options.all_seeds
        for t in (t for t in result.tasks if t.draws):
            each = ", ".join(percent(score) for score in t.by_seed)
            tell(f"{t.task}: {each} with exemplars of seeds {seeds[0]} to {seeds[-1]}.")
        tell("Standard errors and intervals include both the items and the draws of exemplars.")
    elif any(t.is_drawn for t in result.tasks):
        tell(
            "The intervals do not include the choice of exemplars, which were drawn once: --seeds 5 scores each item "
            "with 5 draws."
        )


def _numbers(measured: Measured) -> list[str]:
    low, high = percent(measured.low), percent(measured.high)
    return [percent(measured.value), percent(measured.stderr), "-" if low == "-" else f"{low} to {high}"]


@click.group(
    cls=NameGroup, names=known_tasks, invoke_without_command=True, short_help="List the few-shot tasks, or show one"
)
@JSON
@click.pass_context
def tasks(context: click.Context, as_json: bool) -> None:
    """List the suites and their few-shot tasks; `show NAME` prints one, `new FILE` writes one for your own rows."""
    if context.invoked_subcommand is not None:
        return
    from pa_lite.api.tasks import suite_descriptions, suites

    by_suite = suites()
    entries = [(suite, spec) for suite, specs in by_suite.items() for spec in specs]
    if as_json:
        show_json([
            {"suite": suite, "task": s.name, "area": s.area, "kind": s.kind, "shots": s.shots, "metric": s.metric,
             "sample": s.sample or None, "hub": s.hub or None, "licence": s.licence}
            for suite, s in entries
        ])  # fmt: skip
        return
    descriptions = suite_descriptions()
    show_table(
        ["suite", "tasks", ""], [[name, str(len(specs)), descriptions[name]] for name, specs in by_suite.items()]
    )
    own = {spec.name: spec for _, spec in entries}
    rows = [[s.name, s.area, s.kind, str(s.shots), s.metric, s.description] for s in own.values()]
    show_table(["task", "area", "kind", "shots", "metric", ""], rows, prose=("metric",))


@tasks.command()
@click.argument("name", shell_complete=one_task)
@SHOTS
@SEED
@click.option("--item", type=click.IntRange(0), default=0, show_default=True, help="Number of the item, from 0.")
@JSON
def show(name: str, shots: int | None, seed: int, item: int, as_json: bool) -> None:
    """Show a task (a name, TASK/GROUP, or a .toml file with one task) and one item as the model sees it."""
    from pa_lite.api.tasks import spec_record, task_item

    spec, shown = task_item(name, item, shots=shots, seed=seed)
    if as_json:
        show_json({
            "task": spec_record(spec), "prompt": shown.prompt, "requests": shown.requests, "answer": shown.answer,
            "golds": shown.golds, "where": shown.where,
        })  # fmt: skip
    else:
        show_item(spec, shown)


@tasks.command()
@click.argument("file", type=click.Path(path_type=Path), shell_complete=files)
@takes_columns("--output", "--output-column")
@click.option("-o", "path", type=click.Path(path_type=Path), help="Task file; by default FILE's name with .toml.")
@FORCE
@JSON
def new(
    file: Path, inputs: tuple[str, ...], output_column: str, kind: str | None, path: Path | None, force: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Write a task file (TOML) for the rows in FILE, to be changed: the task that --examples FILE scores.

    FILE is CSV, TSV, JSONL, JSON or parquet, with at least 8 rows.

    \b
    pa-lite tasks new my.csv --input question --output answer -o my.toml
    """
    examples = pa_lite.Examples(file, input=inputs, output=output_column, kind=kind or "")
    written = pa_lite.new_task(examples, path, force=force)
    if as_json:
        show_json({"task": str(written)})
        return
    tell(str(written))
    show_next(see_it=f"pa-lite tasks show {quoted(written)}", score_it=f"pa-lite score MODEL --tasks {quoted(written)}")


def show_item(spec: TaskSpec, item: Item) -> None:
    from pa_lite.api.tasks import spec_record

    for key, value in spec_record(spec).items():
        tell(f"{key}: {json.dumps(value, ensure_ascii=False)}")
    tell("")
    tell(f"--- {item.where} ---")
    tell_text(item.prompt)
    tell("---")
    for i, (context, text) in enumerate(item.requests):
        after = f" after ...{context[-30:]!r}" if len(item.contexts) > 1 else ""
        tell(f"{'*' if i == item.answer else ' '} {text!r}{after}")
    for gold in item.golds:
        tell(f"* {', '.join(gold)!r}")
