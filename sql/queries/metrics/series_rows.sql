-- Rows of series. Statements without a semicolon at their end become part of others.

-- name: fetch_series_of_runs
-- The series of runs, and how many rows of each came in.
SELECT series AS name, least(sum(rows), 9223372036854775807)::bigint AS rows
FROM run_series
WHERE run_id = ANY (%(ids)s::bigint[])
GROUP BY series
ORDER BY series;

-- name: rows_of_series
-- Rows of a series as rows of metrics are.
(SELECT s.run_id, s.idx AS step, coalesce(s.progress, 0) AS progress, s.time, s.attempt, s.numbered, s.values AS extra
 FROM series_rows s
 WHERE s.series = {series})
