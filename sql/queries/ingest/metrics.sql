-- Rows on their way into metrics. What is in braces is filled in with identifiers.

-- name: take_part_in_metrics
-- Keep columns as they are until the batch is in.
LOCK TABLE ONLY metrics IN ROW EXCLUSIVE MODE;

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

-- name: fetch_next_steps
-- The step after the greatest of runs, as they are stored now.
SELECT r.id, coalesce((SELECT least(m.step, 9223372036854775806) + 1 FROM metrics m WHERE m.run_id = r.id
                       ORDER BY m.step DESC LIMIT 1), 0)
FROM unnest(%(runs)s::bigint[]) AS r (id);

-- name: give_way
-- Stored rows that were logged without a step make room for rows that bring the step they stand at: the next free
-- numbers of their run are theirs.
UPDATE metrics m
SET step = n.step
FROM (SELECT met.run_id, met.step AS before,
             f.next_step - 1 + row_number() OVER (PARTITION BY met.run_id ORDER BY met.step) AS step
      FROM (SELECT DISTINCT g.run_id, g.step
            FROM {source} g JOIN metrics m ON m.run_id = g.run_id AND m.step = g.step AND m.numbered
            WHERE g.numbered IS NULL) met
      JOIN unnest({runs}::bigint[], {next_steps}::bigint[]) AS f (run_id, next_step) ON f.run_id = met.run_id) n
WHERE m.run_id = n.run_id AND m.step = n.before AND m.numbered
RETURNING m.run_id;

-- name: give_progress
-- Stored values of a step that have no progress yet get that of a row that brings one.
UPDATE metrics m
SET progress = g.progress
FROM (SELECT run_id, step, min(progress) AS progress FROM {source} i WHERE progress <> 0 GROUP BY run_id, step) g
WHERE m.run_id = g.run_id AND m.step = g.step AND m.progress = 0
  AND NOT EXISTS (SELECT FROM metrics o WHERE o.run_id = m.run_id AND o.step = m.step AND o.progress <> 0);

-- name: fetch_progress_of_steps
-- The greatest progress that is stored at steps, where there is any.
SELECT k.place, max(m.progress)
FROM unnest(%(runs)s::bigint[], %(steps)s::bigint[]) WITH ORDINALITY AS k (run_id, step, place)
JOIN metrics m ON m.run_id = k.run_id AND m.step = k.step AND m.progress <> 0
GROUP BY k.place;

-- name: count_replaced
-- Rows of an earlier attempt that are about to be replaced, by journal.
SELECT {journal_column}, count(*)
FROM pg_temp.incoming_metrics i
CROSS JOIN LATERAL (SELECT FROM metrics m
                    WHERE m.run_id = i.run_id AND m.step = i.step AND m.progress = i.progress AND m.attempt < i.attempt
                    LIMIT 1) earlier
GROUP BY {journal_column};

-- name: fetch_replacing
-- Runs of which a row has a value that a stored row has, too, wherever it is.
SELECT DISTINCT i.run_id
FROM pg_temp.incoming_metrics i
JOIN metrics m ON m.run_id = i.run_id AND m.step = i.step AND m.progress = i.progress
WHERE coalesce(m.extra ?| ARRAY (SELECT jsonb_object_keys(i.extra)), false){conditions};

-- name: both_have_value
-- One metric with a column in fetch_replacing.
 OR (i.{column} IS NOT NULL OR coalesce(i.extra ? {name}, false)) AND (m.{column} IS NOT NULL OR coalesce(m.extra ? {name}, false))

-- name: merge_incoming
-- Rows that may meet stored ones. Of each metric the later value stays, unless the earlier is of a later attempt.
INSERT INTO metrics AS m (run_id, step, progress, attempt, time, extra, numbered{columns})
SELECT run_id, step, progress, attempt, time, extra, numbered{columns} FROM {source} g
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
