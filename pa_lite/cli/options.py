"""Options that are the same words in every command, and how their values are read."""

from __future__ import annotations

import re
from pathlib import Path

import click

JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
OUTPUT = click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write.")
FORCE = click.option("--force", is_flag=True, help="Overwrite files that exist.")
THREADS = click.option("--threads", type=click.IntRange(0, 1024), default=0, help="Threads; 0 takes one for each core.")
STREAM = click.option("--stream", is_flag=True, help="Read hub:... by ranges, with no copy of it on the disk.")
KIND = click.option("--type", "kind", default="F16", show_default=True, help="Type a PAIR@LAM is merged to.")
GPU = click.option("--gpu-layers", type=click.IntRange(-1), default=0, help="Layers on the GPU; -1 for all.")


def parse_size(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    """A number of bytes: 256M, 1.5G, 800K or plain. Raises click's usage error for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", text.strip().upper())
    if found is None:
        raise click.BadParameter(f"{text!r} is no size, such as 256M or 1.5G.")
    return int(float(found[1]) * 1000 ** " KMGT".index(found[2] or " "))
