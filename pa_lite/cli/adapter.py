"""The command `adapter`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

import pa_lite
from pa_lite.cli.bars import bar
from pa_lite.cli.completers import files, pair_names, pairs, weight_types
from pa_lite.cli.help import command
from pa_lite.cli.options import FORCE, JSON, THREADS, parse_size
from pa_lite.cli.terminal import percent, quoted, show_json, show_next, show_table, tell

if TYPE_CHECKING:
    from pa_lite import Adapted


@command("Write the difference of a pair as a LoRA adapter")
@click.argument("base", required=False, shell_complete=pairs)
@click.argument("instruct", required=False, shell_complete=files)
@click.option("--pair", shell_complete=pair_names, help="A registered pair, instead of BASE and INSTRUCT.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("dial.gguf"), show_default=True,
    help="The adapter's file.",
)  # fmt: skip
@click.option("--rank", type=click.IntRange(1), help="Rank of every tensor's factors; by default 64.")
@click.option(
    "--size", callback=parse_size, default="0", metavar="200M",
    help="Largest size of the adapter, instead of --rank; tensors get ranks by their singular values.",
)  # fmt: skip
@click.option("--center", metavar="L", help="Also write the base file, at this lam: there the adapter's error is 0.")
@click.option(
    "--type", "weight_type", default="Q8_0", show_default=True, shell_complete=weight_types,
    help="Weight type of the base file, and of the bases that are measured.",
)  # fmt: skip
@click.option(
    "--untie", is_flag=True, help="Give the base file an output matrix, so that the adapter carries the embedding too."
)
@click.option(
    "--passes",
    type=int,
    default=4,
    show_default=True,
    help="How often the pair is read: 2, or 4, 6, ... for less error.",
)
@click.option("--factors", default="F16", show_default=True, help="Type of the factors: F16 or F32.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of the sketches.")
@click.option(
    "--max-memory", callback=parse_size, default="0", metavar="256M",
    help="Memory limit for the process; what --fidelity loads is not included.",
)  # fmt: skip
@click.option(
    "--fidelity/--no-fidelity", default=True, help="Measure the adapter against the exact merge (the default)."
)
@click.option("--lam", "lams", default="0.3,0.6,1", show_default=True, help="Lams at which it is measured.")
@click.option("--prompts", metavar="SET|FILE", shell_complete=files, help="Prompts to measure on; by default public.")
@THREADS
@FORCE
@JSON
def adapter(
    base: str | None,
    instruct: str | None,
    pair: str | None,
    output: Path,
    rank: int | None,
    size: int,
    center: str | None,
    weight_type: str,
    untie: bool,
    passes: int,
    factors: str,
    seed: int,
    max_memory: int,
    fidelity: bool,
    lams: str,
    prompts: str | None,
    threads: int,
    force: bool,
    as_json: bool,
) -> None:
    """Write I - B of a pair as a GGUF LoRA adapter: one base file and this one give every lam at run time.

    llama.cpp programs take it as --lora-scaled FILE:SCALE, pa-lite as --adapter FILE@LAM. BASE and INSTRUCT are as for
    merge. The adapter is an approximation: its predictions are compared with those of the exact merge.

    \b
    pa-lite adapter ./Base ./Instruct -o dial.gguf --rank 128
    pa-lite adapter ./Base ./Instruct -o dial.gguf --size 200M --center 0.6 --type Q4_K_M
    pa-lite chat dial-base-Q4_K_M.gguf --adapter dial.gguf@0.4
    """
    from pa_lite.api.adapters import AdapterOptions
    from pa_lite.api.options import read_lam

    options = AdapterOptions(
        rank=rank or 0, size=size, center=None if center is None else read_lam(center, extrapolate=False),
        type=weight_type, untie=untie, passes=passes, factors=factors, seed=seed, max_memory=max_memory,
        threads=threads, force=force,
    )  # fmt: skip
    with bar("adapter") as progress:
        found = pa_lite.adapter(
            base, instruct, output, pair=pair, options=options, fidelity=fidelity, lams=lams, prompts=prompts,
            progress=progress,
        )  # fmt: skip
    if as_json:
        show_json({key: str(value) if isinstance(value, Path) else value for key, value in asdict(found).items()})
    else:
        show_adapter(found)


def show_adapter(found: Adapted) -> None:
    """Print what an adapter carries, its fidelity, and how to use it."""
    tell(f"{found.path} ({found.size / 1e6:.1f} MB)")
    if found.base is not None:
        tell(str(found.base))
    rows = [["all", "100.0", percent(found.carried), ""]]
    for g in found.groups:
        low, high = g.ranks
        rows.append([g.group, percent(g.share), percent(g.carried), f"{low}" if low == high else f"{low} to {high}"])
    show_table(["", "share of |I - B|^2 %", "carried %", "rank"], rows, marked=0)
    if found.fidelity:
        show_fidelity(found)
    scale = "LAM" if not found.center else f"(LAM - {found.center:g})"
    base = "BASE.gguf" if found.base is None else quoted(found.base)
    show_next(
        use_it=f"llama-server -m {base} --lora-scaled {quoted(found.path)}:{'0.6' if not found.center else '0.0'}",
        or_here=f"pa-lite chat {base} --adapter {quoted(found.path)}@0.6",
    )
    tell(f"note: the scale in llama.cpp is {scale}.", err=True)


def show_fidelity(found: Adapted) -> None:
    names = {"base": "no adapter", "merged": "exact merge"}
    rows = []
    for f in found.fidelity:
        name = names.get(f.model) or f"rank {f.rank}, {f.size / 1e6:.1f} MB"
        kl, agreement = f"{f.kl:.4f}", percent(f.agreement)
        rows.append([
            f"{f.lam:g}", f.type, name, kl, f"{f.kl_stderr:.4f}", agreement, percent(f.agreement_stderr),
        ])  # fmt: skip
    show_table(["lam", "type", "", "KL", "s.e.", "same token %", "s.e."], rows)
    n = found.fidelity[0].n_tokens
    tell(
        f"KL: mean divergence from M(lam) in F16 in nats, at {n} positions of prompts; same token: positions with the "
        f"same most likely token. Also in {found.table}."
    )
