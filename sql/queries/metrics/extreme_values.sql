-- Least and greatest values. Statements without a semicolon at their end become part of others.

-- name: fetch_extremes
-- The least and the greatest value of metrics, of each run.
SELECT m.run_id, {aggregates}
FROM metrics m
WHERE m.run_id = ANY ({runs}::bigint[]) AND {standing}
GROUP BY m.run_id;

-- name: least_value
-- Of finite values; nan is no extreme.
min({value}) FILTER (WHERE {value} > '-Infinity' AND {value} < 'Infinity')

-- name: greatest_value
-- The same.
max({value}) FILTER (WHERE {value} > '-Infinity' AND {value} < 'Infinity')
