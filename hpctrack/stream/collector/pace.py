"""When the reconciler asks Slurm. Pure; times are seconds on the caller's clock.

Regular passes (`Pace`) become rarer while Slurm is slow or silent. Runs whose script has ended are looked up
earlier (`Looks`), together and now and then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hpctrack.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Collection

#: However slow or silent Slurm is, it is asked again after so long.
LONGEST = 180.0
#: Slurm may spend at most one part in so many of its time on us.
_SHARE = 10.0
#: Seconds from a script's end to the first look at Slurm's books: its job takes about so long to end.
_FIRST_LOOK = 1.5
#: Seconds at least between two looks, which are one sacct each.
BETWEEN_LOOKS = 10.0
#: Each look that finds a run unfinished doubles the wait for the next, so many times; then it is left to the
#: regular passes.
_BACKOFF = Backoff(1.0, LONGEST)
_LOOKS = 7
#: How long runs to look at are kept while another collector leads, which may be dead: twice its lease.
_KEPT = 60.0


class Pace:
    """Seconds from one regular pass to the next."""

    def __init__(self, base: float) -> None:
        self._base = base
        #: The wait as of now.
        self.interval = base
        #: Whether Slurm did not answer the last pass.
        self.silent = False

    def note(self, seconds: float, *, answered: bool) -> None:
        """Take into account how long Slurm took for a pass, and whether it answered."""
        self.silent = not answered
        wanted = _SHARE * seconds if answered else 2 * self.interval
        self.interval = max(self._base, min(wanted, LONGEST))


class _Look(NamedTuple):
    due: float
    pause: float = 0.0
    """How long the wait for this look was, after the one before it."""
    left: int = _LOOKS


class Looks:
    """Runs whose script has just ended, to be looked up in Slurm's books before the next regular pass."""

    def __init__(self, between: float = BETWEEN_LOOKS) -> None:
        self._between = between
        self._looks: dict[int, _Look] = {}
        self._next = 0.0

    def add(self, runs: Collection[int], now: float) -> None:
        """Look at these soon."""
        self._looks.update(dict.fromkeys(runs, _Look(now + _FIRST_LOOK)))

    def due(self, now: float) -> list[int]:
        """Return the runs to look at together now; nothing while the last look was a moment ago."""
        if now < self._next:
            return []
        return [run_id for run_id, look in self._looks.items() if look.due <= now]

    def looked(
        self, runs: Collection[int], waiting: Collection[int], now: float, seconds: float = 0.0
    ) -> None:
        """Put off the runs that Slurm has not finished with (``waiting``), and forget the others.

        ``seconds`` is how long Slurm took to answer.
        """
        self._next = now + max(self._between, min(_SHARE * seconds, LONGEST))
        for run_id in runs:
            look = self._looks.pop(run_id)
            if look.left > 1 and run_id in waiting:
                pause = _BACKOFF.after(look.pause)
                self._looks[run_id] = _Look(now + pause, pause, look.left - 1)

    def forget(self, now: float) -> None:
        """Forget runs that are long due: the collector that leads has asked about them meanwhile."""
        self._looks = {run_id: look for run_id, look in self._looks.items() if look.due > now - _KEPT}
