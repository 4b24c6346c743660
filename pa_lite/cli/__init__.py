"""The command line: each command parses its options, calls one API function and shows the result.

The commands are in the modules of this package; this one registers them, reports errors and sets the exit status.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from pa_lite.cli import (
    chat,
    checkpoints,
    compare,
    completion,
    doctor,
    follow,
    generate,
    harness,
    judge,
    merge,
    pairs,
    push,
    search,
    serve,
    study,
    tasks,
    tune,
)
from pa_lite.cli.help import Group
from pa_lite.cli.mapped import report_unreadable_maps
from pa_lite.cli.signals import EndSignal, end_in_order
from pa_lite.cli.terminal import PlainFormatter, drop_streams, prepare_streams, tell, tell_text
from pa_lite.errors import PaLiteError
from pa_lite.sanitize import short_line


@click.group(
    cls=Group, invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)  # fmt: skip
@click.version_option(None, "-V", "--version", package_name="pa-lite", prog_name="pa-lite")
@click.option("--debug", is_flag=True, help="Show tracebacks and llama.cpp's log.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Move a chat model part of the way back to its base model, and measure what that gains and loses.

    \b
    pa-lite demo                                  a complete study of the embedded pair, offline
    pa-lite merge ./Base ./Instruct --lam 0.7     write the model at lam 0.7 as GGUF
    """
    if context.invoked_subcommand is None:
        tell_text(context.get_help())
        return
    from pa_lite.api.files import little_memory

    if problem := little_memory():
        raise PaLiteError(problem)
    level = logging.DEBUG if debug else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").setLevel(logging.DEBUG if debug else logging.ERROR)  # we report retries


for _command in (
    merge.merge, checkpoints.inspect, checkpoints.diff, pairs.pairs, tasks.score, tasks.tasks, harness.harness,
    chat.chat, generate.generate, compare.compare, serve.serve, follow.follow, judge.judge, judge.winrate, study.sweep,
    search.search, tune.tune, study.report, study.demo, push.push, doctor.doctor, completion.completion,
):  # fmt: skip
    cli.add_command(_command)


def _fail(message: str) -> NoReturn:
    tell(f"error: {short_line(message)}", err=True)
    sys.exit(1)


def _end(ending: EndSignal, error: BaseException) -> NoReturn:
    kept = _kept(error)
    with contextlib.suppress(OSError):  # the terminal may be gone
        tell(f"interrupted: {kept}" if kept else "interrupted", err=True)
    drop_streams()
    exec("")  # else Python may exit by SIGINT, whatever the status, if its last compilation was interrupted
    sys.exit(ending.status)


def _kept(error: BaseException | None) -> str:
    """Return the message of an interrupt: what is kept, and how to continue."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt) and error.args and isinstance(error.args[0], str):
            return error.args[0]
        error = error.__cause__ or error.__context__
    return ""


def _is_interrupt(error: BaseException | None) -> bool:
    """Return whether an interrupt led to an error: Python makes one in a `__set_name__` or an import's lock another."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _show_usage(error: click.ClickException) -> None:
    """Show a usage error like any other, with the command that shows the help."""
    text = error.format_message().replace("integer range", "integer")
    if text[1:2].islower():  # not a name in capitals
        text = text[0].lower() + text[1:]
    tell(f"error: {short_line(text)}", err=True)
    if isinstance(error, click.UsageError) and error.ctx is not None:
        tell(f"See: {error.ctx.command_path} --help", err=True)


def _debug_first(words: list[str]) -> list[str]:
    """Return the words with --debug, which may be anywhere before `--`, as the first."""
    end = words.index("--") if "--" in words else len(words)
    if "--debug" not in words[:end]:
        return words
    return ["--debug", *(word for word in words[:end] if word != "--debug"), *words[end:]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Exit status: 0 success, 1 an error of input or environment, 2 wrong usage, 130 interrupted (Ctrl-C), 143 and 129
    terminated by SIGTERM and SIGHUP.
    """
    words = _debug_first(list(sys.argv[1:] if arguments is None else arguments))
    debug = words[:1] == ["--debug"]
    prepare_streams()
    if invalid := [word for word in words if "\0" in word]:
        _fail(f"the command line has a NUL character in {invalid[0]!r}.")
    # numpy's BLAS starts one thread per core, and interrupts the process if it cannot
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # else it reports program and environment
    ending = EndSignal()
    try:
        with report_unreadable_maps(), end_in_order() as ending:
            status = cli.main(args=words, prog_name="pa-lite", standalone_mode=False, obj=ending)
        if isinstance(status, int) and status:  # what a command gave to `Context.exit`
            sys.exit(status)
    except click.exceptions.Exit as e:
        sys.exit(e.exit_code)
    except click.ClickException as e:
        _show_usage(e)
        sys.exit(e.exit_code)
    except (click.Abort, KeyboardInterrupt) as e:
        _end(ending, e)
    except BrokenPipeError:
        drop_streams()
        sys.exit(ending.status if ending.signal else 1)
    except Exception as e:  # noqa: BLE001 - the user gets one line for every error
        if debug:
            tell_text(traceback.format_exc(), err=True)
        # the signal also ended worker processes, which caused this error; or Python turned the interrupt into it
        if ending.signal is not None or _is_interrupt(e):
            _end(ending, e)
        _fail(_describe(e))


def _describe(error: Exception) -> str:
    """Return the message of a failed command."""
    if isinstance(error, PaLiteError):
        return str(error)
    # CPython raises SystemError if a C library had no memory to create its exception
    if isinstance(error, MemoryError) or (isinstance(error, SystemError) and "without exception set" in str(error)):
        return "out of memory. Close other programs, or use a smaller model or weight type."
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "cannot start a thread: too little memory or too many processes. Raise limits (ulimit -v, ulimit -u)."
    if isinstance(error, ImportError):
        reason = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "no reason given")
        return (
            f"a library cannot be loaded ({reason.rstrip('.')}). Free some memory, raise the limit (ulimit -v), "
            "or reinstall pa-lite."
        )
    if isinstance(error, OSError):
        from pa_lite.api.files import system_words

        if error.errno in (errno.ENOSPC, errno.EFBIG) and error.filename is None:
            return f"the output cannot be written: {system_words(error)}."
        return f"{error.filename or 'the system'}: {system_words(error)}."
    reason = f"{type(error).__name__}: {error}"
    return f"internal error (a bug in pa-lite): {reason}. Please report it with the output of pa-lite --debug."
