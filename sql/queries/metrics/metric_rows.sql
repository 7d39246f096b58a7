-- Rows of metrics, one by one. Filled in by psycopg's format: names of metrics may hold a percent sign, which
-- parameters do not get along with.

-- name: list_metric_rows
-- Rows of a run that have one of some metrics, in order of step; those of the end where there is a limit.
SELECT * FROM (
    SELECT m.step, m.progress, m.time, m.attempt, CASE WHEN m.extra ?| {names} THEN m.extra END AS extra{columns}
    FROM {source} m
    WHERE m.run_id = {run_id} AND {span} AND {present}
    ORDER BY m.step {direction}, m.progress {direction}
    LIMIT {limit}
) m
ORDER BY step, progress

-- name: fetch_last_value
-- The latest value of one metric of a run.
SELECT {column}, m.extra -> {name}, m.step, m.progress, m.time
FROM {source} m
WHERE m.run_id = {run_id} AND {span} AND {present}
ORDER BY m.step DESC, m.progress DESC
LIMIT 1
