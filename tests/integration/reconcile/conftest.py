"""The reconciler, pass by pass, and the rows that it leaves."""

from __future__ import annotations

import pytest
from psycopg.rows import dict_row

from hpctrack import reconcile


@pytest.fixture
def fetch(connection):
    """Query; returns the one row, or the list of rows if told so."""

    def run(query, *parameters, many=False):
        with connection.cursor(row_factory=dict_row) as cursor:
            rows = cursor.execute(query, parameters).fetchall()
        assert many or len(rows) == 1
        return rows if many else rows[0]

    return run


@pytest.fixture
def get(fetch):
    """Return a run's row."""
    return lambda run_id: fetch("SELECT * FROM runs WHERE id = %s", run_id)


@pytest.fixture
def once(connection, slurm):
    """Make one pass."""
    return lambda **options: reconcile.run_once(connection, slurm.backend(timeout=5), "mini", **options)
