"""Options that several commands share, and the parsing of their values."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pa_lite.cli.completers import files, models, pairs, runs, starts, weight_types

if TYPE_CHECKING:
    from pa_lite.api.options import PairLike

JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
OUTPUT = click.option("-o", "--output", type=click.Path(path_type=Path), help="Output path.")
FORCE = click.option("--force", is_flag=True, help="Overwrite existing files.")
CALIBRATION = click.option(
    "--calibration", type=click.Path(path_type=Path), metavar="FILE",
    help="Annotations by people or a strong judge, to check the judge against.",
)  # fmt: skip
THREADS = click.option(
    "--threads",
    type=click.IntRange(0, 1024),
    default=0,
    help="Number of threads; 0: one per core (decoding: per free core).",
)
STREAM = click.option(
    "--stream", is_flag=True, help="Read checkpoints on the Hub by byte ranges, without a copy on disk."
)
TYPE = click.option(
    "--type", "weight_type", default="F16", show_default=True, shell_complete=weight_types,
    help="Weight type for PAIR@LAM.",
)  # fmt: skip


def parse_layers(_context: click.Context, _parameter: click.Parameter, text: str) -> int | str:
    """Parse `auto` or a number of layers, -1 for all. Raises click's usage error for anything else."""
    if text == "auto":
        return text
    if re.fullmatch(r"-1|\d{1,4}", text) is None:
        raise click.BadParameter(f"{text!r} is not auto, -1 (all), or a number of layers.")
    return int(text)


GPU = click.option(
    "--gpu-layers", default="auto", show_default=True, callback=parse_layers, metavar="auto|N",
    help="Layers on the GPU: auto (as many as fit), N, or -1 for all.",
)  # fmt: skip
N_CTX = click.option("--n-ctx", type=click.IntRange(0), default=0, help="Largest context, in tokens; 0: as trained.")

PROBE = click.option(
    "--probe/--no-probe", default=True,
    help="Test each GGUF file once in a separate process before loading it (the default).",
)  # fmt: skip


