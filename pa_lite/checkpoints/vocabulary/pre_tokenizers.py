"""Find llama.cpp's name for the pre-tokenizer of a byte-level BPE vocabulary: by fingerprint, else by definition.

The fingerprint is llama.cpp's: the SHA-256 of the ids of a check text. It depends on the vocabulary and on whether BOS
is added, and requires the optional package `tokenizers`. Without it, or for an unknown vocabulary, the definition in
tokenizer.json decides. Both give the same name for every family of pa-lite; if they differ (different vocabularies with
one definition), the fingerprint counts, as in llama.cpp's converter.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pa_lite.checkpoints.vocabulary.files import TokenizerFiles, merge_pairs, trained_tokens
from pa_lite.checkpoints.vocabulary.trained import TrainedTokens
from pa_lite.errors import CheckpointError, EngineError

_log = logging.getLogger(__name__)
_WORKER = "pa_lite.checkpoints.vocabulary.fingerprint_worker"
_SECONDS, _MEMORY = 20, 1 << 29  # of processor time, and bytes; the check text takes far less
_PLAIN_TOKEN = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
_SHORT = 24  # tokens up to this many bytes are looked up instead of searched for
_CHARACTER = 4  # bytes of the longest UTF-8 character; texts of several short ones do no harm
_SMALLEST = 8192  # tokens; all known vocabularies are larger
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_PREFIX = r"[^\r\n\p{L}\p{N}]?"


def _plain(digits: str, mark: str = "") -> str:
    """Return GPT-4's pattern: contractions, words, numbers, punctuation, whitespace."""
    letters = rf"[\p{{L}}{mark}]" if mark else r"\p{L}"
    return rf"{_CONTRACTIONS}|{_PREFIX}{letters}+|{digits}| ?[^\s\p{{L}}{mark}\p{{N}}]+[\r\n]*|{_REST}"


def _cased(digits: str, suffix: str) -> str:
    """Return GPT-4o's pattern: GPT-4's, but a capital letter starts a new word."""
    words = rf"{_PREFIX}[{_UPPER}]*[{_LOWER}]+{suffix}|{_PREFIX}[{_UPPER}]+[{_LOWER}]*{suffix}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_REST}"


_SPLITS = {
    _plain(r"\p{N}{1,3}"): "dbrx",
    _plain(r"\p{N}"): "qwen2",
    _plain(r"\p{N}", r"\p{M}"): "qwen35",
    _cased(r"\p{N}{1,3}", rf"{_CONTRACTIONS}?"): "gpt-4o",
    _cased(r"\p{N}", ""): "tekken",
}


def steps_of(definition: Any, parts: str) -> list[Mapping[str, Any]]:
    """Return the steps of a component of tokenizer.json in order: of a (nested) sequence under `parts`, or one."""
    if not isinstance(definition, dict):
        return []
    inner = definition.get(parts)
    if definition.get("type") != "Sequence" or not isinstance(inner, list):
        return [definition]
    return [step for entry in inner for step in steps_of(entry, parts)]


def pre_tokenizer(files: TokenizerFiles) -> str:
    """Return llama.cpp's name of the pre-tokenizer. Raises CheckpointError if it is unknown."""
    found, reason = _by_fingerprint(files)
    name = found or _by_definition(files, reason)
    # Llama-3's vocabulary without BOS (SmolLM3). With the converter's name llama.cpp only uses merges, which splits
    # 588 of Llama-3's words; with llama-bpe they are single tokens, and add_bos_token says whether BOS is added.
    if name in ("smaug-bpe", "dbrx") and files.model.get("ignore_merges"):
        return "llama-bpe"
    return name


def _by_fingerprint(files: TokenizerFiles) -> tuple[str | None, str]:
    """Return the name for the ids of the check text, or None and the reason, a sentence for the end of an error.

    The reason is empty if the fingerprint is unknown.
    """
    if files.size < _SMALLEST:
        return None, ""
    if importlib.util.find_spec("tokenizers") is None:
        return None, " The package tokenizers recognises more of them: pip install tokenizers."
    try:
        taken = files.seen.made("fingerprints", files.known_by, lambda: _fingerprints(files))
    except (EngineError, CheckpointError) as e:
        _log.debug("%s: tokenizers cannot encode with it: %s", files.where, e)
        return None, f" The package tokenizers, which recognises more of them, cannot encode with it: {e}."
    found, bare = map(FINGERPRINTS.get, taken)
    return found or bare, ""  # bare: for a fine-tune whose template adds another token


