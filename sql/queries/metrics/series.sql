-- Metrics of a run, made small enough to draw.

-- name: fetch_metric_columns
-- The columns of metrics that hold metrics, with their types; of a domain, the type that it is made of.
SELECT a.attname::text, coalesce(b.typname, t.typname)::text
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_type b ON b.oid = t.typbasetype
WHERE a.attrelid = 'metrics'::regclass AND a.attnum > 0 AND NOT a.attisdropped
  AND a.attname NOT IN ('run_id', 'step', 'progress', 'time', 'attempt', 'extra')
ORDER BY a.attnum;

-- name: fetch_axis
-- Over which steps and progress the rows of a run go; infinite progress can't be drawn.
SELECT min(step) AS first_step, max(step) AS last_step, min(progress) AS first_progress,
       max(progress) AS last_progress
FROM metrics m
WHERE m.run_id = {id} AND {span} AND m.progress > '-Infinity' AND m.progress < 'Infinity';

-- name: fetch_buckets
-- The rows of a run in buckets along its steps or its progress; of each bucket and metric the count, and the least
-- and the greatest finite value, so that no peak gets lost. Filled in by psycopg's format: names of metrics may
-- hold a percent sign, which parameters do not get along with.
SELECT bucket, min(x), max(x), {aggregates}
FROM (SELECT {axis}::double precision AS x,
             CASE WHEN {low}::double precision < {high}::double precision
                  THEN least(width_bucket({axis}::double precision, {low}::double precision,
                                          {high}::double precision, {buckets}), {buckets})
                  ELSE 1 END AS bucket,
             {values}
      FROM metrics m
      WHERE m.run_id = {id} AND {span} AND m.progress > '-Infinity' AND m.progress < 'Infinity'
      OFFSET 0) v  -- so that each value is worked out once, not once for each aggregate
GROUP BY bucket
ORDER BY bucket;

-- name: fetch_ends
-- The first and the last value of each metric of a run: a subquery for each.
SELECT {ends};

-- name: fetch_end
-- One of the subqueries of fetch_ends.
(SELECT {value} FROM metrics m WHERE m.run_id = {id} AND {span} AND {value} IS NOT NULL
 ORDER BY m.step {direction}, m.progress {direction} LIMIT 1)
