from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_lite.errors import InputError
from pa_lite.instructions.checks import CHECK_TYPES, Check, checkable, followed, loose_variants, passes, validate, words
from pa_lite.instructions.checks.language import LANGUAGES
from tests.support.builder import build

RIGHT_AND_WRONG: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"kind": "uppercase"}, ["BIRD", "A B!", "ÄRGER"], ["Bird", "123", "BIRDs"]),
    ({"kind": "lowercase"}, ["bird", "a 1."], ["Bird", "..."]),
    ({"kind": "word_count", "n": 2}, ["a bird", "well-known bird.", "don't go"], ["bird", "one two three"]),
    ({"kind": "word_count", "n": 2, "relation": "at_least"}, ["a b", "a b c"], ["a"]),
    ({"kind": "word_count", "n": 2, "relation": "at_most"}, ["a", "a b"], ["a b c"]),
    ({"kind": "includes", "words": ["bird", "Fish"]}, ["fish and BIRD"], ["birds, fish", "fish"]),
    ({"kind": "excludes", "words": ["bird"]}, ["birds", "fish"], ["a Bird."]),
    ({"kind": "repeats", "word": "hum", "n": 3}, ["hum hum HUM", "hum, a hum, hum!"], ["hum hum", "hum hum hum hum"]),
    ({"kind": "starts_with", "text": "So,"}, ["So, a bird"], ["so, a bird", "And So,"]),
    ({"kind": "ends_with", "text": "done."}, ["It is done.", " done.  "], ["done. ok"]),
    ({"kind": "equals", "text": "a bird"}, ["a bird", " a bird\n"], ["A bird", "a bird."]),
    ({"kind": "quoted"}, ['"bird"', '"a b"'], ["bird", '"bird', '""', '" "', '"a" or "b"', '"']),
    ({"kind": "bulleted", "n": 2}, ["- a\n- b", "* a\n\n* b"], ["- a", "- a\nb", "- a\n- b\n- c", "-\n- b"]),
    ({"kind": "numbered", "n": 2}, ["1. a\n2. b", "1) a\n2) b"], ["1. a\n3. b", "1. a", "1. a\n2."]),
    ({"kind": "chooses", "options": ["red", "blue"]}, ["red", "Blue.", '"red"'], ["green", "red or blue"]),
    ({"kind": "word_count", "n": 2, "joined": False}, ["well-known", "don't", "a b"], ["bird", "well-known bird"]),
    ({"kind": "word_count", "n": 2, "relation": "less_than"}, ["a", "well-known"], ["a b"]),
    (
        {"kind": "sentence_count", "n": 2},
        [
            "One. Two!",
            "Dr. No came. He left",
            "It cost 3.50. Cheap?",
            '"Go." She went.',
            "Is it, e.g. red? No.",
            "1. A list.\n2. Of two.",
            "A head\n\nbelongs to it. Next.",
            "Wait... no, yes. So",
            "是。不是。",
            "J. Smith ran. Far.",
        ],
        ["One.", "One. Two. Three.", "one, two", "See e.g. this", "Ah! Oh! Uh!", "..."],
    ),
    ({"kind": "paragraph_count", "n": 2}, ["a\n\nb", "a\nb\n \n\nc"], ["a\nb", "a\n\nb\n\nc", "a"]),
    ({"kind": "line_count", "n": 2}, ["a\nb", "a\n\nb"], ["a", "a\nb\nc"]),
    ({"kind": "letter_count", "letter": "k", "n": 2}, ["kick", "K, k"], ["k", "kkk", "none"]),
    ({"kind": "letter_count", "letter": "#", "n": 2, "relation": "at_least"}, ["#a #b", "###"], ["#"]),
    (
        {"kind": "capital_words", "n": 2},
        ["A BIRD sings", "X-RAY, and TNT!"],
        ["BIRD", "P.S.", "A B C", "Bird Song", "12 34"],
    ),
    ({"kind": "capitalised"}, ["A Bird", "3 Birds, Well-known"], ["A bird", "12 34"]),
    ({"kind": "repeats", "word": "hum", "n": 2, "relation": "at_least"}, ["hum hum", "Hum a hum hum"], ["hum hums"]),
    ({"kind": "contains", "texts": ["by and large", "Bird"]}, ["By and large, birds"], ["by and, large bird", "bird"]),
    ({"kind": "contains", "texts": ["Yes.", "No."], "any": True}, ["It is: no.", "Yes. No."], ["Yes", "maybe"]),
    ({"kind": "text_count", "text": "so so", "n": 2}, ["so so, So so", "so so so so"], ["so so", "so so so"]),
    (
        {"kind": "lacks", "texts": ["by and large", "C++"]},
        ["by, and large", "C and birds"],
        ["By and large", "in C++."],
    ),
    ({"kind": "lacks", "texts": ["bird"]}, ["birds", "ladybird"], ["a bird-house", "BIRD"]),
    ({"kind": "lacks_characters", "characters": ",;"}, ["a. b", "a، b"], ["a, b", "a; b"]),
    ({"kind": "closes_with", "text": " The End. "}, ["It is the end.", '"Now, THE END."'], ["the end", "the end. Bye"]),
    ({"kind": "wrapped", "left": '"', "right": '"'}, ['"a "b" c"', '"."'], ['"', '""', '" "', '"a', "'a'"]),
    ({"kind": "wrapped", "left": "[[", "right": "]]"}, ["[[a]]", " [[a\n\nb]] "], ["[[]]", "[a]", "[[a]].", "[[]"]),
    (
        {"kind": "echoes", "text": "Name a bird."},
        ["Name a bird. Owl", "NAME A BIRD.\n\nowl"],
        ["Name a bird.", "Owl", "Name a bird. !", "Sure: Name a bird. Owl"],
    ),
    ({"kind": "postscript", "marker": "P.S."}, ["a\nP.S. b", "a. p. s. b", "P.S. b"], ["a P.S.", "a PS b", "U.P.S. b"]),
    ({"kind": "postscript", "marker": "P.P.S"}, ["a\nP.P.S. b", "a\nP. P. S b"], ["a\nP.S. b", "a P.P.S."]),
    (
        {"kind": "paragraph_start", "n": 2, "nth": 2, "word": "bird"},
        ["a\n\nBird b", 'a\n\n"Bird" b', "a\n\n\n\nbird: b"],
        ["bird\n\na", "a\n\nbirds b", "a\n\nbird-house", "a\n\nbird\n\nc", "bird", "a\nbird"],
    ),
    (
        {"kind": "bullet_count", "n": 2},
        ["Sure:\n- a\n* b\nBye", "  - a\n\n- b"],
        ["- a", "- a\n- b\n- c", "-a\n-b", "---\n- a", "*a* b\n*c* d", "- \n- a"],
    ),
    (
        {"kind": "highlight_count", "n": 2},
        ["*a* and **b c**", "**a**\n*b*", "- *a*\n- *b*", "***a*** *b*"],
        ["*a*", "** ** *a*", "* a\n* b", "*a\nb* c*", "*a* *b* *c*", "2 * 3 * 4"],
    ),
    (
        {"kind": "placeholder_count", "n": 2},
        ["[a] and [b c]", "[[a]] [b](c)"],
        ["[a]", "[] [ ]", "[a\nb] [c]", "[a][b][c]"],
    ),
    ({"kind": "title"}, ["<<A bird>>\nb", "b <<c>> <<>>"], ["<<>>", "<< >>", "<A bird>", "<<a\nb>>"]),
    (
        {"kind": "section_count", "n": 2, "header": "Part"},
        ["Part 1\na\nPart 2\nb", "## PART 1: a\n**part 2** b", "a\nPart 1 b\nPart 9"],
        ["Part 1\na", "Part one\nPart two", "In Part 1 and Part 2", "Part 1\nPart 2\nPart 3", "Parts 1\nPart 2"],
    ),
    (
        {"kind": "section_count", "n": 2, "header": "PART", "same_case": True},
        ["PART 1\na\n**PART 2**\nb"],
        ["PART 1\na\nPart 2\nb"],
    ),
    (
        {"kind": "divided", "n": 2, "divider": "***"},
        ["a\n***\nb", "a***b", "***\na\n***\nb\n***", "a *** a"],
        ["a", "a\n***", "a***b***c", "a******b", "***"],
    ),
    ({"kind": "divided", "n": 2, "divider": "******", "distinct": True}, ["a ****** b"], ["a ****** a", "a *** b"]),
    (
        {"kind": "json"},
        ['{"a": 1}', "[1]", '```json\n{"a": 1}\n```', "```\n3\n```"],
        ["{a: 1}", 'x {"a": 1}', "```{```"],
    ),
    (
        {"kind": "json", "keys": ["a", "b"]},
        ['{"a": 1, "b": null}', '{"c": 0, "b": [], "a": {}}'],
        ['{"a": 1}', '["a", "b"]', '{"c": {"a": 1, "b": 2}}', "3"],
    ),
    (
        {"kind": "language", "code": "de"},
        ["Das ist ein Vogel.", "DER VOGEL IST NICHT HIER"],
        ["This is a bird.", "Vogel", "C'est un oiseau.", "Это птица и не рыба", "123"],
    ),
    (
        {"kind": "language", "code": "en"},
        ["This is the bird."],
        ["El pájaro es de la casa.", "Det är en fågel och den."],
    ),
    ({"kind": "language", "code": "ru"}, ["Это не птица, и он не рыба."], ["Це не птах, і він є риба.", "Eto ptitsa"]),
    ({"kind": "language", "code": "hi"}, ["यह एक पक्षी है।"], ["हा एक पक्षी आहे आणि", "bird"]),
    ({"kind": "language", "code": "ja"}, ["これは鳥です。", "カナ"], ["这是一只鸟", "이것은 새"]),
    ({"kind": "language", "code": "zh-cn"}, ["这是一只鸟。"], ["これは鳥です。", "a bird"]),
    (
        {"kind": "language", "code": "ko"},
        ["이것은 새입니다.", "이것은 매우 좋은 PC 입니다"],
        ["이것은 매우 좋은 USB 입니다", "鳥"],
    ),
    ({"kind": "language", "code": "ur"}, ["یہ ایک پرندہ ہے"], ["هذا هو طائر في البيت", "این یک پرنده است"]),
]


