"""The account of this process, as Slurm knows it. LOGNAME and USER may name another one (sudo, su)."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd


def user_name() -> str:
    """Return the name of this process's account; its number where it has no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def groups(user: str) -> list[str]:
    """Return the names of the Unix groups of an account; none where there is no such account."""
    names = []
    with contextlib.suppress(KeyError):
        for number in os.getgrouplist(user, pwd.getpwnam(user).pw_gid):
            with contextlib.suppress(KeyError):  # a group without a name
                names.append(grp.getgrgid(number).gr_name)
    return list(dict.fromkeys(names))
