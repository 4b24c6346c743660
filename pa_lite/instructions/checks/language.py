"""Check the language of a response by its script and by common function words. Pure Python on strings.

This is a heuristic, not a trained detector: the letters must be of the language's script; among languages that share a
script, function words of the required one must be at least as frequent as those of any other. It is made for sentences:
a response of a few words without any function word counts as another language.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter

from pa_lite.instructions.checks.text import Check, CheckTypes

_SHARE = 0.8  # of letters that must be of the language's script; names and terms may be of another

# language (ISO 639-1) -> (its script, as in Unicode's character names; words that are frequent only in this language)
LANGUAGES: dict[str, tuple[str, str]] = {
    "en": (
        "LATIN",
        "the and of to is that it was for on are with as at this an be he his they have has from or by you not but",
    ),
    "es": ("LATIN", "el la los las de del que y en un una por con para es se su lo como más pero no al este muy"),
    "pt": ("LATIN", "o a os as de do da dos das que e em um uma por com para é não se ao como mais mas no na muito"),
    "fr": ("LATIN", "le la les de des du que et en un une pour avec est dans qui sur il au ce ne pas plus sont par"),
    "it": ("LATIN", "il lo la i gli le di del della che e in un una per con è si non al come più ma nel sono anche"),
    "de": ("LATIN", "der die das und ist in ein eine zu den mit von nicht es auf für dem im sich auch als aber werden"),
    "nl": ("LATIN", "de het een en van is in te dat op met voor niet zijn er aan ook als om door naar maar worden bij"),
    "sv": ("LATIN", "och att det som en på är av för med den till inte ett om de har jag var från så kan men eller"),
    "pl": ("LATIN", "i w na z do się nie to jest że o jak ale po co od za przez są dla oraz czy tak być który"),
    "fi": ("LATIN", "ja on ei että se hän oli ovat mutta kun myös tai niin kuin ole joka jos sen sitä ne voi olla"),
    "vi": ("LATIN", "và của là có không một những được cho các trong người với để này đã khi từ như rất đó tôi"),
    "sw": ("LATIN", "na ya wa ni kwa katika la za kama hii hiyo si cha yake sana pia lakini kwamba ili watu"),
    "ru": ("CYRILLIC", "и в не на что с это как по но из к у за от для же его все так или был есть мы она они"),
    "uk": ("CYRILLIC", "і в не на що з це як та до але у за від для його є або ми вона вони також дуже який бути"),
    "bg": ("CYRILLIC", "и в не на че с това как по но от за да се е са до му или ще ние тя те също който много"),
    "ar": ("ARABIC", "في من على إلى أن هذا التي الذي هو هي كان مع عن ما لا أو هذه كما بين بعد قد كل ذلك"),
    "fa": ("ARABIC", "و در به از که این است را با برای آن یک می تا هم بر شود او ما بود شده دارد های"),
    "ur": ("ARABIC", "کے میں ہے کی کا اور سے کو یہ ہیں پر نے اس کہ ایک بھی نہیں جو تھا ہو گیا کر وہ تک"),
    "hi": ("DEVANAGARI", "है के में की का और से को यह हैं पर ने इस कि एक भी नहीं जो था हो गया कर वह लिए"),
    "mr": ("DEVANAGARI", "आहे आणि या हे ते की नाही आहेत होते मध्ये एक तो ही पण होता त्या व साठी म्हणून असे"),
    "ne": ("DEVANAGARI", "छ र को मा हो यो छन् लाई पनि एक गर्न भने हुन्छ तर थियो बाट ले छैन यस हुन् गर्ने"),
    "bn": ("BENGALI", ""),
    "el": ("GREEK", ""),
    "gu": ("GUJARATI", ""),
    "he": ("HEBREW", ""),
    "ja": ("KANA", ""),
    "kn": ("KANNADA", ""),
    "ko": ("HANGUL", ""),
    "ml": ("MALAYALAM", ""),
    "pa": ("GURMUKHI", ""),
    "ta": ("TAMIL", ""),
    "te": ("TELUGU", ""),
    "th": ("THAI", ""),
    "zh": ("CJK", ""),
}
_SCRIPTS = {"HIRAGANA": "KANA", "KATAKANA": "KANA", "KATAKANA-HIRAGANA": "KANA"}


def base_code(language: str) -> str:
    """Return the language part of a code: `zh` of `zh-cn`."""
    return re.split("[-_]", language.lower())[0]


@functools.lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    first = unicodedata.name(letter, "").split(" ")[0]
    return _SCRIPTS.get(first, first)


@functools.cache
def _function_words(code: str) -> frozenset[str]:
    return frozenset(LANGUAGES[code][1].split())


def scripts(text: str) -> Counter[str]:
    """Count the letters of each script in a text; hiragana and katakana are one."""
    return Counter(_script(c) for c in text if c.isalpha())


def written_in(text: str, code: str) -> bool:
    """Return whether a text is in the language, by the rules above. Raises KeyError for an unknown language."""
    script = LANGUAGES[code][0]
    letters = scripts(text)
    # Japanese mixes kana with Chinese characters, Chinese never uses kana
    own = letters[script] + (letters["CJK"] if script == "KANA" and letters["KANA"] else 0)
    if not letters or own < _SHARE * letters.total() or (script == "CJK" and letters["KANA"]):
        return False
    rivals = [other for other, (its, _) in LANGUAGES.items() if its == script]
    if len(rivals) == 1:
        return True
    # split at white space, not by \w: combining marks of Indic scripts are not \w
    have = Counter(w.strip(".,;:!?\"'()[]*«»“”।،؟") for w in text.lower().split())
    found = {other: sum(have[w] for w in _function_words(other)) for other in rivals}
    return found[code] > 0 and found[code] == max(found.values())


def _language(text: str, check: Check) -> bool:
    return written_in(text, base_code(check["code"]))


CHECK_TYPES: CheckTypes = {"language": (("code",), _language)}
