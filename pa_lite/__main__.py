"""The program `pa-lite`, and `python -m pa_lite`: load the command line, and report Ctrl-C even while it loads."""

from __future__ import annotations

import os

_INTERRUPTED = 130  # 128 + SIGINT, as in pa_lite.cli.signals, which would take long to load


def _leave(*_signal: object) -> None:
    """Exit at once: there is nothing to clean up before a command runs."""
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(_INTERRUPTED)


def main() -> None:
    """Run the command line.

    While modules load, Ctrl-C is handled without an exception, which the code that loads them could catch, or print
    with a traceback. While the interpreter exits, Ctrl-C has the system's default action.
    """
    try:
        import signal

        is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not ignored, as by background jobs
        if is_ours:
            signal.signal(signal.SIGINT, _leave)
        from pa_lite.cli import main as run

        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            run()
        finally:
            if is_ours:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
    except KeyboardInterrupt:
        _leave()


if __name__ == "__main__":
    main()
