"""Small tokenizers of each family's kind, trained here: its pre-tokenizer, its special tokens, its files.

They are trained on text that is not split into words, so that merges cross every split of the family's pre-tokenizer: a
split at another position gives other ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.parity.cases import CASES

# scripts, emoji with joiners, combining marks, numbers, white space, contractions, right-to-left, controls, code
LINES = [
    "The quick brown fox can't jump; it's THEIR dog, they'll say, and we've I'M you'Re 'tis o'clock.",
    "Zażółć gęślą jaźń. Größe, façade, naïve, Ærø, İstanbul ıı ſ ß ŉ ǆ ǅ Ǆ ﬁ ½ ² ⅷ Ⅷ ① ٣ ३ 三",
    "Съешь ещё этих мягких французских булок. Ξεσκεπάζω τὴν ψυχοφθόρα βδελυγμία. Հայերեն ქართული",
    "東京特許許可局、今日は2024年6月30日です。我想在公司工作1314151天～『你好』 한국어 띄어쓰기가 있다. ﾊﾝｶｸ",
    "שלום עולם, מה שלומך? العَرَبِيَّةُ لُغَةٌ ١٢٣٤٥ جميلة. فارسی می‌خواهم ‏abc‎",
    "हिन्दी में क्षत्रिय लिखना; বাংলা ভাষা; தமிழ் மொழி; ภาษาไทยไม่มีช่องว่าง; ខ្មែរ; བོད་སྐད; አማርኛ",
    "👩‍👩‍👧‍👦 👍🏽 🏴‍☠️ 🇩🇪🇫🇷 ❤️ 🧑🏿‍🚀x🧑🏿‍🚀 ☕️☕ 1️⃣2️⃣ ⓂⒶ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙𝟚 𐍈𐌰",
    "e\u0301 a\u0308\u0323 Z̸̢a̶l̵g̷o̴ o\u0302\u0301 ñ n\u0303 \u1112\u1161\u11ab \u0301solo",
    "0 1 12 123 1234 12345 123456 1234567 3.14159 1,000,000 1e-9 0x1F 50% $9.99 No1 x2y3 v1.2.3-rc4 9²",
    "a  b   c    d     e        f\tg\t\th \t i\r\nj\rk  \n  l\n\n\nm \n \n",
    " n\u00a0o\u2003p\u3000q\u200br\ufeffs\u2028t\x85u",
    "    def f(x: int) -> str:\n\t\treturn f\"{x!r:>{10}}\"  # комментарий\n\n\nif __name__ == '__main__':\n    f(1)\n",
    "#include <stdio.h>\nint main(){for(int i=0;i<10;++i)printf(\"%d\\n\",i);}//*/===!!!???...---___```~~~'''\"\"\"",
    "<div class=\"x\">&amp;&nbsp;</div> https://user:pa55@example.com:8080/a/b?c=d&e=%20#f user.name+tag@mail.co.uk",
    "CamelCaseWordsAndHTTPServer XMLHttpRequest snake_case SCREAMING_CASE mixedUP iPhone McDonald's O'Neill DON'T",
    "ПриветМир ИванИванович ΑλφαΒήτα ÉcoleÉtude straßeÜber ĄćĘł ǅungla ԱրևմուտքՀայ",
    "ctrl\x01\x07\x1b[0m\x7f\x80\x9f end\u2060 \ue000private \ufffd \U0010fffd",
    " leading", "trailing ", "   ", " ", "\n", "\n\n", "\t", "'", "''", "'s", " 's", "'S", "x'S", "x's'",
    "'RE're", "", "!", " !",
]  # fmt: skip
TEXT = "\n".join(LINES)
_COMMON = [
    "the of and to in is that it was for on are as with his they be at one have this from or had by not but what all",
    "были это как его она они было только мне уже для меня когда если него чтобы",
    "la le les des une est dans pour que qui sur pas plus avec tout être fait comme mais",
]
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
PLAIN = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|@| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+#"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*#"
    r"|@| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def split(pattern: str, digits: str, suffix: str = "") -> dict[str, Any]:
    """Return a pre-tokenizer that splits by an expression; `@` stands for its numbers, `#` for a word's suffix."""
    expression = pattern.replace("@", digits).replace("#", suffix)
    cut = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [cut, {**BYTE_LEVEL, "use_regex": False}]}


