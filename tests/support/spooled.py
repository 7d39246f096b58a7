"""What waits in the spool: submissions with journals that nobody has delivered."""

from __future__ import annotations

import os
import time
import uuid

from hpctrack.script import journal_lines
from hpctrack.store import database as store
from hpctrack.stream.disk import folders
from hpctrack.stream.wire import records


class Left:
    """A submission, and a folder in the spool with the journals of its run."""

    def __init__(self, settings, place: str = "", tasks: str | None = None) -> None:
        name = str(uuid.uuid4())
        self.record = records.Record(
            name, os.urandom(32).hex(), time.time(), None, None, tasks,
            {"uuid": name, "user_name": "u", "time": "2026-01-01T00:00:00Z"},
            {"experiment": "e", "kind": "command"}, place=place,
        )  # fmt: skip
        path = records.write(settings.spool, self.record)
        self.folder = os.path.join(settings.spool, "journals", f"{name}.0.{os.urandom(4).hex()}")
        folders.make(self.folder)
        folders.write_identity(self.folder, folders.Identity(name, -1, record=path, closed=True))

    def journal(self, lines: list[bytes], *, name: str | None = None, kind: str = "log") -> str:
        path = os.path.join(self.folder, f"{name or os.urandom(8).hex()}.{kind}.journal")
        with open(path, "wb") as file:
            file.write(journal_lines.format_header(0, 0) + b"".join(lines))
        return path


def lines(first: int, count: int) -> list[bytes]:
    return [journal_lines.format_row({"x": step + 0.5}, step=step) for step in range(first, first + count)]


def logged(settings) -> dict[int, float]:
    with store.connect(settings, autocommit=True) as connection:
        try:
            return dict(connection.execute("SELECT step, x FROM metrics").fetchall())
        except store.psycopg.errors.UndefinedColumn:
            return {}
