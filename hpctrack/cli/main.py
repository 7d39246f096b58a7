"""``hpctrack``: where the command line begins.

A verb's module is imported when the verb is used, and click when there is something to parse: ``--help`` is
asked for often, from shells and by people, and takes little longer than starting Python.
"""

from __future__ import annotations

import os
import sys

from hpctrack.cli.verbs import help_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        return _run(sys.argv[1:] if arguments is None else list(arguments))
    except BrokenPipeError:
        _leave_stdout()
        return 1


def _run(arguments: list[str]) -> int:
    if arguments in ([], ["-h"], ["--help"]) and "_HPCTRACK_COMPLETE" not in os.environ:
        sys.stdout.write(help_text())
        sys.stdout.flush()
        return 0
    from hpctrack.cli import group

    return group.run(arguments)


def _leave_stdout() -> None:
    """Let the interpreter's own flush at exit go nowhere, since the reader has gone."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError:
        pass


if __name__ == "__main__":
    main()
