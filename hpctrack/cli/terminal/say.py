"""Standard output and standard error of the verbs.

Each line that a verb prints goes through here or through `table.Output`: no text in it commands the terminal.
Bytes of files that are passed on as they are, and what programs read, are written by `logs`,
`table.ForPrograms` and `raw`.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from hpctrack.text import visible

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator


def out(*lines: str) -> None:
    """Write lines to standard output."""
    sys.stdout.writelines(visible.shown(line) + "\n" for line in lines or ("",))
    sys.stdout.flush()


def coloured(*lines: str) -> None:
    """Write lines with the colours that we put there."""
    sys.stdout.writelines(visible.coloured(line) + "\n" for line in lines)
    sys.stdout.flush()


def raw(text: str) -> None:
    """Write text of ours, and JSON of `jsonable.to_json`, which escapes what it holds."""
    sys.stdout.write(text)
    sys.stdout.flush()


def json(value: object) -> None:
    """Write an object of few keys in one line."""
    import json

    raw(visible.in_json(json.dumps(value)) + "\n")


def err(*lines: str) -> None:
    """Write lines to standard error."""
    sys.stderr.write("".join(visible.shown(line) + "\n" for line in lines))
    sys.stderr.flush()


def note(text: str) -> None:
    """Say something beside the output: one line on standard error, which begins with our name."""
    err(f"hpctrack: {' '.join(text.split())}")


@contextlib.contextmanager
def logging_to(handler: logging.Handler, form: str, level: int) -> Iterator[None]:
    """Log to this handler alone until the block ends; each message is one line, whatever names it holds."""
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
