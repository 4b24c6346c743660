"""Record where a SentencePiece tokenizer puts a space before a text, where llama.cpp's keys cannot.

llama.cpp has one rule: with add_space_prefix, every text at the start and after a special token gets a space, even if
it starts with one. transformers has two, named after Metaspace's schemes: `first` only adds it at the start of the
input, `always` in the same places as llama.cpp, and neither adds one to a text that starts with a space. The scheme
goes into the GGUF file under a pa-lite key, which other programs ignore.
"""

from __future__ import annotations

from pa_lite.checkpoints.vocabulary.files import TokenizerFiles
from pa_lite.checkpoints.vocabulary.pre_tokenizers import steps_of
from pa_lite.ggml.metadata import Metadata, string

SPACE_PREFIX_KEY = "tokenizer.pa_lite.space_prefix"
SPACE_PREFIX_SCHEMES = ("first", "always")

_REBUILT = "LlamaTokenizer"


def prefix_scheme(files: TokenizerFiles) -> str | None:
    """Return Metaspace's scheme (`first`, `always`, `never`), or None without Metaspace.

    For most families transformers 5 builds a new LlamaTokenizer from `legacy` and `add_prefix_space` of
    tokenizer_config.json. For others (`is_read_as_written`) tokenizer.json counts, or `legacy` if there is none.
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
    """Return the scheme as a GGUF key; empty if the tokenizer adds no space or follows llama.cpp's rule."""
    return {SPACE_PREFIX_KEY: string(scheme)} if scheme in SPACE_PREFIX_SCHEMES else {}
