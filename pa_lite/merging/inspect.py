"""Describe the model that a merge would write, without writing it."""

from __future__ import annotations

from pa_lite.checkpoints.inspect import Inspection, TensorRow, describe_vocabulary, licence_in, merge_facts
from pa_lite.ggml.gguf_tables import Keys
from pa_lite.merging.plan import Layout


def inspect_layout(layout: Layout, name: str) -> Inspection:
    """Describe the output of a merge from the headers of its two sides; `name` is how the user calls it."""
    plan, metadata = layout.plan, layout.metadata
    types: dict[str, int] = {}
    for tensor in plan.tensors:
        types[tensor.type.name] = types.get(tensor.type.name, 0) + tensor.nbytes
    rows = [TensorRow(name=t.name, type=t.type.name, shape=t.shape, bytes=t.nbytes) for t in plan.tensors]
    architecture = plan.instruct.architecture
    return Inspection(
        path=name,
        name=str(metadata[Keys.General.NAME].value),
        architecture=architecture,
        families=plan.instruct.families,
        files=tuple(sorted({file.name for file in plan.files})),
        parameters=plan.n_values,
        bytes=plan.data_bytes,
        types=dict(sorted(types.items(), key=lambda entry: -entry[1])),
        settings={k: e.value for k, e in plan.instruct.metadata.items() if e.type != "ARRAY"},
        vocabulary=describe_vocabulary(plan.vocabulary),
        problem=None,
        warnings=plan.instruct.warnings,
        remarks=(*plan.remarks, *plan.doubts),
        tensors=tuple(sorted(rows, key=lambda row: row.name)),
        licence=licence_in(metadata),
        merge=merge_facts(metadata),
    )
