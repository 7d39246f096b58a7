"""A connection that is made anew when it was lost."""

from __future__ import annotations

import os

import psycopg
import pytest

from hpctrack import errors
from hpctrack.store import database as store
from hpctrack.store.session import Session


def backend(connection) -> int:
    with store.translated():
        return connection.execute("SELECT pg_backend_pid()").fetchone()[0]


def test_one_connection_serves_until_it_is_closed(database):
    opened = []
    session = Session(database, opened=opened.append)
    first = session.ask(backend)
    assert session.ask(backend) == first
    session.close()
    assert session.ask(backend) != first
    assert len(opened) == 2
    session.close()


def test_after_a_loss_the_next_question_connects_again(database, connection):
    session = Session(database)
    first = session.ask(backend)
    connection.execute("SELECT pg_terminate_backend(%s, 5000)", [first])
    with pytest.raises(errors.StoreUnavailable):
        session.ask(backend)
    assert session.ask(backend) != first
    session.close()


def test_a_question_is_asked_again_where_that_is_wanted(database, connection):
    session = Session(database, again=True)
    first = session.ask(backend)
    connection.execute("SELECT pg_terminate_backend(%s, 5000)", [first])
    assert session.ask(backend) != first

    def lose(own: store.Connection) -> None:
        asked.append(backend(own))
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", [asked[-1]])
        backend(own)

    asked: list[int] = []
    with pytest.raises(errors.StoreUnavailable):
        session.ask(lose)
    assert len(asked) == 2, "once more, and no oftener"
    session.close()


def test_a_change_is_never_tried_again(database, connection):
    session = Session(database, again=True)
    first = session.ask(backend)
    connection.execute("SELECT pg_terminate_backend(%s, 5000)", [first])
    changed = []

    def change(own: store.Connection) -> None:
        changed.append(backend(own))
        raise errors.StoreUnavailable

    with pytest.raises(errors.StoreUnavailable):
        session.change(change)
    assert len(changed) == 1
    assert changed != [first]
    session.close()


def test_other_errors_leave_the_connection(database):
    session = Session(database)
    first = session.ask(backend)
    with pytest.raises(psycopg.errors.DivisionByZero):
        session.ask(lambda own: own.execute("SELECT 1 / 0"))
    assert session.ask(backend) == first
    session.close()


def test_a_fork_connects_by_itself_and_leaves_its_parent_alone(database):
    session = Session(database)
    first = session.ask(backend)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = int(session.ask(backend) == first)
            session.close()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert session.ask(backend) == first
    session.close()
