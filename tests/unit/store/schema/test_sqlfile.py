"""SQL files cut into statements."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrack.store.schema import migrate, sqlfile


def texts(text: str) -> list[str]:
    return [statement.text for statement in sqlfile.split(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" ;; -- nothing; here\n/* nor; here */;", []),
        ("SELECT 1", ["SELECT 1"]),
        ("SELECT 1; SELECT 2;", ["SELECT 1", "SELECT 2"]),
        ("SELECT ';' , 'it''s;', E'\\';' ;", ["SELECT ';' , 'it''s;', E'\\';'"]),
        ('ALTER TABLE m ADD "a;b" float; SELECT 1', ['ALTER TABLE m ADD "a;b" float', "SELECT 1"]),
        ("DO $$ BEGIN PERFORM 1; END $$; SELECT 2", ["DO $$ BEGIN PERFORM 1; END $$", "SELECT 2"]),
        ("DO $x$ $$;$$ $x$; SELECT 2", ["DO $x$ $$;$$ $x$", "SELECT 2"]),
        ("SELECT a$b$ FROM t; SELECT $1;", ["SELECT a$b$ FROM t", "SELECT $1"]),
        ("SELECT 1 /* a /* b; */ ; */ + 1; SELECT 2", ["SELECT 1 /* a /* b; */ ; */ + 1", "SELECT 2"]),
        ("CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2); SELECT 3",
         ["CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)", "SELECT 3"]),
        ("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; END; SELECT 3",
         ["CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; END", "SELECT 3"]),
        ("SELECT 'never closed; SELECT 2", ["SELECT 'never closed; SELECT 2"]),
        ("SELECT 1 $$ never; closed", ["SELECT 1 $$ never; closed"]),
        ("SELECT 1 /* never; closed", ["SELECT 1 /* never; closed"]),
        ("SELECT 1 AS größe; SELECT 2", ["SELECT 1 AS größe", "SELECT 2"]),
    ],
)  # fmt: skip
def test_statements_end_where_psql_ends_them(text, expected):
    assert texts(text) == expected


def test_lines_are_those_of_the_first_word():
    statements = sqlfile.split("-- head\n\nSELECT 1;\n/* two\nlines */ SELECT\n2;\n\n\nBEGIN;")
    assert [(statement.line, statement.words) for statement in statements] == [
        (3, ("SELECT",)),
        (5, ("SELECT",)),
        (9, ("BEGIN",)),
    ]


@given(st.text(alphabet="ab;'\"$/*-\\\n ()E"))
def test_cutting_ends_and_loses_nothing_but_comments(text):
    statements = sqlfile.split(text)
    position = 0
    for statement in statements:
        position = text.index(statement.text, position) + len(statement.text)
        assert statement.line <= text.count("\n") + 1


def test_our_own_migrations_are_cut_into_many():
    for file in migrate.built_in():
        statements = sqlfile.split(file.text)
        assert len(statements) > 40
        assert {statement.words[0] for statement in statements} <= {
            "CREATE",
            "COMMENT",
            "ALTER",
            "DO",
            "INSERT",
            "GRANT",
            "REVOKE",
            "SELECT",
        }
