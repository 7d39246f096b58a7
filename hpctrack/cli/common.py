"""What verbs share: a connection to read by, a question before what can't be undone, the words for runs."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click

from hpctrack import errors
from hpctrack.run import words
from hpctrack.text import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection
    from hpctrack.store.session import Session

counted, named = words.counted, words.named


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless ``yes``. Raises `click.Abort` for a no, `errors.UsageError` without a terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise errors.UsageError("nobody to ask: say --yes")
    sys.stdout.flush()
    click.confirm(visible.shown(question), abort=True, err=True)


@contextlib.contextmanager
def connected(configuration: Settings) -> Iterator[Connection]:
    """Connect for reading, as `connect` does, and close the connection at the end."""
    with contextlib.closing(connect(configuration)) as connection:
        yield connection


def connect(configuration: Settings) -> Connection:
    """Connect for reading: each statement its own transaction, so that nothing is held while we draw."""
    return session(configuration).connection()


def session(configuration: Settings) -> Session:
    """Return a session for reading, for verbs that ask again and again.

    Submissions of this user that PostgreSQL does not know yet are registered first, so that who asks for a
    job right after sbatch finds it.
    """
    from hpctrack.store.write import registration

    return registration.session(configuration)
