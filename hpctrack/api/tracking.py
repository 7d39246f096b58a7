"""Start and end of a run that a script tracks by itself, without the wrapper (`Run.track`)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpctrack import errors
from hpctrack.run.arguments import parse_arguments
from hpctrack.run.states import RunStatus
from hpctrack.script import calls
from hpctrack.store.write import tracked
from hpctrack.text import redact

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType, TracebackType

    from hpctrack.api.run import Run

_MAX_REASON = 1000  # characters


class Terminated(SystemExit):
    """SIGTERM arrived inside `Run.track`; exit code 143."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class Tracked:
    """The context manager of `Run.track`: notes that an attempt starts, and how it ends.

    A SIGTERM inside raises `Terminated`; after the end is noted, the process sends itself the signal again.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._attempt = 0
        self._pid = 0
        self._previous: Any = None
        self._catches = False

    def __enter__(self) -> Run:
        node, job_id = socket.gethostname().partition(".")[0], _integer("SLURM_JOB_ID")
        self._attempt = self._run.client.change(
            lambda connection: tracked.start(connection, self._run.id, node, job_id)
        )
        self._pid = os.getpid()
        try:
            self._catch()
            self._run.refresh()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self._run

    def _catch(self) -> None:
        # Only the main thread may set a handler. An ignored signal stays ignored.
        self._catches = threading.current_thread() is threading.main_thread() and signal.getsignal(
            signal.SIGTERM
        ) not in (signal.SIG_IGN, None)
        if self._catches:
            self._previous = signal.signal(signal.SIGTERM, _terminate)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._pid:
            return  # in a child forked inside the block: the run goes on
        if self._catches:
            # A SIGTERM from now on must not prevent noting the end.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            self._note_end(error)
        except errors.HpctrackError as failure:
            warnings.warn(
                f"hpctrack: the end of r{self._run.id} could not be noted: {failure}",
                RuntimeWarning,
                stacklevel=2,
            )
        finally:
            if self._catches:
                signal.signal(signal.SIGTERM, self._previous)
        if isinstance(error, Terminated):
            # Let the handler that was there before act, as without `Run.track`.
            os.kill(os.getpid(), signal.SIGTERM)

    def _note_end(self, error: BaseException | None) -> None:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            # psycopg 3.2 does not clean up a connection if one of these interrupts a statement.
            self._run.client.close()
        how = end_of(error)
        self._run.client.change(lambda connection: tracked.end(connection, self._run.id, self._attempt, how))
        self._run.refresh()


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def end_of(error: BaseException | None) -> tracked.End:
    """Return how a run ended, by the exception that left the block; None: none did."""
    if error is None:
        return tracked.End(RunStatus.COMPLETED, 0)
    if isinstance(error, KeyboardInterrupt):
        return tracked.End(RunStatus.CANCELLED, exit_signal=signal.SIGINT, reason="SIGINT")
    if isinstance(error, Terminated):
        return tracked.End(RunStatus.CANCELLED, exit_signal=signal.SIGTERM, reason="SIGTERM")
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        return tracked.End(RunStatus.FAILED if code else RunStatus.COMPLETED, code & 0xFF)
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return tracked.End(
        RunStatus.FAILED, 1, reason=_redactor().text(said)[:_MAX_REASON].replace("\0", "\ufffd")
    )


def origin() -> tracked.Origin:
    """Return the origin of a run that this process makes: its program, and its Slurm job if it has one."""
    environ = os.environ
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] not in ("", "-", "-c") else None
    return tracked.Origin(
        job_name=environ.get("SLURM_JOB_NAME") or program,
        cluster=environ.get("SLURM_CLUSTER_NAME"),
        job_id=_integer("SLURM_JOB_ID"),
        array_job_id=_integer("SLURM_ARRAY_JOB_ID"),
        task=_integer("SLURM_ARRAY_TASK_ID"),
        partition=environ.get("SLURM_JOB_PARTITION"),
    )


def stored_args(args: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as they are stored: as JSON values, secrets masked.

    ``args`` is a mapping, an object with attributes, or "auto", which reads this program's command line.
    Raises `errors.UsageError` for any other text.
    """
    redactor = _redactor()
    if isinstance(args, str):
        if args != "auto":
            raise errors.UsageError(f"args are a mapping or 'auto', not {args!r}")
        given: Any = parse_arguments(redactor.argv(sys.argv)[1:])
    else:
        given = args if hasattr(args, "keys") else vars(args)
    masked: dict[str, Any] = redactor.value(calls.jsonable({**given, **more}))
    return masked


def _redactor() -> redact.Redactor:
    return redact.of_process(os.environ, sys.argv)


def _integer(variable: str) -> int | None:
    with contextlib.suppress(ValueError):
        return int(os.environ.get(variable, ""))
    return None
