"""Mutators for JSON, JSON lines and TOML, by structure; the result may break every rule that readers rely on.

Pure: bytes and a random source in, bytes out. A document is a tree in which objects are lists of (key, value), so that
keys can be repeated, and numbers are text, so that they can have any length.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tools.fuzz.gguf import NUMBERS, damage

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass
class Object:
    """A JSON object's keys and values, in order."""

    members: list[tuple[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Raw:
    """Text that is written literally."""

    text: str


_SCALARS = (
    Raw("null"), Raw("true"), Raw("false"), Raw("0"), Raw("1"), Raw("-1"), Raw("1.0"), Raw("1.5"), Raw("-0"),
    Raw("-0.0"), Raw("1e999"), Raw("-1e999"), Raw("1e-50"), Raw("1e-400"), Raw("NaN"), Raw("Infinity"),
    Raw("-Infinity"),
    Raw("3.5e38"), Raw("9" * 40), Raw("9" * 400), Raw("9" * 5000), Raw("1" + "0" * 4000), Raw("01"), Raw("0x10"),
    *(Raw(str(n)) for n in NUMBERS), *(Raw(str(-n)) for n in NUMBERS[::7]),
)  # fmt: skip
_TEXTS = (
    "", " ", "\n", "a\nb", "\0", "a\0b", "\x1b[31m", "\x7f", "\u2028", "\u202e", "\ufeff", "..", "../x", "/etc/passwd",
    "a/b", "C:\\x", "con", "nul.safetensors", ".hidden", "x" * 100, "x" * 3000, "é", "😀", "▁", "Ġ", "<unk>", "<0x0A>",
    "{{ x }}", "{% for x in y %}", "{{ ''.__class__ }}", "(", "(a+)+$", "[", "\\", "%s", "٣", "²", "1", "-1", "true",
    "None", "default",
)  # fmt: skip
_BROKEN = (
    '"\\ud800"',
    '"\\udc00x"',
    '"\\x"',
    '"\t"',
    '"',
    "'x'",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "/*x*/",
    "",
    "\ufeff{}",
)


def parse(text: str) -> Any:
    """Return the tree of a JSON document. Raises ValueError and RecursionError as json does."""
    return json.loads(text, object_pairs_hook=Object, parse_int=Raw, parse_float=Raw, parse_constant=Raw)


def write(tree: Any) -> str:
    """Return a tree as JSON."""
    if isinstance(tree, Raw):
        return tree.text
    if isinstance(tree, Object):
        return "{" + ", ".join(f"{json.dumps(key)}: {write(value)}" for key, value in tree.members) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(write, tree)) + "]"
    return json.dumps(tree)


def write_toml(tree: Any) -> str:
    """Return a tree as TOML: tables for the first two levels, inline tables below."""
    if not isinstance(tree, Object):
        return write(tree)
    lines, tables = [], []
    for key, value in tree.members:
        if isinstance(value, list) and value and all(isinstance(v, Object) for v in value):
            tables += [f"[[{_key(key)}]]\n{_members(v)}" for v in value]
        elif isinstance(value, Object) and value.members and all(isinstance(v, Object) for _, v in value.members):
            tables += [f"[{_key(key)}.{_key(inner)}]\n{_members(v)}" for inner, v in value.members]
        elif isinstance(value, Object):
            tables.append(f"[{_key(key)}]\n{_members(value)}")
        else:
            lines.append(f"{_key(key)} = {_inline(value)}\n")
    return "".join(lines) + "\n".join(tables)


def _key(key: str) -> str:
    return key if key.isidentifier() and key.isascii() else json.dumps(key)


def _members(tree: Object) -> str:
    return "".join(f"{_key(key)} = {_inline(value)}\n" for key, value in tree.members)


def _inline(tree: Any) -> str:
    if isinstance(tree, Object):
        return "{" + ", ".join(f"{_key(key)} = {_inline(value)}" for key, value in tree.members) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(_inline, tree)) + "]"
    return write(tree)


