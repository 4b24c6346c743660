"""The page as one HTML document, with the security policy under which a browser may show it."""

from __future__ import annotations

import base64
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent
_SCRIPTS = ("stream.js", "markdown.js", "chart.js", "page.js")


@dataclass(frozen=True)
class Document:
    """The page's bytes (UTF-8), and its Content-Security-Policy, which allows only its own style and script."""

    content: bytes
    policy: str


def _read(name: str) -> str:
    return (_FOLDER / name).read_text("utf-8").replace("\r\n", "\n")


def _source(text: str) -> str:
    """Return the hash of an inline style or script, as a source for the policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@functools.cache
def page() -> Document:
    """Return the page. It makes no request to any other server than the one that it comes from."""
    style = "\n" + _read("page.css")
    script = '\n"use strict";\n' + "\n".join(map(_read, _SCRIPTS))
    assert "</script" not in script
    assert "</style" not in style
    html = _read("page.html").replace("{{ style }}", style).replace("{{ script }}", script)
    policy = (
        f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Document(html.encode("utf-8"), policy)
