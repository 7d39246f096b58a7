"""Verbs that read, where PostgreSQL does not let them: one line, and the exit code of the cause."""

from __future__ import annotations

import pytest

VERBS = (
    ["status"],
    ["status", "--csv", "--all"],
    ["status", "--count"],
    ["metrics", "r1"],
    ["plot", "r1", "loss"],
    ["logs", "r1"],
    ["logs", "-f", "r1"],
    ["compare", "r1", "r2"],
)


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"PORT": "1"}, 69, "PostgreSQL can't be reached"),
        ({"PASSWORD": "wrong"}, 77, "PostgreSQL refused the login"),
        ({"DBNAME": "postgres"}, 78, "run hpctrack setup"),
    ],
)
def test_a_database_that_does_not_serve_is_one_line(cli, monkeypatch, changes, code, said):
    for name, value in changes.items():
        monkeypatch.setenv(f"HPCTRACK_DSN_{name}", value)
    for arguments in VERBS:
        exit_code, out, err = cli(*arguments)
        assert (exit_code, out) == (code, ""), arguments
        assert said in err
        assert err.count("\n") == 1


@pytest.fixture
def nobody(connection, database, monkeypatch):
    """Log in as a role without any rights."""
    role = f"nobody_{database.dsn['dbname']}"
    connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    yield lambda: (
        monkeypatch.setenv("HPCTRACK_DSN_USER", role),
        monkeypatch.setenv("HPCTRACK_DSN_PASSWORD", "x"),
    )
    connection.execute(f"DROP ROLE {role}")


def test_who_has_no_rights_is_told_in_one_line(cli, nobody):
    nobody()
    for arguments in VERBS:
        exit_code, out, err = cli(*arguments)
        assert (exit_code, out) == (77, ""), arguments
        assert "ask whoever set it up" in err
        assert err.count("\n") == 1