@dataclass(frozen=True)
class Words:
    """A format's keys, and its meaningful values as JSON."""

    keys: Sequence[str] = ()
    values: Sequence[Any] = ()


def from_json(value: Any) -> Any:
    """Return the tree of a JSON value."""
    return parse(json.dumps(value))


class JsonMutator:
    """Changes JSON documents, using a format's words."""

    def __init__(self, words: Words = Words(), writer: Callable[[Any], str] = write) -> None:
        self.words, self.writer = words, writer
        self._values = [from_json(value) for value in words.values]

    def __call__(self, data: bytes, random: Random) -> bytes:
        """Return the document with one to four changes; text that is not JSON gets random damage."""
        if random.random() < 0.08:
            return damage(data, random)
        try:
            return self.changed(parse(data.decode("utf-8")), random)
        except (ValueError, RecursionError):
            return damage(data, random)

    def changed(self, tree: Any, random: Random) -> bytes:
        """Return a tree as text after one to four changes. Raises RecursionError if it is too deep."""
        for _ in range(random.choice((1, 1, 1, 2, 4))):
            tree = self.change(tree, random)
        text = self.writer(tree)
        if random.random() < 0.03:
            at = random.randrange(len(text) + 1)
            text = text[:at] + random.choice(_BROKEN) + text[at:]
        return text.encode("utf-8", "surrogatepass")

    def change(self, tree: Any, random: Random) -> Any:
        """Return the tree with one change somewhere in it."""
        if isinstance(tree, Object) and tree.members and random.random() < 0.75:
            i = random.randrange(len(tree.members))
            key, value = tree.members[i]
            tree.members[i] = (key, self.change(value, random))
            return tree
        if isinstance(tree, list) and tree and random.random() < 0.6:
            i = random.randrange(len(tree))
            tree[i] = self.change(tree[i], random)
            return tree
        if isinstance(tree, Object) and random.random() < 0.8:
            self._change_members(tree, random)
            return tree
        if isinstance(tree, list) and random.random() < 0.8:
            self._change_items(tree, random)
            return tree
        return self.value(random, tree)

    def _change_members(self, tree: Object, random: Random) -> None:
        choice = random.randrange(6)
        if not tree.members or choice == 0:
            tree.members.insert(random.randrange(len(tree.members) + 1), (self._key(random), self.value(random)))
            return
        i = random.randrange(len(tree.members))
        key, value = tree.members[i]
        if choice == 1:
            del tree.members[i]
        elif choice == 2:
            tree.members[i] = (self._key(random, key), value)
        elif choice == 3:
            tree.members.insert(random.randrange(len(tree.members) + 1), (key, self.value(random, value)))
        elif choice == 4:
            tree.members[i] = (key, random.choice(tree.members)[1])
        else:
            tree.members.append((self._key(random, key), value))

    def _change_items(self, tree: list[Any], random: Random) -> None:
        choice, i = random.randrange(5), random.randrange(len(tree) + 1)
        if choice == 0 or not tree:
            tree.insert(i, self.value(random))
        elif choice == 1:
            del tree[i % len(tree)]
        elif choice == 2:
            tree.insert(i, random.choice(tree))
        elif choice == 3:
            tree[:] = tree * random.choice((0, 2, 3))
        else:
            random.shuffle(tree)

    def _key(self, random: Random, key: str = "") -> str:
        if self.words.keys and random.random() < 0.7:
            return random.choice(self.words.keys)
        return _changed(key, random) if random.random() < 0.5 else random.choice(_TEXTS)

    def value(self, random: Random, old: Any = None) -> Any:
        """Return another value: one of the format's, one that typically breaks readers, or one near the old one."""
        choice = random.randrange(10)
        if choice < 3 and self._values:
            return _copied(random.choice(self._values))
        if choice < 5:
            if isinstance(old, Raw) and old.text.lstrip("-").isdigit() and len(old.text) < 30:
                return Raw(str(int(old.text) + random.choice((-1, 1, 2, 8, -8, int(old.text)))))
            if isinstance(old, str):
                return _changed(old, random)
        if choice == 9 and random.random() < 0.1:
            n = random.choice((1, 2, 3, 30, 120, 600, 3000))
            left, right = random.choice((("[", "]"), ('{"a":', "}")))
            return Raw(left * n + "1" + right * n)
        if choice < 8:
            return random.choice(_SCALARS)
        if choice == 8:
            return random.choice(_TEXTS)
        return random.choice(([], Object(), [old], Object([("a", old)]), Raw(random.choice(_BROKEN))))


