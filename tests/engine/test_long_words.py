"""Long words, long runs and many special tokens, for every pre-tokenizer that llama.cpp knows."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_lite.engine.deep_stack import DIRECT, with_deep_stack
from pa_lite.engine.model_vocabulary import ModelVocabulary
from pa_lite.engine.pre_tokenizers import MOST, WITHOUT_STACK, pre_tokenizer
from pa_lite.engine.special_tokens import SHORT, SpecialToken, SpecialTokens
from pa_lite.errors import TextError
from tests.support.bare_vocabularies import PRE_TOKENIZERS, direct_ids, load_vocabulary

# words of each kind that patterns distinguish, and separators
_UNITS = (
    "a", "A", "aA", "\u00e9", "\u4e16", "7", "!", "'s", "$", "\n", " ", "a1", "e\u0301", "\u00a0", "\U0001f600",
    "ab ", "\u0e01",
)  # fmt: skip
_SPECIAL = ("<|x|>", "<|y|>", "<mask>", "  ", "\n\n")

_TOKENIZE = """
import json, os, sys, threading, traceback
from tests.support.bare_vocabularies import load_vocabulary
threading.excepthook = lambda e: (traceback.print_exception(e.exc_value), os._exit(1))
units = json.loads(sys.argv[2])
def check(model, pre, units, n):
    for unit in units:
        text = unit * (n // len(unit))
        if pre == "whitespace":
            text = text.replace(" ", "a").replace("\\n", "a").replace("\\u00a0", "a")
        got = b"".join(map(model.piece, model.tokenize(text, add_special=False))).decode()
        assert got == text, (pre, unit)
for pre in json.loads(sys.argv[1]):
    model = load_vocabulary(pre)
    check(model, pre, units[:3], 3000 if pre in ("superbpe", "deepseek-llm") else 26_000)
    threading.stack_size(256 * 1024)
    thread = threading.Thread(target=check, args=(model, pre, units, 3000))
    thread.start()
    thread.join()
    print(pre, flush=True)
"""


@pytest.fixture(scope="module")
def vocabularies() -> dict[str, ModelVocabulary]:
    return {pre: load_vocabulary(pre) for pre in PRE_TOKENIZERS}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("share", range(4))
def test_every_pre_tokenizer_takes_long_words_in_any_thread(share: int) -> None:
    pres = [pre for pre in PRE_TOKENIZERS if pre not in WITHOUT_STACK][share::4]
    command = [sys.executable, "-c", _TOKENIZE, json.dumps(pres), json.dumps(_UNITS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert (done.returncode, done.stdout.split()) == (0, pres), done.stderr[-2000:]


def test_pre_tokenizers_without_recursion_take_long_words_on_a_small_stack(
    vocabularies: dict[str, ModelVocabulary],
) -> None:
    """A word of 2,400 characters would take 0.8 to 1.6 MB of stack in `std::regex`; this thread has 512 KB."""
    failures = []

    def check() -> None:
        for pre in sorted(WITHOUT_STACK):
            model = vocabularies[pre]
            for unit in _UNITS:
                text = unit * (2400 // len(unit))
                if b"".join(map(model.piece, model.tokenize(text, add_special=False))).decode() != text:
                    failures.append((pre, unit))

    before = threading.stack_size(1 << 19)
    thread = threading.Thread(target=check)
    thread.start()
    threading.stack_size(before)
    thread.join()
    assert not failures


def test_every_pre_tokenizer_of_this_build_loads(vocabularies: dict[str, ModelVocabulary]) -> None:
    assert len(vocabularies) == 91
    assert set(vocabularies) > WITHOUT_STACK
    with pytest.raises(AssertionError, match="no-such"):
        load_vocabulary("no-such")


_TEXTS = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.tuples(st.sampled_from((*_UNITS, *_SPECIAL)), st.integers(1, 120)).map(lambda pair: pair[0] * pair[1]),
    ),
    max_size=8,
).map("".join)


@settings(max_examples=20, deadline=None)
@given(text=_TEXTS, add_special=st.booleans(), parse_special=st.booleans())
def test_ids_are_those_of_llama_cpp_for_every_pre_tokenizer(
    vocabularies: dict[str, ModelVocabulary], text: str, add_special: bool, parse_special: bool
) -> None:
    text = text.encode("utf-8", "ignore").decode()
    for pre, model in vocabularies.items():
        assert model.text_fault(text, parse_special) is None, pre
        assert model.tokenize(text, add_special, parse_special) == direct_ids(
            model, text, add_special, parse_special
        ), pre
        assert model.text_fault(text * 3, parse_special) is None, pre


@pytest.mark.parametrize(
    ("pre", "kind"), [("gpt-2", "gpt2"), ("gpt-2", "llama"), ("gpt-2", "strips"), ("jina-v2-de", "gpt2")]
)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_ids_with_thousands_of_special_tokens_are_those_of_llama_cpp(pre: str, kind: str, data: st.DataObject) -> None:
    model = load_vocabulary(pre, kind)
    words = (*_SPECIAL, "b", " ", "\n", "<|", "|>", "aa", "\u4e16", "\t")
    chosen = data.draw(
        st.lists(st.sampled_from(words), min_size=3, max_size=60).filter(lambda w: set(w) & set(_SPECIAL))
    )
    text = "".join(chosen) * (9000 // len(chosen))
    for add_special in (False, True):
        for parse_special in (False, True):
            expected = direct_ids(model, text, add_special, parse_special)
            assert model.tokenize(text, add_special, parse_special) == expected
    parts = model._special_tokens[True].cut(text)
    assert parts != [text] or sum(text.count(word) for word in _SPECIAL) <= 2000


def test_special_tokens_take_linear_time() -> None:
    model = load_vocabulary("gpt-2")
    text = "<|x|>b" * 50_000  # llama.cpp takes 40 s
    start = time.process_time()
    ids = model.tokenize(text, add_special=False, parse_special=True)
    assert time.process_time() - start < 10
    assert len(ids) == 100_000
    assert set(ids[::2]) == {model.tokenize("<|x|>", False, True)[0]}


def test_overlapping_special_tokens_of_one_length_are_limited() -> None:
    tokens = SpecialTokens([SpecialToken(5, "ab"), SpecialToken(6, "ba")])
    assert tokens.cut("ab" * 5000) == ["ab" * 5000]  # llama.cpp does not define which of the two it finds first
    with pytest.raises(TextError, match=r"has up to 59999 overlapping special tokens"):
        tokens.cut("ab" * 30_000)
    alone = SpecialTokens([SpecialToken(5, "ab"), SpecialToken(6, "cd")])
    assert alone.cut("abcdx" * 5000) == [5, 6, "x"] * 5000
    assert alone.cut("ab" * (SHORT // 2)) == ["ab" * (SHORT // 2)]


def test_white_space_that_special_tokens_strip_is_left_out() -> None:
    tokens = SpecialTokens([SpecialToken(1, "<m>", strips_left=True), SpecialToken(2, "</m>", strips_right=True)])
    assert tokens.cut("a \n<m> b</m> \t c" * 2000) == ["a", 1, " b", 2, *(["ca", 1, " b", 2] * 1999), "c"]


@pytest.mark.parametrize(
    ("pre", "text", "message"),
    [
        ("gpt-4o", "ab " + "a" * (MOST + 1), f"has a word of {MOST + 1} characters at character"),
        ("exaone-moe", "ab " * MOST, "has a word of 600000 characters"),
        ("superbpe", "x" + "7" * 8000, "has a run of 8000 digits"),
        ("superbpe", ("7" * 3000 + " ") * 20, "has 20 runs of digits, of up to 3000 characters"),
        ("deepseek-llm", "a" + " " * 4000 + "7", "has a run of 4000 white space"),
    ],
)  # fmt: skip
def test_texts_beyond_a_limit_are_refused(pre: str, text: str, message: str) -> None:
    model = load_vocabulary(pre)
    fault = model.text_fault(text)
    assert fault is not None
    assert fault.startswith(message)
    with pytest.raises(TextError, match=f"^rows.jsonl, row 3: the prompt {message}"):
        model.check_text(text, "rows.jsonl, row 3: the prompt")
    with pytest.raises(TextError, match=f"a text {message}"):
        model.tokenize(text)


def test_texts_at_a_limit_are_accepted() -> None:
    for pre, text in (
        ("gpt-4o", "a" * (MOST - 1) + " b"),
        ("superbpe", "7" * 4000),
        ("superbpe", "7" * 7 + "," * 90_000),
    ):
        assert load_vocabulary(pre).text_fault(text) is None
    assert load_vocabulary("llama-bpe").text_fault("a" * (3 * MOST)) is None


def test_white_space_belongs_to_the_word_before_it() -> None:
    stretches = pre_tokenizer("gpt2", "tekken")
    assert stretches.longest_stretch("ab  cde\n\n\u00a0 f") == (4, 7)
    assert pre_tokenizer("gpt2", "exaone-moe").longest_stretch("ab cd\nefg hij kl, m") == (6, 10)


def test_the_need_for_stack_is_known_by_pre_tokenizer() -> None:
    assert not pre_tokenizer("llama", "").needs_stack
    assert not pre_tokenizer("gemma4", "tekken").needs_stack  # llama.cpp always uses gemma4's pre-tokenizer
    assert pre_tokenizer("gpt2", "").needs_stack  # llama.cpp's default
    assert pre_tokenizer("hybriddna", "gpt-4o").needs_stack


def test_a_call_on_a_deep_stack_returns_and_raises_as_usual() -> None:
    assert with_deep_stack(10, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        with_deep_stack(DIRECT, lambda: 1 // 0)
    before = threading.stack_size()
    with pytest.raises(TextError, match=r"needs \d+ MB of stack"):
        with_deep_stack(1 << 46, lambda: 7)
    assert threading.stack_size() == before
