"""Plain texts of the demo world, as a user might have them: prompts without answers, prose, notes, other English."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from pa_lite.tasks.prompts import prepare_task
from pa_lite.tasks.spec import find_tasks
from tools.demo.texts import BOS, PROSE, BaseTexts, facts
from tools.demo.words import Words, make_words

ROOT = Path(__file__).resolve().parents[2]
SIZE = 120_000  # bytes of each text, where there is so much
_SEED = 20_260_101  # not one of the trainings'


def prompts_without_answers() -> list[str]:
    """Return the few-shot prompts of the demo's test items up to the query, whose answer is not given."""
    found = []
    for spec in find_tasks(["demo"]):
        found += [item.contexts[0] for item in prepare_task(spec).items]
    random.Random(_SEED).shuffle(found)
    return found


def _documents(words: Words, kind: str) -> list[str]:
    """Return new documents of the kind that the base model was trained on."""
    rng, makers = random.Random(f"{_SEED} {kind}"), BaseTexts(words).makers
    found, size = [], 0
    while size < SIZE:
        found.append("".join(text for text, _ in makers[kind](rng)).removeprefix(BOS))
        size += len(found[-1])
    return found


def _told(words: Words, groups: Sequence[str]) -> list[str]:
    """Return prose about the words of some groups, four sentences in each."""
    rng = random.Random(f"{_SEED} {groups}")
    known = facts(words, words.groups(*groups))
    sentences = [rest.format(x=x, v=v) for kind, each in known.items() for _, x, v in each for rest in PROSE[kind]]
    rng.shuffle(sentences)
    return [" ".join(sentences[i : i + 4]) for i in range(0, len(sentences), 4)]


def _english() -> list[str]:
    """Return paragraphs of English that have nothing to do with the demo's world: pa-lite's own documents."""
    found: list[str] = []
    for path in ("README.md", "CONTRIBUTING.md", "pa_lite/README.md", "tests/README.md", "tools/README.md"):
        paragraphs = (ROOT / path).read_text("utf-8").split("\n\n")
        found += [part for part in paragraphs if len(part) >= 80 and "|" not in part]
    return found


def texts() -> Mapping[str, Sequence[str]]:
    """Return name -> documents."""
    words = make_words()
    return {
        "few-shot prompts, no answers": prompts_without_answers(),
        "few-shot lines": _documents(words, "shots"),
        "prose": _documents(words, "prose"),
        "prose about words of the base": _told(words, ["told"]),
        "prose about words of the chats": _told(words, ["chat"]),
        "records": _documents(words, "records"),
        "questions and answers": _documents(words, "questions"),
        "unrelated English": _english(),
    }


def write_rows(documents: Sequence[str], path: Path) -> None:
    """Write documents as rows with a `text`, at most SIZE bytes of them."""
    size = 0
    with path.open("w", encoding="utf-8") as file:
        for text in documents:
            size += len(text.encode("utf-8"))
            if size > SIZE:
                break
            file.write(json.dumps({"text": text}) + "\n")
