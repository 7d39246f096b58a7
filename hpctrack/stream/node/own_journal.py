"""The relay's own journal: what it has to say of its run, as messages beside the script's rows."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from hpctrack.stream.disk import runfolder
from hpctrack.stream.wire import messages

if TYPE_CHECKING:
    from hpctrack.stream.disk.journals import Journals
    from hpctrack.stream.node.options import Config


class OwnJournal:
    """A journal that is made with its first message.

    It stands in the run folder; where that takes no more, messages go on in a new journal in the spool.
    """

    def __init__(self, config: Config, journals: Journals) -> None:
        self._places = [config.run_dir, config.spool_dir]
        self._attempt = config.attempt
        self._journals = journals
        self._removed = 0
        self._descriptor = -1
        self._said: set[str] = set()

    def append(self, message: messages.Message) -> None:
        """Append a message. Raises OSError if no place takes it."""
        line = messages.line(message)
        self._leave_removed()
        while True:
            with contextlib.suppress(OSError):
                if self._descriptor < 0:
                    self._create()
                if os.write(self._descriptor, line) == len(line):
                    return
            if len(self._places) == 1:
                raise OSError(f"no space for the relay's own {type(message).__name__.lower()}")
            self.close()
            del self._places[0]

    def _leave_removed(self) -> None:
        """Go on in a new journal if the run folder was removed: nobody may have read the old one in time."""
        removed = self._journals.stay()
        if removed > self._removed and len(self._places) > 1:
            self._removed = removed
            self.close()

    def append_event(self, name: str) -> None:
        """Append an event of the run's timeline that happens now. Raises OSError."""
        self.append(messages.Event(time.time(), name))

    def is_news(self, topic: str) -> bool:
        """Whether this is asked for the first time: what is said once is said then."""
        if topic in self._said:
            return False
        self._said.add(topic)
        return True

    def append_event_once(self, name: str) -> None:
        """Append an event unless it has been said before. Raises OSError."""
        if self.is_news(name):
            self.append_event(name)

    def _create(self) -> None:
        path = runfolder.create_journal(self._places[0], "relay", self._attempt, 0)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the file: a journal that somebody has open for writing is never deleted."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
