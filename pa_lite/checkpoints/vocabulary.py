"""A Hugging Face tokenizer as GGUF metadata: byte-level BPE from tokenizer.json, without the tokenizers package.

Token types and key names are llama.cpp's; which pre-tokenizer a vocabulary uses is read from its definition.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.safetensors_file import read_json
from pa_lite.checkpoints.source import Metadata, Vocabulary, array, boolean, string, uint32
from pa_lite.errors import CheckpointError

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # enum llama_token_type
_LOOKS_SPECIAL = re.compile(r"<\|.*\|>|<｜.*｜>|<(pad|mask|unused\d*|2mass|\[@BOS@\])>|\[@BOS@\]")
_SPECIAL_KEYS = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "sep": "seperator_token_id",
                 "pad": "padding_token_id"}  # fmt: skip
_QWEN_START = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"


def _pre_tokenizer(definition: Any, model: Mapping[str, Any], adds_bos: bool, where: Path) -> str:
    """llama.cpp's name of a pre-tokenizer, from its definition in tokenizer.json."""
    steps = definition.get("pretokenizers", [definition]) if isinstance(definition, dict) else []
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        pattern = steps[0].get("pattern", {}).get("Regex", "")
        if pattern.startswith(_QWEN_START + r"\p{N}{1,3}|"):
            if not model.get("ignore_merges"):
                return "dbrx"
            return "llama-bpe" if adds_bos else "smaug-bpe"
        if pattern.startswith(_QWEN_START + r"\p{N}|"):
            return "qwen2"
    raise CheckpointError(f"{where}: its pre-tokenizer ({', '.join(map(str, kinds)) or 'none'}) is not known.")


def _template_adds(post_processor: Any) -> tuple[set[str], set[str]]:
    """The special tokens that a post-processor puts before and behind a single text."""
    if not isinstance(post_processor, dict):
        return set(), set()
    before: set[str] = set()
    behind: set[str] = set()
    for step in [post_processor, *post_processor.get("processors", [])]:
        if step.get("type") != "TemplateProcessing":
            continue
        seen_text = False
        for part in step.get("single", []):
            seen_text = seen_text or "Sequence" in part
            if "SpecialToken" in part:
                (behind if seen_text else before).add(part["SpecialToken"].get("id"))
    return before, behind


def _text(token: Any) -> str | None:
    """A token of tokenizer_config.json: a string, or a table with `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _merges(model: Mapping[str, Any]) -> list[str]:
    """BPE merges as "left right"; newer files hold pairs, where a blank belongs to a token and becomes Ġ."""
    return [m if isinstance(m, str) else " ".join(part.replace(" ", "Ġ") for part in m) for m in model["merges"]]


def chat_template(folder: Path, config: Mapping[str, Any]) -> Metadata:
    """The chat templates as GGUF keys: tokenizer_config.json's, else chat_template.jinja's; empty without one."""
    template = config.get("chat_template")
    if template is None and (folder / "chat_template.jinja").is_file():
        template = (folder / "chat_template.jinja").read_text("utf-8")
    if isinstance(template, str):
        return {"tokenizer.chat_template": string(template)}
    out: Metadata = {}
    names = []
    for entry in template if isinstance(template, list) else []:
        if entry["name"] == "default":
            out["tokenizer.chat_template"] = string(entry["template"])
        else:
            names.append(entry["name"])
            out[f"tokenizer.chat_template.{entry['name']}"] = string(entry["template"])
    if names:
        out["tokenizer.chat_templates"] = array("STRING", names)
    return out


def read_vocabulary(folder: Path, config: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary of a checkpoint folder, as long as `vocab_size` of config.json says.

    Raises CheckpointError for a tokenizer that is missing, broken, of another kind, or larger than the embedding.
    """
    where = folder / "tokenizer.json"
    if not where.is_file() and (folder / "tokenizer.model").is_file():
        raise CheckpointError(f"{folder}: SentencePiece vocabularies (tokenizer.model) cannot be converted.")
    tokenizer = read_json(where)
    settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    try:
        return _byte_level_bpe(folder, where, tokenizer, settings, config)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise CheckpointError(f"{where}: broken tokenizer definition ({type(e).__name__}: {e}).") from e


def _byte_level_bpe(
    folder: Path, where: Path, tokenizer: Mapping[str, Any], settings: Mapping[str, Any], config: Mapping[str, Any]
) -> Vocabulary:
    model = tokenizer["model"]
    if model.get("type", "BPE") != "BPE" or model.get("byte_fallback"):
        raise CheckpointError(f"{where}: a {model.get('type')} vocabulary, not byte-level BPE, cannot be converted.")
    size = int(config["vocab_size"])
    by_id = {int(i): text for text, i in model["vocab"].items()}
    added = {int(t["id"]): t for t in tokenizer.get("added_tokens", [])}
    by_id.update({i: t["content"] for i, t in added.items()})
    if max(by_id, default=-1) >= size:
        raise CheckpointError(f"{where}: has token id {max(by_id)}, but config.json's vocab_size is {size}.")

    tokens, types = [], []
    for i in range(size):
        text = by_id.get(i)
        if text is None:
            tokens.append(f"[PAD{i}]")
            types.append(UNUSED)
        elif i not in added:
            tokens.append(text)
            types.append(NORMAL)
        elif added[i].get("special") or _LOOKS_SPECIAL.fullmatch(text):
            tokens.append(text)
            types.append(CONTROL)
        else:
            tokens.append(text.replace("▁", " "))
            types.append(USER_DEFINED)
    if len(set(tokens)) != size:
        raise CheckpointError(f"{where}: two token ids have the same text; llama.cpp cannot load such a vocabulary.")

    ids = {t["content"]: i for i, t in added.items()}
    special = {name: ids.get(_text(settings.get(f"{name}_token")) or "") for name in _SPECIAL_KEYS}
    for name in special:
        value = config.get(f"{name}_token_id")
        if special[name] is None and isinstance(value, int) and 0 <= value < size:
            special[name] = value
    before, behind = _template_adds(tokenizer.get("post_processor"))
    texts = {name: tokens[i] for name, i in special.items() if i is not None}
    has_template = bool(before or behind)
    adds_bos = texts.get("bos") in before if has_template else bool(settings.get("add_bos_token"))
    adds_eos = texts.get("eos") in behind if has_template else bool(settings.get("add_eos_token"))
    pre = _pre_tokenizer(tokenizer.get("pre_tokenizer"), model, adds_bos, where)

    out: Metadata = {"tokenizer.ggml.model": string("gpt2"), "tokenizer.ggml.pre": string(pre)}
    out["tokenizer.ggml.tokens"] = array("STRING", tokens)
    out["tokenizer.ggml.token_type"] = array("INT32", types)
    out["tokenizer.ggml.merges"] = array("STRING", _merges(model))
    out.update({f"tokenizer.ggml.{_SPECIAL_KEYS[name]}": uint32(i) for name, i in special.items() if i is not None})
    if isinstance(settings.get("add_prefix_space"), bool):
        out["tokenizer.ggml.add_space_prefix"] = boolean(settings["add_prefix_space"])
    out["tokenizer.ggml.add_bos_token"] = boolean(adds_bos and size != _NEVER_BOS)
    out["tokenizer.ggml.add_eos_token"] = boolean(adds_eos)
    out.update(chat_template(folder, settings))
    return Vocabulary(out, tokens, types)


_NEVER_BOS = 49152  # llama.cpp's converter writes add_bos_token false for vocabularies of this very size
