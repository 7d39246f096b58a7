"""Connections by which verbs read; those that ask again and again have a session of `registration`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection


@contextlib.contextmanager
def connected(configuration: Settings) -> Iterator[Connection]:
    """Connect for reading, and close the connection at the end.

    Each statement is its own transaction, so that nothing is held while we draw.
    """
    from hpctrack.store.write import registration

    with contextlib.closing(registration.session(configuration).connection()) as connection:
        yield connection
