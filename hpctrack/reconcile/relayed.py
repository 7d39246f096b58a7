"""What relays say, as facts. Pure."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from hpctrack.model import JobFacts
from hpctrack.reconcile.attempts import verdict_of
from hpctrack.run import runids
from hpctrack.run.states import RunStatus
from hpctrack.stream.wire.messages import Fin, Hello, Start

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpctrack.stream.wire.messages import RunMessage

#: Reason of an end whose supervisor was killed before it.
UNSEEN = "how it ended was not seen: its supervisor was killed"


def fact_of(said: RunMessage, now: datetime) -> JobFacts | None:
    """Return the fact in a ``hello``, ``start`` or ``fin``; None for other messages.

    A ``fin`` carries the verdict on the script's own end; for a batch job `plan` takes no more of it than
    that the script has ended.
    """
    message = said.message
    if isinstance(message, Hello):
        fact = _hello(message, now)
    elif isinstance(message, Start):
        fact = _start(message, now)
    elif isinstance(message, Fin):
        fact = _fin(message, now)
    else:
        return None
    return fact._replace(run_id=said.run_id, attempt=said.attempt)


def _hello(hello: Hello, now: datetime) -> JobFacts:
    began = _moment(hello.time, now)
    return JobFacts(
        source="relay",
        cluster=None,
        job_id=hello.job_id,
        raw="hello",
        status=RunStatus.RUNNING,
        time=began,
        time_started=began,
        batch_host=hello.node or None,
    )


def _start(start: Start, now: datetime) -> JobFacts:
    return JobFacts(
        source="relay",
        cluster=None,
        job_id=None,
        raw="start",
        status=RunStatus.RUNNING,
        time=_moment(start.time, now),
        stdout_path=start.stdout,
        stderr_path=start.stderr,
        node_list=start.node_list,
        sluid=runids.sluid((start.env or {}).get("SLURM_JOB_SLUID", "")),
    )


def _fin(fin: Fin, now: datetime) -> JobFacts:
    ended = _moment(fin.time, now)
    unseen = fin.exit_code is None and fin.exit_signal is None
    return JobFacts(
        source="relay",
        cluster=None,
        job_id=None,
        raw=f"fin: {_words(fin)}",
        status=verdict_of(fin.exit_code, fin.exit_signal, out_of_memory=bool(fin.out_of_memory)),
        exit_code=fin.exit_code,
        exit_signal=fin.exit_signal,
        reason=UNSEEN if unseen else None,
        time=ended,
        time_ended=ended,
        stderr_tail=fin.stderr_tail,
    )


def _words(fin: Fin) -> str:
    """Return how a script ended, in the relay's words."""
    if fin.out_of_memory:
        return "out of memory"
    if fin.exit_signal:
        return f"signal {fin.exit_signal}"
    return "not seen" if fin.exit_code is None and fin.exit_signal is None else f"exit {fin.exit_code}"


def environment_of(said: RunMessage) -> Mapping[str, str] | None:
    """Return the environment in a ``start``; None for other messages, or where it has none."""
    return said.message.env if isinstance(said.message, Start) else None


def _moment(time: float | None, now: datetime) -> datetime:
    """Return when a message was written; a node that says no time that can be is taken to speak now."""
    return now if time is None else datetime.fromtimestamp(time, timezone.utc)