def _fingerprints(files: TokenizerFiles) -> list[str]:
    """Return the fingerprints of the check text's ids, with and without special tokens.

    Raises EngineError with the reason for a failure, CheckpointError for a broken vocabulary.
    """
    return [hashlib.sha256(str(ids).encode()).hexdigest() for ids in check_ids(files)]


def check_ids(files: TokenizerFiles) -> list[list[int]]:
    """Return the ids of the check text with and without special tokens, as encoded by the package `tokenizers`.

    `tokenizers` takes hundreds of megabytes and a second for a large vocabulary, so it gets a part that gives the same
    ids. First it encodes with only single characters. As merging joins neighbours, every token of the result is a run
    of these characters; tokens that are not, and merges that create none, cannot matter. Raises EngineError with the
    reason for a failure, also for a model that merges in another way.
    """
    from pa_lite.untrusted.sandbox import LimitedProcess

    model, trained = files.model, trained_tokens(files)
    if any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")):
        raise EngineError("its merges use affixes or dropout")
    added = _added_ids(files)
    unknown = str(model.get("unk_token") or "").encode()
    small = {raw: i for raw, i in _with_ids(trained) if len(raw) <= _CHARACTER or raw == unknown or _is_byte(raw)}
    with LimitedProcess(_WORKER, _MEMORY) as process:

        def ask(vocab: Mapping[bytes, int], merges: Sequence[object]) -> dict[str, Any]:
            ids = {raw.decode(): i for raw, i in vocab.items()}
            part = {**files.definition, "model": {**model, "vocab": {**ids, **added}, "merges": merges}}
            part["added_tokens"] = [{**_PLAIN_TOKEN, **entry} for entry in part.get("added_tokens") or []]
            return process.ask({"definition": json.dumps(part), "text": CHECK_TEXT}, _SECONDS)

        text = "".join(ask(small, [])["tokens"]).encode()
        runs = {text[i : i + n] for n in range(1, _SHORT + 1) for i in range(len(text))}
        kept = {**small, **{raw: i for raw, i in _with_ids(trained) if raw in (runs if len(raw) <= _SHORT else text)}}
        pairs: list[list[str]] = []
        for made, lefts in merge_pairs(files).batches():
            found = ((raw[:left], raw[left:]) for raw, left in zip(made, lefts, strict=True) if raw in kept)
            pairs += [[a.decode(), b.decode()] for a, b in found if a in kept and b in kept]
        # older releases of `tokenizers` only read merges as strings with a space
        is_plain = not any(" " in part for pair in pairs for part in pair)
        ids: list[list[int]] = ask(kept, [" ".join(pair) for pair in pairs] if is_plain else pairs)["ids"]
        return ids


def _with_ids(trained: TrainedTokens) -> Iterator[tuple[bytes, int]]:
    return zip(trained.all_encoded(), trained.ids.tolist(), strict=True)


def _is_byte(raw: bytes) -> bool:
    """Return whether a token represents a single byte."""
    return len(raw) == 6 and raw.startswith(b"<0x")


def _added_ids(files: TokenizerFiles) -> dict[str, int]:
    """Return the ids that `tokenizers` gives the added tokens: the trained vocabulary's, else the next free one.

    Raises EngineError if an untrained token only matches as a separate word; in the vocabulary it would match
    elsewhere too.
    """
    texts, trained = {token.text.encode() for token in files.added_tokens()}, trained_tokens(files)
    known = {raw: i for raw, i in _with_ids(trained) if raw in texts}
    out: dict[str, int] = {}
    free = len(trained)
    for token, entry in zip(files.added_tokens(), files.definition.get("added_tokens") or [], strict=True):
        raw = token.text.encode()
        if raw not in known:
            if entry.get("single_word"):
                raise EngineError("it has an added token that only matches as a separate word")
            known[raw] = free
        free = max(free, known[raw] + 1)
        out[token.text] = known[raw]
    return out


