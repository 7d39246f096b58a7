-- Least and greatest values. Statements without a semicolon at their end become part of others.

-- name: fetch_known_extremes
-- Those that the statistics of runs have, where these tell of all rows.
SELECT s.run_id, s.name, s.min, s.max
FROM run_latest l
JOIN metric_summary s ON s.run_id = l.run_id
WHERE l.run_id = ANY (%(runs)s::bigint[]) AND (l.settled OR NOT l.stale AND l.unsummed = 0);

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
