"""``hpctrack status --watch``: the same table again and again, from PostgreSQL; Slurm is not asked."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from rich.console import Group
from rich.text import Text

from hpctrack import errors
from hpctrack.cli.terminal import listing, render, screen, table
from hpctrack.store.write import registration
from hpctrack.view import columns
from hpctrack.view.question import ask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hpctrack.settings import Settings
    from hpctrack.view.question import Answer, Question

_Draw: TypeAlias = "Callable[[Answer], list[Text]]"
#: Lines that our own line, the table's head, the summary and a warning take.
_FRAME = 5


def watch(
    settings: Settings,
    question: Question,
    interval: float,
    chosen: Sequence[columns.Column] | None = None,
) -> None:
    """Draw until q or Ctrl-C, or until all runs that were asked for by id have ended.

    Into a pipe the table is written whenever it has changed. A PostgreSQL that goes away is waited for, but
    the first question fails, or is interrupted, like any other command's.
    """
    output = table.Output()
    asker = _Asker(settings, question, chosen)

    def draw(answer: Answer) -> list[Text]:
        return listing.draw(answer, question.nothing, output.width, plain=output.bare, chosen=chosen)

    with contextlib.closing(asker):
        asker.ask()
        if output.plain or output.console.is_dumb_terminal:
            with contextlib.suppress(KeyboardInterrupt):
                _write(asker, draw, interval, output)
        else:
            _redraw(asker, draw, interval, output)
    if not output.plain and asker.answer is not None:
        output.print(*draw(asker.answer))


class _Asker:
    """Asks the question again and again; while PostgreSQL is away, the last answer stands."""

    def __init__(
        self, settings: Settings, question: Question, chosen: Sequence[columns.Column] | None
    ) -> None:
        self.answer: Answer | None = None
        self.trouble = ""
        self._question = question
        self._besides = columns.besides(chosen)
        self._session = registration.session(settings)

    def ask(self) -> Answer:
        """Return the newest answer; ``trouble`` says why it is not newer."""
        try:
            self.answer = self._session.ask(lambda server: ask(server, self._question, self._besides))
            self.trouble = ""
        except errors.StoreUnavailable as error:
            if self.answer is None:
                raise
            self.trouble = str(error)
        return self.answer

    @property
    def over(self) -> bool:
        """Whether runs were asked for by id, and all of them have ended."""
        if not self._question.refs or self.answer is None:
            return False
        return all(line.time_ended is not None for line in self.answer.page.lines)

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


def _write(asker: _Asker, draw: _Draw, interval: float, output: table.Output) -> None:
    shown: object = None
    while True:
        answer = asker.ask()
        if (answer.page, answer.clusters) != shown:
            output.print(*draw(answer), Text())
            sys.stdout.flush()
            shown = (answer.page, answer.clusters)
        if asker.over:
            return
        time.sleep(interval)


def _redraw(asker: _Asker, draw: _Draw, interval: float, output: table.Output) -> None:
    with screen.Screen(output.console) as terminal, contextlib.suppress(screen.Interrupted):
        over = False
        while not over:
            answer = terminal.ask(asker.ask)
            line = Text(answer.now.astimezone().strftime("%H:%M:%S  "), style="dim")
            line.append(
                asker.trouble or f"every {interval:g} s; q ends", render.WARNING if asker.trouble else ""
            )
            terminal.draw(partial(_page, line, draw, answer, terminal))
            over = asker.over or terminal.wait(interval)


def _page(line: Text, draw: _Draw, answer: Answer, terminal: screen.Screen) -> Group:
    return Group(line, *draw(_screenful(answer, terminal.height)))


def _screenful(answer: Answer, height: int) -> Answer:
    """Return the lines that fit: of the newest runs, or of the first where they are sorted."""
    room = max(height - _FRAME, 1)
    page = answer.page
    fitting = page._replace(lines=page.lines[:room], more=page.more or len(page.lines) > room)
    return replace(answer, page=fitting)
