"""Each family's kind of tokenizer: metadata as llama.cpp's converter writes them, ids as the Hugging Face tokenizer's.

Differences are listed here with their reasons; tests fail when one of them is gone.
"""

from __future__ import annotations

import itertools
import random
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pa_lite.checkpoints.checkpoint import Vocabulary
from pa_lite.checkpoints.vocabulary import read_vocabulary
from pa_lite.ggml.container import read_gguf_header
from pa_lite.ggml.metadata import Metadata
from tests.parity.conftest import ConvertAll
from tests.parity.vocabularies import FAMILIES, LINES, TEXT, build, read_config
from tests.support.vocabularies import llama_tokenizer, write_vocab_only

pytestmark = pytest.mark.parity
SENTENCEPIECE = [name for name, family in FAMILIES.items() if family.bpe is None]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint folder without weights for each family."""
    for package in ("tokenizers", "sentencepiece", "transformers"):
        pytest.importorskip(package)
    root = tmp_path_factory.mktemp("vocabularies")
    return {name: build(name, root / name) for name in FAMILIES}


@pytest.fixture(scope="module")
def converted(folders: dict[str, Path], convert_all: ConvertAll) -> dict[str, Metadata]:
    """The converter's metadata of each."""
    files = convert_all([(folder, "vocabulary", FAMILIES[name].pre) for name, folder in folders.items()])
    return {name: read_gguf_header(file).metadata for name, file in zip(folders, files, strict=True)}


def ours(folder: Path) -> Vocabulary:
    return read_vocabulary(folder, read_config(folder))


@pytest.mark.parametrize("name", FAMILIES)
def test_metadata(name: str, folders: dict[str, Path], converted: dict[str, Metadata]) -> None:
    expected = {key: entry for key, entry in converted[name].items() if key.startswith("tokenizer.")}
    got = {k: e for k, e in ours(folders[name]).metadata.items() if not k.startswith("tokenizer.pa_lite.")}
    # only for BERT's kind, and false here, which is llama.cpp's default
    sep = expected.pop("tokenizer.ggml.add_sep_token", None)
    assert sep is None or sep.value is False
    # always written, because llama.cpp's default depends on the pre-tokenizer
    for key in ("tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"):
        if key not in expected:
            assert got.pop(key).value is False
    # with smaug-bpe llama.cpp would not respect that this vocabulary ignores merges (see `test_ids`)
    if name == "smollm3":
        assert got.pop("tokenizer.ggml.pre").value == "llama-bpe"
        assert expected.pop("tokenizer.ggml.pre").value == "smaug-bpe"
    assert got.keys() == expected.keys()
    for key, entry in expected.items():
        assert got[key] == entry, key


def has_mark(text: str) -> bool:
    return any(unicodedata.category(c).startswith("M") for c in text)


def has_inner_capital(text: str) -> bool:
    return any(a.islower() and b.isupper() and not b.isascii() for a, b in itertools.pairwise(text))


# llama.cpp's expressions for GPT-4o and Tekken do not treat marks as letters, and know only ASCII capitals
CASED = ("phi-4", "mistral-nemo")
# transformers 5 rebuilds Llama's tokenizer: it adds no space before a text that starts with one. SentencePiece,
# transformers 4 and llama.cpp add it.
REBUILT = ("llama-2",)


def excused(name: str, text: str, rebuilt: bool) -> bool:
    """Return whether llama.cpp is known to give other ids than transformers."""
    if name in CASED:
        return has_mark(text) or has_inner_capital(text)
    return rebuilt and name in REBUILT and text.startswith(" ")


def normalised(name: str, text: str) -> str:
    """Return the text composed, for families with the normalizer NFC, which llama.cpp does not apply."""
    return unicodedata.normalize("NFC", text) if FAMILIES[name].normalizer else text


Encode = Callable[[str], list[int]]


def transformers_tokenizer(folder: Path) -> Encode:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return lambda text: list(tokenizer(text)["input_ids"])


def definition_tokenizer(folder: Path) -> Encode:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda text: list(tokenizer.encode(text).ids)


def sentencepiece_tokenizer(folder: Path, bos: int | None) -> Encode:
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor()
    model.LoadFromFile(str(folder / "tokenizer.model"))
    return lambda text: ([bos] if bos is not None else []) + list(model.EncodeAsIds(text))


