"""The supervisor: the batch process that Slurm starts.

It forks the relay, starts the user's script, passes on the signals that the script would have received as
the batch process, and ends as the script ended. Whatever fails before the script runs, the script runs
untracked, with one line on standard error; whatever fails later, the script is not touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

from hpctrack import files, resources
from hpctrack.process import inherited, process_name
from hpctrack.script import ranks
from hpctrack.stream.disk import runfolder
from hpctrack.stream.node import signals, untracked
from hpctrack.stream.node.options import Config, Options, attempt, config, parse
from hpctrack.stream.wire import messages

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from hpctrack.stream.node.report import Stderr

_STALE = frozenset(
    "HPCTRACK_RUN_DIR HPCTRACK_SPOOL_DIR HPCTRACK_JOB_ID HPCTRACK_ATTEMPT HPCTRACK_RUN "
    "HPCTRACK_SCRIPT".split()
)
#: So many processes of the user's there must be room for: ours, and some of the script's.
_SPARE = 16
_FLUSH_MARGIN = 2.0
"""Seconds beyond the flush cap after which a relay that does not answer is ended."""


def main(arguments: Sequence[str]) -> int:
    """Run the script or command; return its exit code, or die of its signal."""
    signals.hold_streams()
    options = parse(arguments)
    if options.told >= 0:
        os.set_inheritable(options.told, False)
    try:
        with _private_files():
            folder, argv = _prepare(options)
    except Exception as error:  # noqa: BLE001 (nothing of ours may keep the script from running)
        _run_untracked(options, error)
    return _supervise(options, folder, argv)


@contextlib.contextmanager
def _private_files() -> Iterator[None]:
    """Make what we make ours alone, and usable, whatever umask the script is to have."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _prepare(options: Options) -> tuple[runfolder.RunFolder, list[str]]:
    """Make the run folder and, for a batch script, the script in it; return what to start."""
    if untracked.stack_is_short():
        raise OSError("the limit of the stack (ulimit -s) leaves no room for Python")
    label = options.run.partition(":")[0] or ".".join(
        (os.environ.get("SLURM_CLUSTER_NAME", "cluster"), os.environ["SLURM_JOB_ID"])
    )
    folder = runfolder.create(options.spool, options.node_dir, label, attempt())
    if options.mode == "command":
        return folder, options.command
    try:
        with open(files.create(folder.script, mode=0o700), "wb") as file:
            file.write(_script_text(options))
    except OSError:
        runfolder.discard(folder.path)
        raise
    return folder, [folder.script, *options.command[1:]]


def _script_text(options: Options) -> bytes:
    """Cut the user's script out of the batch script, byte for byte; a site may have put lines on top."""
    with open(options.command[0], "rb") as file:
        text = file.read()
    _, marker, after = text.partition(b"\n${hpctrack_on-exit 126} # hpctrack: ")
    if marker:
        return after.partition(b"\n")[2]
    return b"".join(text.splitlines(keepends=True)[options.script_line - 1 :])


def _environment(options: Options, folder: runfolder.RunFolder) -> dict[str, str]:
    """Return the script's environment: the one we got, and what docs/architecture.md lists."""
    environ = _inherited(options)
    environ["HPCTRACK_JOURNAL"] = _shell_journal(options, folder)
    environ["HPCTRACK_RUN_DIR"] = folder.path
    environ["HPCTRACK_SPOOL_DIR"] = folder.spool_path
    environ["HPCTRACK_JOB_ID"] = environ.get("SLURM_JOB_ID", "")
    environ["HPCTRACK_ATTEMPT"] = str(attempt())
    environ["HPCTRACK_RANKS"] = options.ranks
    environ[ranks.OUTSIDE] = ranks.outside(environ)
    environ["HPCTRACK_JOURNAL_CAP"] = str(options.journal_cap)
    if options.run:
        environ["HPCTRACK_RUN"] = options.run
    if options.script:
        environ["HPCTRACK_SCRIPT"] = options.script
    return environ


def _shell_journal(options: Options, folder: runfolder.RunFolder) -> str:
    """Return the path by which shells append: on the node, or where that can't be, on the shared home."""
    known = config(options, folder)
    if not known.several_nodes:
        name = runfolder.publish(folder.shell_journal, known.base_job_id, known.task)
        if name:
            return name
    shared = _shared_journal(options, folder)
    name = runfolder.publish(shared, known.base_job_id, known.task) if shared else ""
    return name or shared or folder.shell_journal


def _shared_journal(options: Options, folder: runfolder.RunFolder) -> str:
    """Make a shell journal that all nodes of the job can append to; empty if the home will not have it.

    From then on the folder says whose it is: what is in it can be delivered though the relay was killed.
    """
    from hpctrack.stream.disk import folders  # late: few jobs have several nodes

    with contextlib.suppress(OSError):
        folders.make(folder.spool_path)
        folders.write_identity(folder.spool_path, folders.identity(config(options, folder), os.getpid()))
        return runfolder.create_journal(folder.spool_path, "shell", attempt(), 0)
    return ""


