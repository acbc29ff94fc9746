"""`wsi-mitosis completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

PROGRAM = "wsi-mitosis"
VARIABLE = "_WSI_MITOSIS_COMPLETE"
"""Environment variable by which the script asks the program what completes a line. It is click's own name
(https://click.palletsprojects.com/en/stable/shell-completion/)."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the script that lets a shell complete commands, options, names of bundles, and files.

    Write it once to the place where the shell looks for it; a new shell then has it.

    \b
    Example:
      bash  wsi-mitosis completion bash > ~/.local/share/bash-completion/completions/wsi-mitosis
      zsh   wsi-mitosis completion zsh > ~/.zfunc/_wsi-mitosis
      fish  wsi-mitosis completion fish > ~/.config/fish/completions/wsi-mitosis.fish

    The folder has to exist. bash needs the package bash-completion; without it, add this line to ~/.bashrc:
    eval "$(wsi-mitosis completion bash)". zsh needs, in ~/.zshrc: fpath+=~/.zfunc; autoload -Uz compinit;
    compinit.
    """
    shells = get_completion_class(shell)
    assert shells is not None  # noqa: S101 - click.Choice permits no other
    click.echo(shells(context.find_root().command, {}, PROGRAM, VARIABLE).source())
