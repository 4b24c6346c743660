"""Convert between texts and tokens with a loaded model's vocabulary."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

from pa_lite.checkpoints.vocabulary.special_tokens import END_IDS_KEY, TEMPLATE_TOKEN_KEYS
from pa_lite.checkpoints.vocabulary.tokens import UNKNOWN
from pa_lite.engine.deep_stack import DIRECT, with_deep_stack
from pa_lite.engine.pre_tokenizers import PreTokenizer, pre_tokenizer
from pa_lite.engine.space_prefix import SpacePrefix, space_prefix_scheme
from pa_lite.engine.special_tokens import SHORT, SpecialToken, SpecialTokens
from pa_lite.engine.vocabulary_refusals import BYTE_PAIRS
from pa_lite.errors import TextError
from pa_lite.ggml.container import GgufHeader


class ModelVocabulary:
    """The part of a model that tokenises texts and converts tokens to text.

    `header` is the header of its GGUF file, `lib` the module of llama.cpp, `vocab` llama.cpp's handle.
    """

    header: GgufHeader
    lib: Any
    vocab: Any

    def tokenize(
        self, text: str, add_special: bool = True, parse_special: bool = False, is_start: bool = True
    ) -> list[int]:
        """Return the token ids of a text.

        `add_special` adds BOS and EOS if the vocabulary asks for them. `parse_special` reads control tokens that the
        text spells out. `is_start` is False for a text that follows a control token: there some tokenizers do not put a
        space before it. Raises TextError for a text that the tokenizer cannot take.
        """
        prefix = self._space_prefix
        if prefix is None:
            return self._tokenize(text, add_special, parse_special)
        return prefix.tokenize(text, add_special, parse_special, is_start)

    @functools.cached_property
    def _space_prefix(self) -> SpacePrefix | None:
        scheme = space_prefix_scheme(self.header.metadata)
        return SpacePrefix(scheme, self.header.metadata, self._tokenize) if scheme else None

    def text_fault(self, text: str, parse_special: bool = False) -> str | None:
        """Return why the tokenizer cannot take a text, as the end of a sentence; None if it can. Does not tokenise."""
        if len(text) > DIRECT:
            try:
                self._parts(text, parse_special)
            except TextError as e:
                return e.fault
        return None

    def check_text(self, text: str, where: str, parse_special: bool = False) -> None:
        """Raise TextError, naming the text `where`, if the tokenizer cannot take it. Does not tokenise."""
        if (fault := self.text_fault(text, parse_special)) is not None:
            raise TextError(fault, where)

    def _parts(self, text: str, parse_special: bool) -> list[str | int]:
        """Split a text into parts and ids of special tokens that can be tokenised separately. Raises TextError."""
        if len(text) <= DIRECT:
            return [text]
        if (fault := self._pre_tokenizer.fault(text)) is not None:
            raise TextError(fault)
        return [text] if len(text) <= SHORT else self._special_tokens[parse_special].cut(text)

    def _tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """Return llama.cpp's ids of a text. Raises TextError for a text that the tokenizer cannot take."""
        parts = self._parts(text, parse_special)
        if parts == [text]:
            return self._whole_ids(text, add_special, parse_special)
        before, after = self._added_ids if add_special else ([], [])
        ids = list(before)
        for part in parts:
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._whole_ids(part, False, parse_special)
        return ids + after

    def _whole_ids(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """Return the ids of a text that is not cut, with as much stack as it takes."""
        if len(text) <= DIRECT or not self._pre_tokenizer.needs_stack:
            return self._ids(text, add_special, parse_special)
        _, length = self._pre_tokenizer.longest_stretch(text)
        return with_deep_stack(length, lambda: self._ids(text, add_special, parse_special))

    @functools.cached_property
    def _pre_tokenizer(self) -> PreTokenizer:
        entries = (self.header.metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
        tokenizer_model, pre = ("" if entry is None else str(entry.value) for entry in entries)
        return pre_tokenizer(tokenizer_model, pre)

    @functools.cached_property
    def _special_tokens(self) -> tuple[SpecialTokens, SpecialTokens]:
        """The special tokens in texts without `parse_special`, and in texts with it."""
        lib, plain, parsed = self.lib, list[SpecialToken](), list[SpecialToken]()
        for token in range(lib.llama_vocab_n_tokens(self.vocab)):
            attributes = lib.llama_vocab_get_attr(self.vocab, token)
            is_control = bool(attributes & (lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN))
            if is_control or attributes & lib.LLAMA_TOKEN_ATTR_USER_DEFINED:
                strips = (bool(attributes & bit) for bit in (lib.LLAMA_TOKEN_ATTR_LSTRIP, lib.LLAMA_TOKEN_ATTR_RSTRIP))
                parsed.append(SpecialToken(token, self.token_text(token), *strips))
                if not is_control:
                    plain.append(parsed[-1])
        return SpecialTokens(plain), SpecialTokens(parsed)

    @functools.cached_property
    def _added_ids(self) -> tuple[list[int], list[int]]:
        """The ids that `add_special` puts before and after a text."""
        added = self._ids("", True, False)
        n_before = 1 if len(added) == 2 else len(added) * self.lib.llama_vocab_get_add_bos(self.vocab)
        return added[:n_before], added[n_before:]

    def _ids(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        raw = text.encode("utf-8")
        n = -len(raw) - 16
        while n < 0:  # the buffer was too small for -n ids
            buffer, size = (ctypes.c_int32 * -n)(), -n
            n = self.lib.llama_tokenize(self.vocab, raw, len(raw), buffer, size, add_special, parse_special)
        return buffer[:n]

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token's text; control tokens have none."""
        n = -64
        while n < 0:  # the buffer was too small for -n bytes
            buffer, size = ctypes.create_string_buffer(-n), -n
            n = self.lib.llama_token_to_piece(self.vocab, token, buffer, size, 0, False)
        return buffer.raw[:n]

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; their bytes are joined before they are decoded as UTF-8."""
        return b"".join(map(self.piece, tokens)).decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        """Return whether a token ends a generation (end of text, end of turn, ...)."""
        return bool(self.lib.llama_vocab_is_eog(self.vocab, token)) or token in self._more_ends

    @functools.cached_property
    def _more_ends(self) -> frozenset[int]:
        """End tokens that llama.cpp does not know, from pa-lite's own header key."""
        entry = self.header.metadata.get(END_IDS_KEY)
        return frozenset(entry.value if entry is not None and isinstance(entry.value, list) else ())

    @property
    def prefix_token(self) -> int | None:
        """The token that stands for an empty context: BOS, or else EOS."""
        bos = self.special_token("bos")
        return self.special_token("eos") if bos is None else bos

    def is_control(self, token: int) -> bool:
        """Return whether a token is a control token (start of turn, ...) or the unknown token, which have no text."""
        return bool(self.lib.llama_vocab_is_control(self.vocab, token)) or token in self._unknown

    @functools.cached_property
    def _unknown(self) -> frozenset[int]:
        entry = self.header.metadata.get("tokenizer.ggml.token_type")
        return frozenset(i for i, token_type in enumerate(entry.value if entry else ()) if token_type == UNKNOWN)

    def token_text(self, token: int) -> str:
        """Return a token's text in the vocabulary."""
        raw = self.lib.llama_vocab_get_text(self.vocab, token)
        return raw.decode("utf-8", "replace") if raw else ""

    def special_token(self, name: str) -> int | None:
        """Return the id of the `bos` or `eos` token, None if the model has none.

        A byte-level vocabulary has one only if its file names it; llama.cpp would use token 11.
        """
        metadata = self.header.metadata
        own = metadata.get(TEMPLATE_TOKEN_KEYS[name])
        if own is not None:  # the tokenizer's token, where it differs from that of config.json
            tokens = self.tokenize(str(own.value), add_special=False, parse_special=True)
            return tokens[0] if len(tokens) == 1 else None
        token = int(getattr(self.lib, f"llama_vocab_{name}")(self.vocab))
        named = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if named is not None and named.value == token:
            return token
        tokenizer_model = metadata.get("tokenizer.ggml.model")
        is_byte_level = tokenizer_model is not None and tokenizer_model.value in BYTE_PAIRS
        return token if token >= 0 and self.is_control(token) and not is_byte_level else None

    def special_text(self, name: str) -> str:
        """Return the text of the `bos` or `eos` token for a chat template, empty if the model has none."""
        own = self.header.metadata.get(TEMPLATE_TOKEN_KEYS[name])
        if own is not None:
            return str(own.value)
        token = self.special_token(name)
        return "" if token is None else self.token_text(token)
