-- Retention: what `hpctrack prune` counts and deletes. Only what the caller may delete: an owner of the tables
-- all runs, everybody else his own.

-- name: count_prunable
-- Runs that were over before a time, by experiment, with their rows of metrics, however those came in.
SELECT e.name AS experiment, array_agg(r.id ORDER BY r.id) AS ids, min(r.time_ended) AS oldest, max(r.time_ended) AS newest,
       least(coalesce(sum(CASE WHEN l.rows > 0 THEN l.rows
                               ELSE (SELECT count(*) FROM metrics m WHERE m.run_id = r.id) END), 0),
             9223372036854775807)::bigint AS rows
FROM runs r JOIN experiments e ON e.id = r.experiment_id LEFT JOIN run_latest l ON l.run_id = r.id
WHERE r.time_ended < %(before)s AND (%(experiment)s::text IS NULL OR e.name = %(experiment)s)
  AND (NOT row_security_active('runs') OR r.user_name = session_user)
GROUP BY e.name ORDER BY e.name;

-- name: prune_runs
-- Delete some of them, with all that belongs to them.
DELETE FROM runs d
WHERE d.id IN (
    SELECT r.id FROM runs r JOIN experiments e ON e.id = r.experiment_id
    WHERE r.time_ended < %(before)s AND (%(experiment)s::text IS NULL OR e.name = %(experiment)s)
      AND (NOT row_security_active('runs') OR r.user_name = session_user)
    ORDER BY r.id LIMIT %(limit)s
)
RETURNING d.submission;

-- name: prune_submissions
-- Delete those of which no run is left, with their keys.
DELETE FROM submissions s
WHERE s.uuid = ANY (%(submissions)s::uuid[]) AND NOT EXISTS (SELECT FROM runs r WHERE r.submission = s.uuid);

-- name: fetch_deleted_submissions
-- Those of which runs were deleted, or are to go, and no other is left. Others may be unknown because PostgreSQL was restored.
SELECT DISTINCT d.submission
FROM (SELECT submission, key FROM deletions
      UNION ALL SELECT submission, NULL FROM runs WHERE id = ANY (%(doomed)s::bigint[])) d
     JOIN unnest(%(submissions)s::uuid[], %(keys)s::bytea[]) AS w (submission, key)
     ON w.submission = d.submission AND w.key = coalesce(d.key, w.key)
WHERE d.submission = ANY (%(submissions)s::uuid[])
  AND NOT EXISTS (SELECT FROM runs r WHERE r.submission = d.submission AND NOT r.id = ANY (%(doomed)s::bigint[]));
