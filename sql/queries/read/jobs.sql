-- What is to be known of runs before their jobs are ended.

-- name: fetch_jobs
-- What Slurm calls the jobs of runs, whose they are, and where they run. Only the login that owns a row is proven.
SELECT r.id AS run_id, r.kind, r.status::text, r.time_ended IS NOT NULL AS over, r.submission, r.cluster,
       r.slurm_job_id AS job_id, r.array_job_id, r.array_task_id, a.batch_host AS host, r.user_name AS owner,
       r.user_name = session_user AS own, r.job_name,
       least(greatest(coalesce(s.time, r.time_created), '1970-01-02Z'), '9000-01-01Z') AS time_submitted,
       a.time_submitted AS time_queued
FROM run_overview r
LEFT JOIN submissions s ON s.uuid = r.submission
LEFT JOIN attempt_overview a ON a.run_id = r.id AND a.attempt = r.attempt
WHERE r.id = ANY (%(ids)s)
ORDER BY r.id;

-- name: find_other_tasks
-- Arrays of which other tasks than these are not over.
SELECT DISTINCT array_job_id FROM run_overview
WHERE submission = ANY (%(submissions)s::uuid[]) AND time_ended IS NULL AND NOT id = ANY (%(ids)s);
