"""The command `doctor`: the machine, and temporary files that killed runs left."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pa_lite.cli.help import command
from pa_lite.cli.options import JSON
from pa_lite.cli.terminal import show_json, show_table, tell, tell_prose

if TYPE_CHECKING:
    from pa_lite.api.machine import Diagnosis, Leftover


@command("Check this machine: what is missing, what fits")
@click.argument("folders", nargs=-1, metavar="[FOLDER]...", type=click.Path(path_type=Path))
@click.option("--clean", is_flag=True, help="List temporary files of killed runs, and remove them after confirmation.")
@click.option("--yes", is_flag=True, help="With --clean: remove without confirmation.")
@JSON
def doctor(folders: tuple[Path, ...], clean: bool, yes: bool, as_json: bool) -> None:
    """Show this machine's memory, cores, GPUs and llama.cpp build, which models fit, and what is missing.

    With --clean, list and remove temporary files that killed runs left in FOLDERs and their subfolders; by default in
    the working folder, the system's temporary folder, pa-lite's own folders and the Hub's cache. Files that are in use,
    or have no marker of pa-lite, are kept.

    \b
    pa-lite doctor
    pa-lite doctor --clean
    pa-lite doctor --clean ~/models --yes
    """
    if clean:
        clean_up(folders, yes, as_json)
        return
    if folders or yes:
        raise click.UsageError("FOLDER and --yes require --clean.")
    from pa_lite.api.machine import diagnose

    found = diagnose()
    if as_json:
        show_json(asdict(found))
    else:
        show_diagnosis(found)


def show_diagnosis(found: Diagnosis) -> None:
    from pa_lite.api.machine import CELLS

    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    rows = [
        ["system", f"{found.system}, Python {found.python}"],
        ["packages", versions],
        ["cores", f"{found.cores} usable"],
        ["memory", f"{_gb(found.memory_available)} free of {_gb(found.memory_total)}"],
        ["disk", f"{_gb(found.disk_free)} free in {found.disk_folder}, used for PAIR@LAM when memory is short"],
        ["llama.cpp", found.build],
        ["interface", found.interface],
        *(
            [d.kind, f"{d.description or d.name} ({d.name}), {_gb(d.free)} free of {_gb(d.total)}"]
            for d in found.devices
        ),
    ]
    show_table(["", ""], rows)
    table = [
        [f.model, f.kind, _gb(f.needed), "yes" if f.fits else "no", _layers(f.gpu_layers, f.layers)] for f in found.fits
    ]
    tell(f"What fits now, estimated for a context of {CELLS} tokens:")
    show_table(["model", "type", "needs", "fits", "layers on GPU"], table)
    show_table(["", ""], [[c.name, f"{c.found}. {_sentence(c.advice)}" if c.advice else c.found] for c in found.checks])
    for remark in found.remarks:
        tell_prose(remark)
    tell_prose(found.verdict)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _gb(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n else "unknown"


def _layers(on_gpu: int, layers: int) -> str:
    return "all" if on_gpu > layers else f"{on_gpu} of {layers}" if on_gpu else "none"


def clean_up(folders: Sequence[Path], yes: bool, as_json: bool) -> None:
    """List leftovers, ask unless `yes`, and remove those that are not in use."""
    from pa_lite.api.machine import leftovers, remove

    found = leftovers(folders)
    free = [each for each in found if each.is_removable]
    if not as_json:
        show_leftovers(found)
    can_ask = sys.stdin.isatty() and not as_json
    if free and not yes and can_ask:
        yes = click.confirm(f"Remove {_count(free)}?", err=True)
    removed = [each for each in free if remove(each)] if yes else []
    if as_json:
        entries = [{**_entry(each), "removed": each in removed} for each in found]
        show_json({"leftovers": entries, "removed": len(removed), "freed": sum(each.nbytes for each in removed)})
    elif removed:
        tell(f"removed {_count(removed)}")
    elif free and not yes:
        tell("nothing was removed" + ("." if can_ask else ": use --yes to remove what is not in use."))


def _entry(leftover: Leftover) -> dict[str, Any]:
    """Return the JSON entry of a leftover."""
    names = ("what", "nbytes", "age", "loses", "in_use")
    return {
        "path": str(leftover.path),
        "companions": [str(path) for path in leftover.companions],
        **{name: getattr(leftover, name) for name in names},
        "has_marker": leftover.marker is not None,
    }


def show_leftovers(found: Sequence[Leftover]) -> None:
    if not found:
        tell("No temporary files were left.")
        return
    rows = [[str(e.path), e.what, f"{e.nbytes / 1e6:.1f}", _age(e.age), _fate(e)] for e in found]
    show_table(["file", "what", "MB", "age", "what would be lost"], rows)
    if any(each.marker is None for each in found):
        tell(
            "Files without a marker of pa-lite are kept, whatever their names: they may be yours or from an older "
            "version. Delete them yourself if you do not need them."
        )


def _fate(leftover: Leftover) -> str:
    if leftover.marker is None:
        return "not removed: no marker"
    return "in use: kept" if leftover.in_use else leftover.loses or "nothing"


def _count(found: Sequence[Leftover]) -> str:
    noun = "temporary file" if len(found) == 1 else "temporary files"
    return f"{len(found)} {noun}, {sum(each.nbytes for each in found) / 1e6:.1f} MB"


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
