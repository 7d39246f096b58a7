"""What to blame when PostgreSQL refuses something: the data, another session, or the server.

The SQLSTATE alone says little, since functions and triggers of users raise any they like. The evidence is
where the error comes from, and whether the connection still answers:

* The server's trouble (a lost connection, a full disk, no memory, a server that only reads, missing tables or
  rights): nothing was refused. All data is kept, and tried again.
* Another session's trouble (locks, deadlocks, cancelled statements): the data is tried again later.
* Any other error blames the data: it is divided until the row to blame is found.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

import psycopg
from psycopg.pq import ConnStatus

from hpctrack import errors
from hpctrack.store import throttle

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hpctrack.store.database import Connection

#: A user, or a run where all of them are one user's.
Owner: TypeAlias = str | int

#: Classes of SQLSTATE that are the server's, if no function raised them by hand (manual, "PostgreSQL Error
#: Codes"): connection, resources, operator's intervention, system; a server that only reads; damaged files.
_SERVERS = ("08", "53", "57", "58", "25006", "XX001", "XX002")
#: What is wrong with a statement of ours, where nothing else was at work: tables and rights are missing.
_STATEMENTS = ("42",)
#: Files of PostgreSQL's that read and write its own: a file that can't grow has any code, also XX000.
_STORAGE = frozenset(
    ("bufmgr.c", "buffile.c", "fd.c", "hio.c", "localbuf.c", "md.c", "slru.c", "smgr.c", "xlog.c")
)
#: Other sessions': locks, deadlocks, what an operator cancelled.
_OTHERS = ("55P03", "40", "57014")
#: The data's, whoever raised them: cardinality, data, integrity, check option, limits.
_CONTENT = ("21", "22", "23", "44", "54")
#: Files of PostgreSQL's that raise what functions raise by hand: pl_exec.c, plpy_elog.c, pltcl.c ...
_BY_HAND = "pl"
#: Refusals in a row, while nothing was taken, after which they are not about single rows any more.
IN_A_ROW = 200

_log = logging.getLogger(__name__)
#: A mistake of ours that some data brings to light comes with each of its lines.
_throttle = throttle.Throttle()


@contextlib.contextmanager
def told(connection: Connection) -> Iterator[None]:
    """Tell refusals that blame the data (`errors.ContentRefused`) from all others, around a transaction.

    Another session's trouble becomes `errors.StoreBusy`; the server's passes as it is. A mistake of ours that
    some data brings to light blames that data, too: set aside, it can be looked at; sent again and again, it
    would stop everybody.
    """
    try:
        yield
    except psycopg.Error as error:
        if connection.pgconn.status != ConnStatus.OK or _is_servers(error):
            raise
        if _is_others(error):
            raise errors.StoreBusy(_message(error)) from error
        raise errors.ContentRefused(_message(error), error.sqlstate) from error
    except (errors.HpctrackError, OSError, MemoryError):
        raise
    except Exception as error:
        if (also := _throttle.admit(type(error))) is not None:
            _log.exception("unexpected%s", also)
        raise errors.ContentRefused(f"{type(error).__name__}: {error}") from error


def blames_data(error: errors.StoreError) -> bool:
    """Whether what was translated into this is surely about the data, and would come again with it."""
    cause = error.__cause__
    if isinstance(error, errors.ContentRefused):
        return True
    return isinstance(cause, psycopg.Error) and (
        _is_by_hand(cause)
        or isinstance(cause, psycopg.DataError)
        or (cause.sqlstate or "").startswith(_CONTENT)
    )


def _is_servers(error: psycopg.Error) -> bool:
    """Whether it is surely no line's fault, and no other session's."""
    if _is_by_hand(error) or _is_others(error):
        return False
    sqlstate = error.sqlstate or ""
    ours = sqlstate.startswith(_STATEMENTS) and not error.diag.context
    return ours or sqlstate.startswith(_SERVERS) or error.diag.source_file in _STORAGE


def _is_others(error: psycopg.Error) -> bool:
    return not _is_by_hand(error) and (error.sqlstate or "").startswith(_OTHERS)


def _is_by_hand(error: psycopg.Error) -> bool:
    return (error.diag.source_file or "").startswith(_BY_HAND)


def _message(error: psycopg.Error) -> str:
    return " ".join((error.diag.message_primary or str(error)).split())


class Streak:
    """Refusals in a row, by kind of what was refused (rows, or messages), and by whose it was.

    A constraint or a trigger that is mistaken about everybody must not turn all data into ``rejected``: after
    so many refusals while nothing was taken, runs are put off instead, until something is taken again.
    No owner brings that about alone: one owner's refusals count for at most half of it.
    """

    def __init__(self) -> None:
        self._refused: dict[str, Counter[Owner]] = {}

    def take(self, kinds: Iterable[str]) -> None:
        """Note that something of these kinds was stored."""
        for kind in kinds:
            self._refused.pop(kind, None)

    def refuse(self, kinds: Iterable[str], owner: Owner, count: int) -> None:
        """Note that so many lines of an owner's, in which there are these kinds, were refused."""
        for kind in kinds:
            self._refused.setdefault(kind, Counter())[owner] += count

    def is_long(self, kinds: Iterable[str]) -> bool:
        """Whether so much of these kinds was refused in a row that single lines can hardly be to blame."""
        return any(self._length(self._refused[kind]) >= IN_A_ROW for kind in kinds if kind in self._refused)

    def _length(self, refused: Counter[Owner]) -> int:
        return sum(min(count, IN_A_ROW // 2) for count in refused.values())
