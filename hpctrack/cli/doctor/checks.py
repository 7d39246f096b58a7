"""What ``hpctrack doctor`` looks at: each check says what it found, and what to do if something is wrong."""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from hpctrack import account, errors, files, settings
from hpctrack.cli.terminal import waiting
from hpctrack.run.words import counted
from hpctrack.stream.wire import names
from hpctrack.view import notation, remarks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection
    from hpctrack.store.write.collectors import CollectorRow

State = Literal["ok", "note", "broken"]
#: Experiment of the runs that are made to try something, and go again.
EXPERIMENT = "hpctrack-doctor"
#: Seconds by which clocks may differ before it is worth a note, and before times are of no use.
_SKEW_NOTE, _SKEW_BROKEN = 2.0, 60.0
#: After so long without a question to Slurm, it is looked whether anybody asks at all.
_LONG_UNASKED = timedelta(minutes=10)
#: Bytes that are written to see whether there is room.
_PROBE = 1 << 20
#: Seconds that collectors have to answer, and Slurm's commands.
_ECHO_SECONDS, _SLURM_SECONDS = 3.0, 20.0
_ASK_FOR_RIGHTS = "ask who set it up: hpctrack setup --grant-user YOUR_ROLE"
_PROGRAMS = ("sbatch", "squeue", "sacct", "scontrol", "scancel")


class Check(NamedTuple):
    """What a check found."""

    name: str
    state: State
    says: str
    #: What to do; empty if nothing is wrong.
    do: str = ""


class Failed(Exception):
    """A check without which the following ones make no sense has failed."""

    def __init__(self, check: Check) -> None:
        super().__init__(check.says)
        self.check = check


def examine(config_path: str | None) -> Iterator[Check]:
    """Yield one check after the other, as they are done."""
    try:
        configuration = settings.load(config_path=config_path)
    except errors.SettingsError as error:
        yield Check("configuration", "broken", str(error), "mend it: docs/configuration.md lists them all")
        return
    yield _configuration(configuration, config_path)
    yield _data_folder(configuration)
    yield _node_folder(configuration)
    try:
        with contextlib.closing(_connect(configuration)) as connection:
            yield _server(configuration, connection)
            yield _schema(configuration, connection)
            yield _clock(connection)
            yield from _collectors(configuration, connection)
            yield from _slurm(configuration, connection)
            yield from _spool(configuration, connection)
    except Failed as failed:
        yield failed.check
        yield from _slurm(configuration, None)
        yield from _spool(configuration, None)


def _configuration(configuration: Settings, config_path: str | None) -> Check:
    existing = [config_path] if config_path else settings.existing_files()
    where = ", ".join(existing) or "no file, only defaults and the environment"
    mode = "personal mode" if configuration.personal else "site mode"
    return Check("configuration", "ok", f"{mode}; {where}")


def _data_folder(configuration: Settings) -> Check:
    """Try to write where submission records and journals are kept."""
    spool = Path(configuration.spool)
    try:
        files.make_folder(str(spool), within=configuration.data_dir)
        _write(str(spool / f"doctor.{os.getpid()}"))
    except OSError as error:
        return Check(
            "data folder", "broken", f"{error.filename or spool}: {error.strerror}",
            "free space, or set data_dir to a folder of your own that compute nodes see",
        )  # fmt: skip
    exposed = files.exposure(str(spool))
    if exposed:
        return Check(
            "data folder", "note", f"others could swap it: {exposed}; what it remembers is not believed",
            "close that folder to others, or set data_dir to one below a folder of your own",
        )  # fmt: skip
    return Check("data folder", "ok", configuration.data_dir)


def _node_folder(configuration: Settings) -> Check:
    """Try to write where journals begin: on a compute node, and with hpctrack run here."""
    from hpctrack.stream.disk import runfolder

    try:
        folder = runfolder.create(configuration.spool, configuration.node_dir, "doctor", 0)
    except FileNotFoundError:
        says = f"{configuration.node_dir} is not there on this host"
        return Check("node folder", "note", says, "nothing, if hosts where jobs run have it")
    except OSError as error:
        return _no_room(error, configuration.node_dir or "the folder for temporary files")
    try:
        _write(str(Path(folder.path) / "probe"))
    except OSError as error:
        return _no_room(error, folder.path)
    finally:
        runfolder.discard(folder.path)
    return Check("node folder", "ok", str(Path(folder.path).parent))


def _no_room(error: OSError, folder: str) -> Check:
    says = f"{error.filename or folder} of this host: {error.strerror}"
    return Check("node folder", "broken", says, "free space there, or set node_dir to another local folder")


def _write(path: str) -> None:
    """Write a file as long as a journal's first minutes, and remove it. Raises OSError.

    An empty one can be made on a full disk, and what the kernel took may still be refused by the disk.
    """
    descriptor = files.create(path)
    try:
        data = os.urandom(_PROBE)
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        Path(path).unlink()


