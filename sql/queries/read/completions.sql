-- What a shell completes.

-- name: complete_runs
-- The caller's newest runs, for completion.
SELECT id, slurm_job_id, array_job_id, array_task_id, job_name, status
FROM run_overview
WHERE user_name = ANY (%(users)s) AND NOT archived
ORDER BY id DESC
LIMIT %(limit)s;

-- name: complete_experiments
-- Experiments whose name begins so, for completion.
SELECT name, user_name
FROM experiments
WHERE starts_with(name, %(beginning)s) AND NOT archived
ORDER BY id DESC
LIMIT %(limit)s;

-- name: complete_audiences
-- Logins of this server, and the caller's accounts.
SELECT * FROM (SELECT 'account:' || unnest(my_accounts()), 'account'
               UNION ALL SELECT rolname::text, 'user' FROM pg_roles WHERE rolcanlogin) a (word, kind)
WHERE starts_with(word, %(beginning)s)
ORDER BY word
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
