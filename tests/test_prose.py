"""Prose in plain English: reject phrases that read like a translation, and docstrings that do not start with a verb.

Checked are docstrings, strings, f-strings and comments of `pa_lite`, `tools` and `tests`, and the Markdown documents.
Run it on single files or folders, as the pre-commit hook does; it exits with 1 when it found something:

    python tests/test_prose.py pa_lite/engine tests/engine README.md
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FOLDERS = ("pa_lite", "tools", "tests")
# this file quotes the phrases; the two references are generated from docstrings, which are checked
SKIPPED = ("tests/test_prose.py", "pa_lite/API.md", "pa_lite/COMMANDS.md")
# strings of these files are data: texts that models are trained on or asked, word lists, other programs' texts
DATA = (
    "pa_lite/instructions/public/",
    "tests/parity/difficult_strings.py",
    "tests/support/suite_rows.py",
    "tools/demo/evaluate.py",
    "tools/demo/texts.py",
    "tools/demo/words.py",
    "tools/demo/world.py",
    "tools/fuzz/words.py",
)
# a docstring that starts with one of these describes a thing and not what the function does
NO_VERB = re.compile(
    "a|about|after|again|all|also|an|and|another|any|as|at|before|below|beside|besides|"
    "both|but|by|each|eight|either|eleven|endless|every|everything|few|five|for|four|from|"
    "how|ids|if|in|into|it|its|itself|just|length|like|many|most|much|neither|never|nine|"
    "no|none|not|nothing|of|on|one|only|other|others|over|per|random|same|seven|several|"
    "since|six|so|some|something|standard|such|ten|than|that|the|their|them|then|there|"
    "these|they|this|those|though|three|through|to|two|under|until|up|upon|what|whatever|"
    "when|where|whether|which|while|who|whose|why|with|within|without|words"
)
VERB_IN_S = re.compile("access|address|assess|compress|discuss|express|focus|guess|pass|press|process|suppress")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A phrase to avoid: `pattern` (a space matches any white space), what to write instead, an example of each."""

    pattern: str
    instead: str
    bad: str
    good: str
    any_case: bool = True

    def regex(self) -> re.Pattern[str]:
        return re.compile(self.pattern.replace(" ", r"\s+"), re.IGNORECASE if self.any_case else 0)


