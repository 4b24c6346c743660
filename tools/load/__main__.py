"""Campaigns against `pa-lite serve demo` on loopback: python -m tools.load COMMAND

python -m tools.load schema [--requests 20000] [--seed 0]
python -m tools.load crowd [--clients 200] [--minutes 10] [--seed 0]
python -m tools.load vanish [--rounds 200] [--seed 0]

schema    schemathesis sends requests made from the server's own OpenAPI description
crowd     many clients at once; every answer is compared with that of the same request alone
vanish    clients are killed at random moments; nothing of theirs may stay

Each starts its own server, is bounded in requests and time, and prints a line of a table. Status 1 if a promise was
broken: a crash, memory that grows by more than 20 MB, an answer that is not the one alone, a lost request.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pa_lite.errors import PaLiteError
from tools.load import crowd, schema, vanish

COMMANDS = {"schema": schema, "crowd": crowd, "vanish": vanish}


def main(words: Sequence[str]) -> None:
    """Run a campaign; an error becomes one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        module.add_arguments(commands.add_parser(name))
    options = parser.parse_args(words)
    try:
        findings = COMMANDS[options.command].run(options)
    except (PaLiteError, OSError) as e:
        sys.exit(f"error: {e}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
    for finding in findings:
        print(f"BROKEN: {finding}")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
