-- What becomes tables in Python and files: the API and hpctrack export. Statements without a semicolon become part of
-- a COPY.

-- name: count_rows
-- Rows of metrics that came in for runs.
SELECT least(coalesce(sum(rows), 0), 9223372036854775807)::bigint FROM run_latest WHERE run_id = ANY (%(ids)s::bigint[]);

-- name: select_metrics
-- Rows of metrics of runs, in the order of the runs given and of each run's steps: never all of them are sorted.
SELECT {fields}
FROM unnest({runs}::bigint[]) AS r (id)
CROSS JOIN LATERAL (SELECT * FROM {source} o WHERE o.run_id = r.id ORDER BY o.step, o.progress) m
WHERE {condition} AND {standing}

-- name: select_usage
-- Samples of what a run used.
SELECT {fields}
FROM usage u
WHERE u.run_id = {run}
ORDER BY u.time, u.attempt, u.node