def loads_a_model(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for loading a model, passed as `weight_type` and `engine`, an EngineOptions."""

    @functools.wraps(command)
    def with_engine(*, gpu_layers: Any, threads: int, n_ctx: int, probe: bool, **words: Any) -> Any:
        from pa_lite import EngineOptions

        return command(engine=EngineOptions(threads=threads, gpu_layers=gpu_layers, n_ctx=n_ctx, probe=probe), **words)

    decorated: Callable[..., Any] = with_engine
    for option in (PROBE, N_CTX, THREADS, GPU, TYPE):
        decorated = option(decorated)
    return decorated


EXTRAPOLATE = click.option("--extrapolate", is_flag=True, help="Allow a lam outside [0, 1], beyond the pair.")
SEEDS = click.option(
    "--seeds", type=click.IntRange(1, 1000), default=1, show_default=True,
    help="Draws of exemplars for each item, with seeds --seed, --seed + 1, ...",
)  # fmt: skip
LAM = click.option("--lam", metavar="L", help="The lam, if MODEL is a pair without one.")
ADAPTER = click.option(
    "--adapter", metavar="FILE.gguf[@LAM]", shell_complete=files,
    help="A LoRA adapter for a MODEL that is a file, and its lam (of `pa-lite adapter`) or scale; 1 without one.",
)  # fmt: skip


def takes_model(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument MODEL with --lam, --adapter and --extrapolate, passed as `model`, a ModelRef."""

    @functools.wraps(command)
    def with_model(
        *, words: tuple[str, ...], lam: str | None, adapter: str | None, extrapolate: bool, **rest: Any
    ) -> Any:
        from pa_lite.api.options import resolve_model

        return command(model=resolve_model(_one_or_two(words, "MODEL"), lam, extrapolate, adapter), **rest)

    words = click.argument("words", nargs=-1, required=True, metavar="MODEL", shell_complete=models)
    return words(LAM(ADAPTER(EXTRAPOLATE(with_model))))


PAIR = click.option(
    "--pair", nargs=2, metavar="BASE INSTRUCT", shell_complete=pairs,
    help="The two checkpoints of a pair; then every word is a question.",
)  # fmt: skip


def model_and_questions(
    words: tuple[str, ...], pair: tuple[str, str] | None, name: str, has_prompts: bool = False
) -> tuple[PairLike, tuple[str, ...]]:
    """Return the model (one word, or two of --pair), and the words left, which are questions.

    With `has_prompts` the words are a model alone, as for `takes_model`. Raises click's usage error for no model, and
    where BASE INSTRUCT is followed by questions.
    """
    if pair:
        import pa_lite

        is_name = pair[0] in pa_lite.pairs()
        return (pair[0], (pair[1], *words)) if is_name else (pair, words)
    if not words:
        raise click.UsageError(f"missing argument '{name}'.")
    if has_prompts and not any(re.search(r"\s", word) for word in words[1:]):
        return _one_or_two(words, name), ()
    model, *questions = words
    if questions and Path(model).is_dir() and _is_location(questions[0]):
        raise click.UsageError("with two checkpoints, questions follow --pair: --pair BASE INSTRUCT QUESTION")
    return model, tuple(questions)


def _is_location(word: str) -> bool:
    return bool(word) and not re.search(r"\s", word) and ("/" in word or Path(word).is_dir())


def takes_start(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument MODEL with --lam, --study and --extrapolate, passed as `model`, `lam`, `study`, `extrapolate`.

    A pair needs no lam there: it starts at 0.6, or at the best lam of the study. A file with --adapter is passed as a
    ModelRef.
    """

    @functools.wraps(command)
    def with_start(*, words: tuple[str, ...], adapter: str | None, **rest: Any) -> Any:
        import pa_lite
        from pa_lite.api.options import resolve_model

        if len(words) > 1 and (words[0] in pa_lite.pairs() or re.search(r"\s", words[1])):
            raise click.UsageError(
                f"{words[1]!r} is not a checkpoint: MODEL is one name or file, or BASE and INSTRUCT. "
                "pa-lite generate answers a question."
            )
        model = _one_or_two(words, "MODEL")
        if adapter is not None:
            model = resolve_model(model, rest["lam"], rest["extrapolate"], adapter)
        return command(model=model, **rest)

    study = click.option(
        "--study", metavar="RUN", shell_complete=runs, help="Start at the best lam of the study in this run folder."
    )
    lam = click.option(
        "--lam", metavar="L", help="The lam to start at, if MODEL is a pair without one; by default 0.6."
    )
    words = click.argument("words", nargs=-1, required=True, metavar="MODEL", shell_complete=starts)
    return words(lam(study(ADAPTER(EXTRAPOLATE(with_start)))))


def takes_pair(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument PAIR, a name or BASE and INSTRUCT, passed as `pair`."""

    @functools.wraps(command)
    def with_pair(*, words: tuple[str, ...], **rest: Any) -> Any:
        return command(pair=_one_or_two(words, "PAIR"), **rest)

    return click.argument("words", nargs=-1, required=True, metavar="PAIR", shell_complete=pairs)(with_pair)


def _one_or_two(words: tuple[str, ...], name: str) -> PairLike:
    if len(words) > 2:
        raise click.UsageError(f"got {len(words)} arguments for {name}: give one, or BASE and INSTRUCT.")
    return words[0] if len(words) == 1 else (words[0], words[1])


def samples(max_tokens: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds the options of decoding, passed as `options`, a GenerationOptions."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_options(**words: Any) -> Any:
            from pa_lite import GenerationOptions

            own = {name: words.pop(name) for name in _SAMPLED}
            return command(options=GenerationOptions(**own), **words)

        decorated: Callable[..., Any] = with_options
        limit = click.option(
            "--max-tokens", type=click.IntRange(1), default=max_tokens, show_default=True, help="Limit of new tokens."
        )
        for option in (*reversed(_SAMPLING), limit):
            decorated = option(decorated)
        return decorated

    return add


_SAMPLED = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "stop")
_SAMPLING = (
    click.option("--temperature", type=float, default=0.0, show_default=True, help="0: greedy decoding."),
    click.option("--top-k", type=int, default=0, show_default=True, help="Sample from the K likeliest; 0: all."),
    click.option(
        "--top-p", type=float, default=1.0, show_default=True, help="Nucleus sampling: probability mass to keep."
    ),
    click.option(
        "--min-p", type=float, default=0.0, show_default=True, help="Smallest probability, relative to the top token's."
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Random seed: same seed, same answers."),
    click.option("--stop", multiple=True, help="Stop string, not part of the answer. Can be repeated."),
)


def parse_day(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Any:
    """Parse a date, YYYY-MM-DD. Raises click's usage error for anything else."""
    from pa_lite.api.options import parse_date
    from pa_lite.errors import InputError

    try:
        return None if text is None else parse_date(text)
    except InputError as e:
        raise click.BadParameter(str(e)) from e


def parse_arguments(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> dict[str, Any]:
    """Parse NAME=VALUE words as chat template arguments. Raises click's usage error for anything else."""
    from pa_lite.api.options import ChatOptions, parse_template_args
    from pa_lite.errors import InputError

    try:
        return dict(ChatOptions(template_args=parse_template_args(words)).template_args)
    except InputError as e:
        raise click.BadParameter(str(e)) from e


KIND = click.option(
    "--kind", type=click.Choice(["MC", "FMC", "G"], case_sensitive=False), metavar="MC|FMC|G",
    help="How rows are scored: MC and FMC, the outputs as choices (FMC by letter); G, generated. Few outputs are MC.",
)  # fmt: skip


def takes_columns(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options that say what a table's columns are; `names` are those of the output's option."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        inputs = click.option(
            "--input", "--input-column", "inputs", multiple=True, metavar="COL",
            help="Column of the input, by default one with a usual name. Can be repeated.",
        )  # fmt: skip
        output = click.option(*names, "output_column", default="", metavar="COL", help="Column of the output.")
        return inputs(output(KIND(command)))

    return add


def takes_examples(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --examples with the columns' options, passed as `examples`: Examples, or None without the option."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_examples(
            *, table: Path | None, inputs: tuple[str, ...], output_column: str, kind: str | None, **words: Any
        ) -> Any:
            from pa_lite import Examples

            if table is None and (inputs or output_column or kind):
                given = "--input" if inputs else names[-1] if output_column else "--kind"
                raise click.UsageError(f"{given} is for --examples.", click.get_current_context())
            found = None if table is None else Examples(table, input=inputs, output=output_column, kind=kind or "")
            return command(examples=found, **words)

        option = click.option(
            "--examples", "table", type=click.Path(path_type=Path), metavar="FILE", shell_complete=files,
            help="Your own rows as a task: CSV, TSV, JSONL, JSON or parquet with an input and an output column.",
        )  # fmt: skip
        return option(takes_columns(*names)(with_examples))

    return add


def check_named(tasks: str | None, *given: object, others: str = "") -> None:
    """Raise a usage error if there is nothing to measure; `others` names further options in its message."""
    if not tasks and not any(given):
        named = f", --examples FILE{others}" if others else ", or --examples FILE"
        raise click.UsageError(f"missing --tasks NAMES{named}.", click.get_current_context())


SYSTEM = click.option("--system", default="", help="System prompt.")
TEMPLATE_ARG = click.option(
    "--template-arg", "template_args", multiple=True, callback=parse_arguments, metavar="NAME=VALUE",
    help="A variable for the chat template, such as enable_thinking=true; VALUE is JSON or else a string. "
    "Can be repeated.",
)  # fmt: skip
DATE = click.option(
    "--date", callback=parse_day, metavar="YYYY-MM-DD",
    help="Date that chat templates print as today's; by default the day the run started.",
)  # fmt: skip


def chats(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for chat prompts, passed as `chat`, a ChatOptions."""

    @functools.wraps(command)
    def with_chat(*, system: str, template_args: dict[str, Any], date: Any, **words: Any) -> Any:
        from pa_lite import ChatOptions

        return command(chat=ChatOptions(system=system, template_args=template_args, date=date), **words)

    decorated: Callable[..., Any] = with_chat
    for option in (DATE, TEMPLATE_ARG, SYSTEM):
        decorated = option(decorated)
    return decorated


def parse_size(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    """Parse a number of bytes: 256M, 1.5G, 800K or 1024. Raises click's usage error for anything else."""
    from pa_lite.api.options import parse_bytes
    from pa_lite.errors import InputError

    try:
        return parse_bytes(text)
    except InputError as e:
        raise click.BadParameter(str(e)) from e


RESIDENT_MEMORY = click.option(
    "--max-memory", callback=parse_size, default="0", metavar="4G",
    help="Memory for all models; by default half of what is free.",
)  # fmt: skip