def _by_definition(files: TokenizerFiles, reason: str) -> str:
    _check_normalizer(files, reason)
    steps = steps_of(files.definition.get("pre_tokenizer"), "pretokenizers")
    step_types = [step.get("type") for step in steps]
    name = None
    if step_types[-1:] == ["ByteLevel"] and not steps[-1].get("add_prefix_space", True):
        words = bool(steps[-1].get("use_regex", True))  # whether ByteLevel splits words itself, as in GPT-2
        if step_types == ["ByteLevel"] and words:
            name = files.rules.byte_level_name
        elif step_types == ["Digits", "ByteLevel"] and words and steps[0].get("individual_digits"):
            name = files.rules.digits_name
        elif step_types == ["Split", "ByteLevel"] and not words:
            name = _SPLITS.get(_split_pattern(steps[0]))
    if name is None:
        listed = ", ".join(map(str, step_types)) or "none"
        raise CheckpointError(
            f"{files.where}: its pre-tokenizer ({listed}) is unknown. Convert the checkpoint with llama.cpp and use "
            f"the .gguf file.{reason}"
        )
    return name


def _split_pattern(step: Mapping[str, Any]) -> str:
    """Return the regular expression whose matches become words; empty for another kind of split."""
    pattern = step.get("pattern")
    expression = pattern.get("Regex") if isinstance(pattern, dict) else None
    isolated = step.get("behavior") == "Isolated" and not step.get("invert")
    inverted = step.get("behavior") == "Removed" and step.get("invert")  # the same for patterns that match everything
    return expression if isinstance(expression, str) and (isolated or inverted) else ""


def _check_normalizer(files: TokenizerFiles, reason: str) -> None:
    """Raise CheckpointError for a normalizer other than NFC; llama.cpp has none, and texts are mostly NFC."""
    for step in steps_of(files.definition.get("normalizer"), "normalizers"):
        if step.get("type") != "NFC":
            raise CheckpointError(
                f"{files.where}: llama.cpp does not support its normalizer ({step.get('type')}).{reason}"
            )


