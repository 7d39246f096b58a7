"""A thread of the collector: it makes a step again and again until the collector ends.

The collector calls `start`, later `stop`, and then `join`. The thread calls `step` until `is_done`, waits
after each for as many seconds as that says, and calls `finish` at its end, however it comes. `stop` ends
every wait.

When a step raises one of the errors in `TROUBLES`, the world around is to blame: that is logged once, the
connection is closed, and the step is made again after a pause that grows. Any other error is a bug: the
thread ends, and who started it hears of it.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, ClassVar

from hpctrack import errors
from hpctrack.backoff import Backoff
from hpctrack.store import database, locked
from hpctrack.store.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpctrack.settings import Settings

_log = logging.getLogger(__name__)


def session(settings: Settings, **how: Any) -> Session:
    """Return a thread's own session: it is called the collector's, and waits for locks only briefly."""
    return Session(settings, patience=locked.PATIENCE, application=database.COLLECTOR, **how)


class Worker:
    """A thread with a step."""

    #: What the thread is called.
    NAME: ClassVar[str]
    #: Errors after which the step is made again.
    TROUBLES: ClassVar[tuple[type[Exception], ...]] = (errors.StoreError,)
    #: The pauses after them.
    BACKOFF: ClassVar[Backoff] = Backoff(1.0, 15.0)
    #: How loudly they are logged, and what is said behind them.
    LEVEL: ClassVar[int] = logging.WARNING
    REMARK: ClassVar[str] = ""
    #: Seconds before the first step.
    DELAY: ClassVar[float] = 0.0

    def __init__(self, session: Session | None = None) -> None:
        """``session`` is this thread's own connection, if it needs one."""
        #: What is wrong; None while nothing is known to be.
        self.trouble: str | None = None
        self._session = session
        self._stopping = threading.Event()
        self._waited = 0.0
        self._thread = threading.Thread(target=self.run, name=self.NAME, daemon=True)
        self._failed: Callable[[str], None] = lambda _why: None

    def start(self, failed: Callable[[str], None]) -> None:
        """Start the thread; ``failed`` is called in it, with the reason, should it end over a bug."""
        self._failed = failed
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread. For any thread."""
        self._stopping.set()

    def join(self, seconds: float | None = None) -> None:
        """Wait until the thread has ended, for so long at most."""
        self._thread.join(seconds)

    def run(self) -> None:
        """Make steps until there is nothing left to do. This is what the thread does."""
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 (said, and the whole collector ends)
            _log.exception("thread %s failed", self.NAME)
            self._failed(f"{self.NAME}: {error or type(error).__name__}")

    def _work(self) -> None:
        try:
            self._stopping.wait(self.DELAY)
            while not self.is_done():
                pause = self._try_step()
                if pause:
                    self._stopping.wait(pause)
        finally:
            try:
                self.finish()
            finally:
                self.drop()

    def _try_step(self) -> float:
        try:
            pause = self.step()
        except self.TROUBLES as error:
            self.note(str(error))
            self.drop()
            self._waited = pause = self.BACKOFF.after(self._waited)
        else:
            self._waited = 0.0
        return pause

    # --- what a thread says for itself ---

    def step(self) -> float:
        """Do what is due, `note` None if that went well, and return the seconds until the next step."""
        raise NotImplementedError

    def is_done(self) -> bool:
        """Whether no further step is to be made."""
        return self._stopping.is_set()

    def finish(self) -> None:
        """Do what is left to do at the end of the thread, also when a bug ends it."""

    def drop(self) -> None:
        """Close the connection: the next step makes another."""
        if self._session is not None:
            self._session.close()

    def note(self, trouble: str | None) -> None:
        """Take in what is wrong, or that nothing is. It is logged when it is news."""
        if trouble is not None and trouble != self.trouble:
            _log.log(self.LEVEL, "%s%s", trouble, self.REMARK)
        self.trouble = trouble
