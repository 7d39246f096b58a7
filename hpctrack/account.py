"""The account of this process, as Slurm knows it. LOGNAME and USER may name another one (sudo, su)."""

from __future__ import annotations

import os
import pwd


def user_name() -> str:
    """Return the name of this process's account; its number where it has no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