def _inherited(options: Options) -> dict[str, str]:
    """Return the environment as it was given to us, in which hpctrack can be imported, tracked or not."""
    environ = {name: value for name, value in inherited.environ().items() if name not in _STALE}
    if options.python_path:
        environ["PYTHONPATH"] = _python_path(environ.get("PYTHONPATH", ""))
    return environ


def _python_path(given: str) -> str:
    """Return a path of Python's with the folder behind it in which hpctrack can be imported, once."""
    if not given:
        return resources.IMPORTABLE
    others = [folder for folder in given.split(os.pathsep) if folder != resources.IMPORTABLE]
    return os.pathsep.join([*others, resources.IMPORTABLE])


def _supervise(options: Options, folder: runfolder.RunFolder, argv: list[str]) -> int:
    batch = options.mode == "supervise"
    ignores_children = signals.hear_of_children()
    original_mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals.CATCHABLE)
    with _private_files():
        environ = _environment(options, folder)
    helpers = _Helpers()
    try:
        lasting = os.path.join(options.spool, runfolder.LASTING)
        shared = os.path.dirname(environ["HPCTRACK_JOURNAL"]) == lasting
        helpers.start(config(options, folder)._replace(shared=shared), batch=batch)
        pid = _start(argv, environ, original_mask, own_group=batch, ignores_children=ignores_children)
    except OSError as error:  # no more processes
        helpers.kill()
        runfolder.discard(folder.path, folder.spool_path, environ["HPCTRACK_JOURNAL"])
        signals.restore(original_mask, ignores_children=ignores_children)
        _run_untracked(options, error)
    if options.told >= 0:
        os.write(options.told, b"t")
        os.close(options.told)
    signals.silence()
    inside, outside, channel = helpers.inside, helpers.outside, helpers.channel
    _tell(channel, {"script_pid": pid, "group_pid": inside.pid if batch else 0})
    status = _wait(pid, inside, outside, channel, own_group=batch)
    ending = {**_ending(status), "time": time.time()}
    _tell(channel, {"fin": ending})
    if not _await_flush(channel, helpers.relay, options.flush + _FLUSH_MARGIN):
        _leave_word(folder, ending)
    for sentinel in filter(None, (inside, outside)):
        sentinel.end()
    return _end_as(status)


class _Helpers:
    """The processes beside the script."""

    inside: signals.Sentinel
    channel: socket.socket

    def __init__(self) -> None:
        self.outside: signals.Sentinel | None = None
        self.relay = 0

    def start(self, config: Config, *, batch: bool) -> None:
        """Start them. Raises OSError where the user may not have so many processes."""
        left = untracked.processes_left()
        if left is not None and left < _SPARE:
            raise OSError(f"the limit of processes is near (ulimit -u): {max(left, 0)} are left")
        self.inside = signals.Sentinel(own_group=False)
        self.outside = signals.Sentinel(own_group=True) if batch else None
        self.relay, self.channel = _fork_relay(config)

    def kill(self) -> None:
        """End those that were started, and leave no trace of them."""
        sentinels = list(filter(None, (getattr(self, "inside", None), self.outside)))
        for sentinel in sentinels:
            sentinel.end()
        if self.relay:
            self.channel.close()
        for pid in filter(None, [*(sentinel.pid for sentinel in sentinels), self.relay]):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _fork_relay(config: Config) -> tuple[int, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid:
        theirs.close()
        signals.lead_group(pid)
        return pid, ours
    try:
        signals.lead_group(0)  # what is sent to the script's or the supervisor's group is not for the relay
        process_name.take("hpct-relay")
        ours.close()
        _lift_limits()
        for signum in signals.CATCHABLE - {signal.SIGCHLD}:
            with contextlib.suppress(OSError):
                signal.signal(signum, signal.SIG_IGN)
        # The script's standard error is not ours to fill, and a reader of a pipe waits for its end.
        stderr = _stderr(config)
        signals.silence()
        _run_relay(config, theirs, stderr)
    finally:
        os._exit(0)


def _stderr(config: Config) -> Stderr:
    from hpctrack.stream.node import report

    return report.Stderr(config.stderr_begin)


def _run_relay(config: Config, channel: socket.socket, stderr: Stderr) -> None:
    from hpctrack.stream.node import relay

    relay.main(config, channel, stderr)


def _lift_limits() -> None:
    """What the script may take of a resource bounds no process beside it, as far as the hard limits allow."""
    for name in ("CPU", "FSIZE", "NOFILE", "DATA", "AS"):
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (hard, hard))


def _start(
    argv: list[str], environ: dict[str, str], mask: Iterable[int], *, own_group: bool, ignores_children: bool
) -> int:
    """Start the script in a child; what keeps it from starting is reported as slurmstepd would."""
    pid = os.fork()
    if pid:
        if own_group:
            signals.lead_group(pid)
        return pid
    try:
        if own_group:
            signals.lead_group(0)
        signals.restore(mask, ignores_children=ignores_children)
        execute = untracked.execute if own_group else untracked.execute_as_shells
        execute(argv, environ)
    except OSError as error:
        _refuse(argv, error)
    finally:
        os._exit(1)


