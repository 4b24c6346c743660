"""The command `completion`: the script with which a shell completes commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from pa_lite.cli.help import command
from pa_lite.cli.terminal import tell, tell_text

_VARIABLE = "_PA_LITE_COMPLETE"
_LOAD = {
    "bash": 'eval "$(pa-lite completion bash)"   in ~/.bashrc',
    "zsh": 'eval "$(pa-lite completion zsh)"   in ~/.zshrc',
    "fish": "pa-lite completion fish | source   in ~/.config/fish/config.fish",
}


@command("Print a script that completes commands in your shell")
@click.argument("shell", type=click.Choice(list(_LOAD)), required=False)
def completion(shell: str | None) -> None:
    """Print the script with which SHELL completes commands, options, pairs, tasks, weight types and files.

    \b
    eval "$(pa-lite completion bash)"         in ~/.bashrc
    eval "$(pa-lite completion zsh)"          in ~/.zshrc
    pa-lite completion fish | source          in ~/.config/fish/config.fish
    """
    if shell is None:
        for line in _LOAD.values():
            tell(line)
        return
    made = get_completion_class(shell)
    assert made is not None  # click knows the three shells
    root = click.get_current_context().find_root().command
    tell_text(made(root, {}, "pa-lite", _VARIABLE).source())
