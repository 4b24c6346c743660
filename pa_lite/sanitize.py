"""Texts that strangers wrote, made harmless where they are shown: terminals, pages, spreadsheets, JSON.

Names and contents of models, tasks and answers go through here on their way out. Imports nothing of pa_lite.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

# controls but for line ends and tabs; what turns the direction of writing, is invisible (but for the joiners and
# variation selectors that scripts and emoji need), is half a character, or never one (XML has no U+FFFE)
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff"
    "\ufdd0-\ufdef\ufff9-\ufffb\ufffe\uffff\U0001d173-\U0001d17a\U000e0000-\U000e007f"
    + "".join(chr(plane << 16 | low) for plane in range(1, 17) for low in (0xFFFE, 0xFFFF))
    + "]"
)
# a spreadsheet takes what begins so for a formula; the wide forms count in some languages
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_LONGEST = 2000  # characters of a line
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")


def name_text(name: str) -> str:
    """Return a file's name as valid text: bytes that are not UTF-8 (lone surrogates in Python) look like `\\xe9`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def plain(text: str) -> str:
    """The text with each character that steers a terminal written out, as in `\\x1b[31m`; lines and tabs stay."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def one_line(text: str) -> str:
    """The text, made plain, as one line: a name with line ends in it cannot pose as further lines."""
    return plain(text).replace("\n", "\\n").replace("\t", "\\t")


def short_line(text: str) -> str:
    """The text as one plain line, its middle left out where nobody would read it all: names can be of any length."""
    return _shortened(one_line(_shortened(text)))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 505]} ... {text[-500:]}"


def to_json(document: Any, ascii_only: bool = False) -> str:
    """JSON in which what steers a terminal is escaped, so that parsed it is the same; NaN and infinities are null."""
    text = json.dumps(without_nonfinite(document), indent=1, ensure_ascii=ascii_only, allow_nan=False)
    return _STEERING.sub(lambda found: json.dumps(found[0])[1:-1], text)


def without_nonfinite(value: Any) -> Any:
    """NaN and infinities as None all through: JSON has neither, and only some readers forgive them."""
    if isinstance(value, Mapping):
        return {k: without_nonfinite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nonfinite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def csv_cell(text: str) -> str:
    """A text as a CSV cell that no spreadsheet runs: what begins like a formula, but is no number, gets an apostrophe.

    Quoted where it holds anything that some spreadsheet takes for the end of a cell.
    """
    safe = f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text
    return '"' + safe.replace('"', '""') + '"' if re.search('[,;"\t\r\n]', safe) else safe
