"""Write the special tokens (start, end, separator, padding, ...) and which of them llama.cpp adds, as GGUF metadata.

Follows llama.cpp's converter (gguf.SpecialVocab), whose reading of post-processors differs between releases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pa_lite.checkpoints.vocabulary.files import TokenizerFiles, token_text
from pa_lite.errors import CheckpointError
from pa_lite.ggml.gguf_tables import Keys
from pa_lite.ggml.metadata import Metadata, array, boolean, string, uint32

_KEYS = {
    "bos": Keys.Tokenizer.BOS_ID, "eos": Keys.Tokenizer.EOS_ID, "unk": Keys.Tokenizer.UNK_ID,
    "sep": Keys.Tokenizer.SEP_ID, "pad": Keys.Tokenizer.PAD_ID, "mask": Keys.Tokenizer.MASK_ID,
    "eot": Keys.Tokenizer.EOT_ID, "eom": Keys.Tokenizer.EOM_ID,
    "cls": "tokenizer.ggml.cls_token_id",  # not in gguf
}  # fmt: skip
_ADDED = {"bos": Keys.Tokenizer.ADD_BOS, "eos": Keys.Tokenizer.ADD_EOS}
_READ = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# values of `bos_token` and `eos_token` in chat templates, if they are not the text of the ids
TEMPLATE_TOKEN_KEYS = {"bos": "tokenizer.pa_lite.bos_token", "eos": "tokenizer.pa_lite.eos_token"}
END_IDS_KEY = "tokenizer.pa_lite.end_token_ids"  # end tokens that llama.cpp would recognise neither by text nor by role
# (bos, eos) of transformers 5 classes if tokenizer_config.json names none
_CLASS_TOKENS: Mapping[str, tuple[str, str]] = {
    "LlamaTokenizer": ("<s>", "</s>"), "CodeLlamaTokenizer": ("<s>", "</s>"), "GemmaTokenizer": ("<bos>", "<eos>"),
    "Qwen2Tokenizer": ("", "<|endoftext|>"), "GPT2Tokenizer": ("<|endoftext|>", "<|endoftext|>"),
    "GPTNeoXTokenizer": ("<|endoftext|>", "<|endoftext|>"), "PreTrainedTokenizer": ("", ""),
    "TokenizersBackend": ("", ""),
}  # fmt: skip
# ends of turns; without EOT llama.cpp takes one of these, or an end of text, from the vocabulary
_TURN_ENDS = {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<EOT>", "_<EOT>", "[EOT]", "<end_of_utterance>"}
# llama.cpp always stops at these
_KNOWN_ENDS = {"<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
               "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
               "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
               "<｜end▁of▁sentence｜>", "[e~["}  # fmt: skip


@dataclass
class _Roles:
    """Token texts by role, and by role whether the token is added to a text, if a file says so."""

    texts: dict[str, str]
    adds: dict[str, bool] = field(default_factory=dict)


def special_tokens(files: TokenizerFiles, tokens: Sequence[str], sentencepiece: bool) -> Metadata:
    """Return the ids of the special tokens, and always add_bos_token and add_eos_token, as llama.cpp's defaults vary.

    A token is found by its text among the added tokens of tokenizer.json, else by its id in config.json. Ids without a
    token are dropped. Unless a file says otherwise, texts start with BOS for a `sentencepiece` vocabulary with a
    tokenizer.model, as in transformers. Raises CheckpointError for a post-processor that llama.cpp does not support.
    """
    roles = _Roles({name: text for name in _READ if (text := token_text(files.settings.get(f"{name}_token")))})
    roles.texts.setdefault("bos", roles.texts.get("cls", ""))
    roles.texts.setdefault("eos", roles.texts.get("sep", ""))
    for step in _processors(files):
        _read_processor(step, roles, files)
    for name, default in (("bos", sentencepiece and files.has_model), ("eos", False)):
        said = files.settings.get(f"add_{name}_token")
        roles.adds.setdefault(name, said if isinstance(said, bool) else default)
    by_text: dict[str, int] = {}
    for token in files.added_tokens():
        by_text.setdefault(token.text, token.id)
    ids = {name: by_text[text] for name, text in roles.texts.items() if text in by_text}
    for name in _READ:
        value = files.config.get(f"{name}_token_id")
        if isinstance(value, list) and name == "eos":
            value = next(iter(value), None)
        if name not in ids and type(value) is int:
            ids[name] = value
    ids = {name: i for name, i in ids.items() if 0 <= i < len(tokens)}
    more_ends = _add_ends(ids, files.generation, tokens)
    out: Metadata = {_KEYS[name]: uint32(i) for name, i in ids.items()}
    if more_ends:
        out[END_IDS_KEY] = array("UINT32", more_ends)
    for name in _ADDED:  # for byte-level BPE without an id llama.cpp would add token 11
        out[_ADDED[name]] = boolean(roles.adds[name] and (sentencepiece or name in ids))
    for place, (name, key) in enumerate(TEMPLATE_TOKEN_KEYS.items()):
        said = _template_token(files, name, place)
        if said is not None and said != (tokens[ids[name]] if name in ids else ""):
            out[key] = string(said)
    return out


def _template_token(files: TokenizerFiles, name: str, place: int) -> str | None:
    """Return `bos_token` or `eos_token` of transformers' tokenizer, "" for none; None if the files do not say.

    Even if it is "", config.json can have an id, which llama.cpp's converter uses.
    Source: transformers 5, PreTrainedTokenizerBase._from_pretrained.
    """
    key = f"{name}_token"
    if key in files.settings:
        return token_text(files.settings[key]) or ""
    tokenizer_class = files.settings.get("tokenizer_class")
    known = _CLASS_TOKENS.get(tokenizer_class.removesuffix("Fast")) if isinstance(tokenizer_class, str) else None
    return known[place] if known else None


def _processors(files: TokenizerFiles) -> list[Mapping[str, Any]]:
    step = files.definition.get("post_processor")
    if step is None:
        return []
    steps = step.get("processors", [step]) if isinstance(step, dict) else [step]
    if not isinstance(steps, list) or not all(isinstance(s, dict) for s in steps):
        raise CheckpointError(f"{files.where}: broken tokenizer definition: post_processor is not a table.")
    return steps


def _read_processor(step: Mapping[str, Any], roles: _Roles, files: TokenizerFiles) -> None:
    """Record the tokens that a post-processor adds before and after a text."""
    if step.get("type") == "ByteLevel":
        roles.adds.setdefault("bos", False)
        roles.adds.setdefault("eos", False)
        return
    if step.get("type") != "TemplateProcessing":
        raise CheckpointError(f"{files.where}: its post-processor {step.get('type')!r} is unknown.")
    parts = step.get("single")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise CheckpointError(f"{files.where}: broken tokenizer definition: TemplateProcessing without `single`.")
    if len(parts) < 2:
        return
    first, last = (_special(part) for part in (parts[0], parts[-1]))
    if first is not None:
        roles.texts["bos"] = first
        roles.adds["bos"] = True
    if last is not None:
        former = roles.texts.get("eos")
        if former and former != last:  # llama.cpp appends its EOS; the former one must still end an answer
            roles.texts["eot"] = former
        roles.texts["eos"] = last
        roles.adds["eos"] = True


def _special(part: Mapping[str, Any]) -> str | None:
    token = part.get("SpecialToken")
    name = token.get("id") if isinstance(token, dict) else None
    return name if isinstance(name, str) else None


def _add_ends(ids: dict[str, int], generation: Mapping[str, Any], tokens: Sequence[str]) -> list[int]:
    """Give end tokens of generation_config.json that llama.cpp does not know by text a role at which it stops.

    The role EOT is for the end of a turn; a token that llama.cpp knows takes precedence. Return the end tokens for
    which no role is left.
    """
    value = generation.get("eos_token_id")
    listed = value if isinstance(value, list) else [value]
    ends = [i for i in dict.fromkeys(listed) if type(i) is int and 0 <= i < len(tokens)]
    if ends:
        ids.setdefault("eos", ends[0])
    taken = [ids.get(role) for role in ("eos", "eot", "eom")]
    unknown = [i for i in ends if tokens[i] not in _KNOWN_ENDS and i not in taken]
    if not unknown:
        return []
    turn_end = next((i for i in (ids["eos"], *ends) if tokens[i] in _TURN_ENDS), None)
    if turn_end is not None and turn_end != ids["eos"]:
        ids.setdefault("eot", turn_end)
    for role in ("eot", "eom") if turn_end is None else ("eom", "eot"):
        if unknown and role not in ids:
            ids[role] = unknown.pop(0)
    return unknown
