"""Names of our own processes, as `ps`, `pkill` and `killall` see them.

Scripts end stray workers by name (``pkill -9 python``, ``pkill -f train``). A supervisor or relay is a Python
process started with the script's path, and would be ended with them. So each takes a name that contains
neither "python" nor the script nor a folder (proc(5): ``/proc/self/comm``, ``/proc/self/mem``).
"""

from __future__ import annotations

import os

#: Bytes of a name that the kernel keeps (TASK_COMM_LEN, without the last one).
_MAX_COMM = 15


def take(name: str) -> None:
    """Replace name and command line of this process by a name; children have it until they take another.

    If the kernel refuses, they stay as they are.
    """
    mark(name)
    try:
        start, end = _command_line()
        descriptor = os.open("/proc/self/mem", os.O_WRONLY | os.O_CLOEXEC)
        try:
            # The last byte has to be NUL: otherwise the kernel shows what stands behind it, too.
            os.pwrite(descriptor, name.encode()[: end - start - 1].ljust(end - start, b"\0"), start)
        finally:
            os.close(descriptor)
    except (OSError, ValueError, IndexError):
        pass


def mark(name: str) -> None:
    """Name this process; its command line stays."""
    try:
        with open("/proc/self/comm", "wb", buffering=0) as file:
            file.write(name.encode()[:_MAX_COMM])
    except OSError:
        pass


def _command_line() -> tuple[int, int]:
    """Return where in memory the command line begins and ends (proc(5): arg_start, arg_end)."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    if not 0 < start < end:
        raise ValueError("the kernel does not say")
    return start, end
