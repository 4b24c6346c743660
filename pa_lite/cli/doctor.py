"""The command that looks at the machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from pa_lite.cli.options import JSON
from pa_lite.cli.terminal import show_json, show_table

if TYPE_CHECKING:
    from pa_lite.engine.doctor import Diagnosis


@click.command()
@JSON
def doctor(as_json: bool) -> None:
    """This machine: memory, cores, GPUs, the build of llama.cpp, and which models fit."""
    from pa_lite.engine.doctor import diagnose

    found = diagnose()
    if as_json:
        show_json(asdict(found))
    else:
        show_diagnosis(found)


def show_diagnosis(found: Diagnosis) -> None:
    from pa_lite.engine.doctor import CELLS

    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    rows = [
        ["system", f"{found.system}, Python {found.python}"],
        ["packages", versions],
        ["cores", f"{found.cores} to be used"],
        ["memory", f"{_gb(found.memory_available)} free of {_gb(found.memory_total)}"],
        ["disk", f"{_gb(found.disk_free)} free in {found.disk_folder}, where PAIR@LAM goes when memory is short"],
        ["llama.cpp", found.build],
        ["interface", found.interface],
        *(
            [d.kind, f"{d.description or d.name} ({d.name}), {_gb(d.free)} free of {_gb(d.total)}"]
            for d in found.devices
        ),
    ]
    for name, told in rows:
        click.echo(f"{name:<10} {told}")
    table = [
        [f.model, f.kind, _gb(f.needed), "yes" if f.fits else "no", _layers(f.gpu_layers, f.layers)] for f in found.fits
    ]
    click.echo(f"\nWhat fits now, reckoned with a context of {CELLS} tokens:")
    show_table(["model", "type", "needs", "fits", "layers on GPU"], table)
    for remark in found.remarks:
        click.echo(remark)


def _gb(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n else "unknown"


def _layers(on_gpu: int, layers: int) -> str:
    return "all" if on_gpu > layers else f"{on_gpu} of {layers}" if on_gpu else "none"