RULES = (
    Rule(
        pattern=r"(?<!there\s)\b(is|are|was|were|be) no "
        r"(?!(longer|more|less|fewer|better|worse|larger|smaller|way)\b)\w+",
        instead="is not a",
        bad="'x' is no name on the Hub",
        good="there is no tokenizer, and 'x' is no longer supported",
    ),
    Rule(
        pattern=r"\bno such\b(?! file or)",
        instead="does not exist, has none",
        bad="m.gguf: there is no such file",
        good="m.gguf does not exist",
    ),
    Rule(
        pattern=r"(?<!there\s)\b(is|are|was|were) none\b",
        instead="is not",
        bad="a contraction that is none to llama.cpp",
        good="there are none, or the value is None",
        any_case=False,
    ),
    Rule(
        pattern=r"(?<![`*\"'])\btold\b",
        instead="reported, said, distinguished",
        bad="which is told and noted",
        good="reported",
    ),
    Rule(
        pattern=r"\btell(s|ing)? (of|whether|nothing|something)\b|\btell(s|ing)? \w+ apart\b",
        instead="say, return whether, distinguish",
        bad="Tell whether a file is one",
        good="tell us what you think",
    ),
    Rule(pattern=r"\bmend(s|ed|ing)?\b", instead="fix", bad="Mend its name", good="recommended, amended"),
    Rule(pattern=r"\breckon\w*", instead="estimate, compute, count", bad="Reckon the bytes", good="recognise"),
    Rule(pattern=r"\bwish(es)?\b", instead="request, what is asked for", bad="the first wish", good="wishful"),
    Rule(pattern=r"\bwhole numbers?\b", instead="integer", bad="not a whole number", good="the whole list of numbers"),
    Rule(
        pattern=r"\blet(s|ting)? ((it|them|what|that|\w+s|\w+) )?through\b|\blet(s|ting)? \w+ pass\b",
        instead="keep, allow, accept",
        bad="were let through as NaN",
        good="search through the file",
    ),
    Rule(pattern=r"\bstrangers?\b", instead="untrusted", bad="a stranger's file", good="strange, stronger"),
    Rule(
        pattern=r"\bof (its|their|his|one's) own\b",
        instead="its own, separate, or nothing",
        bad="a process of its own",
        good="a separate process with its own limits",
    ),
    Rule(pattern=r"\bbeside\b", instead="next to, with, and", bad="lies beside it", good="besides, next to it"),
    Rule(
        pattern=r"(?<!left\s)(?<!leave\s)(?<!leaves\s)(?<!leaving\s)(?<!lag\s)(?<!lags\s)(?<!falls\s)(?<!fall\s)"
        r"\bbehind\b(?! (a |the )?(prox|firewall|login))(?![;.,)])",
        instead="after",
        bad="a letter behind a space",
        good="left behind, behind a proxy",
    ),
    Rule(
        pattern=r"\b(the|a|its|their|each|every|of) begins?\b|\bbegins? of\b",
        instead="start",
        bad="the begin of a turn",
        good="lines that begin with #",
    ),
    Rule(pattern=r"\banew\b", instead="again, from scratch", bad="begun anew", good="a new file"),
    Rule(
        pattern=r"\b(go|goes|going|gone|went) on\b(?! (top|a|the disk))",
        instead="continue, resume",
        bad="a download is gone on with",
        good="goes on top",
    ),
    Rule(
        pattern=r"(?<![\"'])(?<!not\s)(?<!is\s)(?<!be\s)\bblanks?\b(?!(-|\s+)(lines?|page|cell))",
        instead="space",
        bad="two blanks",
        good="a blank line; a string that is not blank",
    ),
    Rule(pattern=r"\bdoubled\b", instead="duplicate, repeated, twice", bad="tensor 'x' is doubled", good="twice"),
    Rule(
        pattern=r"\bthe member\b|\btwo members\b|\bmembers of (one name|an object|the object|objects)\b",
        instead="key",
        bad="it has the member 'c' twice",
        good="members of the cluster",
    ),
    Rule(
        pattern=r"\b(by|at (this|that|every|each|any|which|one|a)|a pair's|the wrong) place\b(?! of)"
        r"|(?<!in\s)\bits place\b",
        instead="index, offset, position",
        bad="results by place",
        good="takes the place of another; in place",
    ),
    Rule(pattern=r"\bJSON texts?\b", instead="JSON document", bad="is a JSON text", good="a JSON document's text"),
    Rule(pattern=r"\bof no use\b", instead="unusable, useless", bad="it is of no use", good="of little use"),
    Rule(
        pattern=r"\bcannot be(?=[.;]|, and\b|$)",
        instead="is impossible, is not valid",
        bad="part 7 of 3 cannot be. Rename it.",
        good="as small as it can be made",
    ),
    Rule(
        pattern=r"\b(half a character|halves of (a )?characters?|half characters?)\b",
        instead="lone surrogate",
        bad="it holds half a character",
        good="half a second",
    ),
    Rule(pattern=r"\btak(en?|es|ing) away\b", instead="deleted", bad="was taken away", good="take-away"),
    Rule(
        pattern=r"\bnothing came of\b|\b(come|comes|came) of (it|this|that|the)\b",
        instead="results from, no output was written",
        bad="Nothing came of it",
        good="the result of it",
    ),
    Rule(pattern=r"\botherwise than\b", instead="differently from", bad="otherwise than llama.cpp", good="otherwise"),
    Rule(pattern=r"\breads? back otherwise\b", instead="differs", bad="X reads back otherwise", good="reads back"),
    Rule(pattern=r"\bwithout end\b", instead="endless, unbounded", bad="tokens without end", good="without ending"),
    Rule(pattern=r"\bif need be\b|\bneed be\b", instead="if necessary", bad="made if need be", good="need not be"),
    Rule(
        pattern=r"\b(end|ends|ended|ending) the process\b",
        instead="crashes, aborts, kills the process",
        bad="llama.cpp ends the process that loads it",
        good="the process ends",
    ),
    Rule(
        pattern=r"\b(break|breaks|broke|broken|breaking) off\b",
        instead="interrupted, stopped",
        bad="a download that broke off",
        good="broken",
    ),
    Rule(pattern=r"\bundominated\b", instead="Pareto-optimal", bad="undominated lams", good="dominated"),
    Rule(
        pattern=r"\bso (many|much) (of|seconds|bytes|rows|items|tokens|times)\b",
        instead="this many, the number of",
        bad="ended after so many seconds",
        good="not so much a bug",
    ),
    Rule(
        pattern=r"\bas (it|they) stands?\b",
        instead="unchanged, literally, exactly",
        bad="matched as they stand",
        good="it stands for a file",
    ),
    Rule(
        pattern=r"\b(hitherto|hence|thereof|therein|whereof|wherein|whence|lest|amid|whilst|nought|aught|heretofore)\b",
        instead="a current word",
        bad="whence it came",
        good="latest, intermediate",
    ),
    Rule(
        pattern=r"\bfail(s|ed)? in passing\b",
        instead="fails temporarily",
        bad="while the network fails in passing",
        good="passing",
    ),
    Rule(pattern=r"\bgiv(es?|en|ing) way\b", instead="yields, stops", bad="who gives way says so", good="gives up"),
    Rule(pattern=r"\bwithout a word\b", instead="silently", bad="dropped without a word", good="without words"),
    Rule(
        pattern=r"\b(is|are|was|were|be) whole\b(?=[.,;:)]|$| (or|and|before|when|for)\b)",
        instead="is complete",
        bad="retry when it is whole",
        good="processes are whole command lines",
    ),
    Rule(
        pattern=r"\b(lie|lies|lay|lying) "
        r"(in|there|here|beside|at|on|with|below|next|where|elsewhere|before|behind|under|open)\b",
        instead="is in, is at",
        bad="the files lie in a folder",
        good="lam lies between 0 and 1",
    ),
    Rule(
        pattern=r"\bstands? (there|in(?! (for|where))|at|after|before|behind|beside|on|below|above|alone|around)\b",
        instead="is, appears",
        bad="what stands after the last line",
        good="a stand-in, stands for the model",
    ),
    Rule(
        pattern=r"\b(make|makes) of (it|them|each|what|a|the|its)\b",
        instead="produces, builds, derives from",
        bad="what the converter makes of it",
        good="made of parts",
    ),
    Rule(pattern=r"\bor the like\b", instead="or similar", bad="LoRA or the like", good="or the likely one"),
    Rule(pattern=r"\blikewise\b", instead="also, the same way", bad="mended likewise", good="also"),
    Rule(
        pattern=r"(?<!is\s)(?<!are\s)(?<!be\s)\ball the same\b",
        instead="anyway, still",
        bad="gave answers all the same",
        good="they are all the same",
    ),
    Rule(pattern=r"\bbut for\b(?! not)", instead="except", bad="equal, but for spaces", good="but not for spaces"),
    Rule(
        pattern=r"\b(nothing|none) but\b",
        instead="only",
        bad="holds nothing but floats",
        good="contains only floats",
    ),
    Rule(
        pattern=r"\bknows? (no|nothing)\b(?!-)",
        instead="does not use, does not support",
        bad="Knows no model",
        good="does not know the model",
    ),
    Rule(
        pattern=r"\b(come|comes|coming|came) to (an|its|their|the) end\b",
        instead="finishes, ends",
        bad="both come to their end",
        good="come to the same result",
    ),
    Rule(
        pattern=r"\b(is|are|was|were|be) said\b",
        instead="is reported, is stated",
        bad="Too little memory is said",
        good="as said above",
    ),
    Rule(pattern=r"\btaken for\b", instead="treated as, mistaken for", bad="taken for whole", good="taken from"),
    Rule(pattern=r"\bfaults? of (pa-lite|llama|its)", instead="bug", bad="a fault of pa-lite", good="a page fault"),
    Rule(pattern=r"\bbrought together\b", instead="matched, joined", bad="two files brought together", good="joined"),
    Rule(
        pattern=r"\b(some|any|every|no)body('s)?\b",
        instead="someone, another program, no caller, everyone",
        bad="somebody's file",
        good="someone's file",
    ),
    Rule(pattern=r"\bhang together\b", instead="are correlated", bad="values hang together", good="hang"),
    Rule(pattern=r"\bso (written|built|made|chosen) that\b", instead="written so that", bad="so made that", good="so"),
    Rule(
        pattern=r"\bat (its|their) ends removed\b",
        instead="stripped",
        bad="spaces at its ends removed",
        good="stripped of outer spaces",
    ),
)


