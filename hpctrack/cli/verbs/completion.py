"""``hpctrack completion``: what a shell needs to complete our words; `completers` then answers it."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from hpctrack.cli import group
from hpctrack.cli.terminal import say


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a shell's completion script.

    It completes verbs, options, runs, experiments and states.

    \b
    bash, in ~/.bashrc:    eval "$(hpctrack completion bash)"
    zsh, in ~/.zshrc:      eval "$(hpctrack completion zsh)"
    fish, in config.fish:  hpctrack completion fish | source
    """
    script = get_completion_class(shell)
    assert script is not None  # noqa: S101 (click knows the three)
    say.raw(script(group.cli, {}, "hpctrack", "_HPCTRACK_COMPLETE").source() + "\n")
