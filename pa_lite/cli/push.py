"""The command `push`: publish a model on the Hub."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

import pa_lite
from pa_lite.cli.bars import bar
from pa_lite.cli.completers import files
from pa_lite.cli.help import command
from pa_lite.cli.options import JSON
from pa_lite.cli.terminal import quoted, show_json, show_next, tell

if TYPE_CHECKING:
    from pa_lite import PushPlan


@command("Publish a GGUF file or folder on the Hub")
@click.argument("path", type=click.Path(path_type=Path), shell_complete=files)
@click.argument("repo", metavar="ORG/NAME")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--yes", is_flag=True, help="Publish without asking.")
@click.option("--force", is_flag=True, help="Add to a repository with other content; replace files.")
@click.option("--dry-run", is_flag=True, help="Show what would be published, and publish nothing.")
@JSON
def push(path: Path, repo: str, private: bool, yes: bool, force: bool, dry_run: bool, as_json: bool) -> None:
    """Publish PATH, a GGUF file or a folder with one, as the model ORG/NAME on the Hub.

    Of a folder, GGUF files, README.md, report.html, pictures, Modelfile and LICENSE are published. A single file gets a
    model card. What is published is shown first. After an interruption, the same command continues.

    \b
    pa-lite push model.gguf my-name/my-model --private
    """
    plan = pa_lite.plan_push(path, repo, private=private, force=force)
    if not as_json or not (yes or dry_run):
        show_plan(plan, err=as_json)
    if dry_run:
        if as_json:
            show_json(asdict(plan))
        return
    if plan.size and not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("publishing needs your consent: add --yes.", click.get_current_context())
        click.confirm(f"Publish this as {plan.url}?", abort=True, err=True)
    with bar("push", "what arrived is kept: run the same command again to continue.") as progress:
        done = pa_lite.push(path, repo, private=private, force=force, progress=progress)
    if as_json:
        show_json({**asdict(plan), "commit": done.commit})
        return
    tell(done.url)
    if not done.commit:
        tell("note: everything was there already.", err=True)
    show_next(use_it=f"llama-server -hf {quoted(plan.repo)}")


def show_plan(plan: PushPlan, err: bool = False) -> None:
    """Print where and what will be published, and what stays."""
    state = "exists" if plan.exists else "new"
    tell(
        f"{plan.repo}: {'private' if plan.private else 'public'} ({state}), licence {plan.licence or 'not known'}", err
    )
    for file in plan.files:
        tell(f"  {file.name}  {file.size / 1e6:.1f} MB{'  (there already)' if file.is_there else ''}", err)
    if plan.left_out:
        tell(f"not published: {', '.join(plan.left_out)}", err)
