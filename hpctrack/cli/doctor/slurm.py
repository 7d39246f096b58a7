"""Whether Slurm's commands answer, and whether somebody asks them for the states of runs."""

from __future__ import annotations

import os
import re
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from hpctrack import account, errors
from hpctrack.cli.doctor.check import Check
from hpctrack.run.words import counted
from hpctrack.view import notation, remarks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection

#: After so long without a question to Slurm, it is looked whether anybody asks at all.
_LONG_UNASKED = timedelta(minutes=10)
#: After so long it is told that nobody renews who belongs to which account.
_MEMBERS_OLD = timedelta(hours=3)
#: Seconds that Slurm's commands have to answer.
_SECONDS = 20.0
_PROGRAMS = ("sbatch", "squeue", "sacct", "scontrol", "scancel")


def look(configuration: Settings, connection: Connection | None) -> Iterator[Check]:
    """Yield what is found of Slurm's commands and, with PostgreSQL, of the reconciler."""
    from hpctrack.slurm import command, site

    missing = []
    for program in _PROGRAMS:
        try:
            command.find(program, os.environ)
        except errors.CommandNotFound:
            missing.append(program)
    if "sbatch" in missing:
        yield Check(
            "Slurm", "note", "no sbatch on PATH: hpctrack run works here, hpctrack sbatch does not",
            "on a login node: load Slurm's module, or put its folder on PATH",
        )  # fmt: skip
        return
    if missing:
        yield Check(
            "Slurm", "broken", f"not on PATH: {', '.join(missing)}", "install Slurm's client commands"
        )
    try:
        version = command.run(["sbatch", "--version"], timeout=_SECONDS, environ=os.environ).stdout
        cluster = site.cluster_name(os.environ, configuration.cache)
    except errors.SlurmError as error:
        yield Check("Slurm", "broken", str(error), "is slurmctld up? scontrol ping")
        return
    yield Check("Slurm", "ok", f"{version.strip()}, cluster {cluster}")
    yield _queue()
    yield _accounting()
    if configuration.slurm_backend == "pyslurm":
        yield _pyslurm(cluster)
    if connection is not None:
        yield _reconciler(connection, cluster)
        if not configuration.personal:
            yield _members(connection, cluster)


def _pyslurm(cluster: str) -> Check:
    """Whether Slurm can be asked as the configuration wants, from here."""
    from hpctrack.slurm import backend

    try:
        backend.choose("pyslurm", cluster, os.environ)
    except errors.SlurmError as error:
        return Check(
            "slurm_backend", "broken", str(error),
            "install the pyslurm of Slurm's release, or set slurm_backend = auto",
        )  # fmt: skip
    return Check("slurm_backend", "ok", "pyslurm fits")


def _queue() -> Check:
    from hpctrack.slurm import command

    started = time.monotonic()
    argv = ["squeue", "--noheader", "--all", "--format=%i", f"--user={account.user_name()}"]
    try:
        listed = command.run(argv, timeout=_SECONDS, environ=os.environ).stdout
    except errors.SlurmError as error:
        return Check("squeue", "broken", str(error), "is slurmctld up? scontrol ping")
    count, seconds = len(listed.splitlines()), time.monotonic() - started
    return Check("squeue", "ok", f"{counted(count, 'job')} of yours, in {seconds:.1f} s")


def _accounting() -> Check:
    from hpctrack.slurm import command

    started = time.monotonic()
    argv = ["sacct", "--noheader", "--allocations", "--starttime=now-1minutes", "--format=JobID"]
    try:
        command.run(argv, timeout=_SECONDS, environ=os.environ)
    except errors.SlurmError as error:
        if re.search("accounting storage is disabled", str(error), re.IGNORECASE):
            return Check(
                "sacct", "note", "Slurm keeps no accounts here",
                "nothing: ends of jobs are learnt from slurmctld while it remembers them (MinJobAge)",
            )  # fmt: skip
        return Check("sacct", "broken", str(error), "is slurmdbd up? sacctmgr ping; until then ends wait")
    return Check("sacct", "ok", f"answers in {time.monotonic() - started:.1f} s")


def _reconciler(connection: Connection, name: str) -> Check:
    """Tell when the reconciler last got answers from this cluster."""
    from hpctrack.store.read import queries

    now = queries.now(connection)
    cluster = next((cluster for cluster in queries.clusters(connection) if cluster.name == name), None)
    warning = remarks.on_cluster(cluster, now) if cluster else None
    if warning is not None:
        return Check("reconciler", "broken", warning, "hpctrack reconcile tries it from here")
    checked = cluster.time_checked if cluster else None
    if (checked is None or now - checked > _LONG_UNASKED) and _nobody_asks(connection):
        return Check(
            "reconciler", "broken", "nobody asks Slurm: every collector leaves that to another",
            "start one without --no-reconcile, or call hpctrack reconcile every minute",
        )  # fmt: skip
    if checked is None:
        return Check("reconciler", "ok", f"has had nothing to ask of {name} yet")
    return Check("reconciler", "ok", f"last asked {name} {notation.duration(now - checked)} ago")


def _members(connection: Connection, name: str) -> Check:
    """Tell whether it is known who belongs to which account, on which it depends who sees runs."""
    from hpctrack.store.read import queries

    cluster = next((cluster for cluster in queries.clusters(connection) if cluster.name == name), None)
    do = (
        "try it: sacctmgr -nP show assoc format=User,Account, as the collector's account (docs/visibility.md)"
    )
    if cluster is not None and cluster.members_error is not None:
        return Check("accounts", "note", f"not brought up to date: {cluster.members_error}", do)
    if cluster is None or cluster.members_checked is None:
        return Check("accounts", "ok", "not told yet who belongs to which: collectors ask hourly")
    age = queries.now(connection) - cluster.members_checked
    if age > _MEMBERS_OLD:
        return Check("accounts", "note", f"last told {notation.duration(age)} ago", do)
    return Check("accounts", "ok", f"who belongs to which was told {notation.duration(age)} ago")


def _nobody_asks(connection: Connection) -> bool:
    """Whether there are collectors, and all of them leave it to others to ask Slurm."""
    from hpctrack.store.write import collectors
    from hpctrack.stream.collector.figures import Figures

    live = [row for row in collectors.fetch(connection) if row.live]
    leaving = [Figures.from_json(row.stats).reconciling is False and not row.reconciles for row in live]
    return bool(leaving) and all(leaving)
