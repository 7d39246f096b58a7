"""What this process was given by its parent, where Python changes it before its first line.

Python ignores SIGPIPE and SIGXFSZ and, in the C locale, sets LC_CTYPE (PEP 538). What it starts for the user
has to find both as they were. The kernel tells of the environment; of the signals the shell in front tells,
by ``-X ignored=MASK``: SigIgn in the words of proc(5).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

#: What Python itself ignores from its start.
SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)


def environ() -> dict[str, str]:
    """Return the environment of this process, with LC_CTYPE as it was given."""
    found = dict(os.environ)
    with contextlib.suppress(OSError), open("/proc/self/environ", "rb") as file:
        entries = [entry for entry in file.read().split(b"\0") if entry.startswith(b"LC_CTYPE=")]
        found.pop("LC_CTYPE", None)
        if entries:
            found["LC_CTYPE"] = os.fsdecode(entries[0][len(b"LC_CTYPE=") :])
    return found


def options() -> list[str]:
    """Return the arguments that hand the ignored signals on to a Python that this process becomes."""
    mask = sys._xoptions.get("ignored")
    return ["-X", f"ignored={mask}"] if mask else []


def ignored() -> set[signal.Signals]:
    """Return which of `SIGNALS` our parent ignored."""
    try:
        mask = int(str(sys._xoptions.get("ignored", "0")), 16)
    except ValueError:
        return set()
    return {signum for signum in SIGNALS if mask >> (signum - 1) & 1}


def restore_signals() -> None:
    """Give `SIGNALS` back as they were, just before this process becomes a program of the user's."""
    for signum in set(SIGNALS) - ignored():
        signal.signal(signum, signal.SIG_DFL)
