-- What people change about runs by hand. Row-level security leaves them their own; the owner of the tables changes
-- everybody's. Rows are locked in the order of their ids, as everywhere.

-- name: tag_runs
-- Add tags to runs; a tag that is there gets the new value.
WITH chosen AS (SELECT id FROM runs WHERE id = ANY (%(ids)s) ORDER BY id FOR NO KEY UPDATE)
UPDATE runs r SET tags = coalesce(r.tags, '{}') || %(tags)s, time_updated = now()
FROM chosen WHERE r.id = chosen.id
RETURNING r.id;

-- name: untag_runs
-- Remove tags by name.
WITH chosen AS (SELECT id FROM runs WHERE id = ANY (%(ids)s) ORDER BY id FOR NO KEY UPDATE)
UPDATE runs r SET tags = r.tags - %(names)s::text[], time_updated = now()
FROM chosen WHERE r.id = chosen.id
RETURNING r.id;

-- name: note_runs
-- Set what people note about runs.
WITH chosen AS (SELECT id FROM runs WHERE id = ANY (%(ids)s) ORDER BY id FOR NO KEY UPDATE)
UPDATE runs r SET comment = %(note)s, time_updated = now()
FROM chosen WHERE r.id = chosen.id
RETURNING r.id;

-- name: archive_runs
-- Leave runs out of lists, or list them again.
WITH chosen AS (
    SELECT id FROM runs WHERE id = ANY (%(ids)s) AND archived <> %(archived)s ORDER BY id FOR NO KEY UPDATE
)
UPDATE runs r SET archived = %(archived)s, time_updated = now()
FROM chosen WHERE r.id = chosen.id
RETURNING r.id;

-- name: find_others_runs
-- Those of the runs that the caller may not change, and whose they are.
SELECT id, user_name FROM run_overview
WHERE id = ANY (%(ids)s) AND row_security_active('runs') AND user_name <> session_user
ORDER BY id;

-- name: link_runs
-- Link two runs, once.
INSERT INTO run_relationships (from_id, kind, to_id) VALUES (%(from_id)s, %(kind)s, %(to_id)s) ON CONFLICT DO NOTHING;

-- name: unlink_runs
-- Remove a link.
DELETE FROM run_relationships WHERE from_id = %(from_id)s AND kind = %(kind)s AND to_id = %(to_id)s;

-- name: count_doomed
-- What goes if runs are deleted, by experiment; the live ones by id.
SELECT experiment, array_agg(id ORDER BY id) AS ids, least(sum(CASE WHEN o.rows > 0 THEN o.rows ELSE (SELECT count(*) FROM metrics m WHERE m.run_id = o.id) END),
             9223372036854775807)::bigint AS rows,
       coalesce(array_agg(id ORDER BY id) FILTER (
           WHERE time_ended IS NULL
             AND (submission IS NOT NULL OR status IN ('PENDING', 'RUNNING'))), '{}') AS live
FROM run_overview o
WHERE id = ANY (%(ids)s)
GROUP BY experiment
ORDER BY experiment;

-- name: delete_runs
-- Delete runs with all that belongs to them.
DELETE FROM runs WHERE id = ANY (%(ids)s) RETURNING submission;