def _digits() -> dict[str, Any]:
    first = {"type": "Digits", "individual_digits": True}
    return {"type": "Sequence", "pretokenizers": [first, {**BYTE_LEVEL, "use_regex": True}]}


@dataclass(frozen=True)
class Family:
    """One kind of tokenizer: the model's class, llama.cpp's architecture and pre-tokenizer name, and how it is built.

    `specials` are texts in order of their ids, bos and eos among them; `bpe` is the definition's pre-tokenizer, None
    for SentencePiece; `bos_added` says whether the definition puts BOS before a text.
    """

    architecture: str
    gguf: str
    pre: str
    specials: tuple[str, ...]
    bos: str | None
    eos: str
    bpe: Mapping[str, Any] | None = None
    bos_added: bool = False
    ignore_merges: bool = False
    normalizer: str | None = None
    added: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


_LLAMA3 = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_SPM = ("<unk>", "<s>", "</s>")
_FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}

FAMILIES: dict[str, Family] = {
    "llama-3": Family("LlamaForCausalLM", "llama", "llama-bpe", _LLAMA3, _LLAMA3[0], _LLAMA3[4],
                      split(PLAIN, r"\p{N}{1,3}"), bos_added=True, ignore_merges=True, settings=_FAST),
    "smollm3": Family("SmolLM3ForCausalLM", "smollm3", "smaug-bpe", (*_LLAMA3, "<|im_end|>"), None, "<|im_end|>",
                      split(PLAIN, r"\p{N}{1,3}"), ignore_merges=True, added=("<think>", "</think>"), settings=_FAST),
    "qwen": Family("Qwen2ForCausalLM", "qwen2", "qwen2", _CHATML, None, "<|im_end|>", split(PLAIN, r"\p{N}"),
                   normalizer="NFC", added=("<tool_call>",), settings={**_FAST, "add_bos_token": False}),
    "smollm2": Family("LlamaForCausalLM", "llama", "smollm", _CHATML, "<|im_start|>", "<|im_end|>", _digits(),
                      settings={**_FAST, "add_prefix_space": False}),
    "olmo": Family("OlmoForCausalLM", "olmo", "olmo", ("<|padding|>", "<|endoftext|>"), None, "<|endoftext|>",
                   {**BYTE_LEVEL, "use_regex": True}, normalizer="NFC", added=("  ", "    "), settings=_FAST),
    "olmo-2": Family("Olmo2ForCausalLM", "olmo2", "dbrx", ("<|endoftext|>", "<|pad|>"), "<|endoftext|>",
                     "<|endoftext|>", split(PLAIN, r"\p{N}{1,3}"), settings=_FAST),
    "granite": Family("GraniteForCausalLM", "granite", "refact", ("<|end_of_text|>", "<fim_prefix>", "<reponame>"),
                      "<|end_of_text|>", "<|end_of_text|>", _digits(),
                      settings={**_FAST, "add_bos_token": False, "add_prefix_space": False}),
    "phi-4": Family("Phi3ForCausalLM", "phi3", "gpt-4o", ("<|endoftext|>", "<|user|>", "<|end|>"), "<|endoftext|>",
                    "<|endoftext|>", split(_CASED, r"\p{N}{1,3}", _CONTRACTIONS + "?"),
                    settings={"tokenizer_class": "GPT2Tokenizer", "add_bos_token": False}),
    "mistral-nemo": Family("MistralForCausalLM", "llama", "tekken", (*_SPM, "[INST]", "[/INST]"), "<s>", "</s>",
                           split(_CASED, r"\p{N}"), bos_added=True, ignore_merges=True, settings=_FAST),
    "llama-2": Family("LlamaForCausalLM", "llama", "default", _SPM, "<s>", "</s>",
                      settings={"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False,
                                "legacy": False}),
    "mistral": Family("MistralForCausalLM", "llama", "default", _SPM, "<s>", "</s>", added=("[INST]", "[/INST]"),
                      settings={"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False,
                                "add_prefix_space": True}),
    "mixtral": Family("MixtralForCausalLM", "llama", "default", _SPM, "<s>", "</s>",
                      settings={"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}),
    "gemma-2": Family("Gemma2ForCausalLM", "gemma2", "default", ("<pad>", "<eos>", "<bos>", "<unk>"), "<bos>", "<eos>",
                      added=("<start_of_turn>", "<end_of_turn>", "<unused0>", "\n\n", "\n\n\n", "▁▁", "▁▁▁▁"),
                      settings={"tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "add_eos_token": False}),
    "phi-3": Family("Phi3ForCausalLM", "phi3", "default", _SPM, "<s>", "<|endoftext|>",
                    added=("<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"),
                    settings={"tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "add_eos_token": False,
                              "legacy": False}),
}  # fmt: skip
_GEMMA, _QWEN = FAMILIES["gemma-2"], FAMILIES["qwen"]
FAMILIES["arcee"] = replace(FAMILIES["llama-3"], architecture="ArceeForCausalLM", gguf="arcee")
FAMILIES["olmoe"] = replace(FAMILIES["olmo"], architecture="OlmoeForCausalLM", gguf="olmoe")
_WRAPPER = "Gemma3ForConditionalGeneration"
FAMILIES["gemma-3"] = replace(_GEMMA, architecture="Gemma3ForCausalLM", gguf="gemma3")
FAMILIES["gemma-3-wrapper"] = replace(_GEMMA, architecture=_WRAPPER, gguf="gemma3")
FAMILIES["qwen-3"] = replace(_QWEN, architecture="Qwen3ForCausalLM", gguf="qwen3")
FAMILIES["qwen-3-moe"] = replace(_QWEN, architecture="Qwen3MoeForCausalLM", gguf="qwen3moe")
TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"


def build(name: str, folder: Path) -> Path:
    """Write a family's checkpoint without weights: tokenizer files and config.json."""
    family = FAMILIES[name]
    folder.mkdir(parents=True)
    size = (_build_sentencepiece if family.bpe is None else _build_bpe)(family, folder)
    roles = {"bos_token": family.bos, "eos_token": family.eos}
    if family.bpe is None:
        roles["unk_token"] = "<unk>"
    settings = {**roles, "chat_template": TEMPLATE, "model_max_length": 512, **family.settings}
    write_json(folder / "tokenizer_config.json", {**settings, "added_tokens_decoder": _decoder(folder)})
    model_type = next(case.model_type for case in CASES.values() if case.architecture == family.architecture)
    shape: dict[str, Any] = {
        "model_type": model_type, "vocab_size": size + 8, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "max_position_embeddings": 512,
    }  # fmt: skip
    if family.architecture == _WRAPPER:
        shape = {"model_type": model_type, "text_config": {**shape, "model_type": f"{model_type}_text"}}
    write_json(folder / "config.json", {"architectures": [family.architecture], **shape})
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json, with text_config overriding the rest."""
    config: dict[str, Any] = read_json(folder / "config.json")
    return {**config, **config.get("text_config", {}), "architectures": config["architectures"]}


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), "utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _token(i: int, text: str, special: bool, rstrip: bool = False) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": rstrip, "normalized": False}
    return {"id": i, "content": text, **flags, "special": special}


def _decoder(folder: Path) -> dict[str, Any]:
    """Return tokenizer_config.json's table of the added tokens, as transformers 4 wrote it."""
    tokens = read_json(folder / "tokenizer.json")["added_tokens"]
    return {str(t["id"]): {key: value for key, value in t.items() if key != "id"} for t in tokens}


def _build_bpe(family: Family, folder: Path) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, min_frequency=1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=[],
    )  # fmt: skip
    pieces = [line[i : i + n] for line in LINES for n in (6, 11) for i in range(0, len(line), 3)]
    tokenizer.train_from_iterator([*pieces, *_COMMON, *(" " * n for n in range(2, 20))], trainer)
    document = json.loads(tokenizer.to_str())
    model = document["model"]
    model["ignore_merges"] = family.ignore_merges
    # the last merges are omitted, so that these tokens appear only where merges are ignored
    model["merges"] = model["merges"][:-200]
    first = len(model["vocab"])
    texts = [*family.specials, *family.added]
    document["added_tokens"] = [_token(first + i, t, t in family.specials) for i, t in enumerate(texts)]
    document["normalizer"] = {"type": family.normalizer} if family.normalizer else None
    document["pre_tokenizer"] = family.bpe
    document["post_processor"] = _template(family, first) if family.bos_added else {**BYTE_LEVEL, "use_regex": True}
    write_json(folder / "tokenizer.json", document)
    return first + len(texts)


def _template(family: Family, first: int) -> dict[str, Any]:
    assert family.bos is not None
    bos = {"SpecialToken": {"id": family.bos, "type_id": 0}}
    text, second = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    ids = [first + family.specials.index(family.bos)]
    return {
        "type": "TemplateProcessing", "single": [bos, text], "pair": [bos, text, bos, second],
        "special_tokens": {family.bos: {"id": family.bos, "ids": ids, "tokens": [family.bos]}},
    }  # fmt: skip


def train_sentencepiece(path: Path, specials: tuple[str, ...], user_defined: Sequence[str]) -> int:
    """Train a tokenizer.model as Llama-2's: BPE with bytes, nothing normalised; return the number of pieces."""
    import sentencepiece

    roles = {"unk": "<unk>", "bos": "<s>", "eos": "</s>", "pad": "<pad>"}
    if "<bos>" in specials:
        roles |= {"bos": "<bos>", "eos": "<eos>"}
    settings: dict[str, Any] = {"add_dummy_prefix": "<bos>" not in specials}
    for role, text in roles.items():
        settings[f"{role}_id"] = specials.index(text) if text in specials else -1
        settings[f"{role}_piece"] = text
    lines = [line[i : i + 60] for line in LINES for i in (0, 7, 23) if line.strip()] + _COMMON
    lines = [part for line in lines for part in line.split("\n") if part.strip()]
    with path.open("wb") as f:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=f, model_type="bpe", vocab_size=1200, byte_fallback=True,
            character_coverage=0.98, split_digits=True, allow_whitespace_only_pieces=True,
            remove_extra_whitespaces=False, normalization_rule_name="identity", hard_vocab_limit=False,
            minloglevel=2, user_defined_symbols=list(user_defined), **settings,
        )  # fmt: skip
    model = sentencepiece.SentencePieceProcessor()
    model.LoadFromFile(str(path))
    return int(model.vocab_size())


def _build_sentencepiece(family: Family, folder: Path) -> int:
    """Write tokenizer.model and the tokenizer.json that transformers builds from it; return the vocabulary's size."""
    gemma = "<bos>" in family.specials
    inner = family.added if gemma else ()  # Gemma's added tokens are pieces of the model
    size = train_sentencepiece(folder / "tokenizer.model", family.specials, inner)
    _convert(family, folder, size)
    return size + (0 if gemma else len(family.added))


def merges_of(pieces: Sequence[tuple[str, float]]) -> list[str]:
    """Return the merges of SentencePiece pieces (text, score): all pairs that form a piece, best score first."""
    vocab = {text: i for i, (text, _) in enumerate(pieces)}
    merges = []
    for text, score in pieces:
        cuts = [(text[:k], text[k:]) for k in range(1, len(text))]
        merges += [(-score, vocab[a], vocab[b], f"{a} {b}") for a, b in cuts if a in vocab and b in vocab]
    return [merge for *_, merge in sorted(merges)]


def _convert(family: Family, folder: Path, size: int) -> None:
    """Write the tokenizer.json of a tokenizer.model."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor()
    model.LoadFromFile(str(folder / "tokenizer.model"))
    gemma = "<bos>" in family.specials
    pieces = [(model.IdToPiece(i), model.GetScore(i)) for i in range(size)]
    vocab = {text: i for i, (text, _) in enumerate(pieces)}
    phi3 = family.architecture == "Phi3ForCausalLM"  # its control tokens swallow the spaces after them
    added = [_token(vocab[t], t, not (phi3 and t == "</s>"), phi3 and t == "</s>") for t in family.specials]
    if gemma:
        added += [_token(vocab[t], t, t.endswith("_turn>")) for t in family.added]
    else:
        added += [_token(size + i, t, phi3, phi3 and t != family.eos) for i, t in enumerate(family.added)]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    steps = [replace] if gemma else [{"type": "Prepend", "prepend": "▁"}, replace]
    document = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": None,
        "post_processor": _template(family, 0) if family.settings.get("add_bos_token") else None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        ]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": vocab, "merges": merges_of(pieces)},
    }  # fmt: skip
    write_json(folder / "tokenizer.json", document)
