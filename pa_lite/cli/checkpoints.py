"""The commands `inspect` and `diff`."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

import pa_lite
from pa_lite.cli.bars import bar
from pa_lite.cli.completers import models
from pa_lite.cli.help import command
from pa_lite.cli.options import JSON, STREAM, THREADS, TYPE, takes_pair
from pa_lite.cli.terminal import blocks, show_json, show_table, tell

if TYPE_CHECKING:
    from pa_lite import Diff, Inspection
    from pa_lite.api.options import PairLike


@command("Show what is in a checkpoint or model file")
@click.argument("checkpoint", shell_complete=models)
@click.option("--tensors", is_flag=True, help="List every tensor.")
@TYPE
@JSON
def inspect(checkpoint: str, tensors: bool, weight_type: str, as_json: bool) -> None:
    """Show the architecture, tensor types, sizes, vocabulary, chat template and licence of CHECKPOINT.

    CHECKPOINT is a folder with safetensors files, a GGUF file, PAIR@LAM, or org/name[@revision] on the Hub. From the
    Hub, only headers and small files are downloaded. For a file that pa-lite wrote, lam, base and instruct are shown.

    \b
    pa-lite inspect model.gguf
    pa-lite inspect demo@0.7
    """
    found = pa_lite.inspect(checkpoint, type=weight_type)
    if as_json:
        show_json(asdict(found))
        return
    show_inspection(found, tensors)


def show_inspection(found: Inspection, tensors: bool) -> None:
    supported = ", ".join(found.families) or "no parity test covers it; only GGUF files can be merged"
    rows = [("name", found.name), ("architecture", found.architecture), ("supported", supported)]
    if found.merge is not None:
        made = found.merge
        rows.append(("made by", f"pa-lite {made.version}: lam {made.lam:g} between {made.base} and {made.instruct}"))
        rows += [("schedule", made.schedule)] if made.schedule else []
    rows += [("licence", found.licence)] if found.licence else []
    rows.append(("files", ", ".join(found.files)))
    rows.append(("parameters", f"{found.parameters / 1e6:.1f} million in {found.bytes / 1e6:.1f} MB"))
    rows.append(("types", ", ".join(f"{tensor_type} {size / 1e6:.1f} MB" for tensor_type, size in found.types.items())))
    prefix = f"{found.architecture}."
    rows += [(key.removeprefix(prefix), str(value)) for key, value in found.settings.items()]
    if found.vocabulary is not None:
        v = found.vocabulary
        rows.append(("vocabulary", f"{v.model} / {v.pre}, {v.tokens} tokens, {v.used} used"))
        rows.append(("special tokens", ", ".join(f"{role} {text}" for role, text in v.special.items())))
        rows.append(("chat template", f"{len(v.chat_template)} characters" if v.chat_template else "none"))
    else:
        rows.append(("vocabulary", found.problem or "none"))
    show_table(["", ""], rows)
    for line in (*found.remarks, *found.warnings):
        tell(f"note: {line}")
    if tensors:
        names = ["tensor", "type", "shape", "bytes"]
        show_table(names, [[t.name, t.type, " x ".join(map(str, t.shape)), str(t.bytes)] for t in found.tensors])


@command("Show how far instruct is from base, by layer")
@takes_pair
@STREAM
@THREADS
@JSON
def diff(pair: PairLike, stream: bool, threads: int, as_json: bool) -> None:
    """Show the distance |I - B| / |B| and the cosine of PAIR's checkpoints, by tensor group and layer.

    PAIR is a registered name, or BASE and INSTRUCT.

    \b
    pa-lite diff demo
    pa-lite diff ./Base ./Instruct
    """
    with bar("diff") as progress:
        found = pa_lite.diff(pair=pair, threads=threads, stream=stream, progress=progress)
    if as_json:
        show_json(asdict(found))
        return
    show_diff(found)


def show_diff(found: Diff) -> None:
    distances = {"all": found.total, **found.groups, **{f"layer {i}": d for i, d in found.layers.items()}}
    largest = max((d.relative_norm for d in distances.values() if d.relative_norm < math.inf), default=0.0)
    rows = [
        [
            name,
            f"{d.relative_norm:.5f}",
            f"{d.cosine:.6f}",
            blocks(round(20 * min(1.0, d.relative_norm / largest))) if largest else "",
        ]
        for name, d in distances.items()
    ]
    show_table(["", "relative norm", "cosine", ""], rows, marked=0)
    for line in found.remarks:
        tell(f"note: {line}")
