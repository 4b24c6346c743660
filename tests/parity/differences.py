"""Where our files differ from convert_hf_to_gguf.py's, and why."""

from __future__ import annotations

from collections.abc import Mapping

from pa_lite.ggml.metadata import Metadata

_WHICH = "says which two models were merged and at what lam; the converter guesses from the folder's name or model card"
OTHER_VALUES: dict[str, str] = {
    "general.name": _WHICH,
    "general.basename": _WHICH,
    "general.finetune": _WHICH,
    "general.version": _WHICH,
    "general.size_label": "written alike for every model, where the converter leaves it out if a card names none",
    "general.tags": "of the model card; it is not the merged model's",
}
ONLY_OURS: dict[str, str] = {
    "tokenizer.ggml.add_bos_token": "told even when false: llama.cpp's default depends on the pre-tokenizer",
    "tokenizer.ggml.add_eos_token": "told even when false, likewise",
}
ONLY_THEIRS: dict[str, str] = {
    "tokenizer.ggml.add_sep_token": "of BERT's kind alone; false in every model here, which is llama.cpp's default",
}
# case -> tensor -> why we write it
MORE_TENSORS: dict[str, dict[str, str]] = {
    "olmo2-tied": {"output.weight": "llama.cpp loads no olmo2 without it: it is a copy of token_embd.weight"},
}


def check_metadata(ours: Metadata, theirs: Metadata) -> None:
    """Assert that two headers are alike but for the differences above."""
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
