"""docs/sql.md: each query runs on a small filled database and returns what the page says."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from hpctrack.store.ingest import summaries
from tests.support.paths import DOCS, SAMPLE

PAGE = DOCS / "sql.md"


class Question(NamedTuple):
    """A query of the page, and what stands below it."""

    title: str
    query: str
    answer: str


def questions() -> list[Question]:
    """Read the page."""
    asked = []
    for section in PAGE.read_text().split("\n## ")[1:]:
        title = section.partition("\n")[0]
        blocks = re.findall(r"```sql\n(.*?)```\n(?:\n```\n(.*?)```\n)?", section, re.DOTALL)
        asked += [Question(title, query, answer) for query, answer in blocks]
    return asked


def answer(connection, query: str) -> str:
    """Return a query's result as psql prints it."""
    result = connection.pgconn.exec_(query.encode())
    assert not result.error_message, result.error_message.decode()
    columns = range(result.nfields)
    head = [result.fname(column).decode() for column in columns]
    rows = [
        [(result.get_value(row, column) or b"").decode() for column in columns]
        for row in range(result.ntuples)
    ]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in columns]
    numbers = [result.ftype(column) in (20, 21, 23, 700, 701, 1700) for column in columns]

    def line(cells):
        sides = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(cells, widths, numbers, strict=True)
        ]
        return " " + " | ".join(sides).rstrip()

    titles = " " + " | ".join(name.center(width) for name, width in zip(head, widths, strict=True)).rstrip()
    rule = "+".join("-" * (width + 2) for width in widths)
    return "\n".join([titles, rule, *map(line, rows)]) + "\n"


@pytest.fixture
def sample(connection):
    """A connection to the small site."""
    connection.execute(SAMPLE.read_text().encode())
    connection.execute("INSERT INTO run_latest (run_id) SELECT id FROM runs ON CONFLICT DO NOTHING")
    connection.execute("UPDATE run_latest SET stale = true")
    for run in summaries.find_stale(connection):
        assert summaries.renew(connection, run.run_id)
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("ANALYZE")
    return connection


def test_a_dozen_questions_and_more():
    assert len({question.title for question in questions()}) >= 12


def test_each_answer_is_what_the_page_says(sample):
    for question in questions():
        told = answer(sample, question.query)
        assert told == question.answer, f"{question.title}\n{told}"
        assert len(told.splitlines()) > 2, f"{question.title} is answered with nothing"


def test_all_of_them_are_for_readers_too(roles):
    """Queries, not the change; with the rights of a reader nothing is refused."""
    roles.query("owner", "ALTER TABLE metrics ADD COLUMN loss double precision")
    for question in questions():
        if not question.query.startswith("UPDATE"):
            roles.query("reader", question.query)
