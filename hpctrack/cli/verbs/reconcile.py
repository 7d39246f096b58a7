"""``hpctrack reconcile``: one pass of the reconciler, by hand."""

from __future__ import annotations

import contextlib
import os
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpctrack import account, errors, settings
from hpctrack.cli import options
from hpctrack.cli.terminal import render, say
from hpctrack.run import runids

if TYPE_CHECKING:
    from collections.abc import Collection

    from hpctrack.model import Change
    from hpctrack.reconcile import Report
    from hpctrack.store.database import Connection


@click.command()
@click.option("--cluster", help="Cluster to ask about (default: this host's).")
@click.option("--user", help="Only this user's runs (default: your own; with a configured server, all).")
@options.as_json
@options.config_path
def command(*, cluster: str | None, user: str | None, as_json: bool, config_path: str | None) -> None:
    """Compare PostgreSQL with Slurm once, and correct PostgreSQL.

    The collector does this by itself; by hand it is of use where none runs. Asks squeue once, and sacct about
    the jobs that squeue no longer lists. Outside Slurm it ends your runs of which nothing is left on this
    machine: it went down, or their processes were killed. Prints what changed.
    """
    configuration = settings.load(config_path=config_path)
    report = _pass(configuration, cluster, user)
    news = [change for change in report.changes if _is_news(change)]
    if as_json:
        say.json({"changes": [_keys(change) for change in news], "error": report.error})
    else:
        for change in news:
            say.out(_line(change))
        if not news and report.error is None:
            say.out("nothing changed")
    if report.error is not None:
        raise errors.SlurmUnavailable(
            f"Slurm did not answer everything, nothing was concluded: {report.error}"
        )


def _pass(configuration: settings.Settings, cluster: str | None, user: str | None) -> Report:
    from hpctrack import reconcile
    from hpctrack.store import database, locked
    from hpctrack.store.write import collectors

    with contextlib.closing(database.connect(configuration, patience=locked.PATIENCE)) as connection:
        lost = reconcile.settle_lost(connection, os.uname().nodename.partition(".")[0], _booted(), _living)
        try:
            collectors.check_role(connection)
        except errors.StoreDenied:
            if lost or shutil.which("scontrol") is None:
                return reconcile.Report(lost)
            raise
        report = _ask_slurm(configuration, connection, cluster, user)
    return report._replace(changes=lost + report.changes)


def _ask_slurm(
    configuration: settings.Settings, connection: Connection, cluster: str | None, user: str | None
) -> Report:
    """Make the pass; a machine without Slurm has nothing to ask."""
    from hpctrack import reconcile
    from hpctrack.slurm import backend, site

    try:
        name = cluster or site.cluster_name(os.environ, configuration.cache)
    except errors.CommandNotFound:
        return reconcile.Report()
    slurm = backend.choose(configuration.slurm_backend, name, os.environ, remote=cluster is not None)
    if user is None and configuration.personal:
        user = account.user_name()
    return reconcile.run_once(connection, slurm, name, user)


def _booted() -> datetime:
    """Return when this machine was started (``btime`` in proc(5))."""
    lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    seconds = next(line.split()[1] for line in lines if line.startswith("btime "))
    return datetime.fromtimestamp(int(seconds), timezone.utc)


def _living(names: Collection[str]) -> set[str]:
    """Return which runs have processes on this host, by ``HPCTRACK_RUN`` in their environment."""
    living: set[str] = set()
    for process in Path("/proc").glob("[0-9]*") if names else ():
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            words = (process / "environ").read_bytes().split(b"\0")
            told = {os.fsdecode(word[13:]) for word in words if word.startswith(b"HPCTRACK_RUN=")}
            living |= told.intersection(names)
    return living


def _is_news(change: Change) -> bool:
    """Whether more has changed than what the reconciler notes for itself."""
    before, after = (run._replace(time_seen=None, recheck_after=None) for run in (change.before, change.run))
    return before != after or bool(change.transitions)


def _line(change: Change) -> str:
    before, run = change.before, change.run
    name = _job(change)
    job = f"job {render.clean(name)}" if name else "here"
    was = "" if before.status is run.status else f"{before.status.value} -> "
    reason = f" ({render.clean(run.reason)})" if run.reason else ""
    return f"r{run.run_id}  {job}  {was}{run.status.value}{reason}"


def _job(change: Change) -> str | None:
    run = change.run
    return runids.job_text(run.slurm_job_id, run.array_job_id, run.array_task_id)


def _keys(change: Change) -> dict[str, object]:
    run = change.run
    return {
        "run": f"r{run.run_id}",
        "id": run.run_id,
        "job_id": _job(change),
        "before": change.before.status.value,
        "state": run.status.value,
        "slurm_state": run.slurm_state,
        "reason": run.reason,
        "restarts": run.attempt,
        "time_ended": run.time_ended.isoformat() if run.time_ended else None,
        "transitions": [
            {
                "restarts": transition.attempt,
                "state": transition.status.value if transition.status else None,
                "time": transition.time.isoformat(),
                "source": transition.source,
                "reason": transition.reason,
            }
            for transition in change.transitions
        ],
    }
