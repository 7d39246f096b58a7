-- Which runs people mean, by id or name; also what a shell completes.

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
-- Who is logged in.
SELECT session_user;

-- name: complete_runs
-- The caller's newest runs, for completion.
SELECT id, slurm_job_id, array_job_id, array_task_id, job_name, status::text
FROM run_overview
WHERE user_name = ANY (%(users)s)
ORDER BY id DESC
LIMIT %(limit)s;

-- name: complete_experiments
-- Experiments whose name begins so, for completion.
SELECT name, user_name
FROM experiments
WHERE starts_with(name, %(beginning)s)
ORDER BY id DESC
LIMIT %(limit)s;

-- name: complete_tags
-- Tags of runs whose name begins so, for completion.
SELECT DISTINCT tag
FROM runs, jsonb_object_keys(CASE jsonb_typeof(tags) WHEN 'object' THEN tags END) tag
WHERE id = ANY (%(ids)s) AND starts_with(tag, %(beginning)s)
ORDER BY tag
LIMIT %(limit)s;

-- name: limit_statements
-- Nobody waits long for a word to be completed.
SELECT set_config('statement_timeout', '1s', false);

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

-- name: fetch_experiment_names
-- The names of all experiments.
SELECT name FROM experiments ORDER BY id DESC;

-- name: fetch_tags_of_runs
-- The names of the tags that any of some runs has.
SELECT DISTINCT tag FROM runs, jsonb_object_keys(CASE jsonb_typeof(tags) WHEN 'object' THEN tags END) tag
WHERE id = ANY (%(ids)s);

-- name: fetch_known_names
-- The names that the newest runs have, in what may be asked for by name.
WITH RECURSIVE newest AS MATERIALIZED (
    SELECT user_name, partition, job_name, tags, args, last FROM run_overview ORDER BY id DESC LIMIT %(newest)s
), nested AS (
    SELECT e.key AS name, e.value, 1 AS depth
    FROM newest, jsonb_each(CASE jsonb_typeof(args) WHEN 'object' THEN args END) e
    UNION
    SELECT n.name || '.' || e.key, e.value, n.depth + 1
    FROM nested n, jsonb_each(CASE jsonb_typeof(n.value) WHEN 'object' THEN n.value END) e
    WHERE n.depth < 8
), names AS (
    SELECT 'metrics' AS scope, name FROM newest, jsonb_object_keys(CASE jsonb_typeof(last) WHEN 'object' THEN last END) name
    UNION SELECT 'args', name FROM nested
    UNION SELECT 'tags', name FROM newest, jsonb_object_keys(CASE jsonb_typeof(tags) WHEN 'object' THEN tags END) name
    UNION SELECT 'user', user_name FROM newest
    UNION SELECT 'partition', partition FROM newest WHERE partition IS NOT NULL
    UNION SELECT 'name', job_name FROM newest WHERE job_name IS NOT NULL
)
SELECT scope, array_agg(name ORDER BY name) FROM names GROUP BY scope;
