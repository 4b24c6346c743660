"""Match the patterns of untrusted adapters, in a separate process with limits of time and memory."""

from __future__ import annotations

import re
from typing import Any

from pa_lite.checkpoints.adapters.patterns import match_first
from pa_lite.untrusted.sandbox_worker import serve


def find(request: dict[str, Any]) -> dict[str, Any]:
    """Return the index of the first pattern that matches each name; see `match_first`."""
    try:
        return {"found": match_first(request["patterns"], request["names"])}
    except re.error as e:
        return {"error": f"{e.pattern!r:.80} is not a regular expression: {e.msg}"}


def main() -> None:
    """Answer requests until there are no more."""
    serve(find)
