"""What a loaded model's vocabulary makes of texts and tokens."""

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
    """The part of a model that turns texts into tokens and tokens into texts.

    `header` is its GGUF file's, `lib` llama.cpp, `vocab` llama.cpp's handle.
    """

    header: GgufHeader
    lib: Any
    vocab: Any

    def tokenize(
        self, text: str, add_special: bool = True, parse_special: bool = False, is_start: bool = True
    ) -> list[int]:
        """Return the token ids of a text; `add_special` adds BOS or EOS where the vocabulary asks for it, once.

        `is_start` is False for a text that continues an input after a control token: there some tokenizers put no space
        before it.
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
        """Return why the tokenizer cannot take a text, as the end of a sentence; None if it can. Tokenises nothing."""
        if len(text) > DIRECT:
            try:
                self._parts(text, parse_special)
            except TextError as e:
                return e.fault
        return None

    def check_text(self, text: str, where: str, parse_special: bool = False) -> None:
        """Raise TextError, naming `where` the text is from, if the tokenizer cannot take it. Tokenises nothing."""
        if (fault := self.text_fault(text, parse_special)) is not None:
            raise TextError(fault, where)

    def _parts(self, text: str, parse_special: bool) -> list[str | int]:
        """Return parts of a text, and ids of special tokens, whose ids are together the text's. Raises TextError."""
        if len(text) <= DIRECT:
            return [text]
        if (fault := self._pre_tokenizer.fault(text)) is not None:
            raise TextError(fault)
        return [text] if len(text) <= SHORT else self._special_tokens[parse_special].cut(text)

    def _tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """Return llama.cpp's ids of a text. Raises TextError for one that its tokenizer cannot take."""
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
        """Return those of texts in which control tokens are text, and those of texts in which they are read as such."""
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
        """The ids that are put before and after a text."""
        added = self._ids("", True, False)
        n_before = 1 if len(added) == 2 else len(added) * self.lib.llama_vocab_get_add_bos(self.vocab)
        return added[:n_before], added[n_before:]

    def _ids(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        raw = text.encode("utf-8")
        size = len(raw) + 16
        buffer = (ctypes.c_int32 * size)()
        n = self.lib.llama_tokenize(self.vocab, raw, len(raw), buffer, size, add_special, parse_special)
        if n < 0:
            buffer = (ctypes.c_int32 * -n)()
            n = self.lib.llama_tokenize(self.vocab, raw, len(raw), buffer, -n, add_special, parse_special)
        return buffer[:n]

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; control tokens stand for none."""
        size = 64
        buffer = ctypes.create_string_buffer(size)
        n = self.lib.llama_token_to_piece(self.vocab, token, buffer, size, 0, False)
        if n < 0:
            buffer = ctypes.create_string_buffer(-n)
            n = self.lib.llama_token_to_piece(self.vocab, token, buffer, -n, 0, False)
        return buffer.raw[:n]

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, bytes joined before they are decoded as UTF-8."""
        return b"".join(map(self.piece, tokens)).decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        """Whether a token ends a generation (end of text, of turn, ...)."""
        return bool(self.lib.llama_vocab_is_eog(self.vocab, token)) or token in self._more_ends

    @functools.cached_property
    def _more_ends(self) -> frozenset[int]:
        """The ends that llama.cpp cannot be told of."""
        entry = self.header.metadata.get(END_IDS_KEY)
        return frozenset(entry.value if entry is not None and isinstance(entry.value, list) else ())

    @property
    def prefix_token(self) -> int | None:
        """BOS, else EOS: what stands for an empty context."""
        bos = self.special_token("bos")
        return self.special_token("eos") if bos is None else bos

    def is_control(self, token: int) -> bool:
        """Whether a token steers the model (start of turn, ...) or is the unknown one, and stands for no text."""
        return bool(self.lib.llama_vocab_is_control(self.vocab, token)) or token in self._unknown

    @functools.cached_property
    def _unknown(self) -> frozenset[int]:
        entry = self.header.metadata.get("tokenizer.ggml.token_type")
        return frozenset(i for i, token_type in enumerate(entry.value if entry else ()) if token_type == UNKNOWN)

    def token_text(self, token: int) -> str:
        """A token as the vocabulary spells it."""
        raw = self.lib.llama_vocab_get_text(self.vocab, token)
        return raw.decode("utf-8", "replace") if raw else ""

    def special_token(self, name: str) -> int | None:
        """Return the id of the `bos` or `eos` token, None where the model has none.

        A byte-level vocabulary whose file names none has none, where llama.cpp takes token 11 for it.
        """
        metadata = self.header.metadata
        own = metadata.get(TEMPLATE_TOKEN_KEYS[name])
        if own is not None:  # the tokenizer's, where the ids are config.json's
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
        """Return the `bos` or `eos` token as a chat template gets it, empty where the model has none."""
        own = self.header.metadata.get(TEMPLATE_TOKEN_KEYS[name])
        if own is not None:
            return str(own.value)
        token = self.special_token(name)
        return "" if token is None else self.token_text(token)
