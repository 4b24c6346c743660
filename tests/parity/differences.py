"""Differences between our files and those of convert_hf_to_gguf.py, with reasons."""

from __future__ import annotations

from collections.abc import Mapping

from pa_lite.ggml.metadata import Metadata

_WHICH = "names the two merged models and lam; the converter guesses from the folder's name or model card"
OTHER_VALUES: dict[str, str] = {
    "general.name": _WHICH,
    "general.basename": _WHICH,
    "general.finetune": _WHICH,
    "general.version": _WHICH,
    "general.size_label": "written for every model; the converter omits it if a card does not name one",
    "general.tags": "from the model card, which is not the merged model's",
}
ONLY_OURS: dict[str, str] = {
    "tokenizer.ggml.add_bos_token": "written even when false: llama.cpp's default depends on the pre-tokenizer",
    "tokenizer.ggml.add_eos_token": "written even when false, for the same reason",
}
ONLY_THEIRS: dict[str, str] = {
    "tokenizer.ggml.add_sep_token": "only for BERT's kind; false in every model here, which is llama.cpp's default",
}
# case -> tensor -> reason to write it
MORE_TENSORS: dict[str, dict[str, str]] = {
    "olmo2-tied": {"output.weight": "llama.cpp does not load olmo2 without it: it is a copy of token_embd.weight"},
}


def check_metadata(ours: Metadata, theirs: Metadata) -> None:
    """Assert that two headers are equal except for the differences above."""
    alike = theirs.keys() - OTHER_VALUES.keys() - ONLY_THEIRS.keys()
    assert {key: ours.get(key) for key in alike} == {key: theirs[key] for key in alike}
    more = {
        key
        for key in ours.keys() - theirs.keys()
        if not key.startswith(("pa_lite.", "tokenizer.pa_lite.", "general.base_model."))
    }
    assert more <= OTHER_VALUES.keys() | ONLY_OURS.keys()
    assert not any(theirs[key].value for key in ONLY_THEIRS.keys() & theirs.keys())


def more_tensors(case: str) -> Mapping[str, str]:
    return MORE_TENSORS.get(case, {})
