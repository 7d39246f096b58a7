-- Columns of numbers, packed into few large values. Statements without a semicolon at their end become part of others.

-- name: take_snapshot
-- All that follows in this transaction sees the same rows.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;

-- name: export_snapshot
-- The name under which another connection can see the same rows.
SELECT pg_export_snapshot();

-- name: join_snapshot
-- See what another connection sees.
SET TRANSACTION SNAPSHOT {snapshot};

-- name: fetch_middle
-- The step in the middle between the first and the last of a run, which the index has.
SELECT low + (high / 2 - low / 2)
FROM (SELECT (SELECT step FROM metrics WHERE run_id = %(id)s ORDER BY step LIMIT 1) AS low,
             (SELECT step FROM metrics WHERE run_id = %(id)s ORDER BY step DESC LIMIT 1) AS high) ends;

-- name: before_step
-- The first half.
m.step < {step}

-- name: from_step
-- The second half.
m.step >= {step}

-- name: fetch_packed
-- A stretch of a run's rows as one row: how many there are, and how many have values outside the columns; then of
-- each column the values, one behind the other.
SELECT count(*), count(*) FILTER (WHERE {extra}), string_agg(int8send(m.step), ''),
       string_agg(timestamptz_send(coalesce(m.time, '-infinity')), ''), {packed}
FROM (SELECT * FROM metrics m
      WHERE m.run_id = {run} AND {which} AND {behind} AND {standing} AND {condition}
      ORDER BY m.step, m.progress
      LIMIT {limit}) m;

-- name: behind_row
-- What comes behind a row of the same run.
(m.step, m.progress) > ({step}, {progress}::double precision)

-- name: number_or_nan
-- A number of a packed column.
coalesce({column}, 'NaN')

-- name: pack_one
-- Numbers of a column, eight bytes each.
string_agg(float8send({}), '')

-- name: pack_two
-- Of two columns: two numbers of each row.
string_agg(point_send(point({}, {})), '')

-- name: pack_four
-- Of four columns.
string_agg(lseg_send(lseg(point({}, {}), point({}, {}))), '')
