"""Standard output and standard error of the verbs.

Verbs print every line by this module or by `table.Output`, so that no text in it commands the terminal.
Exceptions: `logs` passes the bytes of files on, and `table.ForPrograms` and `raw` write for programs.
`confirm` asks before what can't be undone.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from hpctrack import errors
from hpctrack.text import visible

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator


def out(*lines: str) -> None:
    """Write lines to standard output."""
    sys.stdout.writelines(visible.shown(line) + "\n" for line in lines or ("",))
    sys.stdout.flush()


def coloured(*lines: str) -> None:
    """Write lines that contain our own colours."""
    sys.stdout.writelines(visible.coloured(line) + "\n" for line in lines)
    sys.stdout.flush()


def raw(text: str) -> None:
    """Write text that holds no foreign text, or JSON of `jsonable.to_json`, which escapes it."""
    sys.stdout.write(text)
    sys.stdout.flush()


def json(value: object) -> None:
    """Write a small object as JSON, in one line."""
    import json

    raw(visible.in_json(json.dumps(value)) + "\n")


def err(*lines: str) -> None:
    """Write lines to standard error."""
    sys.stderr.write("".join(visible.shown(line) + "\n" for line in lines))
    sys.stderr.flush()


def note(text: str) -> None:
    """Write a message as one line to standard error, after "hpctrack: "."""
    err(f"hpctrack: {' '.join(text.split())}")


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless ``yes``. Raises `click.Abort` for a no, `errors.UsageError` without a terminal."""
    import click

    if yes:
        return
    if not sys.stdin.isatty():
        raise errors.UsageError("nobody to ask: say --yes")
    sys.stdout.flush()
    click.confirm(visible.shown(question), abort=True, err=True)


@contextlib.contextmanager
def logging_to(handler: logging.Handler, form: str, level: int) -> Iterator[None]:
    """Log to this handler alone, inside the block; each message is one line, whatever text it contains."""
    import logging

    class Formatter(logging.Formatter):
        def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
            return visible.shown(super().formatMessage(record))

        def formatException(self, ei: Any) -> str:  # noqa: N802
            return visible.lines(super().formatException(ei))

    handler.setFormatter(Formatter(form))
    root, ours = logging.getLogger(), logging.getLogger("hpctrack")
    before, level_before = root.handlers[:], ours.level
    root.handlers[:] = [handler]
    ours.setLevel(level)
    try:
        yield
    finally:
        root.handlers[:] = before
        ours.setLevel(level_before)
        handler.close()
