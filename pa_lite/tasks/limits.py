"""Bounds on a template's time and memory: a stranger's task file must neither hang a run nor fill the machine."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jinja2
import jinja2.sandbox

SECONDS = 5.0  # of processor time, for one text
_MEMORY = 512 << 20  # bytes beyond what the process holds
_BITS = 1 << 20  # of a power: its computation cannot be interrupted


class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with powers of a sane size; products are left to run time, where `bounded` holds."""

    intercepted_binops = frozenset(["*", "**", "%"])

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """Raises TemplateRuntimeError for a power of integers that is too large."""
        if operator == "**" and isinstance(left, int) and isinstance(right, int) and right * left.bit_length() > _BITS:
            raise jinja2.TemplateRuntimeError(f"{left} ** {right} is too large")
        return super().call_binop(context, operator, left, right)


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Raise jinja2's TemplateRuntimeError where the body takes more than SECONDS or too much memory.

    In the main thread alone, as both bounds are the whole process's: time on POSIX systems, memory where there is
    /proc. Elsewhere only the sandbox holds.
    """
    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            with contextlib.suppress(ImportError, OSError):
                stack.enter_context(_less_memory())
            if hasattr(signal, "setitimer"):
                stack.enter_context(_less_time())
        try:
            yield
        except MemoryError as e:
            raise jinja2.TemplateRuntimeError("it takes more memory than templates get") from e


def _expire(_number: int, _frame: object) -> None:
    raise jinja2.TemplateRuntimeError(f"it is not done after {SECONDS:g} seconds")


@contextlib.contextmanager
def _less_time() -> Iterator[None]:
    before = signal.signal(signal.SIGVTALRM, _expire)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextlib.contextmanager
def _less_memory() -> Iterator[None]:
    """Raises ImportError or OSError where the system has no such bound."""
    import resource

    with open("/proc/self/statm", "rb", buffering=0) as f:  # for each text: no layers that cost time
        held = int(f.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    bound = held + _MEMORY
    if soft == resource.RLIM_INFINITY or bound < soft:
        resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