def _changed(text: str, random: Random) -> str:
    at = random.randrange(len(text) + 1)
    choice = random.randrange(4)
    if choice == 0:
        return text[:at] + text[at + 1 :]
    if choice == 1:
        return text[:at] + random.choice(_TEXTS) + text[at:]
    if choice == 2:
        return (text * 2)[:2000]
    return (
        text[:at] + chr(random.choice((0, 10, 27, 32, 34, 46, 47, 65, 92, 127, 0xE9, 0x2028, 0x1F600))) + text[at + 1 :]
    )


def _copied(tree: Any) -> Any:
    if isinstance(tree, Object):
        return Object([(key, _copied(value)) for key, value in tree.members])
    return [_copied(item) for item in tree] if isinstance(tree, list) else tree


class LinesMutator:
    """Changes JSON lines: one line by its structure, or the order and number of lines."""

    def __init__(self, inner: JsonMutator) -> None:
        self.inner = inner

    def __call__(self, data: bytes, random: Random) -> bytes:
        lines = data.split(b"\n")
        i = random.randrange(len(lines))
        choice = random.randrange(8)
        if choice == 0:
            lines.insert(i, random.choice(lines))
        elif choice == 1 and len(lines) > 1:
            del lines[i]
        elif choice == 2:
            lines.insert(i, random.choice((b"", b" ", b"\r", b"[]", b"1", b"null", b"\xe2\x80\xa8")))
        else:
            lines[i] = self.inner(lines[i], random)
        return b"\n".join(lines)


class TomlMutator:
    """Changes TOML: parsed, changed as a tree, and written again; other text is changed line by line."""

    def __init__(self, words: Words) -> None:
        self.inner = JsonMutator(words, write_toml)

    def __call__(self, data: bytes, random: Random) -> bytes:
        if random.random() < 0.85:
            try:
                return self.inner.changed(from_json(tomllib.loads(data.decode("utf-8"))), random)
            except (ValueError, TypeError, RecursionError):
                return self._lines(data, random)
        return self._lines(data, random)

    def _lines(self, data: bytes, random: Random) -> bytes:
        lines = data.split(b"\n")
        i = random.randrange(len(lines))
        choice = random.randrange(5)
        if choice == 0:
            lines.insert(i, random.choice(lines))
        elif choice == 1:
            lines.insert(i, random.choice(_TOML_LINES))
        elif choice == 2 and random.random() < 0.2:
            n = random.choice((2, 50, 500, 3000))
            lines.insert(
                i,
                random.choice(
                    (b"a." * n + b"b = 1", b"x = " + b"[" * n, b"[" + b"a." * n + b"b]", b"y = " + b"{a=" * n)
                ),
            )
        else:
            lines[i] = damage(lines[i], random)
        return b"\n".join(lines)


_TOML_LINES = (
    b"[tasks]", b"[[rules]]", b"[defaults]", b"[override]", b"a = 1979-05-27", b"b = 07:32:00", b"c = inf", b"d = nan",
    b"e = 0xffffffffffffffffffff", b"f = '''", b'g = """', b"# comment", b"h.i.j = 1", b"[h.i]", b"k = 1_000",
    b"\xff", b"l = \"\\ud800\"", b"m = 1e400", b"= 1", b"n = " + b"9" * 5000,
)  # fmt: skip
