"""The terminal's alternate screen, for a verb that draws repeatedly, and the signals that interrupt it.

Open a `Screen`; then repeat: `ask` for the data, `draw` it, `wait`. While it is open, signals raise only
inside `ask`; at other times their handlers note them, and `wait` acts on the notes. So no drawing is cut
short, and one place restores the terminal, whatever ends the verb: q, Ctrl-C, a failure, SIGTERM, SIGHUP.
Ctrl-Z restores the terminal until the verb is continued.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from typing import TYPE_CHECKING, Any, TypeVar

from rich.screen import Screen as Page

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType

    from rich.console import Console, RenderableType

_T = TypeVar("_T")

_ENTER, _LEAVE = "\x1b[?1049h", "\x1b[?1049l"
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[0m\x1b[?25h"
_HOME = "\x1b[H"
#: Signals that end a verb. After all but Ctrl-C it dies of the signal, once the terminal is restored.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_OTHERS = (signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)


class Interrupted(BaseException):
    """A signal that ends the verb arrived inside `Screen.ask`."""


class Screen:
    """The alternate screen and the keyboard of a terminal, inside a ``with`` block."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._keyboard = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._modes: list[Any] = []
        self._handlers: dict[int, Any] = {}
        self._drawing: Callable[[], RenderableType] | None = None
        self._asking = False
        self._ending: int | None = None
        self._pausing = self._stale = False

    def __enter__(self) -> Screen:
        self._woken, self._waker = os.pipe()
        for descriptor in (self._woken, self._waker):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        if self._keyboard is not None:
            self._modes = termios.tcgetattr(self._keyboard)
        for number in (*_ENDING, *_OTHERS):
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:  # nohup ignores SIGHUP
                self._handlers[number] = before
                signal.signal(number, self._note)
        try:
            self._open()
        except BaseException:
            self._give_back()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()
        if self._ending not in (None, signal.SIGINT):
            signal.signal(self._ending, signal.SIG_DFL)
            signal.raise_signal(self._ending)

    @property
    def height(self) -> int:
        """Lines of the terminal, which may change at any time."""
        return self._console.height

    def ask(self, question: Callable[[], _T]) -> _T:
        """Call a function that may take long. Raises `Interrupted` if a signal ends the verb meanwhile."""
        try:
            self._asking = True
            if self._ending is not None:
                raise Interrupted
            return question()
        finally:
            self._asking = False

    def draw(self, drawing: Callable[[], RenderableType]) -> None:
        """Draw what a function returns, now and whenever the terminal changes."""
        self._drawing = drawing
        with self._console.capture() as captured:
            self._console.print(Page(drawing()), end="")
        _write(_HOME + captured.get())

    def wait(self, seconds: float) -> bool:
        """Wait; True if a signal or q ends the verb."""
        deadline = time.monotonic() + seconds
        while self._ending is None:
            self._catch_up()
            left = max(deadline - time.monotonic(), 0)
            sources = [self._woken] if self._keyboard is None else [self._woken, self._keyboard]
            ready, _, _ = select.select(sources, [], [], left)
            if not ready:
                return False
            if self._woken in ready:
                os.read(self._woken, 512)
            if self._keyboard in ready and self._ends(os.read(sys.stdin.fileno(), 64)):
                return True
        return True

    @staticmethod
    def _ends(keys: bytes) -> bool:
        return not keys or b"q" in keys.lower()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGTSTP:
            self._pausing = True
            if self._asking:  # no drawing is cut short
                self._pause()
        elif number in _OTHERS:
            self._stale = True
        else:
            self._ending = self._ending or number
            if self._asking:
                self._asking = False
                raise Interrupted

    def _catch_up(self) -> None:
        """Act on noted signals: pause, or draw again."""
        if self._pausing:
            self._pause()
        if self._stale and self._drawing is not None:
            self._stale = False
            self._take_keyboard()
            _write(_HIDE_CURSOR)
            self.draw(self._drawing)

    def _pause(self) -> None:
        """Restore the terminal and stop this process until SIGCONT."""
        self._close()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._note)
        self._pausing, self._stale = False, True
        self._open()

    def _take_keyboard(self) -> None:
        if self._keyboard is not None:
            tty.setcbreak(self._keyboard, termios.TCSANOW)  # keeps keys that were pressed already

    def _open(self) -> None:
        self._take_keyboard()
        _write(_ENTER + _HIDE_CURSOR)

    def _close(self) -> None:
        """Restore the terminal, unless it is gone."""
        with contextlib.suppress(OSError):
            _write(_SHOW_CURSOR + _LEAVE)
        if self._keyboard is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._keyboard, termios.TCSADRAIN, self._modes)

    def _give_back(self) -> None:
        """Restore the terminal, then the handlers, that of Ctrl-C last: until then Ctrl-C raises nothing."""
        self._close()
        signal.set_wakeup_fd(-1)
        os.close(self._woken)
        os.close(self._waker)
        for number, before in reversed(self._handlers.items()):
            signal.signal(number, before)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
