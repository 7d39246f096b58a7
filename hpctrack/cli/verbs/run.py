"""``hpctrack run -- COMMAND``: track one command, on a laptop or inside any plain job.

The command starts at once: this process becomes its supervisor, and a child makes PostgreSQL and the
collector know of it meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click

from hpctrack import errors, settings
from hpctrack.cli import completers, options
from hpctrack.cli.terminal import say
from hpctrack.git import repository
from hpctrack.process import children, inherited
from hpctrack.slurm.sbatch import submission
from hpctrack.stream.node import options as node
from hpctrack.stream.node import untracked
from hpctrack.stream.wire import records
from hpctrack.stream.wire.names import TASK_NONE, Address

#: Programs that are less of a name than the script they run.
_INTERPRETERS = ("python", "bash", "sh", "zsh", "Rscript", "julia", "perl", "ruby", "node")
#: Seconds for which a command is brief: its relay may have given up before PostgreSQL knew of it.
_BRIEF, _PAUSE = 3.0, 0.05


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@options.experiment("Experiment of the run.")
@options.tags("A tag (several: repeat).")
@options.note
@click.argument(
    "argv",
    nargs=-1,
    required=True,
    type=click.UNPROCESSED,
    metavar="[--] COMMAND [ARG ...]",
    shell_complete=completers.files,
)
def command(experiment: str | None, tags: tuple[str, ...], note: str | None, argv: tuple[str, ...]) -> None:
    """Run a command here, tracked: same output, same exit code.

    Inside a job each command is a run of its own, and the job may hold several. Without Slurm its exit code
    is the verdict.
    """
    if shutil.which(argv[0]) is None:
        if "/" in argv[0] and os.path.lexists(argv[0]):
            raise errors.NotExecutable(f"{argv[0]}: it is a folder, or not executable")
        raise errors.CommandNotFound(f"{argv[0]}: command not found")
    given = submission.Own(experiment, tags, note).checked()
    try:
        configuration = settings.load()
        own = given.over(submission.from_settings(configuration))
        record = _make(configuration, own, argv)
        path = records.write(configuration.spool, record)
    except Exception as error:  # noqa: BLE001 (nothing of ours may keep the command from running)
        say.note(f"this command runs untracked: {error or type(error).__name__}")
        sys.stdout.flush()
        inherited.restore_signals()
        untracked.execute_as_shells(list(argv), {**os.environ, "HPCTRACK_JOURNAL": os.devnull})
    told = _register_meanwhile(record.uuid)
    run = f"{record.uuid}:{TASK_NONE}"
    arguments = [*node.words(configuration), "--record", path, "--run", run, *told]
    supervisor = children.supervisor_argv("command", *arguments, "--", *argv)
    environ = {**children.environ(os.environ), "HPCTRACK_RUN": run}  # for who looks at /proc
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(children.PYTHON, supervisor, environ)  # noqa: S606 (that is the verb)


def _make(configuration: settings.Settings, own: submission.Own, argv: tuple[str, ...]) -> records.Record:
    source = submission.Source(
        argv=["hpctrack", "run", "--", *argv],
        script=None,
        arguments=argv[1:],
        work_dir=str(Path.cwd()),
        environ=os.environ,
        time=time.time(),
        git=repository.Inquiry(str(Path.cwd()), os.environ).answer(),
        kind="command",
    )
    job = submission.Job(cluster=os.environ.get("SLURM_CLUSTER_NAME"), name=name_of(argv))
    parent = submission.find_parent(os.environ, configuration.spool)
    record = submission.make(configuration, source, own, job, parent)
    # The run has the id of the job around it, the record has not: that is the job's own, if it is tracked.
    inside = os.environ.get("SLURM_JOB_ID", "")
    return record._replace(run={**record.run, "job_id": int(inside) if inside.isdecimal() else None})


def name_of(argv: tuple[str, ...]) -> str:
    """Return what to call a command: its program, or the script that an interpreter runs."""
    program = Path(argv[0]).name
    if program.rstrip("0123456789.") in _INTERPRETERS:
        scripts = (word for word in argv[1:] if not word.startswith("-"))
        script = next(scripts, program)
        return Path(script).name if os.path.isfile(script) else program  # noqa: PTH113 (whatever it holds)
    return program


def _register_meanwhile(uuid: str) -> list[str]:
    """Start a process that tells PostgreSQL and sees to a collector, out of the command's way.

    It waits until the supervisor tells it that the command is tracked. Returns the supervisor's option
    for that.
    """
    try:
        reading, writing = os.pipe()
        subprocess.Popen(
            children.argv("hpctrack.cli.verbs.run:register", uuid, str(os.getpid())),
            env=children.environ(os.environ),
            stdin=reading,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(reading)
        os.set_inheritable(writing, True)
    except OSError:
        return []
    return ["--told", str(writing)]


def register() -> None:
    """Make PostgreSQL and a collector know what was submitted; one line on standard error if they can't.

    The arguments are the submission's UUID and the supervisor's process id. Standard input yields a byte
    once the command is tracked. If it ends without one the command runs untracked, and has no record.
    """
    from hpctrack.store.write import registration
    from hpctrack.stream import collector

    uuid, supervisor = sys.argv[1:3]
    try:
        configuration = settings.load()
        os.read(0, 1)
        if not Path(records.path_of(configuration.spool, uuid)).exists():
            return
        registration.register_pending(configuration)
        if configuration.personal:
            collector.ensure_running(configuration)
        if _has_ended(int(supervisor)):
            _deliver(configuration, uuid)
    except Exception as error:  # noqa: BLE001 (nobody waits for this process: one line is all it can say)
        say.note(f"{error} (what is logged is kept; deliver it with: hpctrack sync)")


def _has_ended(supervisor: int) -> bool:
    """Whether the supervisor ends within a moment. If not its relay delivers, now that the run is known."""
    deadline = time.monotonic() + _BRIEF
    while os.getppid() == supervisor:
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE)
    return True


def _deliver(configuration: settings.Settings, uuid: str) -> None:
    """Deliver what a brief command has left: its relay could not wait until PostgreSQL knew of it."""
    from hpctrack.store import database
    from hpctrack.stream.collector import backlog, launch
    from hpctrack.stream.node import spool

    waiting = spool.pending(configuration.spool, configuration.node_dir)
    if not any(folder.identity.uuid == uuid for folder in waiting):
        return
    with contextlib.closing(database.connect(configuration, autocommit=True)) as connection:
        ready = backlog.look(configuration, lambda: connection).ready

    def addresses() -> list[Address]:
        return list(configuration.collector) or launch.wait_for_addresses(configuration)

    for folder in ready:
        if folder.spooled.identity.uuid == uuid:
            outcome = spool.ship(
                folder.spooled, configuration.spool, addresses, lambda _count: None, ended=folder.ended
            )
            if outcome is spool.Delivery.REMOVED:
                say.note(f"r{folder.run_id} is complete: it had ended before the collector knew of it")
