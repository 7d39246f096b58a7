"""How well a job used what it asked for, as ``seff`` and ``reportseff`` reckon. Pure.

Ratios: 1 is all of it; more than 1 is possible (hyperthreads, memory beyond what was asked for).
"""

from __future__ import annotations

import math
from datetime import timedelta
from typing import NamedTuple

#: A job that used this share or less of something is told so.
LITTLE = 0.1
#: Seconds below which a job is too short for its shares to mean anything.
_SHORT = 60.0
#: Little of little is no waste: bytes of memory, seconds of time limit.
_MEMORY_WORTH, _TIME_WORTH = 1 << 30, 600.0
_MIB, _GIB = 1 << 20, 1 << 30


class Resources(NamedTuple):
    """What one attempt asked for and what it used; unknown is None.

    From the view ``attempt_resources``: Slurm's accounting where it has the figure, else our own samples.
    """

    run_id: int
    attempt: int
    """Counts from 0, as SLURM_RESTART_COUNT does."""
    over: bool
    """Whether it has ended; else the figures are those until now."""
    elapsed_s: float | None
    time_limit_s: float | None
    cpus: int | None
    """Processors that it was given."""
    cpu_s: float | None
    """Processor seconds, over all nodes."""
    memory_requested_bytes: int | None
    memory_used_bytes: int | None
    """The most that it was seen to use."""

    @property
    def is_conclusive(self) -> bool:
        """Whether it has ended, and ran for long enough that its shares mean something."""
        return self.over and self.elapsed_s is not None and self.elapsed_s >= _SHORT

    @property
    def cpu_time(self) -> timedelta | None:
        """Processor time that it used, over all nodes."""
        return None if self.cpu_s is None else timedelta(seconds=self.cpu_s)

    @property
    def cpu(self) -> float | None:
        """Share of its processors' time that it used."""
        available = None if self.elapsed_s is None or self.cpus is None else self.elapsed_s * self.cpus
        return _ratio(self.cpu_s, available)

    @property
    def memory(self) -> float | None:
        """Share of its memory that it used at most."""
        return _ratio(self.memory_used_bytes, self.memory_requested_bytes)

    @property
    def time(self) -> float | None:
        """Share of its time limit that it used."""
        return _ratio(self.elapsed_s, self.time_limit_s)


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def hints(used: Resources, *, completed: bool) -> list[str]:
    """Return what an attempt that has ended could have asked less of, in one sentence each.

    ``completed``: whether it ran to its own end; else nothing is said about its time limit.
    """
    if not used.is_conclusive:
        return []
    said = (_idle_processors(used), _idle_memory(used), _time_to_spare(used) if completed else None)
    return [hint for hint in said if hint is not None]


def _idle_processors(used: Resources) -> str | None:
    if used.cpus is None or used.cpus <= 1 or not _is_little(used.cpu):
        return None
    busy = (used.cpu or 0) * used.cpus
    return f"kept {busy:.1f} of {used.cpus} processors busy: fewer would have done (-c, -n)"


def _idle_memory(used: Resources) -> str | None:
    if not _is_little(used.memory) or (used.memory_requested_bytes or 0) < _MEMORY_WORTH:
        return None
    would_do = enough(used.memory_used_bytes or 0)
    return f"used {100 * (used.memory or 0):.0f} % of its memory: --mem={would_do} would have done"


def _time_to_spare(used: Resources) -> str | None:
    if not _is_little(used.time) or (used.time_limit_s or 0) < _TIME_WORTH:
        return None
    return f"took {100 * (used.time or 0):.0f} % of its time limit: a shorter --time starts sooner"


def _is_little(ratio: float | None) -> bool:
    return ratio is not None and ratio <= LITTLE


def enough(peak: int) -> str:
    """Return a value for ``--mem`` that leaves a fifth above a peak in bytes: ``300M``, ``5G``."""
    wanted = peak * 1.2
    if wanted < _GIB:
        return f"{max(math.ceil(wanted / _MIB / 100), 1) * 100}M"
    return f"{math.ceil(wanted / _GIB)}G"
