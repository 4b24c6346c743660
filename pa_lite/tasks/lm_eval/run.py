"""Runs of lm-eval's tasks on this engine, in this process, with lm-eval's output files (extra `harness`)."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.model import EngineOptions
from pa_lite.engine.model_reference import REFERENCE_TYPE, ModelLike, resolve_model
from pa_lite.errors import InputError, OutputError, PaLiteError, nearest
from pa_lite.system.atomic import write_errors
from pa_lite.system.markers import marked_folder
from pa_lite.system.opening import is_link
from pa_lite.tasks.lm_eval.config import evaluator_config
from pa_lite.tasks.lm_eval.guard import check_requests_cache, guarded
from pa_lite.tasks.lm_eval.options import MAX_GEN_TOKS, HarnessOptions, modern_names

if TYPE_CHECKING:
    from lm_eval.config.evaluate_config import EvaluatorConfig

    from pa_lite.progress import Progress
    from pa_lite.tasks.lm_eval.model import PaLiteLM

_FILES = (".yaml", ".yml")
_VERSIONED = ("pa-lite", "llama-cpp-python", "lm_eval", "datasets", "numpy")


@dataclass(frozen=True)
class HarnessResult:
    """lm-eval's results document without samples, its tables as text, and the files written."""

    document: dict[str, Any]
    tables: tuple[str, ...]
    files: tuple[Path, ...]


def run_harness(
    reference: ModelLike,
    options: HarnessOptions | EvaluatorConfig,
    engine: EngineOptions | None = None,
    weight_type: str = REFERENCE_TYPE,
    parallel: int | str | None = None,
    progress: Progress | None = None,
    chat: ChatOptions | None = None,
) -> HarnessResult:
    """Score a model (FILE.gguf or PAIR@LAM) on lm-eval's tasks, given by name, pattern or .yaml file.

    `options` may also be lm-eval's EvaluatorConfig; its `model_args` are passed to `PaLiteLM`, and its `batch_size` is
    used if `parallel` is None. `chat` has arguments and date of the chat template, if one is applied; the system prompt
    is in `options`.

    The results file and, if requested, the samples are where lm-eval's own command puts them, written completely or not
    at all. Raises InputError for an unknown task, one whose data are not available, and any failure of lm-eval;
    OutputError if the files cannot be written; EngineError if llama.cpp fails. Tasks are loaded before the model.
    """
    from pa_lite.tasks.lm_eval.model import PaLiteLM

    config, engine, chat = evaluator_config(options), engine or EngineOptions(), chat or ChatOptions()
    words = _model_args(engine, weight_type, config.model_args)
    PaLiteLM.check_args(words)
    if chat.template_args and not config.apply_chat_template:
        raise InputError("--template-arg requires --apply_chat_template.")
    reference = resolve_model(reference)
    output = None if config.output_path is None else Path(config.output_path)
    if output is not None:
        _check_output(output)
    if config.cache_requests.get("cache_requests"):
        check_requests_cache()
    tasks, manager = load_tasks(config)
    more: dict[str, Any] = {
        "batch_size": config.batch_size if parallel is None else parallel, "max_batch_size": config.max_batch_size,
        "device": config.device, "seed": (config.seed or [None] * 3)[2] or 0,
    }  # fmt: skip
    with PaLiteLM(reference, progress=progress, probe=engine.probe, chat=chat, **{**more, **words}) as lm:
        _check_generation(tasks, config, lm)
        with _tracked(output) as (tracker, files):
            kept = None if config.use_cache is None else lm.keep_answers(Path(config.use_cache))
            document = _evaluate(lm, tasks, manager, config, tracker, {"model": str(reference), **words})
            document["config"]["use_cache"] = None if kept is None else str(kept)
            samples = document.pop("samples", None)
            if tracker is not None:
                _save(tracker, document, samples if config.log_samples else None)
    return HarnessResult(_plain(document), _tables(document), tuple(files))


