"""A progress bar on standard error; nothing is shown if that is no terminal."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import ProgressColumn


@contextlib.contextmanager
def shown(what: str, total: int | None, count: type[ProgressColumn]) -> Iterator[Callable[[int], None]]:
    """Show a bar inside the block; yield a function that the caller tells each further number of steps.

    The cursor stays visible, so that nothing has to be restored if this process is killed.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    class WithCursor(Console):
        def show_cursor(self, show: bool = True) -> bool:
            return False

    console = WithCursor(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), count(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda number: bar.advance(task, number)