def random_texts(n: int) -> list[str]:
    """Return pieces of the lines, runs of their characters, and characters from anywhere, in random order."""
    rng = random.Random(7)
    scraps = [line[i : i + k] for line in LINES for i in range(0, len(line), 5) for k in (2, 4, 9)]
    characters = sorted(set(TEXT)) + list(" \n\t'sS.,\r\x1c\x85\u2028") * 20
    anything = [c for c in map(chr, range(32, 0x30000)) if unicodedata.category(c) not in ("Cs", "Cn")]
    makers = (
        lambda: rng.choice(scraps),
        lambda: rng.choice(characters) * rng.randint(1, 3),
        lambda: rng.choice(anything),
    )
    return ["".join(rng.choice(makers)() for _ in range(rng.randint(1, 12))) for _ in range(n)]


def check_ids(
    name: str, folder: Path, path: Path, theirs: Encode, rebuilt: bool = False, texts: Sequence[str] = (*LINES, TEXT)
) -> None:
    """Check that llama.cpp's ids on our conversion are `theirs` for every text, except excused ones."""
    write_vocab_only(path, ours(folder), FAMILIES[name].gguf, name)
    known, differ = 0, 0
    with llama_tokenizer(path) as tokenize:
        for text in texts:
            same = tokenize(normalised(name, text)) == theirs(text)
            if excused(name, text, rebuilt):
                known, differ = known + 1, differ + (not same)
            else:
                assert same, (text, tokenize(normalised(name, text)), theirs(text))
    assert known < len(texts) / 2
    assert bool(differ) == bool(known)


@pytest.mark.parametrize("name", FAMILIES)
def test_ids(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Check (c): ids equal those of transformers' AutoTokenizer."""
    check_ids(name, folders[name], tmp_path / "ours.gguf", transformers_tokenizer(folders[name]), rebuilt=True)


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_by_definition(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Ids equal those of tokenizer.json, which transformers 4 ran unchanged."""
    check_ids(name, folders[name], tmp_path / "ours.gguf", definition_tokenizer(folders[name]))


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_of_random_texts(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = definition_tokenizer(folders[name])
    check_ids(name, folders[name], tmp_path / "ours.gguf", tokenizer, texts=random_texts(400))


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.normalizer])
def test_llama_cpp_does_not_compose_characters(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """If this fails, llama.cpp composes characters, and `normalised` can be removed."""
    write_vocab_only(tmp_path / "ours.gguf", ours(folders[name]), FAMILIES[name].gguf)
    theirs = definition_tokenizer(folders[name])
    with llama_tokenizer(tmp_path / "ours.gguf") as tokenize:
        assert tokenize("e\u0301") != theirs("e\u0301") == theirs("é") == tokenize("é")


@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_ids_by_sentencepiece(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    metadata = ours(folders[name]).metadata
    adds_bos = metadata["tokenizer.ggml.add_bos_token"].value
    bos = metadata["tokenizer.ggml.bos_token_id"].value if adds_bos else None
    check_ids(name, folders[name], tmp_path / "ours.gguf", sentencepiece_tokenizer(folders[name], bos))


@pytest.fixture(scope="module")
def reduced(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """A family's folder without tokenizer.model ("json"), or as transformers 5 saves it ("saved")."""
    root = tmp_path_factory.mktemp("reduced")

    def make(name: str, kind: str) -> Path:
        folder = root / kind / name
        shutil.copytree(folders[name], folder)
        if kind == "json":
            (folder / "tokenizer.model").unlink()
            return folder
        import transformers

        tokenizer = transformers.AutoTokenizer.from_pretrained(folders[name])
        for path in folder.glob("tokenizer*"):
            path.unlink()
        tokenizer.save_pretrained(folder)
        assert not (folder / "tokenizer.model").exists()
        return folder

    return make


@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_ids_without_tokenizer_model(name: str, reduced: Callable[[str, str], Path], tmp_path: Path) -> None:
    folder = reduced(name, "json")
    check_ids(name, folder, tmp_path / "ours.gguf", definition_tokenizer(folder))


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_of_what_transformers_saves(name: str, reduced: Callable[[str, str], Path], tmp_path: Path) -> None:
    folder = reduced(name, "saved")
    check_ids(name, folder, tmp_path / "ours.gguf", transformers_tokenizer(folder), rebuilt=True)


@pytest.mark.parametrize("name", FAMILIES)
def test_special_tokens_in_a_text(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """A chat: control tokens between texts; those of Phi-3 swallow the white space after them in both tokenizers."""
    family = FAMILIES[name]
    marks = [t for t in (*family.specials, *family.added) if "▁" not in t]  # llama.cpp treats ▁ in a text as a space
    texts = ["".join(f"{mark}word 12" for mark in marks), "".join(f"{mark}\n word {mark} 12{mark}" for mark in marks)]
    check_ids(name, folders[name], tmp_path / "ours.gguf", definition_tokenizer(folders[name]), texts=texts)
