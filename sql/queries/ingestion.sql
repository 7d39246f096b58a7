-- What the collector does in the transaction that moves watermarks, and to the columns of metrics.

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

-- name: fetch_watermarks
-- How far journals are in; unknown ones are left out.
SELECT s.run_id, s.journal_id, s.watermark
FROM unnest(%(runs)s::bigint[], %(journals)s::text[]) AS k (run_id, journal_id)
JOIN streams s USING (run_id, journal_id);

-- name: hold_runs
-- Keep the runs of a batch from being deleted; those that are gone already, or that have another name on the wire than
-- the datagrams that were verified, are left out.
SELECT r.id, r.submission, r.task
FROM unnest(%(runs)s::bigint[], %(submissions)s::uuid[], %(tasks)s::integer[]) AS w (id, submission, task)
JOIN runs r ON r.id = w.id AND r.submission IS NOT DISTINCT FROM w.submission AND r.task IS NOT DISTINCT FROM w.task
ORDER BY r.id
FOR KEY SHARE OF r;

-- name: insert_streams
-- Journals that are new.
INSERT INTO streams (run_id, journal_id, attempt)
SELECT * FROM unnest(%(runs)s::bigint[], %(journals)s::text[], %(attempts)s::integer[])
ON CONFLICT DO NOTHING;

-- name: lock_streams
-- Journals of a batch, locked in the order of their keys, and how many of their lines are counted.
SELECT s.run_id, s.journal_id, s.watermark, s.rows + s.torn + s.rejected
FROM unnest(%(runs)s::bigint[], %(journals)s::text[]) AS k (run_id, journal_id)
JOIN streams s USING (run_id, journal_id)
ORDER BY s.run_id, s.journal_id
FOR UPDATE OF s;

-- name: update_streams
-- Move watermarks and counters.
UPDATE streams s
SET watermark = k.watermark, rows = s.rows + k.rows, torn = s.torn + k.torn, rejected = s.rejected + k.rejected,
    replaced = s.replaced + k.replaced, duplicates = s.duplicates + k.duplicates, time_last = now()
FROM jsonb_to_recordset(%(journals)s::jsonb)
     AS k (run_id bigint, journal_id text, watermark bigint, rows bigint, torn bigint, rejected bigint, replaced bigint,
           duplicates bigint)
WHERE s.run_id = k.run_id AND s.journal_id = k.journal_id;

-- name: measure_rejected
-- How much is set aside of a run already, or of all that do not exist any more: entries and bytes.
SELECT count(*), coalesce(sum(pg_column_size(r.payload)), 0)::bigint
FROM rejected r
WHERE r.run_id = %(run_id)s OR (%(run_id)s::bigint IS NULL AND r.run_id IS NULL);

-- name: insert_rejected
-- What was refused, or is of a kind that nobody here knows.
INSERT INTO rejected (run_id, journal_id, start_offset, end_offset, sqlstate, reason, payload)
VALUES (%(run_id)s, %(journal)s, %(start)s, %(end)s, %(sqlstate)s, %(reason)s, %(payload)s);

-- name: fire_constraints
-- What is checked at the end of the transaction is checked now.
SET CONSTRAINTS ALL IMMEDIATE;

-- name: insert_latest
-- Rows of runs whose first metrics arrive.
INSERT INTO run_latest (run_id) SELECT unnest(%(runs)s::bigint[]) ON CONFLICT DO NOTHING;

-- name: lock_latest
-- What is the latest of each run, and of which attempt; locked in the order of the runs.
SELECT l.run_id, l.next_step,
       greatest(r.attempt, (SELECT max(s.attempt) FROM streams s WHERE s.run_id = l.run_id AND s.rows > 0))
FROM run_latest l JOIN runs r ON r.id = l.run_id
WHERE l.run_id = ANY (%(runs)s::bigint[])
ORDER BY l.run_id
FOR UPDATE OF l;

-- name: update_latest
-- Latest values and counters of runs. What an earlier attempt logged late only fills in; and names without
-- number don't make the row grow without end.
UPDATE run_latest l
SET next_step = k.next_step,
    last_step = CASE WHEN k.current OR l.last_step IS NULL THEN k.last_step ELSE l.last_step END,
    last_time = CASE WHEN k.current OR l.last_time IS NULL
                     THEN coalesce(timestamptz 'epoch' + k.last_time * interval '1 microsecond', l.last_time)
                     ELSE l.last_time END,
    last = CASE WHEN NOT k.current
                THEN CASE WHEN pg_column_size(k.last || l.last) < 1000000 THEN k.last || l.last ELSE l.last END
                WHEN pg_column_size(l.last || k.last) < 500000 THEN l.last || k.last
                ELSE coalesce((SELECT n.last
                               FROM (SELECT l.last || coalesce(jsonb_object_agg(e.key, e.value), '{}') AS last
                                     FROM jsonb_each(k.last) e WHERE l.last ? e.key) n
                               WHERE pg_column_size(n.last) < 1000000), l.last)
           END,
    rows = l.rows + k.rows
FROM jsonb_to_recordset(%(runs)s::jsonb)
     AS k (run_id bigint, next_step bigint, current boolean, last_step bigint, last_time bigint, last jsonb, rows bigint)
WHERE l.run_id = k.run_id;

-- name: update_lost
-- Count again what runs lost, after something was.
INSERT INTO run_latest AS l (run_id, lost)
SELECT s.run_id, sum(s.lost + s.torn + s.rejected) FROM streams s WHERE s.run_id = ANY (%(runs)s::bigint[])
GROUP BY s.run_id ORDER BY s.run_id
ON CONFLICT (run_id) DO UPDATE SET lost = excluded.lost;

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
SELECT m.*, NULL::integer AS {stream} FROM metrics m WITH NO DATA;