def _connect(configuration: Settings) -> Connection:
    from hpctrack.store import database

    try:
        return database.connect(configuration, autocommit=True, check=False)
    except errors.StoreDenied as error:
        do = "check user and password: ~/.pgpass, HPCTRACK_DSN_USER, HPCTRACK_DSN_PASSWORD"
        raise Failed(Check("PostgreSQL", "broken", str(error), do)) from error
    except errors.HpctrackError as error:
        do = "check that the server runs and is reached from here: HPCTRACK_DSN_HOST, HPCTRACK_DSN_PORT"
        if configuration.personal:
            do = "see the log in " + str(Path(configuration.data_dir) / "postgres" / "server.log")
        raise Failed(Check("PostgreSQL", "broken", str(error), do)) from error


def _server(configuration: Settings, connection: Connection) -> Check:
    version = connection.info.server_version
    number = f"{version // 10000}.{version % 10000}"
    where = "embedded" if configuration.personal else f"{connection.info.host}:{connection.info.port}"
    return Check("PostgreSQL", "ok", f"{number}, {where}, as {connection.info.user}")


def _schema(configuration: Settings, connection: Connection) -> Check:
    from hpctrack.store import database
    from hpctrack.store.schema import migrate

    try:
        with database.translated():
            migrate.check(connection, configuration)
    except errors.StoreDenied as error:
        raise Failed(Check("schema", "broken", str(error), _ASK_FOR_RIGHTS)) from error
    except errors.HpctrackError as error:
        raise Failed(Check("schema", "broken", str(error), "hpctrack setup")) from error
    return Check("schema", "ok", migrate.where(connection, configuration))


def _clock(connection: Connection) -> Check:
    """Compare PostgreSQL's clock with this host's, half a round trip taken off."""
    from hpctrack.store.read import queries

    asked = time.time()
    there = queries.now(connection).timestamp()
    return judge_clock(there - (asked + time.time()) / 2)


def judge_clock(skew: float, name: str = "clock", whose: str = "this host's") -> Check:
    """Return what is to be said of a clock that PostgreSQL's is so many seconds ahead of."""
    if abs(skew) < _SKEW_NOTE:
        return Check(name, "ok", f"PostgreSQL's and {whose} differ by {abs(skew):.2f} s")
    says = f"PostgreSQL's is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} {whose}"
    state: State = "note" if abs(skew) < _SKEW_BROKEN else "broken"
    return Check(name, state, says, "set both with NTP (chrony)")


# --- the collector ------------------------------------------------------------------------------------------


def _collectors(configuration: Settings, connection: Connection) -> Iterator[Check]:
    from hpctrack.store.write import collectors

    failure = _start(configuration) if configuration.personal else None
    if failure is not None:
        yield failure
        return
    live = [row for row in collectors.fetch(connection) if row.live]
    yield _heartbeats(configuration, live)
    if configuration.transport == "spool":
        yield Check("echo", "ok", "transport = spool: nothing is sent, journals go through the data folder")
        return
    yield from _echoes(connection, _addresses(configuration, live))


def _start(configuration: Settings) -> Check | None:
    """Start the user's own collector if it does not run; return why it can't be started."""
    from hpctrack.stream.collector import launch

    try:
        if launch.ensure_running(configuration):
            launch.wait_for_addresses(configuration)
    except errors.HpctrackError as error:
        return Check("collector", "broken", str(error), f"see {launch.log_path(configuration)}")
    return None


def _addresses(configuration: Settings, live: list[CollectorRow]) -> list[names.Address]:
    """Return where relays would look for a collector."""
    from hpctrack.stream.collector import launch

    if configuration.collector or configuration.personal:
        return list(configuration.collector) or launch.read_addresses(configuration)
    return names.Address.known(address for row in live for address in row.addresses)


def _heartbeats(configuration: Settings, live: list[CollectorRow]) -> Check:
    if live:
        says = ", ".join(f"{row.host}, process {row.pid}" for row in live)
        return Check("collector", "ok", says)
    if configuration.personal:  # started just now: its first heartbeat may be to come
        return Check("collector", "ok", "starts")
    return Check(
        "collector", "broken", "none has told PostgreSQL lately that it lives",
        "have it started on the head node: hpctrack collector (docs/site.md); until then journals wait",
    )  # fmt: skip


def _echoes(connection: Connection, addresses: list[names.Address]) -> Iterator[Check]:
    """Ask each address for an echo under a key that is there for as long as that takes."""
    from hpctrack.stream.wire import ciphers

    if not addresses:
        yield Check(
            "echo", "broken", "no address of a collector is known",
            f"start one (hpctrack collector), or set collector = {names.ADDRESS}",
        )  # fmt: skip
        return
    name, secret = uuid.uuid4(), ciphers.mint()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_submitted(connection, name, secret))
        except errors.HpctrackError as error:
            yield Check("submitting", "broken", str(error), _ASK_FOR_RIGHTS)
            return
        yield Check("submitting", "ok", "a submission can be registered")
        answers = [_echo(address, name.bytes, secret) for address in addresses]
    if any(check.state == "ok" for check in answers):  # relays try one after the other
        answers = [check._replace(state="note") if check.state == "broken" else check for check in answers]
    yield from answers


