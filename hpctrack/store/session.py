"""A connection that is made on first use, and made anew after it was lost.

Threads of the collector, ``hpctrack status --watch`` and the Python interface ask PostgreSQL again and again:
each has a `Session`. `ask` connects if need be and hands the connection to a function. When the connection
was closed, or PostgreSQL could not be reached, it is dropped: the next `ask` connects again. The owner may
have other reasons to start afresh, and calls `close`; the session can be used again after that.

Several threads may share a session: they wait for one another. Behind a fork the child connects by itself,
and leaves the connection to its parent, which goes on using it.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from hpctrack import errors
from hpctrack.store import database

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection

_T = TypeVar("_T")


class Session:
    """A connection for many questions, one at a time."""

    def __init__(
        self,
        settings: Settings,
        *,
        opened: Callable[[Connection], object] | None = None,
        again: bool = False,
        **how: Any,
    ) -> None:
        """``how``: arguments of `database.connect`, which is in autocommit mode unless they say otherwise.

        ``opened`` is called with each new connection. ``again``: a question is asked once more if an old
        connection turns out to be closed, for an owner who has nobody to try again later.
        """
        self._settings = settings
        self._how = {"autocommit": True, **how}
        self._opened = opened
        self._again = again
        self._lock = threading.RLock()
        self._connection: Connection | None = None
        self._pid = 0

    def ask(self, question: Callable[[Connection], _T]) -> _T:
        """Return what a function does through the connection.

        Raises what the function raises, and `errors.StoreUnavailable`, `errors.StoreDenied`,
        `errors.SchemaError` where there is no connection to be had.
        """
        with self._lock:
            old = self._kept()
            try:
                return question(old or self.connection())
            except errors.StoreUnavailable:
                was_closed = old is not None and old.closed
                self.close()
                if not (self._again and was_closed):
                    raise
            return question(self.connection())

    def change(self, what: Callable[[Connection], _T]) -> _T:
        """Return what a function did through the connection.

        The connection is tried first, and made anew if it is lost; what fails after that is not tried again,
        since nobody can know whether it was done. Raises the same as `ask`.
        """
        with self._lock:
            if not database.is_alive(self.connection()):
                self.close()
            return what(self.connection())

    def connection(self) -> Connection:
        """Return the connection, made now if there is none. For the one thread that uses this session.

        Raises `errors.StoreUnavailable`, `errors.StoreDenied`, `errors.SchemaError`.
        """
        with self._lock:
            connection = self._kept()
            if connection is None:
                connection = self._connection = database.connect(self._settings, **self._how)
                self._pid = os.getpid()
                self._begin(connection)
            return connection

    def close(self) -> None:
        """Close the connection, if there is one; the next question makes another."""
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None

    def _begin(self, connection: Connection) -> None:
        if self._opened is None:
            return
        try:
            self._opened(connection)
        except BaseException:
            self.close()
            raise

    def _kept(self) -> Connection | None:
        """Return the connection of before; None if there is none, it is closed, or another process's."""
        if self._connection is not None and (self._pid != os.getpid() or self._connection.closed):
            self._connection = None
        return self._connection