-- name: truncate_incoming
-- Make room for the next rows of the same batch.
TRUNCATE pg_temp.incoming_metrics;

-- name: count_replaced
-- Rows of an earlier attempt that are about to be replaced, by journal.
SELECT {stream}, count(*)
FROM pg_temp.incoming_metrics i
CROSS JOIN LATERAL (SELECT FROM metrics m
                    WHERE m.run_id = i.run_id AND m.step = i.step AND m.progress = i.progress AND m.attempt < i.attempt
                    LIMIT 1) earlier
GROUP BY {stream};

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

-- name: update_stream_lost
-- What the relay said at the end: lines that could not be written to a journal.
INSERT INTO streams AS s (run_id, journal_id, attempt, lost) VALUES (%(run_id)s, %(journal)s, %(attempt)s, %(lost)s)
ON CONFLICT (run_id, journal_id) DO UPDATE SET lost = greatest(s.lost, excluded.lost);

-- name: insert_usage
-- A sample of what the job used on a node.
INSERT INTO usage (run_id, attempt, node, time, cpu_s, memory_bytes, memory_peak_bytes, read_bytes, write_bytes,
                   processes, gpu)
VALUES (%(run_id)s, %(attempt)s, %(node)s, to_timestamp(%(time)s), %(cpu_s)s, %(memory_bytes)s,
        %(memory_peak_bytes)s, %(read_bytes)s, %(write_bytes)s, %(processes)s, %(gpu)s::jsonb)
ON CONFLICT DO NOTHING;

-- name: count_events
-- How many events runs have in their timelines.
SELECT t.run_id, count(*) FROM transitions t
WHERE t.run_id = ANY (%(runs)s::bigint[]) AND t.source = 'relay' AND t.status IS NULL
GROUP BY t.run_id;

-- name: insert_event
-- Something that happened on the node, in the run's timeline.
INSERT INTO transitions (run_id, attempt, time, source, reason, raw)
VALUES (%(run_id)s, %(attempt)s, to_timestamp(%(time)s), 'relay', %(reason)s, %(raw)s);

-- name: merge_args
-- What set_args() said.
UPDATE runs SET args = CASE jsonb_typeof(args) WHEN 'object' THEN args ELSE '{}' END || %(value)s::jsonb, time_updated = now()
WHERE id = %(run_id)s;

-- name: merge_tags
-- What set_tags() said.
UPDATE runs SET tags = CASE jsonb_typeof(tags) WHEN 'object' THEN tags ELSE '{}' END || %(value)s::jsonb, time_updated = now()
WHERE id = %(run_id)s;

-- name: find_held_runs
-- Runs that somebody else holds, or something of theirs that is changed with them; the others are locked now.
WITH wanted AS (SELECT unnest(%(runs)s::bigint[]) AS id),
r AS MATERIALIZED (SELECT id FROM runs WHERE id IN (SELECT id FROM wanted) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED),
l AS MATERIALIZED (SELECT run_id FROM run_latest WHERE run_id IN (SELECT id FROM wanted) ORDER BY run_id
                   FOR NO KEY UPDATE SKIP LOCKED),
a AS MATERIALIZED (SELECT run_id, attempt FROM attempts WHERE run_id IN (SELECT id FROM wanted) ORDER BY run_id, attempt
                   FOR NO KEY UPDATE SKIP LOCKED),
s AS MATERIALIZED (SELECT run_id, journal_id FROM streams WHERE run_id IN (SELECT id FROM wanted)
                   ORDER BY run_id, journal_id FOR NO KEY UPDATE SKIP LOCKED),
e AS MATERIALIZED (SELECT id FROM experiments
                   WHERE id IN (SELECT experiment_id FROM runs WHERE id IN (SELECT id FROM wanted))
                   ORDER BY id FOR KEY SHARE SKIP LOCKED)
SELECT id FROM runs WHERE id IN (SELECT id FROM wanted)
                      AND (id NOT IN (SELECT id FROM r) OR experiment_id NOT IN (SELECT id FROM e))
UNION SELECT run_id FROM run_latest WHERE run_id IN (SELECT id FROM wanted) AND run_id NOT IN (SELECT run_id FROM l)
UNION SELECT run_id FROM attempts WHERE run_id IN (SELECT id FROM wanted) AND (run_id, attempt) NOT IN (SELECT * FROM a)
UNION SELECT run_id FROM streams WHERE run_id IN (SELECT id FROM wanted) AND (run_id, journal_id) NOT IN (SELECT * FROM s);

-- name: list_holders
-- Other sessions that hold locks here: with the strongest first, then the oldest. Who may not read others' statistics
-- learns of them all the same, but neither their age nor their program.
SELECT a.pid, a.usename::text, extract(epoch FROM clock_timestamp() - a.xact_start)::double precision,
       nullif(a.application_name, '')
FROM pg_stat_activity a
CROSS JOIN LATERAL (
    SELECT max(array_position('{RowShareLock, RowExclusiveLock, ShareUpdateExclusiveLock, ShareLock, ShareRowExclusiveLock,
                                ExclusiveLock, AccessExclusiveLock}', l.mode)) AS rank
    FROM pg_locks l LEFT JOIN pg_class c ON c.oid = l.relation
    WHERE l.pid = a.pid AND l.granted AND l.mode <> 'AccessShareLock'
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (c.relnamespace = current_schema()::regnamespace OR l.locktype = 'advisory')
) held
WHERE a.pid <> pg_backend_pid() AND a.usename IS NOT NULL AND held.rank IS NOT NULL
ORDER BY greatest(held.rank, 2) DESC, a.xact_start NULLS FIRST
LIMIT 3;
