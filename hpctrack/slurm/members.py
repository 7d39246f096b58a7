"""Who belongs to which account, as Slurm's accounting says: two sacctmgr, however many users there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpctrack import errors
from hpctrack.model import Member
from hpctrack.slurm import command

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

#: Seconds that each of them may take.
TIMEOUT = 60.0
_SHOW = ("sacctmgr", "-nP", "show")
#: Levels of administrators who see all jobs in Slurm.
_OPERATORS = ("operator", "administrator")


def fetch(environ: Mapping[str, str]) -> list[Member]:
    """Ask Slurm. Raises `errors.SlurmError`, also where no user's association is to be seen."""
    associations = _ask(environ, "assoc", "format=User,Account")
    users = _ask(environ, "user", "withcoord", "format=User,AdminLevel,Coordinators")
    members = parse(associations, users)
    # PrivateData hides them from who is no operator: that is no evidence that there are none.
    if not any(member.role == "member" for member in members):
        raise errors.SlurmError(
            "sacctmgr shows no user's association: has this account the operator's rights?"
        )
    return members


def _ask(environ: Mapping[str, str], *what: str) -> str:
    return command.run([*_SHOW, *what], timeout=TIMEOUT, environ=environ).stdout


def parse(associations: str, users: str) -> list[Member]:
    """Read what sacctmgr printed: each user and account once, as what is the most."""
    told = list(_rows(users, 3))
    found = {(user, account): "member" for user, account in _rows(associations, 2) if account}
    found |= dict.fromkeys(_coordinated(told), "coordinator")
    members = [Member(user, account, role) for (user, account), role in found.items()]
    return members + [
        Member(user, None, "operator") for user, level, _ in told if level.lower() in _OPERATORS
    ]


def _coordinated(users: Iterable[Sequence[str]]) -> Iterator[tuple[str, str]]:
    for user, _, accounts in users:
        yield from ((user, account) for account in accounts.split(",") if account)


def _rows(text: str, columns: int) -> Iterator[list[str]]:
    """Yield the cells of rows about a user."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == columns and cells[0]:
            yield cells
