-- Which metrics there are, and which of them runs have.

-- name: fetch_metric_types
-- The columns of metrics that hold metrics, and their types.
SELECT a.attname::text, t.typname::text
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = 'metrics'::regclass AND a.attnum > 0 AND NOT a.attisdropped
  AND a.attname NOT IN ('run_id', 'step', 'progress', 'time', 'attempt', 'extra', 'numbered')
ORDER BY a.attnum;

-- name: fetch_names_of_runs
-- Names of the metrics that the collector has seen of runs; and whether any has rows that another client wrote.
SELECT ARRAY (SELECT DISTINCT jsonb_object_keys(last) FROM run_latest WHERE run_id = ANY (%(ids)s::bigint[])) AS noted,
       EXISTS (SELECT FROM unnest(%(ids)s::bigint[]) AS r (id)
               WHERE NOT EXISTS (SELECT FROM run_latest l WHERE l.run_id = r.id)
                 AND EXISTS (SELECT FROM metrics m WHERE m.run_id = r.id)) AS unnoted;

-- name: fetch_columns_in_use
-- Whether runs have values in columns.
SELECT {used} FROM metrics m WHERE m.run_id = ANY ({runs}::bigint[]);

-- name: fetch_extra_kinds
-- Of each metric that runs have values of outside the columns: what kind of values (see store/values.py).
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
FROM unnest({runs}::bigint[]) AS r (id)
CROSS JOIN LATERAL (SELECT o.extra FROM {source} o WHERE o.run_id = r.id AND o.extra IS NOT NULL) m
CROSS JOIN LATERAL jsonb_each(m.extra) AS e;
