"""Submission: the user's own sbatch, run on a wrapped script.

sbatch's standard output, standard error and exit code are passed on as they are. `scontrol show job` and
Slurm's SubmitLine show the temporary file that was submitted; its last part is the user's, since that is the
job's name.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hpctrack import account, errors, files
from hpctrack.backoff import Backoff
from hpctrack.git import repository
from hpctrack.slurm import command, site
from hpctrack.slurm.sbatch import environment, preparation, recursion, submission
from hpctrack.stream.wire import records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from hpctrack.settings import Settings
    from hpctrack.slurm.sbatch.preparation import Plan, Wrapped

_ANSWER = re.compile(rb"Submitted batch job (\d+)(?: on cluster (\S+))?\s*\Z")
#: What ``--parsable`` prints, and what a site's own program around sbatch may print of something else.
_NUMBER = re.compile(rb"(\d+)(?:;(\S+))?\s*\Z")
_QUERY_SECONDS = 2.0
#: Seconds after which a failing sbatch may have run into a time limit with its job submitted all the same.
_SLOW = 5.0
#: Between questions for the job of ``sbatch --quiet --wait``.
_BACKOFF = Backoff(2.0, 60.0)


class Order(NamedTuple):
    """What the user wants submitted."""

    settings: Settings
    #: sbatch's arguments.
    argv: Sequence[str]
    #: What the command line says to hpctrack.
    own: submission.Own
    #: The whole command.
    line: Sequence[str]
    environ: Mapping[str, str]
    #: The script, where it is not read from what ``argv`` names.
    script: preparation.Script | None = None
    #: UUID of the submission that is submitted again.
    rerun_of: str | None = None


class Delivery(NamedTuple):
    """A job that was submitted, to be made known."""

    record: records.Record
    #: The record's file; None where it could not be written, for the reason in ``problem``.
    path: str | None
    problem: str = ""


class Listener(NamedTuple):
    """Who is told of the job."""

    #: Called once, as soon as the job's id is known.
    deliver: Callable[[Delivery], None]
    #: Takes lines for the user.
    say: Callable[[str], None]


def submit(order: Order, listener: Listener) -> int:
    """Run sbatch on the wrapped script; return its exit code, negative for the signal that ended it.

    Raises `errors.CommandNotFound`.
    """
    if recursion.is_inside():
        return submit_plain(order.argv, order.environ)
    recursion.mark()
    minted = submission.mint(order.settings, time.time())
    with contextlib.ExitStack() as stack:
        plan = _plan(stack, order, minted)
        if plan.wrapped is None:
            returncode = submit_plain(plan.argv, order.environ)
            submitted = returncode == 0
        else:
            environ = environment.for_child(order.environ, array=plan.wrapped.request.array is not None)
            job = _Job(order, plan.wrapped, environ, minted, listener)
            returncode = _run(stack, environ, plan, job)
            submitted = job.known
    for note in plan.notes if submitted else ():
        listener.say(note)
    return returncode


def submit_plain(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run sbatch on what the user typed, untracked; returns and raises as `submit` does."""
    program = recursion.program(environ)
    recursion.mark()
    with _running([program, *argv], environment.for_child(environ, array=False), None) as process:
        return process.wait()


def _plan(stack: contextlib.ExitStack, order: Order, minted: records.Record) -> Plan:
    try:
        folder = _folder(stack, order)
    except OSError as error:
        return preparation.untracked(preparation.Plan(list(order.argv)), f"no temporary folder: {error}")
    path = Path(stack.enter_context(folder))
    path.chmod(0o700)  # the umask may have shut it
    return preparation.prepare(
        order.settings, order.argv, order.environ, path, records.dumps(minted), script=order.script
    )


def _folder(stack: contextlib.ExitStack, order: Order) -> tempfile.TemporaryDirectory[str]:
    """Make a folder for the wrapped script.

    Where sbatch is a script of the site's it may run the real one on another host: then it is in the home.
    """
    shared = None
    with contextlib.suppress(OSError, errors.SlurmError):
        if _is_script(command.find("sbatch", order.environ)):
            shared = order.settings.data_dir
            if not Path(shared).exists():
                stack.callback(_remove_empty, shared)
            files.make_folder(shared)
    for place in dict.fromkeys((shared, None)):
        with contextlib.suppress(OSError):
            return tempfile.TemporaryDirectory(prefix="hpctrack-", ignore_cleanup_errors=True, dir=place)
    return tempfile.TemporaryDirectory(prefix="hpctrack-", ignore_cleanup_errors=True)


