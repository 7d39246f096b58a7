"""For whom a signal was meant: the batch process alone, its group, or every process of the job.

Slurm signals a batch job in three ways (seen with 22.05; slurmstepd's ``_handle_signal_container``):

* ``scancel J``: every process of the job's container gets it, directly;
* ``scancel -f -s SIG J``: the process group that the batch process leads gets it;
* ``scancel -b -s SIG J`` and ``--signal=B:SIG``: the batch process alone gets it.

The batch process is the supervisor, and the script leads a group of its own, as the batch process would. So
the first kind has reached the script already, the second must go to the script's group, the third to the
script. Sentinels tell them apart: processes that only hold all signals blocked, one inside the supervisor's
group and one outside of it. The kernel marks a blocked signal as pending the moment it is sent, so
``/proc/PID/status`` shows it even while every core is busy and the sentinel could not run.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import socket
import time
from typing import TYPE_CHECKING

from hpctrack.process import inherited, process_name

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Everything that can be caught and that is not the processor's own complaint about the process itself.
CATCHABLE = signal.valid_signals() - {
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
}

GRACE = 0.1
"""Seconds that the sender may take from the first process that it signals to the last."""


class Reach(enum.Enum):
    """How far a signal went that the supervisor received."""

    CONTAINER = "container"
    GROUP = "group"
    PROCESS = "process"


class Sentinel:
    """A process that holds all signals blocked, so that others can see which ones were sent to it."""

    def __init__(self, *, own_group: bool) -> None:
        """Fork it; the caller must have blocked `CATCHABLE` and have no threads."""
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                if own_group:
                    os.setpgid(0, 0)
                ours.close()
                process_name.take("hpct-sentinel")
                _hold(theirs)
            finally:
                os._exit(0)
        theirs.close()
        if own_group:
            lead_group(self.pid)
        self._channel = ours
        self._status = os.open(f"/proc/{self.pid}/status", os.O_RDONLY | os.O_CLOEXEC)

    def holds(self, signum: int) -> bool:
        """Whether the signal was sent to it since the last `forget`. A dead sentinel holds nothing."""
        try:
            status = os.pread(self._status, 4096, 0)
        except ProcessLookupError:
            return False
        start = status.find(b"ShdPnd:")
        return start >= 0 and bool(int(status[start + 7 :].split(None, 1)[0], 16) >> (signum - 1) & 1)

    def forget(self, signum: int) -> None:
        """Forget that this signal was sent to it; others stay pending until their turn."""
        with contextlib.suppress(OSError):
            self._channel.send(bytes((signum,)), socket.MSG_NOSIGNAL)
            self._channel.recv(1)

    def end(self) -> None:
        """Let it go; the caller reaps it."""
        self._channel.close()
        os.close(self._status)


def _hold(channel: socket.socket) -> None:
    silence()
    while order := channel.recv(1):
        signal.sigtimedwait({order[0]}, 0)
        channel.send(order)


def lead_group(pid: int) -> None:
    """Make a child the leader of a group, also from the parent's side: whichever comes first."""
    with contextlib.suppress(OSError):  # it has done so and gone on to exec, or is gone
        os.setpgid(pid, pid)


def hold_streams() -> None:
    """Let nothing of ours take the place of a standard stream that is closed: `silence` would close that.

    A program that is started finds it closed.
    """
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)


def silence() -> None:
    """Let go of standard input and output, which belong to the script: readers of a pipe wait for its end."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def reach(signum: int, inside: Sentinel, outside: Sentinel | None) -> Reach:
    """Find out how far a signal went that the supervisor has just received.

    ``inside`` shares the supervisor's group, ``outside`` does not; without one (``hpctrack run``, where the
    command shares the group too) what reaches the group has reached all.
    """
    deadline = time.monotonic() + GRACE
    outer = outside or inside
    while not outer.holds(signum) and time.monotonic() < deadline:
        time.sleep(0.002)
    if outer.holds(signum):
        result = Reach.CONTAINER
        # The last one to be signalled must not take this for news of the next signal.
        while not inside.holds(signum) and time.monotonic() < deadline:
            time.sleep(0.002)
    elif inside.holds(signum):
        result = Reach.GROUP
    else:
        return Reach.PROCESS
    for sentinel in (inside, outside):
        if sentinel is not None:
            sentinel.forget(signum)
    # Sent twice within the grace, it was pending once for the sentinels: count it once here as well.
    signal.sigtimedwait({signum}, 0)
    return result


class Stops:
    """Passes SIGSTOP on, which the supervisor can't catch: the relay sees that it has stopped.

    What stops the whole container stops the relay as well. SIGCONT is passed on by the supervisor.
    """

    def __init__(self, supervisor: int) -> None:
        self._supervisor = supervisor
        self._script = self._group = 0
        self._stopped = False

    def pass_on_to(self, script: int, group: int) -> None:
        """``group``: a process of the supervisor's group; 0 where the script is in that group itself."""
        self._script, self._group = script, group

    def look(self) -> None:
        """Look, and stop the script once if need be, or its group."""
        stopped = is_stopped(self._supervisor)
        if stopped and not self._stopped and self._group and self._script:
            with contextlib.suppress(OSError):
                time.sleep(GRACE)  # the last one to be signalled may not have stopped yet
                if is_stopped(self._group):
                    os.killpg(self._script, signal.SIGSTOP)
                else:
                    os.kill(self._script, signal.SIGSTOP)
        self._stopped = stopped


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal (proc(5), stat: T)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[:1] == [b"T"]
    except OSError:
        return False


def hear_of_children() -> bool:
    """Let the kernel tell of children that end, and keep their status; whether our parent ignored SIGCHLD."""
    return signal.signal(signal.SIGCHLD, signal.SIG_DFL) is signal.SIG_IGN


def restore(original_mask: Iterable[int], *, ignores_children: bool = False) -> None:
    """In a child before exec: signals as a batch script finds them (Python itself ignores two).

    ``ignores_children``: what `hear_of_children` returned.
    """
    if ignores_children:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    inherited.restore_signals()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, original_mask)
