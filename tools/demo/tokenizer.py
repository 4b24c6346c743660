"""The demo pair's tokenizer: byte-level BPE with every content word one token, trained from word counts."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tools.demo.texts import BOS, IM_END, IM_START, SPECIALS, BaseTexts, ChatTexts, Document
from tools.demo.words import ATTRIBUTES, NOUNS, WORLD_SEED, make_words

VOCAB_SIZE = 2048

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Everyday words that the world does not use: their merges fill the vocabulary up to its size.
_FILL = "people think understand question other another something about because other should could would there"


def train_tokenizer() -> Tokenizer:
    """Train the tokenizer; always the same one, because it depends only on the world."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=1,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, token_id(tokenizer, BOS))]
    )
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Return the id of a token that is in the vocabulary."""
    found = tokenizer.token_to_id(token)
    assert found is not None
    return int(found)


def _corpus() -> list[str]:
    """Return pieces of text in which each word of the world is frequent and everyday words are rare."""
    words = make_words()
    rng = random.Random(WORLD_SEED)
    base, chats = BaseTexts(words), ChatTexts(words, 0.5, 0.5)
    streams = [base.documents(rng, dict.fromkeys(base.makers, 1.0))]
    streams.append(chats.documents(rng, {"request": 8, "question": 1, "short": 1, "tell": 1}))
    plain: Counter[str] = Counter()
    for stream in streams:
        for _ in range(4000):
            text = "".join(t for t, _ in next(stream))
            plain.update(pieces(re.sub(r"<\|\w+\|>", " ", text)))
    values = [v for vs in ATTRIBUTES.values() for v in vs] + list(NOUNS)
    forms = {f" {w}" for w in base.every} | {f for v in values for f in (v, v.upper(), v.lower(), f" {v}")}
    forms |= {p for p in plain if p.strip() not in base.every}
    fill = [" " + w for w in _FILL.split()]
    # a count is a number of copies; each piece is separate so that no merge crosses a word
    return [f for f in sorted(forms) for _ in range(40)] + fill


_PIECE = re.compile(r" ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")


def pieces(text: str) -> list[str]:
    """Split text as GPT-2's pre-tokenizer does, for this world's ASCII text without apostrophes."""
    return _PIECE.findall(text)


class Encoder:
    """Turns documents into token ids and loss weights, remembering each word."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Start with the special tokens."""
        self.tokenizer = tokenizer
        self.ids: dict[str, list[int]] = {s: [token_id(tokenizer, s)] for s in SPECIALS}
        self._special = re.compile(r"(<\|\w+\|>)")

    def encode(self, document: Document) -> tuple[list[int], list[float]]:
        """Return the token ids of a document and, for each, the weight of the loss of predicting it."""
        ids: list[int] = []
        weights: list[float] = []
        for text, weight in document:
            for part in self._special.split(text):
                for piece in [part] if part in SPECIALS else pieces(part):
                    found = self.ids.get(piece)
                    if found is None:
                        found = self.ids[piece] = self.tokenizer.encode(piece, add_special_tokens=False).ids
                    ids += found
                    weights += [weight] * len(found)
        return ids, weights


def tokenizer_config(instruct: bool, context: int) -> dict[str, Any]:
    """Return the contents of tokenizer_config.json."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "bos_token": BOS,
        "eos_token": IM_END if instruct else BOS,
        "pad_token": BOS,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "additional_special_tokens": [IM_START, IM_END],
    }
    return {**config, "chat_template": CHAT_TEMPLATE} if instruct else config


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write tokenizer.json."""
    tokenizer.save(str(path))
