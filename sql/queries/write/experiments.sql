-- Experiments: what is in them, and what people change about them.

-- name: list_experiments
-- Experiments, the one with the newest run last, with the number of runs by state: all runs are read once.
-- Archived ones are left out, unless asked for, but for those that have runs which are not. Of some users, where they
-- are given: what they made, and where they have runs, which alone are counted then.
SELECT e.id, e.name, e.user_name, e.time_created, e.comment, for_lists(e.tags) AS tags, for_lists(e.goals) AS goals, e.archived,
       coalesce(r.counts, '{}') AS counts, coalesce(r.archived, 0) AS archived_runs, r.first, r.newest
FROM experiments e
LEFT JOIN (
    SELECT s.experiment_id, jsonb_object_agg(s.status, s.count) FILTER (WHERE s.count > 0) AS counts,
           sum(s.archived)::bigint AS archived, min(s.first) AS first, max(s.newest) AS newest
    FROM (SELECT experiment_id, status, count(*) FILTER (WHERE listed) AS count,
                 count(*) FILTER (WHERE archived) AS archived, min(time_created) FILTER (WHERE listed) AS first,
                 max(time_created) FILTER (WHERE listed) AS newest
          FROM (SELECT *, %(archived)s OR NOT archived AS listed FROM run_overview
                WHERE %(users)s::text[] IS NULL OR user_name = ANY (%(users)s)) o
          GROUP BY experiment_id, status) s
    GROUP BY s.experiment_id
) r ON r.experiment_id = e.id
WHERE (%(archived)s OR NOT e.archived OR r.counts IS NOT NULL)
  AND (%(users)s::text[] IS NULL OR e.user_name = ANY (%(users)s) OR r.experiment_id IS NOT NULL)
ORDER BY coalesce(r.newest, e.time_created), e.id;

-- name: get_experiment
-- The one of a name: its runs are found by their index.
SELECT e.id, e.name, e.user_name, e.time_created, e.comment, e.tags, e.goals, e.archived, r.counts, r.archived AS archived_runs,
       r.first, r.newest
FROM experiments e
CROSS JOIN LATERAL (
    SELECT coalesce(jsonb_object_agg(s.status, s.count) FILTER (WHERE s.count > 0), '{}') AS counts,
           coalesce(sum(s.archived), 0)::bigint AS archived, min(s.first) AS first, max(s.newest) AS newest
    FROM (SELECT status, count(*) FILTER (WHERE listed) AS count, count(*) FILTER (WHERE archived) AS archived,
                 min(time_created) FILTER (WHERE listed) AS first, max(time_created) FILTER (WHERE listed) AS newest
          FROM (SELECT *, %(archived)s OR NOT archived AS listed FROM run_overview
                WHERE experiment_id = e.id) o GROUP BY status) s
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
SELECT f.name AS origin, l.kind, t.name AS target
FROM ((SELECT from_id, kind, to_id FROM experiment_relationships WHERE from_id = %(id)s ORDER BY to_id, kind LIMIT 1000)
      UNION
      (SELECT from_id, kind, to_id FROM experiment_relationships WHERE to_id = %(id)s ORDER BY from_id, kind LIMIT 100)) l
JOIN experiments f ON f.id = l.from_id
JOIN experiments t ON t.id = l.to_id
ORDER BY f.name, l.kind, t.name;

-- name: fetch_experiment_runs
-- The runs of an experiment, archived ones among them or not.
SELECT id FROM run_overview WHERE experiment_id = %(id)s AND (%(archived)s OR NOT archived) ORDER BY id;

-- name: fetch_own_runs
-- Those of its runs that the caller may change.
SELECT id FROM run_overview
WHERE experiment_id = %(id)s AND (user_name = session_user OR NOT row_security_active('runs'))
ORDER BY id;

-- name: archive_experiment
-- Leave an experiment out of lists, or list it again.
UPDATE experiments SET archived = %(archived)s WHERE id = %(id)s AND archived <> %(archived)s;

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

-- name: set_experiment_comment
-- What people note about an experiment.
UPDATE experiments SET comment = %(comment)s WHERE id = %(id)s;

-- name: tag_experiment
-- Add tags to an experiment.
UPDATE experiments SET tags = coalesce(tags, '{}') || %(tags)s WHERE id = %(id)s;

-- name: untag_experiment
-- Remove tags by name.
UPDATE experiments SET tags = tags - %(names)s::text[] WHERE id = %(id)s;

-- name: set_goals
-- Of which metrics more is better, or less; of some nothing is said any more.
UPDATE experiments SET goals = (goals - %(remove)s::text[]) || %(goals)s WHERE id = %(id)s;

-- name: link_experiments
-- Link two experiments, once.
INSERT INTO experiment_relationships (from_id, kind, to_id) VALUES (%(id)s, %(kind)s, %(to_id)s) ON CONFLICT DO NOTHING;

-- name: unlink_experiments
-- Remove a link.
DELETE FROM experiment_relationships WHERE from_id = %(id)s AND kind = %(kind)s AND to_id = %(to_id)s;