def _submitted(
    connection: Connection, name: uuid.UUID, secret: bytes
) -> contextlib.AbstractContextManager[None]:
    """Return what registers a submission without a run, and takes it away again."""
    from hpctrack.store.write import registration
    from hpctrack.stream.wire import records

    now = time.time()
    submission = {
        "uuid": str(name), "user_name": account.user_name(), "submit_line": "hpctrack doctor",
        "time": datetime.fromtimestamp(now, timezone.utc).isoformat(),
    }  # fmt: skip
    record = records.Record(str(name), secret.hex(), now, None, None, None, submission, {})
    return registration.trial(connection, record)


def remove(connection: Connection, run_id: int) -> None:
    """Take a run away again, and its experiment if nothing else is in it."""
    from hpctrack.store.write import changes, experiments

    changes.delete(connection, [run_id])
    with contextlib.suppress(errors.HpctrackError):  # somebody else's, or somebody looks at the same time
        experiments.delete(connection, experiments.get(connection, EXPERIMENT))


def _echo(address: names.Address, submission: bytes, secret: bytes) -> Check:
    from hpctrack.stream.node import echo

    try:
        seconds = echo.ping(address, submission, secret, _ECHO_SECONDS)
    except errors.CollectorUnavailable as error:
        return Check("echo", "broken", str(error), "is the collector there? hpctrack collector --status")
    if seconds is None:
        return Check(
            "echo", "broken", f"no answer from {address} within {_ECHO_SECONDS:g} s",
            f"let {names.CARRIER} through to it, or name another address: collector = {names.ADDRESS}",
        )  # fmt: skip
    return Check("echo", "ok", f"{address} answers in {1000 * seconds:.1f} ms")


# --- Slurm --------------------------------------------------------------------------------------------------


def _slurm(configuration: Settings, connection: Connection | None) -> Iterator[Check]:
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
        version = command.run(["sbatch", "--version"], timeout=_SLURM_SECONDS, environ=os.environ).stdout
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
        listed = command.run(argv, timeout=_SLURM_SECONDS, environ=os.environ).stdout
    except errors.SlurmError as error:
        return Check("squeue", "broken", str(error), "is slurmctld up? scontrol ping")
    count, seconds = len(listed.splitlines()), time.monotonic() - started
    return Check("squeue", "ok", f"{counted(count, 'job')} of yours, in {seconds:.1f} s")


def _accounting() -> Check:
    from hpctrack.slurm import command

    started = time.monotonic()
    argv = ["sacct", "--noheader", "--allocations", "--starttime=now-1minutes", "--format=JobID"]
    try:
        command.run(argv, timeout=_SLURM_SECONDS, environ=os.environ)
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


def _nobody_asks(connection: Connection) -> bool:
    """Whether there are collectors, and all of them leave it to others to ask Slurm."""
    from hpctrack.store.write import collectors
    from hpctrack.stream.collector.figures import Figures

    live = [row for row in collectors.fetch(connection) if row.live]
    leaving = [Figures.from_json(row.stats).reconciling is False and not row.reconciles for row in live]
    return bool(leaving) and all(leaving)


def _spool(configuration: Settings, connection: Connection | None) -> Iterator[Check]:
    """Tell what waits; without PostgreSQL nobody can say what can be done about it."""
    from hpctrack.stream.wire import records

    try:
        submissions = len(list(records.unregistered(configuration.spool)))
        if connection is None:
            lines = _waiting_unjudged(configuration)
        else:
            lines, foreign = _waiting(configuration, connection)
            submissions -= foreign
    except (OSError, errors.StoreError) as error:
        yield Check("spool", "broken", str(error), "see to its rights: it is to be yours alone")
        return
    if submissions:
        says = f"{counted(submissions, 'submission')} wait to be delivered"
        lines.insert(0, waiting.Line(says, "hpctrack sync"))
    refused = [
        Check("spool", "broken", f"{path} can't be registered: {reason}", "hpctrack sync tries it again")
        for path, reason in records.refused(configuration.spool)
    ]
    yield from refused
    for line in lines:
        yield Check("spool", "note", line.says, line.do)
    if not lines and not refused:
        yield Check("spool", "ok", "nothing waits")


def _waiting_unjudged(configuration: Settings) -> list[waiting.Line]:
    """Say what journals wait, as far as their files tell it."""
    from hpctrack.stream.node import spool

    survey = spool.survey(configuration.spool, configuration.node_dir)
    lines = list(waiting.stuck(survey.stuck))
    if survey.waiting:
        runs = counted(len(survey.waiting), "run")
        lines.insert(0, waiting.Line(f"journals of {runs} wait to be delivered", "hpctrack sync"))
    return lines


def _waiting(configuration: Settings, connection: Connection) -> tuple[list[waiting.Line], int]:
    """Say what waits, and how many submissions of it are for other databases."""
    from hpctrack.store.write import registration
    from hpctrack.stream.collector import backlog

    elsewhere = registration.elsewhere(configuration, connection)
    waits = backlog.look(configuration, lambda: connection)
    return list(waiting.lines(waits, elsewhere)), sum(elsewhere.values())
