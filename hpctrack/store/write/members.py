"""Who belongs to which account, for row-level security: replaced as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpctrack.store import database, rows
from hpctrack.store.write import reconciled

if TYPE_CHECKING:
    from collections.abc import Collection
    from uuid import UUID

    from hpctrack.model import Member
    from hpctrack.store.database import Connection

_MAX_BYTES = 255


def replace(
    connection: Connection, cluster: str, members: Collection[Member], *, lease: UUID | None = None
) -> None:
    """Store all members in place of those that were known.

    ``lease``: id of the collector on whose behalf; raises `errors.LeaseLost` if it is not the one that
    reconciles any more. The connection may be in autocommit mode or not.
    """
    fitting = [member for member in members if _fits(member)]
    columns = {
        "users": [member.user for member in fitting],
        "accounts": [member.account for member in fitting],
        "roles": [member.role for member in fitting],
    }
    with database.translated(), connection.transaction():
        if lease is not None:
            reconciled.check_lease(connection, lease)
        rows.execute(connection, "delete_members", **columns)
        rows.execute(connection, "write_members", **columns)
        rows.execute(connection, "note_members_checked", cluster=cluster)


def note_error(connection: Connection, cluster: str, why: str) -> None:
    """Note why nobody could tell who is a member; what was known stays."""
    with database.translated(), connection.transaction():
        rows.execute(connection, "note_members_error", cluster=cluster, error=why)


def logins(connection: Connection) -> list[str]:
    """Return who can log in to the server."""
    return rows.column(connection, "fetch_login_roles")


def _fits(member: Member) -> bool:
    """Whether PostgreSQL takes its names: what a site calls its accounts is its own."""
    names = [name for name in (member.user, member.account) if name is not None]
    return all("\0" not in name and len(name.encode("utf-8", "replace")) <= _MAX_BYTES for name in names)
