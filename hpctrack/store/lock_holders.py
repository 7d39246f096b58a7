"""The sessions that hold the locks for which a statement waited in vain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpctrack.store.statements import statement

if TYPE_CHECKING:
    from hpctrack.store.database import Connection


def name(connection: Connection) -> str:
    """Name the sessions with locks here, the most likely first, and what ends it; empty if there are none.

    Lets psycopg's errors through.
    """
    sessions = connection.execute(statement("list_holders")).fetchall()
    if not sessions:
        return ""
    named = "; ".join(_session(*session) for session in sessions)
    return f"{named} (SELECT pg_terminate_backend({sessions[0][0]}) ends the first)"


def _session(pid: int, user: str, seconds: float | None, application: str | None) -> str:
    """Name a session; for how long it holds what, and its program, are for members of pg_read_all_stats."""
    age = "" if seconds is None else f", open for {seconds:.0f} s"
    return f"{user}'s session {pid}{age}" + (f" ({application})" if application else "")
