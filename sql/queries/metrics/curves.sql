-- Metrics of a run, made small enough to draw.

-- name: fetch_metric_columns
-- The columns of metrics that hold metrics: name, type, and through which type PostgreSQL casts its numbers to double
-- precision, null where it can't. A domain counts as the type under it. The cast of jsonb raises an error at all that
-- is no number.
WITH RECURSIVE columns (name, number, type) AS (
    SELECT attname, attnum, atttypid
    FROM pg_attribute
    WHERE attrelid = 'metrics'::regclass AND attnum > 0 AND NOT attisdropped
      AND attname NOT IN ('run_id', 'step', 'progress', 'time', 'attempt', 'extra', 'numbered')
    UNION ALL
    SELECT c.name, c.number, t.typbasetype FROM columns c JOIN pg_type t ON t.oid = c.type WHERE t.typtype = 'd'
)
SELECT c.name::text, t.typname::text,
       (SELECT target.typname::text
        FROM pg_cast
        JOIN pg_type target ON target.oid = casttarget
        WHERE castsource = t.oid
          AND (casttarget = 'float8'::regtype AND t.typname <> 'jsonb'
               OR casttarget IN ('numeric'::regtype, 'int8'::regtype) AND t.typcategory = 'N')
        ORDER BY casttarget = 'float8'::regtype DESC, casttarget = 'numeric'::regtype DESC
        LIMIT 1)
FROM columns c
JOIN pg_type t ON t.oid = c.type AND t.typtype <> 'd'
ORDER BY c.number;

-- name: fetch_axis
-- Over which steps and progress the rows of a run go; infinite progress can't be drawn.
SELECT min(step) AS first_step, max(step) AS last_step, min(progress) AS first_progress,
       max(progress) AS last_progress
FROM {source} m
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
      FROM {source} m
      WHERE m.run_id = {id} AND {span} AND m.progress > '-Infinity' AND m.progress < 'Infinity'
      OFFSET 0) v  -- so that each value is worked out once, not once for each aggregate
GROUP BY bucket
ORDER BY bucket;

-- name: fetch_ends
-- The first and the last value of each metric of a run: a subquery for each.
SELECT {ends};

-- name: fetch_end
-- One of the subqueries of fetch_ends.
(SELECT {value} FROM {source} m WHERE m.run_id = {id} AND {span} AND {value} IS NOT NULL
 ORDER BY m.step {direction}, m.progress {direction} LIMIT 1)
