"""The command `completion`: the script with which a shell completes commands."""

from __future__ import annotations

import os

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from pa_lite.cli.help import command
from pa_lite.cli.terminal import tell, tell_text

_VARIABLE = "_PA_LITE_COMPLETE"
_LOAD = {
    "bash": 'eval "$(pa-lite completion bash)"   in ~/.bashrc',
    "zsh": 'eval "$(pa-lite completion zsh)"   in ~/.zshrc',
    "fish": "pa-lite completion fish | source   in ~/.config/fish/config.fish",
}
# Files are added to the other items here, but left to bash where they are all that is offered: it knows quotes and ~.
# Without `compopt`, before bash 4.4, there are no files.
_BASH = """\
%(complete_func)s() {
    local kind value response files="" word="${COMP_WORDS[COMP_CWORD]}"
    COMPREPLY=()
    response=$(env %(complete_var)s_LINE="${COMP_LINE:0:COMP_POINT}" %(complete_var)s_WORD="$2" \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
    while IFS= read -r value; do
        kind=${value%%%%,*}
        value=${value#*,}
        case $kind in
            plain) COMPREPLY+=("$value") ;;
            file) files=default ;;
            dir) files=dirnames ;;
        esac
    done <<< "$response"
    if [[ -n $files && ${#COMPREPLY[@]} -eq 0 ]]; then
        compopt -o "$files" 2>/dev/null
    elif [[ -n $files ]]; then
        while IFS= read -r value; do
            [[ -z $value || ( $files == dirnames && ! -d $value ) ]] && continue
            [[ -d $value ]] && value+=/
            [[ $word == [\\"\\']* ]] || printf -v value %%q "$value"
            COMPREPLY+=("$value")
        done <<< "$(compgen -f -- "$2")"
    fi
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[@/=] ]]; then
        compopt -o nospace 2>/dev/null
    fi
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s 2>/dev/null || complete -F %(complete_func)s %(prog_name)s
"""
# splits each line at its first comma only: lists of tasks have others
_FISH = """\
function %(complete_func)s
    set -l response (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp) COMP_CWORD=(commandline -t) \\
        %(prog_name)s 2>/dev/null)
    for line in $response
        set -l item (string split -m 1 "," -- $line)
        switch $item[1]
            case dir
                __fish_complete_directories $item[2]
            case file
                __fish_complete_path $item[2]
            case plain
                echo $item[2]
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


class _WholeWords(ShellComplete):
    """Completion of `--option=value` by the whole word, which the shells replace."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """Return items that begin with the option, if the word has one; those for files stay as they are."""
        name, equals, _ = incomplete.partition("=")
        before = name + equals if equals and name.startswith("--") else ""
        items = super().get_completions(args, incomplete)
        return [CompletionItem(before + i.value, i.type, i.help) if i.type == "plain" else i for i in items]


@add_completion_class
class Bash(_WholeWords, BashComplete):
    """Completion in bash, which splits words also at characters such as @ and =, and replaces the last part."""

    source_template = _BASH

    def source(self) -> str:
        """Return the script, which is for every version of bash."""
        return self.source_template % self.source_vars()

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words of the line up to the cursor, and the incomplete one, as the shell would pass them."""
        line = os.environ.get(f"{_VARIABLE}_LINE")
        if line is None:  # a script of click's, still loaded in a shell
            return super().get_completion_args()
        words = _words(line)
        return words[1:-1], words[-1]

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """Return items without the start of the word that bash keeps."""
        part = _words(os.environ.get(f"{_VARIABLE}_WORD", incomplete))[-1]
        kept = len(incomplete) - len(part) if incomplete.endswith(part) else 0
        items = super().get_completions(args, incomplete)
        return [CompletionItem(i.value[kept:], i.type, i.help) if i.type == "plain" else i for i in items]


@add_completion_class
class Zsh(_WholeWords, ZshComplete):
    """Completion in zsh, with click's script."""


@add_completion_class
class Fish(_WholeWords, FishComplete):
    """Completion in fish."""

    source_template = _FISH


def _words(line: str) -> list[str]:
    """Return the words of a line, the last one incomplete: empty after a space."""
    *before, last = split_arg_string(line + "x")  # a letter, so that there is a last word
    return [*before, last[:-1]]


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
