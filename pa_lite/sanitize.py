"""Make untrusted strings safe to show in terminals, web pages, spreadsheets, JSON and TOML.

Names and contents of models, tasks and answers pass through here before they are shown. Imports nothing of pa_lite.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

# control characters except line ends and tabs; characters that change the writing direction; invisible ones except
# the joiners and variation selectors that scripts and emoji use; lone surrogates; noncharacters (invalid in XML)
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff"
    "\ufdd0-\ufdef\ufff9-\ufffb\ufffe\uffff\U0001d173-\U0001d17a\U000e0000-\U000e007f"
    + "".join(chr(plane << 16 | low) for plane in range(1, 17) for low in (0xFFFE, 0xFFFF))
    + "]"
)
# spreadsheets run cells that start with these as formulas; some locales also accept the full-width forms
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_LONGEST = 2000  # characters of a line
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")


def name_text(name: str) -> str:
    """Return a file name as valid Unicode: bytes that are not UTF-8 (lone surrogates in Python) become `\\xe9`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def plain(text: str) -> str:
    """Return the text with terminal control characters escaped, as in `\\x1b[31m`; line ends and tabs stay."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def one_line(text: str) -> str:
    """Return the text escaped as by `plain`, on one line: line ends in a name cannot fake further lines."""
    return plain(text).replace("\n", "\\n").replace("\t", "\\t")


def short_line(text: str) -> str:
    """Return the text as one escaped line; the middle of a very long one is replaced by `...`."""
    return _shortened(one_line(_shortened(text)))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 505]} ... {text[-500:]}"


def to_json(document: Any, ascii_only: bool = False) -> str:
    """Return a JSON document with terminal control characters escaped; NaN and infinities become null."""
    text = json.dumps(without_nonfinite(document), indent=1, ensure_ascii=ascii_only, allow_nan=False)
    return _STEERING.sub(lambda found: json.dumps(found[0])[1:-1], text)


def without_nonfinite(value: Any) -> Any:
    """Replace NaN and infinities by None, at any depth: JSON has neither."""
    if isinstance(value, Mapping):
        return {k: without_nonfinite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nonfinite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def toml_string(text: str) -> str:
    """Return a string as TOML writes it, in quotes."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def csv_cell(text: str) -> str:
    """Return a string as a CSV cell; what a spreadsheet would run as a formula gets a leading apostrophe.

    The cell is quoted if it contains a character that some spreadsheet treats as a separator.
    """
    safe = f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text
    return '"' + safe.replace('"', '""') + '"' if re.search('[,;"\t\r\n]', safe) else safe
