"""Signals and LC_CTYPE as the parent of this process set them: Python changes them before its first line.

Python ignores SIGPIPE and SIGXFSZ and, in the C locale, sets LC_CTYPE (PEP 538). A program that it starts for
the user has to find both as they were. The kernel tells the environment (``/proc/self/environ``); the shell
that started Python tells the ignored signals, by ``-X ignored=MASK`` (SigIgn of proc(5), in hexadecimal).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

#: Signals that Python itself ignores from its start.
SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)


def environ() -> dict[str, str]:
    """Return the environment of this process, with LC_CTYPE as its parent set it."""
    given = dict(os.environ)
    with contextlib.suppress(OSError), open("/proc/self/environ", "rb") as file:
        entries = [entry for entry in file.read().split(b"\0") if entry.startswith(b"LC_CTYPE=")]
        given.pop("LC_CTYPE", None)
        if entries:
            given["LC_CTYPE"] = os.fsdecode(entries[0][len(b"LC_CTYPE=") :])
    return given


def options() -> list[str]:
    """Return the arguments that tell a Python, which this process becomes, the ignored signals."""
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
    """Restore `SIGNALS`, just before this process becomes a program of the user's."""
    for signum in set(SIGNALS) - ignored():
        signal.signal(signum, signal.SIG_DFL)