def _is_script(program: str) -> bool:
    with Path(program).open("rb") as file:
        return file.read(2) == b"#!"


def _remove_empty(folder: str) -> None:
    with contextlib.suppress(OSError):
        Path(folder).rmdir()


class _Job:
    """The job that sbatch makes, once it is known."""

    def __init__(
        self,
        order: Order,
        wrapped: Wrapped,
        environ: Mapping[str, str],
        minted: records.Record,
        listener: Listener,
    ) -> None:
        self.known = False
        self._order = order
        self._wrapped = wrapped
        self._environ = environ
        self._minted = minted
        self._listener = listener
        self._git: repository.Inquiry | None = None
        with contextlib.suppress(Exception):  # nothing of ours may keep a job from being submitted
            self._git = repository.Inquiry(str(Path(wrapped.script.path).parent), environ)

    def learn(self, named: submission.Job) -> None:
        """Write the job's record and deliver it; what fails is told in one line.

        ``named``: its id, and its cluster where that is told.
        """
        if self.known:
            return
        self.known = True
        try:
            cluster = named.cluster or site.cluster_name(self._order.environ, self._order.settings.cache)
            record = self._record(named._replace(cluster=cluster))
            self._listener.deliver(self._write(record))
        except Exception as error:  # noqa: BLE001 (the job is submitted: this must not look as if it were not)
            why = error or type(error).__name__
            self._listener.say(f"job {named.base_job_id} is submitted, but not tracked: {why}")

    def look_up(self) -> None:
        """Ask Slurm for the job where sbatch has not named it: nobody else's script has this path."""
        with contextlib.suppress(errors.SlurmError):
            job = _find(self._wrapped.path, self._wrapped.request.clusters, self._order.environ)
            if job is not None:
                self.learn(job)

    def give_up(self) -> None:
        """Say that neither sbatch nor Slurm tells which job it is."""
        self._listener.say("submitted untracked: neither sbatch nor squeue says which job it is")

    @property
    def test_only(self) -> bool:
        """Nothing is going to be submitted."""
        return self._wrapped.request.test_only

    def _record(self, named: submission.Job) -> records.Record:
        request, script = self._wrapped.request, self._wrapped.script
        source = submission.Source(
            argv=self._order.line,
            script=script.text.decode("utf-8", "surrogateescape"),
            arguments=self._wrapped.arguments,
            work_dir=str(Path.cwd() / (request.chdir or "")),
            environ=self._environ,
            time=self._minted.time,
            git=self._git.answer() if self._git else None,
            script_path=script.path,
            rerun_of=self._order.rerun_of,
        )
        job = named._replace(
            tasks=request.array,
            het=request.components > 1,
            name=request.job_name or script.name,
            partition=request.partition,
            account=request.account,
            qos=request.qos,
            time_limit=request.time_limit,
        )
        own = self._order.own.over(self._wrapped.own).over(submission.from_settings(self._order.settings))
        parent = submission.find_parent(self._order.environ, self._order.settings.spool)
        return submission.complete(self._minted, source, own, job, parent)

    def _write(self, record: records.Record) -> Delivery:
        try:
            return Delivery(record, records.write(self._order.settings.spool, record))
        except OSError as error:
            where = error.filename or self._order.settings.spool
            return Delivery(record, None, f"its metrics can't be recorded: {where}: {error.strerror}")


# ---- sbatch ----------------------------------------------------------------------------------------------


def _run(stack: contextlib.ExitStack, environ: Mapping[str, str], plan: Plan, job: _Job) -> int:
    """Run sbatch on a wrapped script, and learn which job it made."""
    started = time.monotonic()
    output = None if plan.quiet else subprocess.PIPE
    numbers: list[submission.Job] = []
    process = stack.enter_context(_running(["sbatch", *plan.argv], environ, output))
    if plan.quiet:
        returncode = _wait(process, job)
    else:
        numbers = _listen(process, plan, job)
        returncode = process.wait()
    succeeded = returncode == 0
    if succeeded and numbers and not job.known:
        _choose(numbers, job)
    slow = time.monotonic() - started >= _SLOW
    if succeeded or plan.quiet or slow:
        _look_up_at_last(job, succeeded=succeeded)
    return returncode