class Problem(NamedTuple):
    """A phrase at a line of a file, and what to do about it."""

    path: str
    line: int
    phrase: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.phrase!r} -> {self.instead}"


def string_prose(tree: ast.Module, docstrings_only: bool) -> Iterator[tuple[int, int, str]]:
    """Yield (first line, last line, text) of docstrings and, unless `docstrings_only`, of all strings with a space."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    parts: set[int] = set()
    for node in ast.walk(tree):  # an f-string comes before its parts
        if isinstance(node, ast.JoinedStr):
            parts |= {id(value) for value in node.values}
            text = "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            text = node.value
        else:
            continue
        if " " in text and (id(node) in docstrings or not docstrings_only):
            yield node.lineno, node.end_lineno or node.lineno, text


def comment_prose(source: str) -> Iterator[tuple[int, int, str]]:
    """Yield (first line, last line, text) of comments; consecutive lines that hold only a comment are one text."""
    block: list[str] = []
    start = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        text = token.string.lstrip("#: ")
        alone = not token.line[: token.start[1]].strip()
        if block and alone and token.start[0] == start + len(block):
            block.append(text)
            continue
        if block:
            yield start, start + len(block) - 1, "\n".join(block)
        block, start = [text], token.start[0]
    if block:
        yield start, start + len(block) - 1, "\n".join(block)


def verb_problems(path: str, tree: ast.Module) -> Iterator[Problem]:
    """Yield functions whose docstring does not start with a verb. Tests, fixtures and properties may be described."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not (text := ast.get_docstring(node)):
            continue
        decorators = " ".join(ast.unparse(d) for d in node.decorator_list)
        if node.name.startswith("test_") or "property" in decorators or "fixture" in decorators:
            continue
        first = text.split()[0].rstrip(",:;")
        word = first.lower()
        ends_in_s = word.endswith("s") and not VERB_IN_S.fullmatch(word)
        if not re.fullmatch(r"[A-Z][a-z-]+", first) or NO_VERB.fullmatch(word) or ends_in_s:
            yield Problem(
                path, node.body[0].lineno, first, f"start the docstring of {node.name} with a verb: Return ..."
            )


