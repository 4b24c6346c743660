"""The command `merge`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

import pa_lite
from pa_lite.cli.bars import bar
from pa_lite.cli.completers import files, pair_names, pairs, weight_types
from pa_lite.cli.help import command
from pa_lite.cli.options import EXTRAPOLATE, JSON, STREAM, THREADS, parse_size
from pa_lite.cli.terminal import quoted, show_json, show_next, show_table, tell
from pa_lite.cli.words import Required

if TYPE_CHECKING:
    from pa_lite import Preview


@command("Write the model at a lam as a GGUF file")
@click.argument("base", required=False, shell_complete=pairs)
@click.argument("instruct", required=False, shell_complete=files)
@click.option("--pair", shell_complete=pair_names, help="A registered pair, instead of BASE and INSTRUCT.")
@click.option(
    "--lam", "lams", cls=Required, help="L[,L...] or LO:HI:STEP; 0 is base, 1 is instruct.",
    missing="missing --lam, for example --lam 0.7. `pa-lite sweep` finds a good one.",
)  # fmt: skip
@click.option(
    "--type", "weight_type", default="Q8_0", show_default=True, shell_complete=weight_types,
    help="Weight type: F16, Q8_0, Q4_K_M, ...",
)  # fmt: skip
@click.option(
    "--tensor-type", "tensor_types", multiple=True, metavar="PATTERN=TYPE", help="Another type for matching tensors."
)
@click.option("--imatrix", type=click.Path(path_type=Path), help="llama.cpp importance matrix, for quantising.")
@click.option(
    "--schedule", default="", metavar="RULES|FILE.toml", shell_complete=files, help="Other lams for groups and layers."
)
@click.option("--vocab", default="instruct", show_default=True, help="Whose vocabulary to keep: instruct or base.")
@click.option("--allow-nonfinite", is_flag=True, help="Keep NaN and infinite weights; not in quantised tensors.")
@EXTRAPOLATE
@click.option("--dry-run", is_flag=True, help="Show what would be done, without doing it.")
@click.option("--resume", is_flag=True, help="Continue a killed merge; keep partial files if this one is killed.")
@click.option("--verify", is_flag=True, help="Read the result back and compare it with a second computation.")
@click.option(
    "--max-memory", callback=parse_size, default="0", metavar="256M", help="Memory limit for the whole process."
)
@click.option("--modelfile", is_flag=True, help="Also write Ollama's Modelfile next to each file.")
@STREAM
@click.option(
    "-o", "--output", shell_complete=files, help="Output file, or folder (DIR/); by default files in this folder."
)
@THREADS
@click.option(
    "--force", is_flag=True, help="Overwrite existing files; merge although settings of the two checkpoints differ."
)
@JSON
def merge(
    base: str | None,
    instruct: str | None,
    pair: str | None,
    lams: str,
    weight_type: str,
    tensor_types: tuple[str, ...],
    imatrix: Path | None,
    schedule: str,
    vocab: str,
    allow_nonfinite: bool,
    extrapolate: bool,
    dry_run: bool,
    resume: bool,
    verify: bool,
    max_memory: int,
    modelfile: bool,
    stream: bool,
    output: str | None,
    threads: int,
    force: bool,
    as_json: bool,
) -> None:
    """Write M(lam) = (1 - lam) BASE + lam INSTRUCT as a GGUF file, for every lam.

    BASE and INSTRUCT are folders with safetensors files, GGUF files, or org/name[@revision] on the Hub; BASE alone is
    the name of a registered pair. By default the embedded pair is merged.

    \b
    pa-lite merge --lam 0.7
    pa-lite merge ./Llama-3.2-1B ./Llama-3.2-1B-Instruct --lam 0.5,0.7 --type Q4_K_M
    pa-lite merge --pair smollm2-360m --lam 0.7 --stream
    pa-lite merge base.gguf instruct.gguf --lam 0.7 --schedule "attention: 0.5; layers 0-7: 0.9"
    """
    from pa_lite.api.options import parse_lams, parse_override, read_schedule
    from pa_lite.api.sharing import modelfile_path, next_commands
    from pa_lite.api.tasks import check_target

    values = parse_lams(lams, extrapolate)
    plan = pa_lite.PlanOptions(
        type=weight_type, schedule=read_schedule(schedule), vocab=vocab, imatrix=imatrix,
        tensor_types=tuple(map(parse_override, tensor_types)), force=force, allow_nonfinite=allow_nonfinite,
    )  # fmt: skip
    options = pa_lite.MergeOptions(
        threads=threads, force=force, resume=resume, verify=verify, max_memory=max_memory, stream=stream,
        extrapolate=extrapolate,
    )  # fmt: skip
    if dry_run:
        found = pa_lite.preview(base, instruct, values, pair=pair, plan=plan, output=output, options=options)
        show_preview(found, as_json)
        click.get_current_context().exit(1 if found.problems else 0)
    if modelfile and not (force or resume):  # before the work
        found = pa_lite.preview(base, instruct, values, pair=pair, plan=plan, output=output, options=options)
        for each in map(modelfile_path, (Path(o.path) for o in found.outputs)):
            if each.exists():
                check_target(each)
    kept = (
        "what is merged is kept: run the same command again to continue."
        if resume
        else "nothing was left behind. With --resume, partial files are kept and continued."
    )
    with bar("merge", kept) as progress:
        paths = pa_lite.merge(
            base, instruct, values, pair=pair, plan=plan, output=output, options=options, progress=progress
        )
    made = [pa_lite.modelfile(path, force=force) for path in paths] if modelfile else []
    if as_json:
        files = [{"modelfile": str(each.path), "format": each.format} for each in made] or [{}] * len(paths)
        show_json([
            {"lam": lam, "path": str(path), **file} for lam, path, file in zip(values, paths, files, strict=True)
        ])  # fmt: skip
    else:
        for path in (*paths, *(each.path for each in made)):
            tell(str(path))
        for remark in dict.fromkeys(each.remark for each in made if each.remark):
            tell(f"note: {remark}.", err=True)
        is_unnamed = base is None and pair is None
        if is_unnamed:
            tell("note: no pair was named: this is the embedded demo pair.", err=True)
        is_demo = is_unnamed or "demo" in (base, pair)
        show_next(
            measure_it=f"pa-lite score {quoted(paths[0])} --tasks {'demo' if is_demo else 'quick'}",
            use_it=f"llama-server -m {quoted(paths[0])}, LM Studio, Ollama or another llama.cpp program",
            **(next_commands(paths[0], made[0].path) if made else {}),
        )


def show_preview(preview: Preview, as_json: bool) -> None:
    if as_json:
        show_json(asdict(preview))
        return
    if preview.tensors:
        rows = [[g.group, g.type, str(g.tensors), f"{g.bytes / 1e6:.1f}", g.lams] for g in preview.groups]
        show_table(["group", "type", "tensors", "MB", "lam"], rows)
        for o in preview.outputs:
            tell(f"lam {o.lam:g} -> {o.path}")
        tell(
            f"{preview.parameters / 1e6:.1f} million parameters; {preview.disk_needed / 1e6:.0f} MB of disk needed, "
            f"{preview.disk_free / 1e6:.0f} MB free; about {preview.memory / 1e6:.0f} MB of memory, "
            f"{preview.threads} threads"
        )
    for line in preview.remarks:
        tell(f"note: {line}")
    for line in preview.problems:
        tell(f"problem: {line}")
