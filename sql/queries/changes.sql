-- What people change about runs and experiments by hand. Row-level security leaves them their own; the owner of the
-- tables changes everybody's. Rows are locked in the order of their ids, as everywhere.

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

-- name: find_others_runs
-- Those of the runs that the caller may not change, and whose they are.
SELECT id, user_name FROM run_overview
WHERE id = ANY (%(ids)s) AND row_security_active('runs') AND user_name <> session_user
ORDER BY id;

-- name: link_runs
-- Link two runs, once.
INSERT INTO run_relationships (from_id, kind, to_id) VALUES (%(from)s, %(kind)s, %(to)s) ON CONFLICT DO NOTHING;

-- name: unlink_runs
-- Remove a link.
DELETE FROM run_relationships WHERE from_id = %(from)s AND kind = %(kind)s AND to_id = %(to)s;

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
DELETE FROM runs WHERE id = ANY (%(ids)s) RETURNING id, submission;

-- name: list_experiments
-- Experiments, the one with the newest run last, with the number of runs by state: all runs are read once.
SELECT e.id, e.name, e.user_name, e.time_created, e.comment, for_lists(e.tags) AS tags, coalesce(r.counts, '{}') AS counts, r.first,
       r.newest
FROM experiments e
LEFT JOIN (
    SELECT s.experiment_id, jsonb_object_agg(s.status, s.count) AS counts, min(s.first) AS first, max(s.newest) AS newest
    FROM (SELECT experiment_id, status, count(*), min(time_created) AS first, max(time_created) AS newest
          FROM run_overview GROUP BY experiment_id, status) s
    GROUP BY s.experiment_id
) r ON r.experiment_id = e.id
ORDER BY coalesce(r.newest, e.time_created), e.id;

-- name: get_experiment
-- The one of a name: its runs are found by their index.
SELECT e.id, e.name, e.user_name, e.time_created, e.comment, e.tags, r.counts, r.first, r.newest
FROM experiments e
CROSS JOIN LATERAL (
    SELECT coalesce(jsonb_object_agg(s.status, s.count), '{}') AS counts, min(s.first) AS first, max(s.newest) AS newest
    FROM (SELECT status, count(*), min(time_created) AS first, max(time_created) AS newest
          FROM run_overview o WHERE o.experiment_id = e.id GROUP BY status) s
) r
WHERE e.name = %(name)s;

-- name: count_experiment_rows
-- Rows of metrics of an experiment.
SELECT least(coalesce(sum(rows), 0), 9223372036854775807)::bigint FROM run_overview WHERE experiment_id = %(id)s;

-- name: ensure_experiment
-- An experiment of a name, if there is none. Looked for first: an attempt to insert takes a number.
INSERT INTO experiments (name)
SELECT %(name)s WHERE NOT EXISTS (SELECT FROM experiments WHERE name = %(name)s)
ON CONFLICT (name) DO NOTHING;

-- name: fetch_experiment_links
-- The links of an experiment to others, by name. Anybody may link to one.
SELECT f.name, l.kind, t.name
FROM ((SELECT from_id, kind, to_id FROM experiment_relationships WHERE from_id = %(id)s ORDER BY to_id, kind LIMIT 1000)
      UNION
      (SELECT from_id, kind, to_id FROM experiment_relationships WHERE to_id = %(id)s ORDER BY from_id, kind LIMIT 100)) l
JOIN experiments f ON f.id = l.from_id
JOIN experiments t ON t.id = l.to_id
ORDER BY f.name, l.kind, t.name;

-- name: fetch_experiment_runs
-- The runs of an experiment.
SELECT id FROM run_overview WHERE experiment_id = %(id)s ORDER BY id;

-- name: check_experiment_rights
-- An experiment, if the caller may change it.
SELECT id FROM experiments WHERE id = %(id)s AND (user_name = session_user OR NOT row_security_active('experiments'));

-- name: rename_experiment
-- Give an experiment another name.
UPDATE experiments SET name = %(new)s WHERE id = %(id)s;

-- name: delete_experiment
-- Delete an experiment of which no run is left.
DELETE FROM experiments e WHERE id = %(id)s AND NOT EXISTS (SELECT FROM runs r WHERE r.experiment_id = e.id)
RETURNING id;