def _model_args(engine: EngineOptions, weight_type: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return PaLiteLM's arguments: the engine's options, combined with lm-eval's model_args.

    Raises InputError for an argument with two different values.
    """
    own = {"threads": engine.threads, "gpu_layers": engine.gpu_layers, "n_ctx": engine.n_ctx, "type": weight_type}
    unset = {**asdict(EngineOptions()), "type": REFERENCE_TYPE}
    given = modern_names(given)
    for name in own.keys() & given.keys():
        if own[name] not in (given[name], unset[name]):
            raise InputError(f"{name} has two values: {own[name]!r}, and {given[name]!r} in model_args.")
    return {**own, **{name: value for name, value in given.items() if name != "model"}}


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document as in its file: values that JSON lacks, such as functions, are converted as by lm-eval."""
    from lm_eval.utils import handle_non_serializable

    plain: dict[str, Any] = json.loads(json.dumps(document, default=handle_non_serializable))
    return plain


def load_tasks(options: HarnessOptions | EvaluatorConfig) -> tuple[list[Any], Any]:
    """Return lm-eval's tasks and groups with their data loaded, and its task manager.

    Raises InputError for an unknown name, an invalid task file, and missing data.
    """
    options = evaluator_config(options)
    for folder in options.include_path:
        if not Path(folder).is_dir():
            raise InputError(f"{folder}: the folder of tasks does not exist (--include_path).")
    for name in options.tasks:
        if name.endswith(_FILES) and not Path(name).is_file():
            raise InputError(f"{name}: the task file does not exist.")
    with _one_line_errors("cannot read the task files"):
        manager = _manager(options)
    specs = list(dict.fromkeys(spec for name in options.tasks for spec in _find(name, manager)))
    loaded: list[Any] = []
    for spec in specs:
        with _one_line_errors(f"cannot load the task {spec}"), guarded() as guard, guard.watch():
            guard.is_own = not _is_lm_evals(spec, manager)
            found = manager.load([spec])
        groups = {g.name: g for g in found.get("groups", {}).values()}
        inner = {child for names in found.get("group_map", {}).values() for child in names}
        outer = [g for name, g in groups.items() if name not in inner]
        held = {t.task_name for g in outer for t in g.get_all_tasks()}
        loaded += [*outer, *(t for name, t in found["tasks"].items() if name not in held)]
    return loaded, manager


def _manager(config: EvaluatorConfig) -> Any:
    """Return lm-eval's index of tasks, without its own (ten seconds for thousands) if --include_path has them all."""
    from lm_eval.tasks import TaskManager

    include = [str(Path(folder).absolute()) for folder in config.include_path]
    if include:
        own = TaskManager(include_path=include, include_defaults=False, metadata=config.metadata)
        if set(config.tasks) <= set(own.all_subtasks):
            return own
    return TaskManager(include_path=include or None, metadata=config.metadata)


def _is_lm_evals(spec: str, manager: Any) -> bool:
    """Return whether the file of a task, or the files of all tasks of a tag, come with lm-eval."""
    import lm_eval

    own = Path(lm_eval.__file__).resolve().parent
    entry = manager.task_index.get(spec)
    entries = [] if entry is None else [entry]
    if entry is not None and entry.yaml_path is None:
        entries = [other for other in manager.task_index.values() if spec in other.tags and other.yaml_path is not None]
    return bool(entries) and all(Path(e.yaml_path).resolve().is_relative_to(own) for e in entries)


def _find(name: str, manager: Any) -> list[str]:
    """Return the tasks, groups or tags that match a name or pattern, or the path of a .yaml file."""
    if name.endswith(_FILES):
        return [str(Path(name).absolute())]
    found: list[str] = manager.match_tasks([name])
    if not found:
        raise InputError(f"lm-eval has no task {name!r}.{nearest(name, manager.all_tasks)}")
    return found


def _leaves(loaded: Sequence[Any]) -> Iterator[Any]:
    for entry in loaded:
        if hasattr(entry, "get_all_tasks"):
            yield from entry.get_all_tasks()
        else:
            yield entry


def _check_generation(loaded: Sequence[Any], config: EvaluatorConfig, lm: PaLiteLM) -> None:
    """Check generation settings before anything is scored. Raises InputError."""
    for task in _leaves(loaded):
        if task.OUTPUT_TYPE == "generate_until":
            own = task.config.generation_kwargs or {}
            try:
                lm.generation_options({**own, **config.gen_kwargs})
            except InputError as e:
                raise InputError(f"task {task.task_name}: {e}") from e


@contextlib.contextmanager
def _one_line_errors(what: str) -> Iterator[None]:
    """Turn any exception of lm-eval, a task's code or a data library into a one-line InputError."""
    try:
        yield
    except (PaLiteError, MemoryError):
        raise
    except Exception as e:
        reason = " ".join(str(e).split())[:300].rstrip(".")
        advice = ""
        if isinstance(e, OSError):  # includes errors of the Hub and its data sets
            advice = " Data from the Hub require a connection or the cache; tasks on local files do not."
        raise InputError(f"lm-eval {what}: {type(e).__name__}: {reason}.{advice}") from e


def _evaluate(
    lm: PaLiteLM,
    loaded: Sequence[Any],
    manager: Any,
    config: EvaluatorConfig,
    tracker: Any,
    model_args: Mapping[str, Any],
) -> dict[str, Any]:
    """Return lm-eval's results with samples; pa-lite's additions are under `pa_lite`."""
    from lm_eval import simple_evaluate

    gen_kwargs = dict(config.gen_kwargs)
    if gen_kwargs and "max_gen_toks" not in gen_kwargs:  # the name that overrides the task's setting
        asked = lm.generation_options(gen_kwargs).max_tokens
        if asked != MAX_GEN_TOKS:
            gen_kwargs["max_gen_toks"] = asked
    random, numpy, torch, fewshot = config.seed or [None] * 4
    with _one_line_errors("cannot run the tasks"), guarded() as guard, guard.watch():
        document: dict[str, Any] = simple_evaluate(
            model=lm,
            model_args=dict(model_args),
            tasks=list(loaded),
            num_fewshot=config.num_fewshot,
            batch_size=lm.parallel,
            **{"cache_requests": False, **config.cache_requests},
            limit=config.limit,
            samples=config.samples,
            bootstrap_iters=config.bootstrap_iters,
            check_integrity=config.check_integrity,
            write_out=config.write_out,
            log_samples=True,
            evaluation_tracker=tracker,
            system_instruction=config.system_instruction,
            apply_chat_template=config.apply_chat_template,
            fewshot_as_multiturn=bool(config.fewshot_as_multiturn),
            gen_kwargs=gen_kwargs or None,
            task_manager=manager,
            predict_only=config.predict_only,
            random_seed=random,
            numpy_random_seed=numpy,
            torch_random_seed=torch,
            fewshot_random_seed=fewshot,
            confirm_run_unsafe_code=config.confirm_run_unsafe_code,
            metadata=config.metadata,
        )
    document["config"]["model"] = "pa-lite"
    document["pa_lite"] = {
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
        "reference": lm.reference,
        "model": lm.model.name,
        "fingerprint": lm.fingerprint,
        "identity": lm.identity,
        "n_truncated": lm.n_truncated,
        "max_length": lm.model.max_length,
        "chat": lm.chat_facts,
    }
    return document


def _tables(document: dict[str, Any]) -> tuple[str, ...]:
    from lm_eval.utils import make_table

    return tuple(make_table(document, *column) for column in ((), ("groups",)) if not column or document.get(*column))


def _check_output(path: Path) -> None:
    """Create the output folder if necessary. Raises OutputError if files cannot be written there."""
    folder = path.parent if path.suffix == ".json" else path
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder}: the folder is not writable. Name another one (--output_path).")


