"""``hpctrack doctor --job``: a small job that tells from a compute node what gets through from there."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hpctrack import errors, settings
from hpctrack.cli import sessions
from hpctrack.cli.doctor import postgresql
from hpctrack.cli.doctor.check import Check
from hpctrack.process import children
from hpctrack.run import runids
from hpctrack.run.states import RunStatus
from hpctrack.store.read import lookup, queries
from hpctrack.store.write import changes, experiments
from hpctrack.stream.collector import launch
from hpctrack.stream.wire import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection

#: Experiment of the runs that are made to try something, and go again.
_EXPERIMENT = "hpctrack-doctor"
#: Logs one row, and stays for long enough that the row arrives while the job runs.
_SCRIPT = """\
#!/bin/sh
#SBATCH --job-name=hpctrack-doctor --time=5 --ntasks=1 --output=/dev/null
echo "step=0 answer=42" >> "$HPCTRACK_JOURNAL"
sleep 3
"""
_LET_THROUGH = f"let {names.CARRIER} through from compute nodes to the collector's address above"
_PAUSE = 0.5
#: Seconds after the end of the job in which its row may still come: collectors look into the spool every 30.
_LATE = 45.0
#: Seconds after the arrival of the row in which the end of the job may be told.
_END = 10.0


def follow(
    given: Iterator[Check], options: Sequence[str], seconds: float, config_path: str | None
) -> Iterator[Check]:
    """Yield these checks and, if none is broken, those of a job; ``options`` are sbatch's."""
    broken = False
    for check in given:
        broken = broken or check.state == "broken"
        yield check
    if broken:
        yield Check("job", "note", "not tried", "mend what is broken first")
        return
    yield from _try(options, seconds, settings.load(config_path=config_path))


def _try(options: Sequence[str], seconds: float, configuration: Settings) -> Iterator[Check]:
    """Submit a job, and watch it for so many seconds."""
    job, said = _submit(options, configuration)
    if job is None:
        do = "give the options that jobs need here: hpctrack doctor --job -- -A ACCOUNT -p PARTITION"
        yield Check("job", "broken", said, do)
        return
    with sessions.connected(configuration) as connection:
        try:
            run_id = lookup.find_one(connection, runids.parse(job))
        except errors.RunNotFound:
            yield Check("job", "broken", said or f"job {job} was submitted, but is not tracked", "see above")
            return
        yield from _watch(configuration, connection, run_id, job, seconds)


def _submit(options: Sequence[str], configuration: Settings) -> tuple[str | None, str]:
    """Submit as a user does; return the job's id, None if there is none, and what was said."""
    with tempfile.TemporaryDirectory(prefix="hpctrack-doctor-") as folder:
        script = Path(folder, "hpctrack-doctor")
        script.write_text(_SCRIPT, encoding="ascii")
        done = subprocess.run(
            children.argv("hpctrack.cli.main:main", "sbatch", "-E", _EXPERIMENT, "--parsable",
                          *options, str(script)),
            env=children.environ({**os.environ, **launch.environment(configuration)}),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
    said = " ".join(done.stderr.split())
    job = done.stdout.strip().partition(";")[0]
    if done.returncode == 0 and job.isdecimal():
        return job, said
    return None, said or f"sbatch ended with {done.returncode}"


def _watch(
    configuration: Settings, connection: Connection, run_id: int, job: str, seconds: float
) -> Iterator[Check]:
    """Wait for the job's row, then for its end; take a run that went well away again."""
    run = _await_row(connection, run_id, seconds)
    if not run.rows:
        yield _failure(connection, run, job, seconds)
        return
    yield Check("job", "ok", f"job {job} on {run.node_list or 'a node'}: what it logged has arrived")
    yield from _way(connection, run, configuration.transport)
    run = _await(connection, run_id, time.monotonic() + _END, _is_over)
    if _is_over(run):
        _remove(connection, run_id)


def _remove(connection: Connection, run_id: int) -> None:
    """Take a run away again, and its experiment if nothing else is in it."""
    changes.delete(connection, [run_id])
    with contextlib.suppress(errors.HpctrackError):  # somebody else's, or somebody looks at the same time
        experiments.delete(connection, experiments.get(connection, _EXPERIMENT))


def _await_row(connection: Connection, run_id: int, seconds: float) -> queries.Run:
    """Return the run once its row is there, or when time is up; after the end of the job it may be late."""
    deadline = time.monotonic() + seconds
    run = _await(connection, run_id, deadline, lambda run: bool(run.rows) or _is_over(run))
    if run.rows or not _is_over(run):
        return run
    return _await(connection, run_id, time.monotonic() + _LATE, lambda run: bool(run.rows))


def _await(
    connection: Connection, run_id: int, deadline: float, condition: Callable[[queries.Run], bool]
) -> queries.Run:
    """Return the run as soon as the condition is true of it, or as it is when time is up."""
    while True:
        run = queries.get_run(connection, run_id)
        if condition(run) or time.monotonic() > deadline:
            return run
        time.sleep(_PAUSE)


def _is_over(run: queries.Run) -> bool:
    """Whether the run's script has ended, as its relay or Slurm has told."""
    return run.time_ended is not None or run.exit_code is not None or run.exit_signal is not None


def _failure(connection: Connection, run: queries.Run, job: str, seconds: float) -> Check:
    if run.status is RunStatus.PENDING:
        return _pending(run, job, seconds)
    where = f" on {run.node_list}" if run.node_list else ""
    heard = any(transition.source == "relay" for transition in queries.transitions(connection, run.id))
    if heard or run.exit_code == 0:
        do = f"hpctrack sync, then hpctrack show {job}"
        return Check("job", "broken", f"job {job}{where} ran, but what it logged has not arrived", do)
    return Check(
        "job", "broken", f"nothing has been heard of job {job}{where} ({run.status.value})",
        f"{_LET_THROUGH}, or set transport = spool; "
        f"compute nodes must see the data folder and {children.PYTHON}; hpctrack show {job} tells more",
    )  # fmt: skip


def _pending(run: queries.Run, job: str, seconds: float) -> Check:
    why = f" ({run.reason})" if run.reason else ""
    do = f"wait longer (--wait), or end it: hpctrack cancel {job}; hpctrack show {job} tells more"
    return Check("job", "note", f"job {job} is still PENDING{why} after {seconds:g} s", do)


def _way(connection: Connection, run: queries.Run, transport: str) -> Iterator[Check]:
    """Tell by which way it came, and how the node's clock goes."""
    if transport == "spool":
        yield Check("way", "ok", "through the data folder, as transport = spool says")
        return
    if any("spool" in (transition.raw or "") for transition in queries.transitions(connection, run.id)):
        yield Check(
            "way", "note", "datagrams from the node were not acknowledged: the row came through the spool",
            _LET_THROUGH,
        )  # fmt: skip
        return
    yield Check("way", "ok", "by datagrams")
    lag = queries.relay_lag(connection, run.id)
    if lag is not None:
        yield postgresql.judge_clock(lag, "node's clock", "the node's")