def _listen(process: subprocess.Popen[Any], plan: Plan, job: _Job) -> list[submission.Job]:
    """Pass on what sbatch prints, to its end, and learn the job from it; return the bare numbers among it."""
    numbers = []
    for line in process.stdout or ():
        _pass_on(line)
        if (answer := _ANSWER.match(line)) is not None:
            job.learn(_named(answer))
        elif (answer := _NUMBER.match(line)) is not None and not job.known:
            numbers.append(_named(answer))
            if plan.waits:  # there may be hours until its last line
                job.look_up()
    return numbers


def _choose(numbers: list[submission.Job], job: _Job) -> None:
    """Learn the job from bare numbers: the last one, unless Slurm says which of several it is."""
    if len(numbers) > 1:
        job.look_up()
    job.learn(numbers[-1])


def _look_up_at_last(job: _Job, *, succeeded: bool) -> None:
    """Ask Slurm for a job that sbatch has submitted, or may have, without naming it."""
    if job.known or job.test_only:
        return
    job.look_up()
    if succeeded and not job.known:
        job.give_up()


def _named(answer: re.Match[bytes]) -> submission.Job:
    return submission.Job(os.fsdecode(answer[2]) if answer[2] else None, int(answer[1]))


def _wait(process: subprocess.Popen[Any], job: _Job) -> int:
    """Wait for an sbatch that does not tell; with ``--wait``, the job is to be known while it runs."""
    pause = _BACKOFF.after()
    while True:
        try:
            return process.wait(pause)
        except subprocess.TimeoutExpired:
            if not job.known and not job.test_only:
                job.look_up()
            pause = _BACKOFF.after(pause)


@contextlib.contextmanager
def _running(
    argv: Sequence[str], environ: Mapping[str, str], output: int | None
) -> Iterator[subprocess.Popen[Any]]:
    """Run sbatch, with signals meant for it: a terminal's reach it by themselves, others are handed on."""
    processes: list[subprocess.Popen[Any]] = []

    def hand_on(signum: int, _frame: object) -> None:
        for process in processes:
            process.send_signal(signum)

    handlers = {
        signal.SIGINT: _ignore,
        signal.SIGQUIT: _ignore,
        signal.SIGTERM: hand_on,
        signal.SIGHUP: hand_on,
    }
    # What is ignored (nohup) stays so, for sbatch too.
    before = {signum: signal.getsignal(signum) for signum in handlers}
    replaced = {signum: handler for signum, handler in handlers.items() if before[signum] != signal.SIG_IGN}
    for signum, handler in replaced.items():
        signal.signal(signum, handler)
    try:
        with command.start(argv, environ, stdout=output) as process:
            processes.append(process)
            yield process
    finally:
        for signum in replaced:
            signal.signal(signum, before[signum])


def _ignore(_signum: int, _frame: object) -> None:
    """A handler, since sbatch would inherit SIG_IGN."""


def _pass_on(line: bytes) -> None:
    """Print it. What can't be printed (a full disk, no reader) is lost, as sbatch itself would lose it.

    Nothing stays in a buffer: the command would fail over it at its end, and the job be submitted again.
    """
    with contextlib.suppress(OSError):
        while line:
            line = line[os.write(1, line) :]


def _find(path: str, clusters: str | None, environ: Mapping[str, str]) -> submission.Job | None:
    """Find the job that was submitted from this file: its id, and its cluster if Slurm says it.

    Of a heterogeneous job the first component leads, and has the smallest id.
    """
    argv = ["squeue", "--noheader", "--all", "--states=all", "--format=%F %o"]
    argv += ["--user", account.user_name()]
    argv += ["--clusters", clusters] if clusters else []
    jobs: dict[int, submission.Job] = {}
    cluster = None
    for line in command.run(argv, timeout=_QUERY_SECONDS, environ=environ).stdout.splitlines():
        if line.startswith("CLUSTER: "):
            cluster = line[len("CLUSTER: ") :].strip()
        job_id, _, script = line.partition(" ")
        if script.startswith(path) and job_id.isdecimal():
            jobs[int(job_id)] = submission.Job(cluster, int(job_id))
    return jobs[min(jobs)] if jobs else None
