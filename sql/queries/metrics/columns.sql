-- The columns of metrics.

-- name: fetch_columns
-- Columns of metrics: name, type, modifier, whether it can be written, comment.
SELECT a.attname::text, t.typname::text, a.atttypmod, a.attgenerated = '' AND a.attidentity <> 'a',
       col_description(a.attrelid, a.attnum)
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = 'metrics'::regclass AND a.attnum > 0 AND NOT a.attisdropped;

-- name: fetch_columns_signature
-- A digest of the same; every batch asks for it.
SELECT md5(string_agg(concat_ws(' ', attnum, attname, atttypid, atttypmod, attgenerated), ',' ORDER BY attnum))
FROM pg_attribute
WHERE attrelid = 'metrics'::regclass AND attnum > 0 AND NOT attisdropped;

-- name: lock_metrics
-- Keep everybody out while columns are added.
LOCK TABLE metrics IN ACCESS EXCLUSIVE MODE;

-- name: add_columns
-- Columns for new numeric metrics; only the owner may alter a table, so a function of its does.
SELECT add_metric_columns(%(names)s, %(comment)s);