COMPILED = [(rule, rule.regex()) for rule in RULES]


def phrase_problems(path: str, texts: Iterable[tuple[int, int, str]]) -> Iterator[Problem]:
    """Yield every phrase of RULES in texts that are given as (first line, last line, text)."""
    for first, last, text in texts:
        for rule, regex in COMPILED:
            for match in regex.finditer(text):
                line = min(first + text.count("\n", 0, match.start()), last)
                yield Problem(path, line, " ".join(match[0].split()), rule.instead)


def problems(file: Path) -> list[Problem]:
    """Return what is wrong in a Python or Markdown file, by line. `file` may be anywhere."""
    path = file.resolve()
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(file)
    within = re.search(r"(?:^|/)((?:pa_lite|tools|tests)/.*)", name)
    key = within[1] if within else name
    source = path.read_text("utf-8")
    if key in SKIPPED:
        return []
    if path.suffix == ".md":
        return sorted(phrase_problems(name, [(1, source.count("\n") + 1, source)]))
    tree = ast.parse(source)
    texts = [*string_prose(tree, key.startswith(DATA)), *comment_prose(source)]
    return sorted([*phrase_problems(name, texts), *verb_problems(name, tree)], key=lambda p: p.line)


def files_below(paths: Iterable[Path]) -> list[Path]:
    """Return the Python and Markdown files among paths and below folders."""
    found = []
    for path in paths:
        found += [*path.rglob("*.py"), *path.rglob("*.md")] if path.is_dir() else [path]
    return sorted(f for f in found if f.suffix in {".py", ".md"})


def test_every_rule_catches_its_example_and_leaves_plain_words() -> None:
    for rule, regex in COMPILED:
        assert regex.search(rule.bad), rule
        assert not regex.search(rule.good), rule


def test_where_a_phrase_is_found() -> None:
    source = '''"""A module."""
def f():
    """Return it.

    Mend it.
    """
    # a comment, and what was told
    # goes on
    return f"{f} is no " f"name"
def g():
    """The value."""
'''
    tree = ast.parse(source)
    found = [
        *phrase_problems("m.py", [*string_prose(tree, False), *comment_prose(source)]),
        *verb_problems("m.py", tree),
    ]
    assert sorted((p.line, p.phrase) for p in found) == [
        (5, "Mend"),
        (7, "told"),
        (8, "goes on"),
        (9, "is no name"),
        (11, "The"),
    ]


def test_prose_is_plain() -> None:
    files = files_below([*(ROOT / f for f in FOLDERS), *ROOT.glob("*.md"), ROOT / "models"])
    found = [str(p) for f in files for p in problems(f)]
    assert not found, "\n".join([f"{len(found)} phrases to rewrite:", *found])


if __name__ == "__main__":
    findings = [p for f in files_below(map(Path, sys.argv[1:])) for p in problems(f)]
    sys.stdout.writelines(f"{finding}\n" for finding in findings)
    sys.exit(bool(findings))
