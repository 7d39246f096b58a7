"""``hpctrack sbatch``: sbatch, tracked."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING

import click

from hpctrack import settings
from hpctrack.cli import completers, options
from hpctrack.cli.terminal import say
from hpctrack.process import inherited
from hpctrack.slurm.sbatch import options as sbatch_options
from hpctrack.slurm.sbatch import submission, submit

if TYPE_CHECKING:
    from hpctrack.settings import Settings

DEADLINE = 2.0
"""Seconds that a submission waits for PostgreSQL and for the start of a collector."""


class Verbatim(click.Command):
    """A command whose arguments are another program's; the declared options are for ``--help``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the arguments as they are."""
        if ctx.resilient_parsing:  # a press of the tab key
            return super().parse_args(ctx, args)
        own, rest = submission.parse_own(args)
        if rest[:1] == ["--help"]:
            say.raw(ctx.get_help() + "\n")
            ctx.exit()
        ctx.params = {"own": own, "arguments": rest, "line": ["hpctrack", "sbatch", *args]}
        return []


@click.command(cls=Verbatim, options_metavar="[HPCTRACK OPTIONS]", add_help_option=False)
@options.experiment("Experiment of the runs.")
@options.tags("A tag (several: repeat).")
@options.note
@click.argument(
    "arguments", metavar="[SBATCH OPTIONS] SCRIPT [ARGUMENTS]", nargs=-1, shell_complete=completers.files
)
def command(own: submission.Own, arguments: list[str], line: list[str]) -> int:
    """Submit a job with sbatch, tracked.

    hpctrack's own options come first; the script may hold them too, in lines such as
    "#HPCTRACK --experiment=name". All of sbatch's options and ways to give a script work as ever
    (sbatch --help lists them); what sbatch prints and how it exits is unchanged.
    """
    environ = inherited.environ()
    try:
        configuration = settings.load()
    except Exception as error:  # noqa: BLE001 (nothing of ours may keep a job from being submitted)
        returncode = submit.submit_plain(arguments, environ)
        if returncode == 0:
            _say(f"submitted untracked: {error or type(error).__name__}")
        return _end_as(returncode)
    returncode = submit_order(submit.Order(configuration, arguments, own, line, environ))
    misplaced = sbatch_options.parse(arguments, {}).unknown
    if returncode and misplaced in submission.OWN:
        _say(f"{misplaced} is an option of hpctrack's: those come first, then sbatch's")
    return returncode


def submit_order(order: submit.Order) -> int:
    """Submit, and make it known; return sbatch's exit code."""
    listener = submit.Listener(lambda delivery: _make_known(order.settings, delivery), _say)
    return _end_as(submit.submit(order, listener))


def _say(message: str) -> None:
    say.note(message)


def _end_as(returncode: int) -> int:
    """Return sbatch's exit code, or die of the signal that it died of."""
    if returncode < 0:
        with contextlib.suppress(OSError):  # of SIGKILL
            signal.signal(-returncode, signal.SIG_DFL)
        os.kill(os.getpid(), -returncode)
    return returncode


def _make_known(configuration: Settings, delivery: submit.Delivery) -> None:
    """Register a job and see to a collector, within `DEADLINE`; what fails is said in one line."""
    problems = [delivery.problem] if delivery.problem else []
    registered = threading.Event()
    thread = threading.Thread(
        target=_register, args=(configuration, delivery, problems, registered), daemon=True
    )
    thread.start()
    thread.join(DEADLINE)
    if thread.is_alive() and not registered.is_set():
        problems.append(f"PostgreSQL did not answer within {DEADLINE:g} s")
    if problems:
        later = "" if registered.is_set() or delivery.path is None else "; it will be registered later"
        _say(f"job {delivery.record.base_job_id} is submitted{later}: {'; '.join(problems)}")


def _register(
    configuration: Settings, delivery: submit.Delivery, problems: list[str], registered: threading.Event
) -> None:
    try:
        if configuration.personal and not _see_to_collector(configuration, problems):
            return
        _tell_postgresql(configuration, delivery, registered)
    except Exception as error:  # noqa: BLE001 (the job is submitted: nothing here is a failure of that)
        if not registered.is_set():
            problems.append(str(error) or type(error).__name__)


def _tell_postgresql(configuration: Settings, delivery: submit.Delivery, registered: threading.Event) -> None:
    """Register a submission, and then those that could not be registered before."""
    from hpctrack.store import database
    from hpctrack.store.write import registration
    from hpctrack.stream.wire import records

    if configuration.dsn is not None:
        dsn = {**configuration.dsn, "connect_timeout": f"{DEADLINE:.0f}"}
        configuration = configuration._replace(dsn=dsn)
    with database.connect(configuration, autocommit=True) as connection:
        registration.register(connection, delivery.record)
        registered.set()
        if delivery.path is not None:
            records.set_registered(delivery.path)
        registration.register_pending(configuration, connection)


def _see_to_collector(configuration: Settings, problems: list[str]) -> bool:
    """Start a collector if none runs; return whether PostgreSQL runs: else the collector registers."""
    from hpctrack.store import embedded

    try:
        _start_collector(configuration)
    except Exception as error:  # noqa: BLE001 (tracking goes on without: the journals wait)
        problems.append(str(error) or type(error).__name__)
    return embedded.running(configuration) is not None


def _start_collector(configuration: Settings) -> None:
    from hpctrack.slurm import site
    from hpctrack.stream import collector

    with contextlib.suppress(OSError):
        site.note_client(os.environ, configuration.cache)
    collector.ensure_running(configuration)