KIND_IDS = [f"{check['kind']}-{i}" for i, (check, _, _) in enumerate(RIGHT_AND_WRONG)]


@pytest.mark.parametrize(("check", "right", "wrong"), RIGHT_AND_WRONG, ids=KIND_IDS)
def test_each_check_type(check: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    validate(check, "here")
    for text in right:
        assert followed(text, [check]), text
    for text in wrong:
        assert not followed(text, [check]), text


def test_every_check_type_is_tested() -> None:
    assert {check["kind"] for check, _, _ in RIGHT_AND_WRONG} == set(CHECK_TYPES)


def test_all_checks_must_pass_and_an_empty_response_fails() -> None:
    checks: list[dict[str, Any]] = [{"kind": "uppercase"}, {"kind": "word_count", "n": 1}]
    assert followed("BIRD", checks)
    assert not followed("A BIRD", checks)
    assert not followed(" \n", [{"kind": "excludes", "words": ["x"]}])
    assert not followed("", [])


WORD = st.from_regex(r"[b-hj-y]{3,7}", fullmatch=True)
TEXT = st.lists(WORD, min_size=2, max_size=4, unique=True).map(" ".join)
N = st.integers(1, 6)
MANY = st.integers(2, 6)


def counted(kind: str, n: st.SearchStrategy[int] = N, **more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    relation = st.sampled_from(["exactly", "at_least", "at_most", "less_than"])
    return st.fixed_dictionaries({"kind": st.just(kind), "n": n, "relation": relation, **more})


def fields(kind: str, **more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({"kind": st.just(kind), **more})


def count_off(unit: Callable[[Check], str]) -> Callable[[str, Check], str]:
    """Break a count: add one unit, or remove all where at least n are required."""

    def breaker(text: str, check: Check) -> str:
        return "?" if check.get("relation") == "at_least" else text + unit(check) * (check["n"] + 1)

    return breaker


def without_last_line(text: str, check: Check) -> str:
    return text.rpartition("\n")[0]


# check type -> (checks, the smallest change that makes a passing response fail)
BREAKERS: dict[str, tuple[st.SearchStrategy[Any], Callable[[str, Check], str]]] = {
    "word_count": (counted("word_count", st.integers(4, 60)), count_off(lambda c: " more")),
    "sentence_count": (counted("sentence_count", MANY), lambda t, c: "a b c" if c["relation"] == "at_least" else
                       t + " It is so." * (c["n"] + 1)),
    "paragraph_count": (counted("paragraph_count", MANY), count_off(lambda c: "\n\nmore")),
    "line_count": (counted("line_count", MANY), count_off(lambda c: "\nmore")),
    "letter_count": (counted("letter_count", letter=st.sampled_from("zxq")), count_off(lambda c: c["letter"])),
    "capital_words": (counted("capital_words"), count_off(lambda c: " MORE")),
    "uppercase": (fields("uppercase"), lambda t, c: t + "a"),
    "lowercase": (fields("lowercase"), lambda t, c: t + "A"),
    "capitalised": (fields("capitalised"), lambda t, c: t + " a"),
    "includes": (fields("includes", words=st.lists(WORD, min_size=1, max_size=3)),
                 lambda t, c: re.sub(rf"\b{c['words'][0]}\b", c["words"][0] + "i", t)),
    "excludes": (fields("excludes", words=st.lists(WORD, min_size=1)), lambda t, c: f"{t} {c['words'][-1]}"),
    "repeats": (counted("repeats", word=WORD), count_off(lambda c: f" {c['word']}")),
    "contains": (fields("contains", texts=st.lists(TEXT, min_size=1, max_size=2)),
                 lambda t, c: t.replace(c["texts"][0], c["texts"][0].replace(" ", " i "))),
    "text_count": (counted("text_count", text=TEXT), count_off(lambda c: f" {c['text']}")),
    "lacks": (fields("lacks", texts=st.lists(TEXT, min_size=1)), lambda t, c: f"{t} {c['texts'][-1].upper()}"),
    "lacks_characters": (fields("lacks_characters", characters=st.sampled_from([",", ";!"])),
                         lambda t, c: t + c["characters"][-1]),
    "chooses": (fields("chooses", options=st.lists(WORD, min_size=2, unique=True)),
                lambda t, c: " or ".join(c["options"])),
    "starts_with": (fields("starts_with", text=TEXT), lambda t, c: t[0].upper() + t[1:]),
    "ends_with": (fields("ends_with", text=TEXT), lambda t, c: t + "."),
    "closes_with": (fields("closes_with", text=TEXT), lambda t, c: t + " more"),
    "equals": (fields("equals", text=TEXT), lambda t, c: t + "."),
    "quoted": (fields("quoted"), lambda t, c: t[:-1]),
    "wrapped": (fields("wrapped", left=st.sampled_from(["((", '"']), right=st.sampled_from(["))", '"'])),
                lambda t, c: t[1:]),
    "echoes": (fields("echoes", text=TEXT), lambda t, c: "A" + t),
    "postscript": (fields("postscript", marker=st.sampled_from(["P.S.", "P.P.S."])),
                   lambda t, c: t[: t.index(c["marker"]) + len(c["marker"])]),
    "paragraph_start": (st.builds(lambda n, nth, w: {"kind": "paragraph_start", "n": n, "nth": min(n, nth), "word": w},
                                  MANY, N, WORD),
                        lambda t, c: re.sub(rf"(^|\n\n){c['word']} ", rf"\1so {c['word']} ", t)),
    "bulleted": (fields("bulleted", n=MANY), without_last_line),
    "numbered": (fields("numbered", n=MANY), lambda t, c: t.replace("2.", "3.", 1)),
    "bullet_count": (counted("bullet_count", MANY), count_off(lambda c: "\n- more")),
    "section_count": (counted("section_count", MANY, header=st.just("Part")), count_off(lambda c: "\nPart 7\nmore")),
    "divided": (fields("divided", n=MANY, divider=st.sampled_from(["***", "~~~~~~"])),
                lambda t, c: t.replace(c["divider"], "", 1)),
    "highlight_count": (counted("highlight_count"), count_off(lambda c: " *more*")),
    "placeholder_count": (counted("placeholder_count"), count_off(lambda c: " [more]")),
    "title": (fields("title"), lambda t, c: t.replace("<<", "<")),
    "json": (fields("json", keys=st.lists(WORD, min_size=1, unique=True)),
             lambda t, c: t.replace(f'"{c["keys"][-1]}":', '"other":')),
    "language": (fields("language", code=st.sampled_from(sorted(LANGUAGES))),
                 lambda t, c: t + " ωραία λόγια" * 9 if c["code"] != "el" else t + " fine words" * 9),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHECK_TYPES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_text_built_to_pass_passes_and_a_broken_one_fails(kind: str, data: st.DataObject) -> None:
    checks, breaker = BREAKERS[kind]
    check = data.draw(checks)
    validate(check, "here")
    text = build([check])
    assert followed(text, [check]), text
    broken = breaker(text, check)
    assert broken != text
    assert not followed(broken, [check]), broken


@given(st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=1, max_size=9))
def test_words_of_joined_words_are_the_words(drawn: list[str]) -> None:
    assert words(" ".join(drawn)) == drawn == words(", ".join(drawn) + ".")


@given(st.text(max_size=60))
def test_no_text_makes_a_rule_fail(text: str) -> None:
    for check, _, _ in RIGHT_AND_WRONG:
        assert isinstance(passes(text, check), bool)
        assert any(passes(v, check) for v in loose_variants(text)) >= passes(text, check)


def test_hostile_texts_take_little_time() -> None:
    for text in (
        "*" * 20000,
        "[" * 20000,
        "<<" * 10000,
        "p." * 10000,
        "a." * 10000,
        "A. " * 7000,
        "... " * 5000,
        "\n" * 20000 + "x",
        "- " * 9999,
    ):
        for check, _, _ in RIGHT_AND_WRONG:
            start = time.process_time()
            passes(text, check)
            assert time.process_time() - start < 2, (check, text[:9])


def test_unknown_languages_cannot_be_checked() -> None:
    assert checkable({"kind": "language", "code": "pt-br"})
    assert not checkable({"kind": "language", "code": "tlh"})
    assert checkable({"kind": "uppercase"})


@pytest.mark.parametrize(
    ("check", "told"),
    [
        ({"kind": "upercase"}, "unknown check kind 'upercase'. Did you mean uppercase"),
        ({}, "unknown check kind None"),
        ({"kind": "word_count"}, "has no 'n'"),
        ({"kind": "uppercase", "n": 1}, "unknown key 'n'"),
        ({"kind": "word_count", "n": "3"}, "'n' must be an integer from 0, not '3'"),
        ({"kind": "word_count", "n": True}, "'n' must be an integer from 0, not True"),
        ({"kind": "word_count", "n": 1, "relation": ["exactly"]}, "'relation' must be one of exactly"),
        ({"kind": "includes", "words": "bird"}, "'words' must be a list of strings that are not blank, not 'bird'"),
        ({"kind": "lacks", "texts": []}, "'texts' must be a list of strings that are not blank, not \\[\\]"),
        ({"kind": "letter_count", "letter": "ab", "n": 1}, "'letter' must be a single letter, not 'ab'"),
        ({"kind": "contains", "texts": ["a"], "any": 1}, "'any' must be true or false, not 1"),
        ({"kind": "starts_with", "text": " "}, "'text' must be a string that is not empty, not ' '"),
        ({"kind": "paragraph_start", "n": 2, "nth": 0, "word": "a"}, "'nth' must be an integer from 1, not 0"),
        ({"kind": "word_count", "n": 1, "relation": "about"}, "'relation' must be one of"),
    ],
)
def test_bad_checks(check: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=f"row 3: .*{told}"):
        validate(check, "row 3")
