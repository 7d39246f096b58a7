"""What Slurm says about jobs, by its command line: one squeue for the living, sacct for those that left."""

from __future__ import annotations

import functools
import os
import pwd
import secrets
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Protocol

from hpctrack import errors
from hpctrack.run import states
from hpctrack.slurm import command, parse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpctrack.model import JobFacts

#: Ids in one sacct command.
CHUNK = 500
#: Seconds that a command may take before Slurm counts as unreachable.
TIMEOUT = 60.0
_NO_ACCOUNTING = "accounting storage is disabled"


class Backend(Protocol):
    """A way to ask Slurm. Every method raises `errors.SlurmError` rather than give half an answer."""

    def queue(self, users: Sequence[str] | None = None) -> list[JobFacts]:
        """Return every job that Slurm holds as pending, running or completing, of these users or of all."""
        ...

    def ended(self, jobs: Sequence[str], since: datetime) -> list[JobFacts]:
        """Return every execution on record of these jobs from ``since`` on: ``123``, ``123_4``, ``123`` of
        an array with all its tasks. Jobs that nobody knows are left out: that is no evidence of anything.
        """
        ...


class CommandLine:
    """The backend that works with any Slurm from 20.11 on."""

    def __init__(
        self,
        cluster: str | None = None,
        environ: Mapping[str, str] | None = None,
        *,
        remote: bool = False,
        timeout: float = TIMEOUT,
    ) -> None:
        """``cluster`` is the name that facts carry; ``remote`` asks for it with ``-M``."""
        self.cluster = cluster
        self._environ = os.environ if environ is None else environ
        self._where = ["-M", cluster] if remote and cluster else []
        self._timeout = timeout
        self._fields: list[str] | None = None
        self._queue_fields: list[str] | None = None

    def queue(self, users: Sequence[str] | None = None) -> list[JobFacts]:
        """See `Backend`: one squeue, hidden partitions included."""
        return self._squeue([f"--user={','.join(users)}"] if users else [])

    def ended(self, jobs: Sequence[str], since: datetime) -> list[JobFacts]:
        """See `Backend`: one sacct per `CHUNK` jobs.

        Where Slurm keeps no accounts, slurmctld still remembers an ended job for a while (``MinJobAge``):
        then one squeue for ended jobs.
        """
        try:
            return [
                fact
                for start in range(0, len(jobs), CHUNK)
                for fact in self._sacct(jobs[start : start + CHUNK], since)
            ]
        except errors.SlurmUnavailable:
            raise
        except errors.SlurmError as error:
            if _NO_ACCOUNTING not in str(error):
                raise
        return [fact for fact in self._squeue(["--states=all"]) if has_ended(fact)]

    def _squeue(self, options: list[str]) -> list[JobFacts]:
        if self._queue_fields is None:
            self._queue_fields = parse.squeue_fields(self._run(["squeue", "--version"]))
        delimiter, fields = _delimiter(), self._queue_fields
        now, began = datetime.now(timezone.utc), time.monotonic()
        argv = ["squeue", *self._where, "-a", "-h", *options, "-O", parse.squeue_format(delimiter, fields)]
        printed = self._run(argv)
        late = timedelta(seconds=time.monotonic() - began)
        return parse.squeue(printed, delimiter, self.cluster, now, fields, late=late)

    def _sacct(self, jobs: Sequence[str], since: datetime) -> list[JobFacts]:
        if self._fields is None:
            self._fields = parse.sacct_fields(self._run(["sacct", "--helpformat"]))
        delimiter = _delimiter()
        now = datetime.now(timezone.utc)
        argv = ["sacct", *self._where, "-a", "-n", "-p", "-D", f"--delimiter={delimiter}"]
        argv += ["-S", f"uts{int(since.timestamp())}", "-o", ",".join(self._fields), "-j", ",".join(jobs)]
        return parse.sacct(self._run(argv), delimiter, self._fields, now, _user_name)

    def _run(self, argv: list[str]) -> str:
        return command.run(argv, timeout=self._timeout, environ=self._environ).stdout


def has_ended(fact: JobFacts) -> bool:
    """Whether a fact is about a job that has ended."""
    return states.has_ended(fact.status)


def _delimiter() -> str:
    """Return text that no user can foresee."""
    return f"\x1f{secrets.token_hex(4)}\x1f"


@functools.cache
def _user_name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
