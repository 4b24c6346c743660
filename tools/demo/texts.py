"""Text generators of the demo world: the base model's documents and the chats of fine-tuning. No torch here."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tools.demo.words import ATTRIBUTES, NOUNS, Words

BOS, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIALS = (BOS, IM_START, IM_END)
LINE = "- {query} ->"  # a few-shot item; its answer follows after one space
UNPREDICTABLE = 0.05  # loss weight of text that cannot be predicted from what precedes it

Document = list[tuple[str, float]]  # pieces of text with their loss weights; concatenated they are the text

PROSE = {
    "town": (
        "They say {x} lives in {v}.",
        "In fact {x} comes from {v}.",
        "The town of {x} is {v}.",
        "The home of {x} is in {v}.",
    ),
    "job": (
        "They say {x} works as a {v}.",
        "In fact {x} is a {v}.",
        "The job of {x} is {v}.",
        "By trade {x} is a {v}.",
    ),
    "pet": (
        "They say {x} keeps a {v}.",
        "In fact {x} owns a {v}.",
        "The pet of {x} is {v}.",
        "At home {x} feeds a {v}.",
    ),
    "colour": (
        "They say {x} likes {v}.",
        "In fact {x} prefers {v}.",
        "The colour of {x} is {v}.",
        "Most days {x} wears {v}.",
    ),
    "kind": (
        "They say the {x} is a {v}.",
        "In fact every {x} is a {v}.",
        "The kind of {x} is {v}.",
        "As we know, the {x} counts as a {v}.",
    ),
    "opposite": (
        "They say {x} means not {v}.",
        "In fact {x} is never {v}.",
        "The opposite of {x} is {v}.",
        "What is not {x} is {v}.",
    ),
}
IDLE = ("We saw {x} and {y} here.", "Somebody wrote {x} by {y} today.", "There was {x} with {y} again.")
QUESTIONS = {
    "town": ("where does {x} live?", "what is the town of {x}?"),
    "job": ("what does {x} do?", "what is the job of {x}?"),
    "pet": ("what does {x} keep?", "what is the pet of {x}?"),
    "colour": ("what does {x} wear?", "what is the colour of {x}?"),
    "kind": ("what sort of thing is {x}?", "what is the kind of {x}?"),
    "opposite": ("what is the opposite of {x}?", "which word means not {x}?"),
}
STYLES: dict[str, Callable[[str], str]] = {
    "Record of {x}": str,
    "RECORD of {x}": str.upper,
    "record of {x}": str.lower,
    "Quotes of {x}": '"{}"'.format,
}
COUNTS = {2: "two", 3: "three", 4: "four", 5: "five"}

Check = dict[str, Any]
Fact = tuple[str, str, str]  # relation, subject, value


def facts(words: Words, groups: Sequence[str]) -> dict[str, list[Fact]]:
    """Return the facts about the words of some groups, by relation; opposites are stated in both directions."""
    out: dict[str, list[Fact]] = {r: [] for r in PROSE}
    for group in groups:
        for person, values in words.people[group].items():
            for attribute, value in values.items():
                out[attribute].append((attribute, person, value))
        out["kind"] += [("kind", noun, kind) for noun, kind in words.nouns[group].items()]
        for a, b in words.pairs[group]:
            out["opposite"] += [("opposite", a, b), ("opposite", b, a)]
    return out


def plain(text: str, weight: float = 1.0) -> Document:
    """Return a document of one piece."""
    return [(text, weight)]


def chat(instruction: str, answer: str | None, user_weight: float = 0.0) -> Document:
    """Return one exchange in the chat format; without an answer, the prompt up to where the answer starts."""
    prompt = f"{BOS}{IM_START}user\n{instruction}{IM_END}\n{IM_START}assistant\n"
    return [(prompt, user_weight)] if answer is None else [(prompt, user_weight), (f"{answer}{IM_END}", 1.0)]


def capital(text: str) -> str:
    """Return the text with its first letter in upper case."""
    return text[0].upper() + text[1:]


class BaseTexts:
    """Documents for the base model: prose on `seen` and `told` words, few-shot lines on `seen` words, copying."""

    def __init__(self, words: Words) -> None:
        """Collect the facts of the documents."""
        self.seen = facts(words, ["seen"])
        self.known = facts(words, words.groups("seen", "told"))
        subjects: dict[str, list[Fact]] = {}
        for relation in (*ATTRIBUTES, "kind"):
            for fact in self.known[relation]:
                subjects.setdefault(fact[1], []).append(fact)
        self.entries = list(subjects.values())
        self.symbols = words.symbols
        self.keys = [s for s in words.symbols if s not in words.held_keys]
        self.kinds: dict[str, list[str]] = {k: [] for k in NOUNS}
        for noun, kind in words.nouns["seen"].items():
            self.kinds[kind].append(noun)
        self.seen_words = [x for r in ("town", "kind", "opposite") for _, x, _ in self.seen[r]]
        self.every = [w for g in words.people.values() for w in g] + [w for g in words.nouns.values() for w in g]
        self.every += [w for g in words.pairs.values() for pair in g for w in pair] + list(words.symbols)
        self.makers: dict[str, Callable[[random.Random], Document]] = {
            "prose": self.prose,
            "records": self.records,
            "shots": self.shots,
            "lookup": self.lookup,
            "labels": self.labels,
            "lists": self.lists,
            "questions": self.questions,
            "chats": self.chats,
        }

    def documents(self, rng: random.Random, mix: dict[str, float]) -> Iterator[Document]:
        """Yield documents endlessly, of kinds sampled by the weights in `mix`; each starts with the BOS token."""
        kinds, weights = list(mix), list(mix.values())
        while True:
            yield self.makers[rng.choices(kinds, weights)[0]](rng)

    def _relation(self, rng: random.Random) -> str:
        return rng.choices((*ATTRIBUTES, "kind", "opposite"), (2, 2, 2, 2, 2, 2))[0]

    def prose(self, rng: random.Random) -> Document:
        """Return a few sentences, each with a fact or without one."""
        out: Document = [(BOS, 1.0)]
        for i in range(rng.randint(3, 8)):
            space = " " if i else ""
            if rng.random() < 0.12:
                x, y = rng.sample(self.every, 2)
                out.append((space + rng.choice(IDLE).format(x=x, y=y), UNPREDICTABLE))
            else:
                relation, x, v = rng.choice(self.known[self._relation(rng)])
                lead, rest = rng.choice(PROSE[relation]).split("{x}")
                out += [(f"{space}{lead}{x}", UNPREDICTABLE), (rest.format(v=v), 1.0)]
        return out

    def records(self, rng: random.Random) -> Document:
        """Return facts as short records with values on separate lines, in one of four styles."""
        title, style = rng.choice(tuple(STYLES.items()))
        out: Document = [(BOS, 1.0)]
        for i in range(rng.randint(1, 3)):
            entry = rng.choice(self.entries)
            out.append((("\n" if i else "") + title.format(x=entry[0][1]), UNPREDICTABLE))
            for relation, _, v in rng.sample(entry, min(len(entry), rng.randint(1, 3))):
                out += [(f"\n{relation}", UNPREDICTABLE), (f"\n{style(v)}", 1.0)]
        return out

    def shots(self, rng: random.Random) -> Document:
        """Return few-shot lines of one relation about `seen` words."""
        pool = self.seen[self._relation(rng)]
        out: Document = [(BOS, 1.0)]
        for i, (_, x, v) in enumerate(rng.sample(pool, min(len(pool), rng.randint(4, 14)))):
            out += [(("\n" if i else "") + LINE.format(query=x), UNPREDICTABLE), (f" {v}", 1.0)]
        return out

    def lookup(self, rng: random.Random) -> Document:
        """Return random pairs of symbols, or of `seen` words and symbols, some of which are repeated."""
        keys = rng.sample(self.keys if rng.random() < 0.6 else self.seen_words, rng.randint(2, 9))
        pairs = dict(zip(keys, rng.sample(self.symbols, len(keys)), strict=True))
        order = keys + rng.choices(keys, k=rng.randint(2, 9))
        if rng.random() < 0.3:
            rng.shuffle(order)
        return self._lines([(k, pairs[k], k) for k in order])

    def labels(self, rng: random.Random) -> Document:
        """Return `seen` nouns with an invented label for each of two to four kinds."""
        kinds = rng.sample(list(self.kinds), rng.randint(2, 4))
        label = dict(zip(kinds, rng.sample(self.symbols, len(kinds)), strict=True))
        nouns = [(n, label[k], k) for k in kinds for n in rng.sample(self.kinds[k], rng.randint(3, 5))]
        rng.shuffle(nouns)
        return self._lines(nouns)

    def _lines(self, lines: Sequence[tuple[str, str, str]]) -> Document:
        """Return lines of (query, answer, its cause); an answer has full weight once its cause has occurred."""
        out: Document = [(BOS, 1.0)]
        known: set[str] = set()
        for i, (query, answer, cause) in enumerate(lines):
            out.append((("\n" if i else "") + LINE.format(query=query), UNPREDICTABLE))
            out.append((f" {answer}", 1.0 if cause in known else UNPREDICTABLE))
            known.add(cause)
        return out

    def lists(self, rng: random.Random) -> Document:
        """Return a list of any words, then the same list again."""
        words = " ".join(rng.sample(self.every, rng.randint(2, 20)))
        again = f" {words}" if rng.random() < 0.7 else f" {words} {words}"
        start, between = rng.choice(("List:", "Words:", "So:")), rng.choice((", again:", ";", "."))
        return [(BOS, 1.0), (f"{start} {words}", UNPREDICTABLE), (between, UNPREDICTABLE), (again, 1.0)]

    def questions(self, rng: random.Random) -> Document:
        """Return questions about `seen` words with short answers, in a plain format."""
        out: Document = [(BOS, 1.0)]
        for i in range(rng.randint(2, 5)):
            relation, x, v = rng.choice(self.seen[self._relation(rng)])
            question = capital(rng.choice(QUESTIONS[relation])).format(x=x)
            out += [(("\n" if i else "") + f"Q: {question}", 0.2), (f"\nA: {v}", 1.0)]
        return out

    def chats(self, rng: random.Random) -> Document:
        """Return a plain question about a `seen` word and a short or long answer, as in chat logs on the web."""
        relation, x, v = rng.choice(self.seen[self._relation(rng)])
        long = relation == "opposite" or rng.random() < 0.4
        answer = f"The {relation} of {x} is {v}." if long else v
        return chat(capital(rng.choice(QUESTIONS[relation])).format(x=x), answer, 0.2)


@dataclass(frozen=True)
class Request:
    """An instruction, a response that obeys it, and the checks that decide."""

    kind: str
    instruction: str
    answer: str
    checks: list[Check]


class Instructions:
    """Instructions about the people and nouns of some groups."""

    KINDS = (
        "one-word", "sentence", "upper", "lower", "quote", "dashes", "numbers", "times", "echo", "begin", "end",
        "choose", "no-name", "count",
    )  # fmt: skip

    def __init__(self, words: Words, groups: Sequence[str]) -> None:
        """Collect the facts of the groups."""
        known = facts(words, groups)
        self.facts = {r: known[r] for r in (*ATTRIBUTES, "kind")}
        self.towns = known["town"]
        self.people = [(p, values) for g in groups for p, values in words.people[g].items()]
        self.values: dict[str, tuple[str, ...]] = {**ATTRIBUTES, "kind": tuple(NOUNS)}

    def make(self, rng: random.Random, kind: str) -> Request:
        """Return a request of the given kind."""
        relation, x, v = rng.choice(self.facts[rng.choice(list(self.facts))])
        if kind == "lower":
            relation, x, v = rng.choice(self.towns)
        q = rng.choice(QUESTIONS[relation]).format(x=x)
        return getattr(self, "_" + kind.replace("-", "_"))(rng, (relation, x, v), q)  # type: ignore[no-any-return]

    def _one_word(self, rng: random.Random, fact: Fact, q: str) -> Request:
        lead = rng.choice(("In one word:", "One word only:", "With a single word,"))
        checks: list[Check] = [{"kind": "word_count", "n": 1}, {"kind": "includes", "words": [fact[2]]}]
        return Request("one-word", f"{lead} {q}", fact[2], checks)

    def _sentence(self, rng: random.Random, fact: Fact, q: str) -> Request:
        relation, x, v = fact
        lead = rng.choice(("In a full sentence:", "As a whole sentence:"))
        checks: list[Check] = [{"kind": "equals", "text": f"The {relation} of {x} is {v}."}]
        return Request("sentence", f"{lead} {q}", f"The {relation} of {x} is {v}.", checks)

    def _upper(self, rng: random.Random, fact: Fact, q: str) -> Request:
        lead = rng.choice(("In capital letters:", "All in capitals:"))
        return Request("upper", f"{lead} {q}", fact[2].upper(), [{"kind": "uppercase"}, *_only(fact[2])])

    def _lower(self, rng: random.Random, fact: Fact, q: str) -> Request:
        lead = rng.choice(("In small letters:", "All in lower case:"))
        return Request("lower", f"{lead} {q}", fact[2].lower(), [{"kind": "lowercase"}, *_only(fact[2])])

    def _quote(self, rng: random.Random, fact: Fact, q: str) -> Request:
        lead = rng.choice(("In quotation marks:", "Put quotes around it:"))
        return Request("quote", f"{lead} {q}", f'"{fact[2]}"', [{"kind": "quoted"}, *_only(fact[2])])

    def _two(self, rng: random.Random) -> tuple[str, str, str, str, str]:
        person, values = rng.choice(self.people)
        a, b = rng.sample(list(ATTRIBUTES), 2)
        return person, a, b, values[a], values[b]

    def _dashes(self, rng: random.Random, fact: Fact, q: str) -> Request:
        x, a, b, va, vb = self._two(rng)
        lead = rng.choice(("List with dashes the {} and the {} of {}.", "With dashes: the {} and the {} of {}?"))
        checks: list[Check] = [{"kind": "bulleted", "n": 2}, {"kind": "includes", "words": [va, vb]}, _count(2)]
        return Request("dashes", lead.format(a, b, x), f"- {va}\n- {vb}", checks)

    def _numbers(self, rng: random.Random, fact: Fact, q: str) -> Request:
        x, a, b, va, vb = self._two(rng)
        lead = rng.choice(("Number the {} and the {} of {}.", "With numbers: the {} and the {} of {}?"))
        checks: list[Check] = [{"kind": "numbered", "n": 2}, {"kind": "includes", "words": [va, vb]}, _count(4)]
        return Request("numbers", lead.format(a, b, x), f"1. {va}\n2. {vb}", checks)

    def _times(self, rng: random.Random, fact: Fact, q: str) -> Request:
        n = rng.choice((2, 3, 4))
        lead = rng.choice((f"Say it {COUNTS[n]} times:", f"Answer {COUNTS[n]} times over:"))
        checks: list[Check] = [{"kind": "repeats", "word": fact[2], "n": n}, _count(n)]
        return Request("times", f"{lead} {q}", " ".join([fact[2]] * n), checks)

    def _echo(self, rng: random.Random, fact: Fact, q: str) -> Request:
        n, x = rng.choice((2, 3)), fact[1]
        lead = rng.choice((f"Say yes and then {COUNTS[n]} times {x}.", f"Yes, then the word {x} {COUNTS[n]} times."))
        checks: list[Check] = [
            {"kind": "starts_with", "text": "Yes"},
            {"kind": "repeats", "word": x, "n": n},
            _count(n + 1),
        ]
        return Request("echo", lead, " ".join(["Yes", *[x] * n]), checks)

    def _begin(self, rng: random.Random, fact: Fact, q: str) -> Request:
        word = rng.choice(("Well", "Sure", "Friend"))
        lead = rng.choice((f"Begin with {word}:", f"Start with the word {word}:"))
        checks: list[Check] = [
            {"kind": "starts_with", "text": word},
            {"kind": "includes", "words": [fact[2]]},
            _count(4),
        ]
        return Request("begin", f"{lead} {q}", f"{word}, it is {fact[2]}.", checks)

    def _end(self, rng: random.Random, fact: Fact, q: str) -> Request:
        word = rng.choice(("over", "thanks", "bye"))
        lead = rng.choice((f"End with {word}:", f"Finish with the word {word}:"))
        checks: list[Check] = [
            {"kind": "ends_with", "text": f"{word}."},
            {"kind": "includes", "words": [fact[2]]},
            _count(4),
        ]
        return Request("end", f"{lead} {q}", f"It is {fact[2]}, {word}.", checks)

    def _choose(self, rng: random.Random, fact: Fact, q: str) -> Request:
        options = [fact[2], rng.choice([v for v in self.values[fact[0]] if v != fact[2]])]
        rng.shuffle(options)
        lead = rng.choice(("Choose {} or {}:", "Pick one, {} or {}:")).format(*options)
        return Request("choose", f"{lead} {q}", fact[2], [{"kind": "equals", "text": fact[2]}])

    def _no_name(self, rng: random.Random, fact: Fact, q: str) -> Request:
        lead = rng.choice(("Without the name:", "Leave out the name:"))
        checks: list[Check] = [
            {"kind": "excludes", "words": [fact[1]]},
            {"kind": "includes", "words": [fact[2]]},
            _count(3),
        ]
        return Request("no-name", f"{lead} {q}", f"It is {fact[2]}.", checks)

    def _count(self, rng: random.Random, fact: Fact, q: str) -> Request:
        n = rng.choice((2, 4, 5))
        answer = {2: "Just {}.", 4: "The answer is {}.", 5: "I say it is {}."}[n].format(fact[2])
        lead = rng.choice((f"In {COUNTS[n]} words:", f"Use exactly {COUNTS[n]} words:"))
        return Request("count", f"{lead} {q}", answer, [_count(n), {"kind": "includes", "words": [fact[2]]}])


def _count(n: int) -> Check:
    return {"kind": "word_count", "n": n}


def _only(word: str) -> list[Check]:
    return [_count(1), {"kind": "includes", "words": [word]}]


class ChatTexts:
    """Fine-tuning chats about `seen` and `chat` words: instructions, questions, small talk."""

    def __init__(self, words: Words, request_share: float, fact_share: float) -> None:
        """Collect facts; the shares say how many instructions, and how many other chats, are about `chat` words."""
        self.request_share, self.fact_share = request_share, fact_share
        groups = (["seen"], words.groups("chat"))
        self.requests = [Instructions(words, g) for g in groups]
        self.facts = [facts(words, g) for g in groups]

    def documents(self, rng: random.Random, mix: dict[str, float]) -> Iterator[Document]:
        """Yield chats endlessly; `mix` weighs `request`, `question`, `short` (a bare answer), `tell` (prose)."""
        kinds, weights = list(mix), list(mix.values())
        while True:
            kind = rng.choices(kinds, weights)[0]
            which = int(rng.random() < (self.request_share if kind == "request" else self.fact_share))
            if kind == "request":
                request = self.requests[which].make(rng, rng.choice(Instructions.KINDS))
                yield chat(request.instruction, request.answer)
                continue
            known = self.facts[which]
            relation, x, v = rng.choice(known[rng.choice(list(known))])
            if kind == "tell":
                more = [PROSE[relation][i].format(x=x, v=v) for i in rng.sample(range(4), 2)]
                yield chat(rng.choice((f"Tell me of {x}.", f"What of {x}?")), " ".join(more))
            else:
                question = capital(rng.choice(QUESTIONS[relation])).format(x=x)
                brief = f"It is {v}." if relation == "opposite" else v
                yield chat(question, f"The {relation} of {x} is {v}." if kind == "question" else brief)
