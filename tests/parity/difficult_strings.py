"""Texts that tokenizers are known to disagree on, generated from a seed: several kinds, and mixtures of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from unicodedata import ucd_3_2_0 as unicodedata  # the same in every Python

from tests.parity.vocabularies import LINES

Maker = Callable[[random.Random], str]
# scripts with capitals, without, right to left, with marks, without spaces, beyond the first plane
_RANGES = (
    (0x41, 0x7A), (0xC0, 0x24F), (0x370, 0x3FF), (0x400, 0x52F), (0x531, 0x587), (0x5D0, 0x5EA), (0x620, 0x64A),
    (0x710, 0x72F), (0x904, 0x939), (0x985, 0x9B9), (0xE01, 0xE4E), (0xF40, 0xF6C), (0x10A0, 0x10FF), (0x1200, 0x135A),
    (0x1780, 0x17D3), (0x1E00, 0x1EFF), (0x1F00, 0x1FFF), (0x2C00, 0x2C5F), (0x3041, 0x3096), (0x30A1, 0x30FA),
    (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xA640, 0xA69F), (0xFF10, 0xFF5A), (0x10330, 0x1034A), (0x10400, 0x1044F),
    (0x1D400, 0x1D7CB), (0x1E900, 0x1E943), (0x20000, 0x2A6DF),
)  # fmt: skip
_EMOJI = "😀😶🚀🦙❤☕✅👍👩👨👧🧑🏴🇩🇫🇯1#♂♀☠🌫💻🎨"
_JOINS = ("\u200d", "\ufe0f", "\u20e3", "🏽", "🏿", "\u200d\u2642\ufe0f")
_MARKS = "".join(map(chr, (*range(0x300, 0x345), 0x591, 0x64B, 0x651, 0x93C, 0x94D, 0xE31, 0xE48, 0x17D2, 0x20D0)))
_SPACES = (" ", " ", " ", "\n", "\n", "\t", "\r", "\r\n", "\v", "\f", "\u00a0", "\u2003", "\u3000", "\u200b",
           "\u2028", "\u0085", "\ufeff")  # fmt: skip
_CONTRACTIONS = ("'s", "'S", "'ll", "'Ll", "'re", "'RE", "'ve", "'d", "'m", "'t", "n't", "’s", "'ſ", "''", "'")
_DIGITS = "0123456789"
_OTHER_DIGITS = "٠١٢٣०१२三½²Ⅷ①𝟘𝟙０９߀"
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡§«»–—…„“”‹›、。「」！？¿₿€™←∞≠■"
_LOOK_ALIKES = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|end|>", "<s>", "</s>", "<unk>", "<pad>", "<bos>",
    "<eos>", "[INST]", "[/INST]", "<<SYS>>", "<start_of_turn>", "<end_of_turn>", "<|begin_of_text|>", "<0x0A>",
    "<0xZZ>", "▁", "▁the", "Ġ", "Ċ", "<|", "|>", "<unused1>", "[PAD3]", "<|user|>", "<|fim_prefix|>", "<think>",
    "<｜end▁of▁sentence｜>",
)  # fmt: skip
_CODE = (
    "for (int i = 0; i < n; ++i) {\n\t\tx[i] += y[i] * 2.5e-3f;\n}", "def f(x: int) -> str:\n    return f'{x!r:>8}'\n",
    "SELECT * FROM t WHERE a>=1 AND b<>'x';", "<a href=\"/x?y=1&z=%20\">&nbsp;</a>", "\\frac{a_1}{b^{2}} \\to \\infty",
    "#!/bin/sh\nset -e\n[ -f \"$1\" ] && rm -- \"$1\"\n", "let x: Vec<Option<&'a str>> = vec![None; 3];", "// --8<--\n",
    "{\"a\": [1, 2.0, null], \"b\": {\"c\": \"\\u00e9\\n\"}}", "i++;;j--;/**/", "0x1F_FF 1_000_000 1e-9 .5 5. 1.2.3",
)  # fmt: skip
_LINKS = (
    "https://user:pa55@example.com:8080/a/b-c?d=e&f=%C3%A9#g", "www.example.co.uk/~x", "name.last+tag@mail.example",
    "file:///C:/Dir%20x/y.tar.gz", "ftp://[::1]/", "@handle #tag #Größe", "doi:10.1000/182",
)  # fmt: skip
_CASES = ("CamelCaseHTTPServer", "iPhone", "McDonald's", "ÉcoleÉtude", "ПриветМир", "straßeÜber", "ǅungla", "İstanbul",
          "ΑλφαΒήτα", "DON'T", "SCREAMING_CASE", "snake_case", "ﬁne", "ŉ", "ᏣᎳᎩ", "ԱրևՀայ", "𐐔𐐯𐑅", "ⅧA")  # fmt: skip


def _some(rng: random.Random, items: Sequence[str], most: int) -> str:
    return "".join(rng.choice(items) for _ in range(rng.randint(1, most)))


def _letters(rng: random.Random) -> str:
    first, last = rng.choice(_RANGES)
    letters = (chr(rng.randint(first, last)) for _ in range(rng.randint(1, 8)))
    return "".join(c for c in letters if unicodedata.category(c) != "Cn")


def _decomposed(rng: random.Random) -> str:
    """Return letters with marks that canonical composition would join or reorder."""
    text = unicodedata.normalize("NFD", rng.choice("éäñôçǟṩậếÅйїㅎ한각が"))
    return text + _some(rng, _MARKS, 2) if rng.random() < 0.5 else text


def _emoji(rng: random.Random) -> str:
    return "".join(rng.choice(_EMOJI) + (rng.choice(_JOINS) if rng.random() < 0.6 else "") for _ in range(3))


def _any_character(rng: random.Random) -> str:
    while True:
        c = chr(rng.randrange(0x20, 0x31000))
        if unicodedata.category(c) not in ("Cs", "Cn"):
            return c


def _scrap(rng: random.Random) -> str:
    line = rng.choice(LINES)
    start = rng.randrange(len(line) + 1)
    return line[start : start + rng.randint(1, 24)]


def _controls(rng: random.Random) -> str:
    """Return C0 and C1 controls except NUL, which ends a string in C; private characters, tags, byte order marks."""
    return _some(rng, [chr(c) for c in (*range(1, 32), *range(127, 160), 0xE000, 0xF8FF, 0xE0061, 0x10FFFD, 0xFFFD)], 3)


MAKERS: dict[str, Maker] = {
    "letters": _letters,
    "capitals": lambda rng: rng.choice(_CASES) + (rng.choice(_CASES) if rng.random() < 0.3 else ""),
    "marks": _decomposed,
    "composed": lambda rng: unicodedata.normalize("NFC", _decomposed(rng)),
    "emoji": _emoji,
    "digits": lambda rng: _some(rng, _DIGITS, 9) if rng.random() < 0.6 else _some(rng, _DIGITS + _OTHER_DIGITS, 5),
    "spaces": lambda rng: rng.choice(_SPACES) * rng.randint(1, 5) if rng.random() < 0.5 else _some(rng, _SPACES, 5),
    "contractions": lambda rng: rng.choice(("", "I", "it", "L", "é", "x1", " ")) + rng.choice(_CONTRACTIONS),
    "punctuation": lambda rng: rng.choice(_PUNCTUATION) * rng.randint(1, 6) + _some(rng, _PUNCTUATION, 3),
    "look-alikes": lambda rng: rng.choice(_LOOK_ALIKES),
    "code": lambda rng: rng.choice(_CODE)[rng.randrange(5) :],
    "links": lambda rng: rng.choice(_LINKS)[rng.randrange(3) :],
    "controls": _controls,
    "anything": _any_character,
    "scraps": _scrap,
}


def difficult_strings(n: int, seed: int = 12) -> list[str]:
    """Return n different texts: an eighth of one kind each, the rest of two to eight pieces of any kind.

    They are the same for the same seed.
    """
    rng, kinds = random.Random(seed), list(MAKERS.values())
    texts: dict[str, None] = dict.fromkeys([*LINES, "\n".join(LINES), *_CODE, *_LINKS, *_CASES, *_LOOK_ALIKES])
    i = 0
    while len(texts) < n:
        if i % 8 == 0:
            text = kinds[i // 8 % len(kinds)](rng)
        else:
            parts = [rng.choice(kinds)(rng) for _ in range(rng.randint(2, 8))]
            text = rng.choice(("", "", " ")).join(parts)
        texts[text] = None
        i += 1
    return list(texts)[:n]