def _run_untracked(options: Options, why: object) -> NoReturn:
    """Become the script, without any of our processes: no folder may have been left.

    PostgreSQL is not told of a command then: it would never learn how the command ended.
    """
    _say(f"this job runs untracked: {why}")
    _forget_record(options)
    environ = _inherited(options)
    environ["HPCTRACK_JOURNAL"] = os.devnull
    if options.script:
        environ["HPCTRACK_SCRIPT"] = options.script
    argv = options.command
    try:
        if options.mode == "supervise":
            argv = [*untracked.place(argv[0], _script_text(options)), *argv[1:]]
        signals.restore(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        execute = untracked.execute if options.mode == "supervise" else untracked.execute_as_shells
        execute(argv, environ)
    except OSError as error:
        _refuse(argv, error)


def _forget_record(options: Options) -> None:
    """Delete the record of a command. That of a batch script may be slurmd's copy, with the key in it."""
    if options.record and options.mode == "command":
        with contextlib.suppress(OSError):
            os.unlink(options.record)


def _refuse(argv: list[str], error: OSError) -> NoReturn:
    """Say that the program can't be started, and end as slurmstepd does: with the number of the error."""
    _say(f"can't start {argv[0]}: {error.strerror}")
    os._exit(error.errno or 1)


def _wait(
    pid: int,
    inside: signals.Sentinel,
    outside: signals.Sentinel | None,
    channel: socket.socket,
    *,
    own_group: bool,
) -> int:
    """Pass signals on until the script has ended; return its wait status (waitpid(2))."""
    while True:
        signum = signal.sigwaitinfo(signals.CATCHABLE).si_signo
        if signum == signal.SIGCHLD:
            status = _reap(pid, os.WNOHANG if own_group else os.WNOHANG | os.WUNTRACED)
            if status is not None:
                return status
            continue
        reach = signals.reach(signum, inside, outside)
        _pass_on(signum, pid, reach)
        event = {"time": time.time(), "name": "signal", "signal": signum, "reach": reach.value}
        _tell(channel, {"event": event})


def _reap(pid: int, flags: int) -> int | None:
    """Reap every child that ended; return the script's status once it is among them."""
    result = None
    with contextlib.suppress(ChildProcessError):
        while (child := os.waitpid(-1, flags))[0]:
            ended, status = child
            if ended == pid and os.WIFSTOPPED(status):
                _stop_with_command(pid)
            elif ended == pid:
                result = status
    return result


def _pass_on(signum: int, pid: int, reach: signals.Reach) -> None:
    with contextlib.suppress(ProcessLookupError):
        if reach is signals.Reach.GROUP:
            os.killpg(pid, signum)
        elif reach is signals.Reach.PROCESS:
            os.kill(pid, signum)


def _stop_with_command(pid: int) -> None:
    """Ctrl-Z at a terminal: the shell waits for us to stop too; ``fg`` continues the whole group."""
    os.kill(os.getpid(), signal.SIGSTOP)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _ending(status: int) -> dict[str, int | None]:
    if os.WIFSIGNALED(status):
        return {"exit_code": None, "exit_signal": os.WTERMSIG(status)}
    return {"exit_code": os.WEXITSTATUS(status), "exit_signal": None}


def _tell(channel: socket.socket, message: dict[str, object]) -> None:
    with contextlib.suppress(OSError):  # a dead relay: its journals are shipped later
        channel.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)


def _await_flush(channel: socket.socket, relay: int, timeout: float) -> bool:
    """Wait until the relay has nothing more to do; False if it is dead, or its time was up: then it is ended.

    A relay that stood still may not have written down the end that it was told.
    """
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([channel], [], [], left)[0]:
            break
        try:
            message = channel.recv(65536)
        except OSError:
            return False
        if not message or "flushed" in json.loads(message):
            return bool(message)
    with contextlib.suppress(ProcessLookupError):
        os.kill(relay, signal.SIGKILL)
    return False


def _leave_word(folder: runfolder.RunFolder, ending: dict[str, Any]) -> None:
    """Write down how the script ended, to be delivered with what the relay has left."""
    with contextlib.suppress(OSError):
        with _private_files():
            path = runfolder.create_journal(folder.path, "relay", attempt(), 0)
        with open(path, "ab") as file:
            file.write(messages.line(messages.Fin(**ending)))


def _end_as(status: int) -> int:
    """End as the script did: Slurm records the batch process's own exit code or signal."""
    if not os.WIFSIGNALED(status):
        return os.WEXITSTATUS(status)
    signum = os.WTERMSIG(status)
    # One byte of core also keeps a core_pattern pipe from being started (core(5)): the script dumped its own.
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (min(1, hard) if hard >= 0 else 1, hard))
    with contextlib.suppress(OSError):
        signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signum})
    return 128 + signum


def _say(message: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"hpctrack: {message}\n".encode("utf-8", "replace"))


if __name__ == "__main__":
    sys.exit("start hpctrack/stream/__main__.py instead")
