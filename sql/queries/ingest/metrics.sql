-- Rows on their way into metrics. What is in braces is filled in with identifiers.

-- name: take_part_in_metrics
-- Keep columns as they are until the batch is in.
LOCK TABLE metrics IN ROW EXCLUSIVE MODE;

-- name: skip_run_checks
-- Leave out the check of each row's run_id, for a batch whose runs this transaction holds (hold_runs): what the
-- foreign key would do for every row has been done once for every run. Not where anything else would be left out,
-- too: a trigger, a rule or another key of the user's; nor where this role may not. Until apply_run_checks.
SELECT set_config('session_replication_role', 'replica', true)
WHERE has_parameter_privilege('session_replication_role', 'SET')
  AND current_setting('session_replication_role') = 'origin'
  AND NOT EXISTS (SELECT FROM pg_rewrite WHERE ev_class = 'metrics'::regclass)
  AND NOT EXISTS (
      SELECT FROM pg_trigger t LEFT JOIN pg_constraint c
      ON c.oid = t.tgconstraint AND c.contype = 'f' AND c.conrelid = t.tgrelid AND c.confrelid = 'runs'::regclass
         AND c.conkey = (SELECT array_agg(attnum) FROM pg_attribute WHERE attrelid = t.tgrelid AND attname = 'run_id')
         AND c.confkey = (SELECT array_agg(attnum) FROM pg_attribute WHERE attrelid = c.confrelid AND attname = 'id')
      WHERE t.tgrelid = 'metrics'::regclass AND c.oid IS NULL);

-- name: apply_run_checks
-- Back to checks as usual.
SELECT set_config('session_replication_role', 'origin', true);

-- name: copy_rows
-- Rows of a batch, as COPY BINARY.
COPY {table} ({columns}) FROM STDIN (FORMAT BINARY);

-- name: drop_incoming
-- The table of before the columns changed.
DROP TABLE IF EXISTS pg_temp.incoming_metrics;

-- name: create_incoming
-- Where rows go that may meet stored ones; without the constraints of metrics. A metric may have any name: the
-- journal's column gets one that none has.
CREATE TEMPORARY TABLE incoming_metrics ON COMMIT DELETE ROWS AS
SELECT m.*, NULL::integer AS {journal_column} FROM metrics m WITH NO DATA;

-- name: truncate_incoming
-- Make room for the next rows of the same batch.
TRUNCATE pg_temp.incoming_metrics;

-- name: count_replaced
-- Rows of an earlier attempt that are about to be replaced, by journal.
SELECT {journal_column}, count(*)
FROM pg_temp.incoming_metrics i
CROSS JOIN LATERAL (SELECT FROM metrics m
                    WHERE m.run_id = i.run_id AND m.step = i.step AND m.progress = i.progress AND m.attempt < i.attempt
                    LIMIT 1) earlier
GROUP BY {journal_column};

-- name: merge_incoming
-- Rows that may meet stored ones. Of each metric the later value stays, unless the earlier is of a later attempt.
INSERT INTO metrics AS m (run_id, step, progress, attempt, time, extra{columns})
SELECT run_id, step, progress, attempt, time, extra{columns} FROM {source}
ORDER BY run_id, step, progress
ON CONFLICT (run_id, step, progress) DO UPDATE
SET attempt = greatest(m.attempt, excluded.attempt),
    time = CASE WHEN excluded.attempt < m.attempt THEN coalesce(m.time, excluded.time) ELSE coalesce(excluded.time, m.time) END,
    extra = CASE WHEN coalesce(m.extra, excluded.extra) IS NULL THEN NULL
                 WHEN excluded.attempt < m.attempt
                 THEN nullif(coalesce(excluded.extra, '{{}}') - {stored} || coalesce(m.extra, '{{}}'), '{{}}')
                 ELSE nullif(coalesce(m.extra, '{{}}') - {given} || coalesce(excluded.extra, '{{}}'), '{{}}')
            END{assignments};

-- name: merge_column
-- One metric's column in merge_incoming: a value that moved to extra leaves the column, and the other way round.
, {column} = CASE WHEN excluded.attempt < m.attempt
    THEN CASE WHEN m.{column} IS NULL AND NOT coalesce(m.extra ? {name}, false) THEN excluded.{column} ELSE m.{column} END
    ELSE CASE WHEN excluded.{column} IS NULL AND NOT coalesce(excluded.extra ? {name}, false) THEN m.{column} ELSE excluded.{column} END
    END
