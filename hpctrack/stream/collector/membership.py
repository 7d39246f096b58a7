"""Who belongs to which account: asked of Slurm's accounting or of Unix groups, and stored for SQL's policies.

`hpctrack setup` calls `renew`, and so does the reconciler of the collector that leads, once an hour.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hpctrack import account, errors
from hpctrack.model import Member
from hpctrack.run import words
from hpctrack.slurm import members as slurm_members
from hpctrack.store.write import members as stored

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from hpctrack.store.database import Connection

#: Seconds between two renewals.
INTERVAL = 3600.0

_log = logging.getLogger(__name__)


def renew(
    connection: Connection,
    source: str,
    cluster: str,
    environ: Mapping[str, str],
    *,
    lease: UUID | None = None,
) -> str | None:
    """Bring the members up to date; return why that can't be done, and then nothing changes.

    ``source`` is the setting ``members``. Raises `errors.StoreError`.
    """
    try:
        members = slurm_members.fetch(environ) if source == "sacctmgr" else _of_groups(connection)
    except errors.SlurmError as error:
        stored.note_error(connection, cluster, str(error))
        return str(error)
    stored.replace(connection, cluster, members, lease=lease)
    _log.debug("%s of accounts", words.counted(len(members), "member"))
    return None


def _of_groups(connection: Connection) -> list[Member]:
    """Return the members of the Unix groups that are called like accounts: those of whoever can log in."""
    logins = stored.logins(connection)
    groups = {login: account.groups(login) for login in logins}
    return [Member(login, group, "member") for login, names in groups.items() for group in names]
