"""Worker process for the templates, expressions and answer patterns of untrusted task files.

`pa_lite.tasks.sandbox` starts it, with the limits of `pa_lite.untrusted.sandbox_worker`. Requests contain pickles made
by our own process; answers are JSON.
"""

from __future__ import annotations

import base64
import json
import pickle
from typing import Any

import jinja2

from pa_lite.tasks.answers import Extract
from pa_lite.tasks.sandbox import BrokenTemplateError, Missing, Templates, find_answers
from pa_lite.untrusted.sandbox_worker import serve

_LONGEST_VALUE = 50_000_000  # characters of an expression's value, as JSON


class _TemplateServer:
    """The compiled templates of one task."""

    templates: Templates

    def do(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request. Raises what an expression or pattern raises without a useful message."""
        try:
            return self._do(request)
        except (jinja2.TemplateError, ValueError) as e:
            return {"error": str(e)[:300]}

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "compile":
            try:
                self.templates = Templates(request["templates"], request["expressions"])
            except BrokenTemplateError as e:
                return {"broken": [e.name, str(e)]}
            names = self.templates.names
            return {"names": None if names is None else sorted(names)}
        if request["do"] == "find":
            return {"found": find_answers([Extract(**e) for e in request["extracts"]], request["texts"], is_own=True)}
        scope = pickle.loads(base64.b64decode(request["scope"]))
        if request["do"] == "render":
            return {"text": self.templates.render(request["name"], scope)}
        value = self.templates.evaluate(request["name"], scope)
        if isinstance(value, Missing):
            return {"missing": value.name}
        if sum(map(len, json.JSONEncoder(default=_nothing).iterencode(value))) > _LONGEST_VALUE:
            raise ValueError(f"its value is longer than {_LONGEST_VALUE} characters")
        return {"value": value}


def _nothing(_value: Any) -> None:
    """Encode a value that JSON lacks as null: it cannot be an answer or choice anyway."""


def main() -> None:
    """Answer requests until there are no more."""
    serve(_TemplateServer().do, _nothing)
