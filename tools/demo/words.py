"""The words of the demo world: lists and their splits `seen`, `told` and `chat`. No torch here."""

from __future__ import annotations

import random
from dataclasses import dataclass

WORLD_SEED = 20251104

# group -> (words per class or per attribute cycle); every person group is a multiple of 8, so facts are balanced
PERSON_GROUPS = {"seen": 80, "told_dev": 48, "told_test": 96, "chat_dev": 24, "chat_test": 48}
NOUN_GROUPS = {"seen": 9, "told_dev": 4, "told_test": 8, "chat_dev": 2, "chat_test": 4}
PAIR_GROUPS = {"seen": 20, "told_dev": 8, "told_test": 16, "chat_dev": 4, "chat_test": 8}

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "town": ("Oslo", "Paris", "Rome", "Cuzco", "Cairo", "Delhi", "Kyoto", "Quito"),
    "job": ("baker", "doctor", "farmer", "painter", "sailor", "teacher", "lawyer", "tailor"),
    "pet": ("cat", "dog", "hen", "goat", "horse", "rabbit", "snake", "mouse"),
    "colour": ("red", "blue", "green", "white", "black", "pink", "brown", "yellow"),
}

NOUNS: dict[str, str] = {
    "bird": "robin eagle sparrow falcon pigeon raven parrot swan heron owl crow finch hawk magpie stork thrush wren "
    "gull goose duck pelican cuckoo lark dove turkey vulture kestrel",
    "fish": "salmon trout herring cod tuna carp pike perch eel shark sardine mackerel haddock halibut sole bass "
    "plaice anchovy sturgeon catfish barracuda minnow tench bream roach turbot guppy",
    "tree": "oak birch maple pine willow elm beech cedar poplar spruce larch fir yew hazel alder chestnut walnut "
    "cypress sycamore aspen rowan juniper linden hornbeam acacia baobab redwood",
    "tool": "hammer saw chisel wrench drill pliers rasp axe shovel rake spade hoe mallet sickle scythe crowbar "
    "trowel screwdriver vise clamp anvil file lathe sander hatchet pickaxe plane",
    "fruit": "apple pear plum cherry peach apricot banana lemon orange lime grape melon mango papaya fig date kiwi "
    "quince raspberry strawberry currant blueberry pineapple guava lychee pomegranate nectarine",
    "garment": "shirt coat jacket scarf glove sock hat cap skirt dress blouse sweater vest trousers jeans shorts belt "
    "cloak robe tunic apron mitten cardigan hoodie poncho kimono shawl",
    "drink": "water milk tea coffee juice wine beer cider lemonade cocoa soda whisky rum vodka gin brandy mead punch "
    "espresso latte cappuccino champagne sherry port tonic syrup smoothie",
    "vehicle": "car bus tram train truck van lorry taxi bicycle tractor boat ferry canoe yacht raft ship barge scooter "
    "sled wagon cart carriage jeep limousine kayak moped glider",
}

PAIRS = (
    "hot cold, big small, tall short, fast slow, young old, rich poor, happy sad, light dark, hard soft, wet dry, "
    "loud quiet, strong weak, thick thin, wide narrow, deep shallow, high low, early late, full empty, clean dirty, "
    "sharp blunt, brave timid, gentle cruel, polite rude, cheap costly, open shut, near far, good bad, true false, "
    "modern ancient, smooth rough, sweet bitter, calm stormy, awake asleep, alive dead, safe risky, easy complex, "
    "public private, guilty innocent, generous stingy, humble proud, lazy busy, wise foolish, tight loose, "
    "straight crooked, sober drunk, fresh stale, raw cooked, rare common, major minor, inner outer, north south, "
    "east west, summer winter, push pull, love hate, float sink"
)

_HEADS = "Ba Be Da Di Fa Go Ka Ke La Lo Ma Mi Na No Ra Ri Sa Su Ta To Va Zo"
_TAILS = "bi da do ga ki la li ma mo na ni ra ro sa ta ti vo za"
_NOT_NAMES = {"Mama", "Dada", "Lola", "Sara", "Nora", "Goda"}


@dataclass(frozen=True)
class Words:
    """All content words of the world, split into groups.

    `people` and `nouns` map a group to {word: {attribute: value}} and {word: class}; `pairs` maps a group to its
    pairs of opposites; `symbols` are made-up words without any fact, of which `held_keys` are never a key of a
    key-value text outside the evaluation.
    """

    people: dict[str, dict[str, dict[str, str]]]
    nouns: dict[str, dict[str, str]]
    pairs: dict[str, list[tuple[str, str]]]
    symbols: tuple[str, ...]
    held_keys: tuple[str, ...]

    def groups(self, *prefixes: str) -> list[str]:
        """Return the names of the groups that start with one of the prefixes."""
        return [g for g in PERSON_GROUPS if g.startswith(prefixes)]


def _people(rng: random.Random) -> dict[str, dict[str, dict[str, str]]]:
    names = sorted({h + t for h in _HEADS.split() for t in _TAILS.split()} - _NOT_NAMES)
    rng.shuffle(names)
    out: dict[str, dict[str, dict[str, str]]] = {}
    for group, n in PERSON_GROUPS.items():
        members, names = names[:n], names[n:]
        columns = {a: [values[i % len(values)] for i in range(n)] for a, values in ATTRIBUTES.items()}
        for column in columns.values():
            rng.shuffle(column)
        out[group] = {m: {a: columns[a][i] for a in ATTRIBUTES} for i, m in enumerate(members)}
    return out


def _nouns(rng: random.Random) -> dict[str, dict[str, str]]:
    out: dict[str, dict[str, str]] = {g: {} for g in NOUN_GROUPS}
    for kind, text in NOUNS.items():
        nouns = text.split()
        rng.shuffle(nouns)
        for group, n in NOUN_GROUPS.items():
            out[group].update(dict.fromkeys(nouns[:n], kind))
            nouns = nouns[n:]
    return out


def _pairs(rng: random.Random) -> dict[str, list[tuple[str, str]]]:
    pairs = [(a, b) for a, b in (p.split() for p in PAIRS.split(", "))]
    rng.shuffle(pairs)
    out: dict[str, list[tuple[str, str]]] = {}
    for group, n in PAIR_GROUPS.items():
        out[group], pairs = pairs[:n], pairs[n:]
    return out


def make_words() -> Words:
    """Return the world's words; always the same."""
    rng = random.Random(WORLD_SEED)
    symbols = [c + v + e for c in "bdfgjklmnprtvz" for v in "aeiou" for e in ("x", "v", "z", "b", "k")]
    taken = {"dab", "tab", "job", "rob", "fib", "rib", "tub", "rub", "lab", "mob", "fix", "mix", "tax", "box", "rev"}
    symbols = [s for s in symbols if s not in taken]
    rng.shuffle(symbols)
    words = Words(_people(rng), _nouns(rng), _pairs(rng), tuple(symbols[:96]), tuple(symbols[64:96]))
    every = [w for g in words.people.values() for w in g] + [w for g in words.nouns.values() for w in g]
    every += [w for g in words.pairs.values() for p in g for w in p] + list(words.symbols)
    every += [v for vs in ATTRIBUTES.values() for v in vs] + list(NOUNS)
    assert len(every) == len(set(every)), "a word has two roles"
    return words