@contextlib.contextmanager
def _tracked(path: Path | None) -> Iterator[tuple[Any, list[Path]]]:
    """Yield lm-eval's tracker, which writes to a temporary folder, and a list; at the end the files are moved.

    The list gets the files' final paths, samples before results. After an exception nothing is left.
    """
    files: list[Path] = []
    if path is None:
        yield None, files
        return
    from lm_eval.loggers import EvaluationTracker

    root = path.parent if path.suffix == ".json" else path
    temporary = root / f".harness.{secrets.token_hex(6)}.part"
    with contextlib.ExitStack() as stack:
        with write_errors(root):
            stack.enter_context(marked_folder(temporary))
        inner = temporary / path.name if path.suffix == ".json" else temporary
        yield EvaluationTracker(output_path=str(inner)), files
        written = sorted((p for p in temporary.rglob("*") if p.is_file()), key=lambda p: p.suffix == ".json")
        with write_errors(root):
            for file in written:
                target = root / file.relative_to(temporary)
                if target.parent != root:
                    _make_folder(target.parent)
                file.replace(target)
                files.append(target)


def _make_folder(folder: Path) -> None:
    """Create a folder for a model's files. Raises OutputError for a link, which may point elsewhere."""
    if is_link(folder):
        raise OutputError(f"{folder}: is a link. Remove it, or name another folder (--output_path).")
    folder.mkdir(exist_ok=True)


def _save(tracker: Any, document: dict[str, Any], samples: dict[str, Any] | None) -> None:
    """Let lm-eval write its files, and count them, as it only logs failures. Raises OutputError if any is missing."""
    root = Path(tracker.output_path)
    root = root.parent if root.suffix == ".json" else root
    tracker.general_config_tracker.model_source = "pa-lite"  # lm-eval names every model that it did not create CUSTOM
    tracker.save_results_aggregated(results=document, samples=samples)
    for name, records in (samples or {}).items():
        tracker.save_results_samples(task_name=name, samples=records)
    if sum(p.is_file() for p in root.rglob("*")) < 1 + len(samples or {}):
        raise OutputError(f"{root.parent}: lm-eval could not write its files there. Is the disk full?")