# 350 characters, SHA-256 of their UTF-8 a36179c1e2b1cfcfbfad1dc779addad2ffc778201e4cf0d538bddeafa2c526da
CHECK_TEXT = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n\U0001f680 (normal) \U0001f636\u200d\U0001f32b\ufe0f (multipl"
    "e emojis concatenated) \u2705 \U0001f999\U0001f999 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 "
    "\u1780\u17b6\u1793\u17cb\u178f\u17c2\u1796\u17b7\u179f\u17c1\u179f\u17a2\u17b6\u1785\U0001f601 ?\u6211\u60f3"
    "\u5728apple\u5de5\u4f5c1314151\u5929\uff5e ------======= \u043d\u0435\u0449\u043e \u043d\u0430 \u0411\u044a"
    "\u043b\u0433\u0430\u0440\u0441\u043a\u0438 ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there,"
    " 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL"
)
# of the ids as a Python list, special tokens included
FINGERPRINTS = {
    "b0a6b1c0bd5998ebd9df08611efde34a4ff03faed45ae09c43e6b31ebd4b94cf": "a.x-4.0",
    "49fc0303c9e0d2c2c565c510f64b2d9b271276acdcdadff733249eda9f7d59df": "afmoe",
    "96a5f08be6259352137b512d4157e333e21df7edd3fcd152990608735a65b224": "bailingmoe",
    "9b1be57e70d20d9501b2b3186e792d81181ae36ada3903c26f9fea418cf87206": "bailingmoe2",
    "3c30d3ad1d6b64202cd222813e7736c2db6e1bd6d67197090fc1211fbc612ae7": "bloom",
    "60824e3c0d9401f89943cbb2fff727f0e2d4c545ba4df2d6e4f09a6db0f5b450": "chameleon",
    "b6e8e1518dc4305be2fe39c313ed643381c4da5db34a98f6a04c093f8afbe99b": "chatglm-bpe",
    "81d72c7348a9f0ebe86f23298d37debe0a5e71149e29bd283904c02262b27516": "chatglm-bpe",
    "7b3e7548e4308f52a76e8229e4e6cc831195d0d1df43aed21ac6c93da05fec5f": "codeshell",
    "52df12b4c8d4176e7481aab4b6e8454d1fd0a210a04a574f6d4e067d10e23c3e": "cohere2moe",
    "9c2227e4dd922002fb81bde4fc02b0483ca4f12911410dee2255e4987644e3f8": "command-r",
    "a8594e3edff7c29c003940395316294b2c623e09894deebbc65f33f1515df79e": "dbrx",
    "347715f544604f9118bb75ed199f68779f423cabb20db6de6f31b908d04d7821": "deepseek-coder",
    "049ecf7629871e3041641907f3de7c733e4dbfdc736f57d882ba0b0845599754": "deepseek-llm",
    "b3f499bb4255f8ca19fccd664443283318f2fd2414d5e0b040fbdd0cc195d6c5": "deepseek-r1-qwen",
    "877081d19cf6996e2c4ff0e1236341e9b7bde288f5311a56a937f0afbbb3aeb5": "deepseek-v3",
    "4e2b24cc4770243d65a2c9ec19770a72f08cffc161adbb73fcbb6b7dd45a0aae": "exaone",
    "6c81ce329e0802883b22eabab0d3fa48357337ef1ecb45443828bf1f6254833f": "exaone-moe",
    "2085e1638f6c377a0aa4ead21b27bb4cb941bf800df86ed391011769c1758dfb": "exaone4",
    "8aeee3860c56296a157a1fe2fad249ec40aa59b1bb5709f4ade11c4e6fe652ed": "falcon",
    "a6b57017d60e6edb4d88ecc2845188e0eb333a70357e45dcc9b53964a73bbae6": "falcon-h1",
    "60476e1243776c4fb1b993dbd7a5f15ac22f83c80afdf425fa5ae01c8d44ef86": "falcon-h1",
    "3eda48b4c4dc7de733d1a8b3e3b4a85243dbbf704da2ee9d42c6beced8897896": "falcon-h1",
    "48f8e02c0359c0bbdd82f26909171fac1c18a457bb47573ed1fe3bbb2c1cfd4b": "falcon-h1",
    "9d032fcbd5501f4a38150912590928bfb36091efb5df11b8e2124b0390e3fb1e": "falcon3",
    "ad851be1dba641f2e3711822f816db2c265f788b37c63b4e1aeacb9ee92de8eb": "gigachat",
    "a1336059768a55c99a734006ffb02203cd450fed003e9a71886c88acf24fdbc2": "glm4",
    "9ca2dd618e8afaf09731a7cf6e2105b373ba6a1821559f258b272fe83e6eb902": "glm4",
    "cdf5f35325780597efd76153d4d1c16778f766173908894c04afc20108536267": "glm4",
    "0fe1cf6eda062318a1af7270f3331a85c539a01778ff948e24388e949c5282f4": "gpt-2",
    "3ce83efda5659b07b1ad37ca97ca5797ea4285d9b9ab0dc679e4a720c9da7454": "gpt-2",
    "ccc2ef013c104be7bae2965776d611e1d7a8a2a9c547dd93a682c9a9fc80352e": "gpt-4o",
    "bc01ce58980e1db43859146dc51b1758b3b88729b217a74792e9f8d43e479d21": "gpt3-finnish",
    "53e325976a6e142379c19b09afcae354f2f496f147afa8f9e189a33fe4e3024e": "granite-docling",
    "66b8d4e19ab16c3bfd89bce5d785fb7e0155e8648708a1f42077cb9fe002c273": "grok-2",
    "7e57df22b1fe23a7b1e1c7f3dc4e3f96d43a4eb0836d0c6bdc3436d7b2f1c664": "hunyuan",
    "bba3b3366b646dbdded5dbc42d59598b849371afc42f7beafa914afaa5b70aa6": "hunyuan-dense",
    "e6ddf9c6686791c12d698d34c31ab9be1fea9af5a3d9a6909783ab382198ae1c": "hy_v4",
    "b53802fb28e26d645c3a310b34bfe07da813026ec7c7716883404d5e0f8b1901": "jais",
    "bc5108ee1eb6a3d600cadd065f63190fbd0554dbc9e4bbd6a0d977970afc8d2a": "jais-2",
    "b4b8ca1f9769494fbd956ebc4c249de6131fb277a4a3345a7a92c7dd7a55808d": "joyai-llm",
    "e4d54df1ebc1f2b91acd986c5b51aa50837d5faf7c7398e73c1f9e9ee5d19869": "kanana2",
    "4a2e2abae11ca2b86d570fc5b44be4d5eb5e72cc8f22dd136a94b37da83ab665": "kormo",
    "972da7b59cec44d1f0a490a86c96df53859e486e481563e5dddac155013d87ac": "laguna",
    "9e454714343b69b99b71795c1d27a68c2a1d15dab111f4d353109f966af29da7": "lfm2",
    "169bf0296a13c4d9b7672313f749eb36501d931022de052aad6e36f2bf34dd51": "lfm2",
    "0ef9807a4087ebef797fc749390439009c3b9eda9ad1a097abbe738f486c01e5": "llama-bpe",
    "d353350c764d8c3b39c763113960e4fb4919bea5fbf208a0e3b22e8469dc7406": "llama4",
    "d4c8f286ea6b520b3d495c4455483cfa2302c0cfcd4be05d781b6a8a0a7cdaf1": "megrez",
    "a1e163ecab2e718a4c829d1148b6e86824ec36163bb71941c3dca9cd5ac25756": "mellum",
    "9dcf830ee9990cdbf78cc523a5f7bd9ad8f3f9890c2d3581d2785ad10f07049d": "mellum2",
    "f6791d196f87ce6b56a7d234be618e0d58f8cda3549416635b2bebcd22cd95c4": "midm-2.0",
    "1431a23e583c97432bc230bff598d103ddb5a1f89960c8f1d1051aaa944d0b35": "minerva-7b",
    "36f3066e97b7f3994b379aaacde306c1444c6ae84e81a5ae3cd2b7ed3b8c42d4": "minicpm5",
    "f4f37b6c8eb9ea29b3eac6bb8c8487c5ab7885f8d8022e67edc1c68ce8403e95": "minimax-m2",
    "b6dc8df998e1cfbdc4eac8243701a65afe638679230920b50d6f17d81c098166": "olmo",
    "fcace8b9cac38ce847670c970cd5892031a753a1ef381abd1d9af00f713da085": "phi-2",
    "0e9433cbbb161f89e264eb32e8e64bfe69e834973ffca5d41d3948a604a3e2a3": "pixtral",
    "c7ea5862a53e4272c035c8238367063e2b270d51faa48c0f09e9d5b54746c360": "poro-chat",
    "d4540891389ea895b53b399da6ac824becc30f2fba0e9ddbb98f92e55ca0e97c": "qwen2",
    "e636dc30a262dcc0d8c323492e32ae2b70728f4df7dfe9737d9f920a282b8aea": "qwen2",
    "1444df51289cfa8063b96f0e62b1125440111bc79a52003ea14b6eac7016fd5f": "qwen35",
    "d30d75d9059f1aa2c19359de71047b3ae408c70875e8a3ccf8c5fba56c9d8af4": "qwen35",
    "6221ad2852e85ce96f791f476e0b390cf9b474c9e3d1362f53a24a06dc8220ff": "refact",
    "d5f1dd6f980fec569fb218a81a7658ac45fc56b38c5a0adeb1c232fbe04ef5ec": "seed-coder",
    "c136ed14d01c2745d4f60a9596ae66800e2b61fa45643e72436041855ad4089d": "smaug-bpe",
    "855059429035d75a914d1eda9f10a876752e281a054a7a3d421ef0533e5b6249": "smollm",
    "16389f0a1f51ee53e562ffd51c371dc508639ab0e4261502071836e50e223e91": "solar-open",
    "0a766d034107bc736a3f2dc4968fd62e54a3570f1454443e0c5a4cc6bd7941ed": "spark2_5",
    "32d85c31273f8019248f2559fed492d929ea28b17e51d81d3bb36fff23ca72b3": "stablelm2",
    "35d91631860c815f952d711435f48d356ebac988362536bed955d43bfa436e34": "starcoder",
    "7dec86086fcc38b66b7bc1575a160ae21cf705be7718b9d5598190d7c12db76f": "superbpe",
    "f728162c1315c26e40249849799b4ba3fe584c32084b4795b03eb295e63cb5af": "talkie",
    "63b97e4253352e6f357cc59ea5b583e3a680eaeaf2632188c2b952de2588485e": "tekken",
    "d772b220ace2baec124bed8cfafce0ead7d6c38a4b65ef11261cf9d5d62246d1": "tiny_aya",
    "1994ffd01900cfb37395608534236ecd63f2bd5995d6cb1004dda1af50240f15": "trillion",
    "653660222fb704f61cbf2b618a8ae6502b7f8b20c980f9a5de07ed78e13319cd": "ufakzeka",
    "7fc505bd3104ca1083b150b17d088b59534ede9bde81f0dd2090967d7fe52cee": "viking",
    "9d70134b369a70e5735009b6de918f7581b5211f7c074d1f89f753aea8248af1": "youtu",
}
