"""Commands that look at checkpoints and pairs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pa_lite.cli.options import JSON, THREADS
from pa_lite.cli.terminal import bar, show_json, show_table

if TYPE_CHECKING:
    from pa_lite.checkpoints.inspect import Inspection
    from pa_lite.merge.diff import Diff


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--tensors", is_flag=True, help="List every tensor.")
@JSON
def inspect(checkpoint: Path, tensors: bool, as_json: bool) -> None:
    """What is in CHECKPOINT: architecture, types, sizes, vocabulary, chat template."""
    from pa_lite.checkpoints.inspect import inspect_checkpoint

    found = inspect_checkpoint(checkpoint)
    if as_json:
        show_json(asdict(found))
        return
    show_inspection(found, tensors)


def show_inspection(found: Inspection, tensors: bool) -> None:
    supported = ", ".join(found.families) or "no: no parity test covers it; it merges as GGUF files alone"
    rows = [("name", found.name), ("architecture", found.architecture), ("supported", supported)]
    rows.append(("files", ", ".join(found.files)))
    rows.append(("parameters", f"{found.parameters / 1e6:.1f} million in {found.bytes / 1e6:.1f} MB"))
    rows.append(("types", ", ".join(f"{kind} {size / 1e6:.1f} MB" for kind, size in found.types.items())))
    rows += [(key, str(value)) for key, value in found.settings.items()]
    if found.vocabulary is not None:
        v = found.vocabulary
        rows.append(("vocabulary", f"{v.model} / {v.pre}, {v.tokens} tokens, {v.used} used"))
        rows.append(("special tokens", ", ".join(f"{role} {text}" for role, text in v.special.items())))
        rows.append(("chat template", f"{len(v.chat_template)} characters" if v.chat_template else "none"))
    else:
        rows.append(("vocabulary", found.problem or "none"))
    show_table(["", ""], rows)
    for line in found.warnings:
        click.echo(f"note: {line}")
    if tensors:
        names = ["tensor", "type", "shape", "bytes"]
        show_table(names, [[t.name, t.type, " x ".join(map(str, t.shape)), str(t.bytes)] for t in found.tensors])


@click.command()
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("instruct", type=click.Path(path_type=Path))
@THREADS
@JSON
def diff(base: Path, instruct: Path, threads: int, as_json: bool) -> None:
    """How far INSTRUCT lies from BASE, by tensor group and layer: |I - B| / |B|, and the cosine of the two."""
    from pa_lite.merge.diff import diff_checkpoints

    with bar("diff") as progress:
        found = diff_checkpoints(base, instruct, threads, progress)
    if as_json:
        show_json(asdict(found))
        return
    show_diff(found)


def show_diff(found: Diff) -> None:
    distances = {"all": found.total, **found.groups, **{f"layer {i}": d for i, d in found.layers.items()}}
    largest = max(d.relative_norm for d in distances.values())
    rows = [
        [
            name,
            f"{d.relative_norm:.5f}",
            f"{d.cosine:.6f}",
            "█" * round(30 * d.relative_norm / largest) if largest else "",
        ]
        for name, d in distances.items()
    ]
    show_table(["", "relative norm", "cosine", ""], rows, marked=0)
    for line in found.remarks:
        click.echo(f"note: {line}")


@click.command()
@JSON
def pairs(as_json: bool) -> None:
    """List the registered pairs of base and instruct."""
    from pa_lite.checkpoints.pairs import all_pairs

    found = all_pairs().values()
    if as_json:
        show_json([{"name": p.name, "base": str(p.base), "instruct": str(p.instruct)} for p in found])
    else:
        show_table(["pair", "what it is"], [[p.name, p.description] for p in found])
