-- What becomes tables in Python and files: the API and hpctrack export. Statements without a semicolon at their
-- end become part of others.

-- name: copy_query
-- Rows of any query, as COPY BINARY.
COPY ({query}) TO STDOUT (FORMAT BINARY);

-- name: fetch_metric_types
-- The columns of metrics that hold metrics, and their types.
SELECT a.attname::text, t.typname::text
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = 'metrics'::regclass AND a.attnum > 0 AND NOT a.attisdropped
  AND a.attname NOT IN ('run_id', 'step', 'progress', 'time', 'attempt', 'extra')
ORDER BY a.attnum;

-- name: fetch_names_of_runs
-- Names of the metrics that the collector has seen of runs; and whether any has rows that another client wrote.
SELECT ARRAY (SELECT DISTINCT jsonb_object_keys(last) FROM run_latest WHERE run_id = ANY (%(ids)s::bigint[])),
       EXISTS (SELECT FROM unnest(%(ids)s::bigint[]) AS r (id)
               WHERE NOT EXISTS (SELECT FROM run_latest l WHERE l.run_id = r.id)
                 AND EXISTS (SELECT FROM metrics m WHERE m.run_id = r.id));

-- name: count_rows
-- Rows of metrics that came in for runs.
SELECT least(coalesce(sum(rows), 0), 9223372036854775807)::bigint FROM run_latest WHERE run_id = ANY (%(ids)s::bigint[]);

-- name: fetch_columns_in_use
-- Whether runs have values in columns.
SELECT {used} FROM metrics m WHERE m.run_id = ANY ({runs}::bigint[]);

-- name: fetch_extra_kinds
-- Of each metric that runs have values of outside the columns: what kind of values (see store/metrics/values.py).
SELECT DISTINCT e.key,
       CASE jsonb_typeof(e.value)
           WHEN 'number' THEN CASE WHEN e.value::text ~ '[.eE]' THEN 'float'
                                   WHEN abs(e.value::numeric) > 9007199254740992 THEN 'object'
                                   ELSE 'int' END
           WHEN 'boolean' THEN 'bool'
           WHEN 'string' THEN 'text'
           WHEN 'null' THEN 'null'
           ELSE CASE WHEN e.value ? 'float' THEN 'float' WHEN e.value ? 'text' THEN 'text' ELSE 'object' END
       END
FROM unnest(%(ids)s::bigint[]) AS r (id)
CROSS JOIN LATERAL (SELECT extra FROM metrics WHERE run_id = r.id AND extra IS NOT NULL) m
CROSS JOIN LATERAL jsonb_each(m.extra) AS e;

-- name: select_metrics
-- Rows of metrics of runs, in the order of the runs given and of each run's steps: never all of them are sorted.
SELECT {fields}
FROM unnest({runs}::bigint[]) AS r (id)
CROSS JOIN LATERAL (SELECT * FROM metrics WHERE run_id = r.id ORDER BY step, progress) m
WHERE {condition}

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
      WHERE m.run_id = {run} AND {which} AND {behind} AND {condition}
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

-- name: select_usage
-- Samples of what a run used.
SELECT {fields}
FROM usage u
WHERE u.run_id = {run}
ORDER BY u.time, u.attempt, u.node

-- name: fetch_extremes
-- The least and the greatest value of metrics, of each run.
SELECT m.run_id, {aggregates}
FROM metrics m
WHERE m.run_id = ANY ({runs}::bigint[])
GROUP BY m.run_id;

-- name: least_value
-- Of finite values; nan is no extreme.
min({value}) FILTER (WHERE {value} > '-Infinity' AND {value} < 'Infinity')

-- name: greatest_value
-- The same.
max({value}) FILTER (WHERE {value} > '-Infinity' AND {value} < 'Infinity')
