def test_schema(connection):
    assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)
