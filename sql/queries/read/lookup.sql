-- Which runs people mean, by id or name.

-- name: find_runs
-- Runs by their own ids.
SELECT id, submission, kind, user_name, cluster, slurm_job_id, array_job_id, array_task_id, job_name, time_created
FROM run_overview
WHERE id = ANY (%(run_ids)s);

-- name: find_job
-- The runs of a job, whether plain, array, array task's raw id or heterogeneous.
SELECT id, submission, kind, user_name, cluster, slurm_job_id, array_job_id, array_task_id, job_name, time_created
FROM run_overview
WHERE slurm_job_id = %(job_id)s OR array_job_id = %(job_id)s OR het_job_id = %(job_id)s
ORDER BY id;

-- name: find_sluid
-- The run of which Slurm calls an execution so, too.
SELECT id, submission, kind, user_name, cluster, slurm_job_id, array_job_id, array_task_id, job_name, time_created
FROM run_overview
WHERE sluid = %(sluid)s OR id IN (SELECT run_id FROM attempts WHERE sluid = %(sluid)s)
ORDER BY id;

-- name: find_tasks
-- The runs of tasks of a job array.
SELECT id, submission, kind, user_name, cluster, slurm_job_id, array_job_id, array_task_id, job_name, time_created
FROM run_overview
WHERE array_job_id = %(job_id)s AND array_task_id = ANY (%(tasks)s)
ORDER BY id;

-- name: find_named
-- Runs by their job's name: a pattern for LIKE.
SELECT id, submission, kind, user_name, cluster, slurm_job_id, array_job_id, array_task_id, job_name, time_created
FROM run_overview
WHERE job_name LIKE %(name)s AND (%(users)s::text[] IS NULL OR user_name = ANY (%(users)s))
ORDER BY id DESC
LIMIT %(limit)s;

-- name: fetch_login
-- Who is logged in, and whether for everybody: as the schema's owner or a collector.
SELECT session_user::text, acts_for_all();
