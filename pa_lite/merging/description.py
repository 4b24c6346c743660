"""The keys in which a merged file names its licence, its two sources and its tags, as llama.cpp's converter does."""

from __future__ import annotations

from pa_lite.checkpoints.checkpoint import Checkpoint
from pa_lite.ggml.gguf_tables import Keys
from pa_lite.ggml.metadata import Metadata, array, string, uint32

TAGS = ("merge", "pa-lite", "partial-adaptation")
_LICENCE = (Keys.General.LICENSE, Keys.General.LICENSE_NAME, Keys.General.LICENSE_LINK)


def describe_sources(base: Checkpoint, instruct: Checkpoint) -> Metadata:
    """Return the keys `general.license*`, `general.base_model.*` and `general.tags` of a merged file."""
    out: Metadata = {**licence_of(base, instruct), Keys.General.BASE_MODEL_COUNT: uint32(2)}
    for i, side in enumerate((base, instruct)):
        out[Keys.General.BASE_MODEL_NAME.format(id=i)] = string(side.name)
        for key, target in (
            (Keys.General.ORGANIZATION, Keys.General.BASE_MODEL_ORGANIZATION),
            (Keys.General.REPO_URL, Keys.General.BASE_MODEL_REPO_URL),
        ):
            if (entry := side.origin.get(key)) is not None and entry.type == "STRING":
                out[target.format(id=i)] = entry
    known = instruct.origin.get(Keys.General.TAGS)
    tags = [str(tag) for tag in known.value] if known is not None and known.item == "STRING" else []
    out[Keys.General.TAGS] = array("STRING", list(dict.fromkeys([*tags, *TAGS])))
    return out


def licence_of(base: Checkpoint, instruct: Checkpoint) -> Metadata:
    """Return the licence that both sides have, or the only one known; two different ones are named together."""
    sides = [{key: side.origin[key] for key in _LICENCE if key in side.origin} for side in (base, instruct)]
    first, second = (_shown(side) for side in sides)
    if first and second and first != second:
        both = f"base: {first}; instruct: {second}"
        return {Keys.General.LICENSE: string("other"), Keys.General.LICENSE_NAME: string(both)}
    return sides[1] or sides[0]


def _shown(licence: Metadata) -> str:
    entry = licence.get(Keys.General.LICENSE_NAME) or licence.get(Keys.General.LICENSE)
    return str(entry.value) if entry is not None else ""
