-- Statistics of metrics.

-- name: fetch_summaries
-- Those of some metrics of runs.
SELECT run_id, name, min, max, first, last, count, nans
FROM metric_summary
WHERE run_id = ANY (%(runs)s::bigint[]) AND name = ANY (%(names)s::text[]);
