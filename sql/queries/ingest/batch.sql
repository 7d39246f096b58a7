-- What the collector does in the transaction that moves watermarks.

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
SELECT s.run_id, s.journal_id, s.watermark, s.rows + s.torn + s.rejected, s.first_step
FROM unnest(%(runs)s::bigint[], %(journals)s::text[]) AS k (run_id, journal_id)
JOIN streams s USING (run_id, journal_id)
ORDER BY s.run_id, s.journal_id
FOR UPDATE OF s;

-- name: update_streams
-- Move watermarks and counters.
UPDATE streams s
SET watermark = k.watermark, rows = s.rows + k.rows, torn = s.torn + k.torn, rejected = s.rejected + k.rejected,
    first_step = least(s.first_step, k.first_step), replaced = s.replaced + k.replaced, duplicates = s.duplicates + k.duplicates, time_last = now()
FROM jsonb_to_recordset(%(journals)s::jsonb)
     AS k (run_id bigint, journal_id text, watermark bigint, rows bigint, torn bigint, rejected bigint, replaced bigint,
           first_step bigint, duplicates bigint)
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
SELECT l.run_id, greatest(r.attempt, (SELECT max(s.attempt) FROM streams s WHERE s.run_id = l.run_id AND s.rows > 0)),
       l.scans, l.next_step, l.numbered, l.progressed
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
    rows = l.rows + k.rows, numbered = k.numbered, progressed = k.progressed, unsummed = l.unsummed + k.rows,
    stale = l.stale OR l.settled OR k.stale, settled = false
FROM jsonb_to_recordset(%(runs)s::jsonb)
     AS k (run_id bigint, next_step bigint, current boolean, last_step bigint, last_time bigint, last jsonb, rows bigint,
           numbered boolean, progressed boolean, stale boolean)
WHERE l.run_id = k.run_id;

-- name: update_lost
-- Count again what runs lost, after something was.
INSERT INTO run_latest AS l (run_id, lost)
SELECT s.run_id, sum(s.lost + s.torn + s.rejected) FROM streams s WHERE s.run_id = ANY (%(runs)s::bigint[])
GROUP BY s.run_id ORDER BY s.run_id
ON CONFLICT (run_id) DO UPDATE SET lost = excluded.lost;
