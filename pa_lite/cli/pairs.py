"""The command `pairs`: list, show, add and fetch registered pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import pa_lite
from pa_lite.cli.bars import bar
from pa_lite.cli.completers import own_pairs, pair_names
from pa_lite.cli.help import NameGroup
from pa_lite.cli.options import FORCE, JSON
from pa_lite.cli.terminal import show_json, show_table, tell, tell_prose

if TYPE_CHECKING:
    from pa_lite.api.checkpoints import Pair, PairFit


@click.group(
    cls=NameGroup, names=lambda: pa_lite.pairs(), invoke_without_command=True,
    short_help="List, add, remove and fetch base/instruct pairs",
)  # fmt: skip
@JSON
@click.pass_context
def pairs(context: click.Context, as_json: bool) -> None:
    """List the registered base/instruct pairs, and which fit this machine.

    \b
    pa-lite pairs fetch smollm2-360m
    pa-lite pairs add mine ./Base org/Instruct
    """
    if context.invoked_subcommand is None:
        show_pairs(as_json)


@pairs.command("list")
@JSON
def list_pairs(as_json: bool) -> None:
    """List the registered pairs, and which fit this machine."""
    show_pairs(as_json)


def show_pairs(as_json: bool) -> None:
    from pa_lite.api.checkpoints import pair_fit

    found = [(pair, pair_fit(pair)) for pair in pa_lite.pairs().values()]
    if as_json:
        show_json([_document(*entry) for entry in found])
        return
    show_table(
        ["pair", "size", "download", "licence", "runs as"], [_row(*entry) for entry in found],
        prose=("licence", "runs as"),
    )  # fmt: skip
    tell_prose(
        "download: both checkpoints in bfloat16, estimated from the parameters; '!': more than the free disk space. "
        "licence: '*' must be accepted on the Hub. runs as: weight types that fit into the free memory."
    )


def _row(pair: Pair, fit: PairFit) -> list[str]:
    gigabytes = f"{pair.download_bytes / 1e9:.3g} GB" if pair.download_bytes else ""
    runs = "" if fit.runs is None else ", ".join(fit.runs) or "none"
    return [
        pair.name,
        f"{pair.parameters / 1e9:.3g}B" if pair.parameters else "",
        "here" if fit.is_here else gigabytes + ("!" if fit.fits_disk is False else ""),
        pair.licence + ("*" if pair.gated else ""),
        runs,
    ]


def _document(pair: Pair, fit: PairFit) -> dict[str, Any]:
    return {
        "name": pair.name, "base": str(pair.base), "instruct": str(pair.instruct), "description": pair.description,
        "licence": pair.licence, "gated": pair.gated, "parameters": pair.parameters or None,
        "download_bytes": pair.download_bytes or None, "differs": pair.differs, "own": pair.is_own, "here": fit.is_here,
        "fits_disk": fit.fits_disk, "runs": fit.runs,
    }  # fmt: skip


@pairs.command()
@click.argument("name", shell_complete=pair_names)
@JSON
def show(name: str, as_json: bool) -> None:
    """Show everything about the pair NAME."""
    from pa_lite.api.checkpoints import find_pair, pair_fit

    document = _document(pair := find_pair(name), pair_fit(pair))
    if as_json:
        show_json(document)
        return
    show_table(["", ""], [[key.replace("_", " "), _shown(value)] for key, value in document.items() if value != ""])


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return "not known" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


@pairs.command()
@click.argument("name")
@click.argument("base")
@click.argument("instruct")
@click.option("--description", default="", help="Description shown in the list.")
@FORCE
def add(name: str, base: str, instruct: str, description: str, force: bool) -> None:
    """Register BASE and INSTRUCT (paths, or org/name[@revision] on the Hub) as the pair NAME."""
    from pa_lite.api.checkpoints import own_pairs_path

    pa_lite.add_pair(name, base, instruct, description, force)
    tell(f"{name} was added to {own_pairs_path()}")


@pairs.command()
@click.argument("name", shell_complete=own_pairs)
def remove(name: str) -> None:
    """Remove the pair NAME from your own pairs. Its files stay."""
    from pa_lite.api.checkpoints import own_pairs_path

    pa_lite.remove_pair(name)
    tell(f"{name} was removed from {own_pairs_path()}; its files were kept")


@pairs.command()
@click.argument("name", shell_complete=pair_names)
def fetch(name: str) -> None:
    """Download what is missing of the pair NAME from the Hub, and print the two local paths."""
    from pa_lite.api.checkpoints import fetch, find_pair

    with bar("fetch", "what is downloaded is kept; run the same command again to continue.") as progress:
        folders = fetch(find_pair(name), progress)
    for folder in folders:
        tell(str(folder))
