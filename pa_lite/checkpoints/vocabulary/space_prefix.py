"""Where a SentencePiece tokenizer puts a space before a text, in the cases that llama.cpp's own keys cannot say.

llama.cpp knows one rule: with add_space_prefix, each text at the start and after a special token gets a space, also
where it starts with one. transformers has two others, by the name of Metaspace's schemes: `first` puts it at the start
of the input alone, `always` as llama.cpp does, and both leave a text alone that starts with a space. Such a tokenizer's
scheme goes into the GGUF file under a key of pa-lite, which other programs ignore.
"""

from __future__ import annotations

from pa_lite.checkpoints.vocabulary.files import TokenizerFiles
from pa_lite.checkpoints.vocabulary.pre_tokenizers import steps_of
from pa_lite.ggml.metadata import Metadata, string

SPACE_PREFIX_KEY = "tokenizer.pa_lite.space_prefix"
SPACE_PREFIX_SCHEMES = ("first", "always")

_REBUILT = "LlamaTokenizer"


def prefix_scheme(files: TokenizerFiles) -> str | None:
    """Return Metaspace's scheme (`first`, `always`, `never`), or None where there is no Metaspace.

    transformers 5 builds a LlamaTokenizer anew, by `legacy` and `add_prefix_space` of tokenizer_config.json, for all
    but a few families (`is_read_as_written`); all else is what tokenizer.json says, or tokenizer.model with `legacy`.
    Source: transformers 5, AutoTokenizer, LlamaTokenizer, build_tokenizer_from_spm_proto.
    """
    legacy = files.settings.get("legacy")
    name = files.settings.get("tokenizer_class") or files.config.get("tokenizer_class")
    rebuilt = isinstance(name, str) and name.removesuffix("Fast") == _REBUILT
    if rebuilt and not files.rules.is_read_as_written:
        if files.settings.get("add_prefix_space") is False:
            return "never"
        return "always" if legacy else "first"
    if files.definition:
        for step in steps_of(files.definition.get("pre_tokenizer"), "pretokenizers"):
            if step.get("type") == "Metaspace":
                return str(step.get("prepend_scheme", "always"))
        return None
    return "first" if legacy is False else None


def space_prefix(scheme: str | None) -> Metadata:
    """Return the scheme as a GGUF key, empty where llama.cpp's rule, or no space at all, is the tokenizer's."""
    return {SPACE_PREFIX_KEY: string(scheme)} if scheme in SPACE_PREFIX_SCHEMES else {}
