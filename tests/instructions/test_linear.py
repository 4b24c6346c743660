"""Processing answers takes linear time: endless model output blocks nothing, and results equal the slow patterns'."""

from __future__ import annotations

import re
import subprocess
import sys
import time

from hypothesis import given
from hypothesis import strategies as st

from pa_lite.instructions.checks import passes
from pa_lite.instructions.checks.layout import _unfenced
from pa_lite.instructions.checks.text import sentences
from pa_lite.sanitize import csv_cell
from pa_lite.tasks.spec import suite_descriptions
from pa_lite.untrusted.strict_json import _without_strings

_MINUTE = 60  # seconds, for work that takes a few
_LONG = r"""
import sys
from pa_lite.untrusted.strict_json import parse_csv, parse_json, parse_toml
from pa_lite.engine.reasoning import MARKERS, split_reasoning
from pa_lite.instructions.checks import CHECK_TYPES, loose_variants, passes
from pa_lite.tasks.answers import STEPS, Extract, normalise
from pa_lite.tasks.metrics import TEXT_METRICS
from pa_lite.tasks.spec import find_tasks
from pa_lite.sanitize import csv_cell, one_line, plain, to_json

PIECES = [
    ".", "`", "*", "\n", "[", "]", " ", '"', "'", "1", "-", "<", "#", "\\", "(", ",", "_", "=", "{", "/", "\t", "。",
    "a", "K",
    ". ", "1. ", "* ", "\n\n ", "```\n", "** a", "[a", "<<", "a, ", ", ", "a-", "'a", "1,111", "$.1", "\n- ",
    "P.S. ", " ...", "\\\"",
    "the ", "<think>", "</think>", "[THINK]", "\n1. a", "[]", ".\n", "- ",
    ";", "a: b;", "1;", "1.1", " \n", "...\n ", "e.g. ", "\"\" ", "a\n\n",
]
FIELDS = {
    "n": 2, "nth": 1, "letter": "a", "words": ["a", "b"], "texts": ["a b", "..."], "options": ["a"],
    "keys": ["a"], "word": "a",
    "text": "a", "characters": "a", "marker": "...", "header": "#", "divider": "*", "left": "[", "right": "]",
    "code": "en",
}
extracts = {e.pattern: e for name in sys.argv[1].split() for spec in find_tasks([name]) for e in spec.extract}
extracts["n"] = Extract("n", "{number}", "last")
for n in (20_000,):
    for piece in PIECES:
        body = (piece * n)[:n]
        for text in (body, "```json" + body + "``", "+1" + body + "x"):
            for kind, (fields, _) in CHECK_TYPES.items():
                check = {"kind": kind} | {f: FIELDS[f] for f in (g.rstrip("?") for g in fields) if f in FIELDS}
                if kind in ("bulleted", "numbered", "paragraph_start"):
                    check["n"] = len(text.splitlines())
                passes(text, check)
            for metric in TEXT_METRICS.values():
                for golds in ([("a",)], [("1", "b")]):
                    metric(text, golds, tuple(STEPS))
            for e in extracts.values():
                e.find(text)
            split_reasoning(text), list(loose_variants(text))
            csv_cell(text), one_line(text), plain(text), to_json(text)
        for text in (body, '["' + body, '["' + body + "\\q", "x = " + body, "." * 64 + '"' + body):
            for read in (parse_csv, parse_json, parse_toml):
                try:
                    read(text)
                except ValueError:
                    pass
"""


def test_texts_without_end_take_time_in_proportion() -> None:
    command = [sys.executable, "-c", _LONG, " ".join(suite_descriptions())]
    subprocess.run(command, check=True, timeout=10 * _MINUTE)


_ENDS = st.text("ab1.!?…\"')*_ \n\t。Dr") | st.lists(st.sampled_from(["e.g", ".", " ", "Dr", "1", "\n", "A", "a"])).map(
    "".join
)
_OLD_END = re.compile(r"(?:[.!?…]+[\"'”’)\]*_]*(?=\s|$))|[。！？।]+")


def _old_goes_on(text: str, dot: int, end: int) -> bool:
    from pa_lite.instructions.checks.text import _ABBREVIATIONS, _TITLES

    behind = text[end : end + 80].lstrip()
    before_small = behind[:1].islower()
    if text[dot:end].startswith(("..", "…")):
        return before_small
    if text[dot:end] != ".":
        return False
    line = text.rfind("\n", 0, dot) + 1
    before = text[max(line, dot - 30) : dot].split()
    last = before[-1].lstrip("(\"'“*_[") if before else ""
    if last.isdigit() and not text[line:dot].replace(last, "", 1).strip():
        return True
    if last.lower() in _TITLES or (len(last) == 1 and last.isalpha() and last.isupper() and last != "I"):
        return bool(behind)
    return last.lower() in _ABBREVIATIONS and before_small


@given(_ENDS)
def test_sentences_are_those_of_the_slow_pattern(text: str) -> None:
    out, start = [], 0
    for found in _OLD_END.finditer(text):
        if not _old_goes_on(text, found.start(), found.end()):
            out.append(text[start : found.end()].strip())
            start = found.end()
    out.append(text[start:].strip())
    assert sentences(text) == [piece for piece in out if any(c.isalnum() for c in piece)]


@given(st.text("`ajK \n\t{}", max_size=14), st.booleans())
def test_fences_are_those_of_the_slow_pattern(text: str, closed: bool) -> None:
    text = f"```{text}```" if closed else text
    slow = re.compile(r"```[a-z]*\s*(.*?)\s*```", re.DOTALL | re.IGNORECASE).fullmatch(text)
    assert _unfenced(text) == (slow[1] if slow else text)


@given(st.text(".ps \n_", max_size=12), st.sampled_from(["p.s.", "...", ". .", "*", "s"]))
def test_postscripts_are_those_of_the_slow_pattern(text: str, marker: str) -> None:
    escaped = re.escape(marker).replace(r"\.", r"\.\s?")
    stripped = text.strip()
    slow = re.search(rf"(?:^|\s){escaped}[\s\S]*\w", stripped, re.IGNORECASE)
    assert passes(text, {"kind": "postscript", "marker": marker}) == (slow is not None)


@given(st.text("+-1.e", max_size=8))
def test_numbers_in_cells_are_those_of_the_slow_pattern(text: str) -> None:
    is_number = re.fullmatch(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", text)
    assert csv_cell(text) == (f"'{text}" if text[:1] in ("+", "-") and not is_number else text)


@given(st.text("\"\\'.a", max_size=12))
def test_strings_of_toml_are_those_of_the_slow_pattern(line: str) -> None:
    slow = re.sub(r""""(?:[^"\\\n]|\\.)*"|'[^'\n]*'""", "x", line)
    assert _without_strings(line) == slow


def test_headers_without_text_count_sections_as_before() -> None:
    for header in (" ", "\t", "  "):
        check = {"kind": "section_count", "n": 2, "header": header}
        assert passes(f"to do:\n{header}1. a\n#{header}2. b\nno 3", check)
        assert not passes("1. a\n2. b", check)


def test_headers_without_text_take_linear_time() -> None:
    start = time.process_time()
    for text in (" " * 100_000, "\t" * 100_000 + "1", " #" * 50_000 + "x", (" " * 300 + "x\n") * 300):
        for header in (" ", "  ", " \t"):
            passes(text, {"kind": "section_count", "n": 1, "header": header})
    assert time.process_time() - start < 5
