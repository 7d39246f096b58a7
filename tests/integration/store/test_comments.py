"""\\d+ in psql explains everything: each table, view, column, function and type has a comment."""

from __future__ import annotations

_UNEXPLAINED = """
SELECT 'relation ' || relname FROM pg_class
WHERE relnamespace = 'hpctrack'::regnamespace AND relkind IN ('r', 'v')
  AND obj_description(oid, 'pg_class') IS NULL
UNION ALL
SELECT 'column ' || relname || '.' || attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
WHERE relnamespace = 'hpctrack'::regnamespace AND relkind IN ('r', 'v') AND attnum > 0 AND NOT attisdropped
  AND col_description(attrelid, attnum) IS NULL
UNION ALL
SELECT 'function ' || proname FROM pg_proc
WHERE pronamespace = 'hpctrack'::regnamespace AND obj_description(oid, 'pg_proc') IS NULL
UNION ALL
SELECT 'type ' || typname FROM pg_type
WHERE typnamespace = 'hpctrack'::regnamespace AND typtype IN ('e', 'd')
  AND obj_description(oid, 'pg_type') IS NULL
ORDER BY 1
"""


def test_everything_is_explained(connection):
    assert connection.execute(_UNEXPLAINED).fetchall() == []


def test_what_has_no_comment_would_be_noticed(connection):
    for statement in (
        "COMMENT ON TABLE runs IS NULL",
        "COMMENT ON COLUMN run_overview.args IS NULL",
        "COMMENT ON FUNCTION metric_number IS NULL",
        "COMMENT ON TYPE runstatus IS NULL",
    ):
        connection.execute(statement)
    rows = [name for (name,) in connection.execute(_UNEXPLAINED).fetchall()]
    assert rows == ["column run_overview.args", "function metric_number", "relation runs", "type runstatus"]


def test_comments_are_one_line_that_a_table_of_psql_can_show(connection):
    rows = connection.execute(
        "SELECT objoid::regclass, description FROM pg_description d JOIN pg_class c ON c.oid = d.objoid"
        " WHERE c.relnamespace = 'hpctrack'::regnamespace AND d.classoid = 'pg_class'::regclass"
        " AND (description ~ '[\\n\\t]|^ | $|[.]$' OR length(description) > 200)"
    ).fetchall()
    assert rows == []
