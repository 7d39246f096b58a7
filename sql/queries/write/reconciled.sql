-- What the reconciler reads and writes. store/write/reconciled.py names the columns.

-- name: stored_run
-- The columns of a run that the two statements below return: the fields of model.StoredRun, in their order. Whatever time
-- of submission people give, it can be reckoned with.
r.id AS run_id, r.kind, r.status::text, coalesce(s.slurm_user, r.user_name) AS slurm_user, r.cluster,
least(greatest(coalesce(s.time, r.time_created), '1970-01-02Z'), '9000-01-01Z') AS time_submitted,
r.slurm_job_id, r.array_job_id, r.array_task_id, r.het_job_id, r.attempt, r.time_started, r.time_ended,
r.time_seen, r.missing_since, r.exit_code, r.exit_signal, r.reason, r.node_list, r.slurm_state, r.partition,
r.account, r.qos, r.job_name, r.time_limit, r.stdout_path, r.stderr_path, r.recheck_after,
r.time_stopped, r.suspended, r.sluid, r.submission, r.user_name AS owner

-- name: load_open_runs
-- The runs of a cluster that are not over, or whose ends are to be looked up once more; of one user, or of all; of all
-- runs, or of the given ones. Anybody may invent millions: of each login that has more than so many there is a part, from
-- another place on each time.
WITH RECURSIVE logins (login) AS (
    SELECT min(user_name) FROM runs
    WHERE cluster = %(cluster)s AND (time_ended IS NULL OR recheck_after IS NOT NULL) AND submission IS NOT NULL
      AND %(ids)s::bigint[] IS NULL
    UNION ALL
    SELECT (SELECT min(user_name) FROM runs
            WHERE cluster = %(cluster)s AND user_name > login
              AND (time_ended IS NULL OR recheck_after IS NOT NULL) AND submission IS NOT NULL)
    FROM logins WHERE login IS NOT NULL
), chosen AS (
    SELECT part.id
    FROM logins
    CROSS JOIN LATERAL (
        SELECT min(id) + ((max(id) - min(id)) * %(turn)s::double precision)::bigint AS start FROM runs
        WHERE cluster = %(cluster)s AND user_name = login
          AND (time_ended IS NULL OR recheck_after IS NOT NULL) AND submission IS NOT NULL) turn
    CROSS JOIN LATERAL (
        (SELECT id FROM runs
         WHERE cluster = %(cluster)s AND user_name = login AND id >= start
           AND (time_ended IS NULL OR recheck_after IS NOT NULL) AND submission IS NOT NULL
         ORDER BY id LIMIT %(most)s)
        UNION ALL
        (SELECT id FROM runs
         WHERE cluster = %(cluster)s AND user_name = login AND id < start
           AND (time_ended IS NULL OR recheck_after IS NOT NULL) AND submission IS NOT NULL
         ORDER BY id LIMIT %(most)s)
        LIMIT %(most)s) part
    UNION ALL
    SELECT unnest(%(ids)s::bigint[])
)
SELECT {columns}
FROM chosen JOIN runs r USING (id) LEFT JOIN submissions s ON s.uuid = r.submission
WHERE r.cluster = %(cluster)s AND (r.time_ended IS NULL OR r.recheck_after <= now()) AND r.submission IS NOT NULL
  AND (%(user)s::text IS NULL OR coalesce(s.slurm_user, r.user_name) = %(user)s)
ORDER BY r.id;

-- name: lock_runs
-- The same of given runs, which nobody else changes until the transaction ends.
SELECT {columns}
FROM runs r LEFT JOIN submissions s ON s.uuid = r.submission
WHERE r.id = ANY (%(ids)s)
ORDER BY r.id
FOR NO KEY UPDATE OF r;

-- name: load_attempts
-- Their attempts, the newest of each: people may invent any number. The tail of standard error stays where it is.
SELECT r.id AS run_id, a.attempt, a.status::text, a.time_submitted, a.time_started, a.time_ended, a.exit_code,
       a.exit_signal, a.slurm_exit_code, a.slurm_exit_signal, a.node_list, a.batch_host, a.reason, a.sluid,
       NULL::text AS stderr_tail, a.resources
FROM unnest(%(ids)s::bigint[]) AS r (id)
CROSS JOIN LATERAL (SELECT * FROM attempts WHERE run_id = r.id ORDER BY attempt DESC LIMIT %(most)s) a
ORDER BY r.id, a.attempt;

-- name: find_ended_runs
-- Runs that are over although Slurm goes on with their jobs.
SELECT id FROM runs
WHERE cluster = %(cluster)s AND kind = 'batch' AND time_ended IS NOT NULL AND submission IS NOT NULL
  AND (slurm_job_id = ANY (%(jobs)s)
       OR (array_job_id, array_task_id) IN (SELECT * FROM unnest(%(arrays)s::bigint[], %(tasks)s::integer[])));

-- name: find_lately_ended
-- A job that ended a while ago, of one user or of anybody: Slurm may requeue it.
SELECT r.id FROM runs r LEFT JOIN submissions s ON s.uuid = r.submission
WHERE r.cluster = %(cluster)s AND r.kind = 'batch' AND r.time_ended > now() - %(within)s
  AND r.submission IS NOT NULL AND (%(user)s::text IS NULL OR coalesce(s.slurm_user, r.user_name) = %(user)s)
LIMIT 1;

-- name: add_array_tasks
-- Runs for tasks that Slurm has in an array of ours, like the run of another task.
WITH fresh AS (
    INSERT INTO runs (experiment_id, status, time_created, comment, tags, args, submission, task, user_name, cluster,
                      array_job_id, array_task_id, job_name, partition, account, qos, time_limit, kind, time_updated)
    SELECT r.experiment_id, 'PENDING', r.time_created, r.comment, r.tags, r.args, r.submission, w.task, r.user_name,
           r.cluster, r.array_job_id, w.task, r.job_name, r.partition, r.account, r.qos, r.time_limit, r.kind, now()
    FROM unnest(%(like)s::bigint[], %(tasks)s::integer[]) AS w(id, task) JOIN runs r ON r.id = w.id
    -- Looked for first: an attempt to insert takes a number.
    WHERE NOT EXISTS (SELECT FROM runs known WHERE known.submission = r.submission AND known.task = w.task)
    ON CONFLICT (submission, task) DO NOTHING
    RETURNING id, time_created
), noted AS (
    INSERT INTO transitions (run_id, status, time, source)
    SELECT id, 'PENDING', time_created, 'squeue' FROM fresh
)
SELECT id FROM fresh;

-- name: update_runs
-- Write what the reconciler decided.
UPDATE runs r
SET status = c.status::runstatus, slurm_job_id = c.slurm_job_id, attempt = c.attempt, time_started = c.time_started,
    time_ended = c.time_ended, time_seen = c.time_seen, missing_since = c.missing_since, exit_code = c.exit_code,
    exit_signal = c.exit_signal, reason = c.reason, node_list = c.node_list, slurm_state = c.slurm_state,
    partition = c.partition, account = c.account, qos = c.qos, job_name = c.job_name,
    time_limit = make_interval(secs => c.time_limit_s), stdout_path = c.stdout_path, stderr_path = c.stderr_path,
    recheck_after = c.recheck_after, time_stopped = c.time_stopped,
    suspended = make_interval(secs => c.suspended_s), sluid = c.sluid, time_updated = now()
FROM json_to_recordset(%(rows)s::json) AS c(
    id bigint, status text, slurm_job_id bigint, attempt integer, time_started timestamptz, time_ended timestamptz,
    time_seen timestamptz, missing_since timestamptz, exit_code integer, exit_signal integer, reason text,
    node_list text, slurm_state text, partition text, account text, qos text, job_name text,
    time_limit_s double precision, stdout_path text, stderr_path text, recheck_after timestamptz,
    time_stopped timestamptz, suspended_s double precision, sluid text)
WHERE r.id = c.id;

-- name: write_attempts
-- Write whole attempts; a tail of standard error that is not given stays.
INSERT INTO attempts (run_id, attempt, slurm_job_id, status, time_submitted, time_started, time_ended, exit_code,
                      exit_signal, slurm_exit_code, slurm_exit_signal, node_list, batch_host, reason, stderr_tail,
                      sluid, resources)
SELECT run_id, attempt, slurm_job_id, status::runstatus, time_submitted, time_started, time_ended, exit_code,
       exit_signal, slurm_exit_code, slurm_exit_signal, node_list, batch_host, reason, stderr_tail, sluid, resources
FROM json_to_recordset(%(rows)s::json) AS c(
    run_id bigint, attempt integer, slurm_job_id bigint, status text, time_submitted timestamptz,
    time_started timestamptz, time_ended timestamptz, exit_code integer, exit_signal integer,
    slurm_exit_code integer, slurm_exit_signal integer, node_list text, batch_host text, reason text,
    stderr_tail text, sluid text, resources jsonb)
ON CONFLICT (run_id, attempt) DO UPDATE
SET slurm_job_id = excluded.slurm_job_id, status = excluded.status, time_submitted = excluded.time_submitted,
    time_started = excluded.time_started, time_ended = excluded.time_ended, exit_code = excluded.exit_code,
    exit_signal = excluded.exit_signal, slurm_exit_code = excluded.slurm_exit_code,
    slurm_exit_signal = excluded.slurm_exit_signal, node_list = excluded.node_list,
    batch_host = excluded.batch_host, reason = excluded.reason, sluid = excluded.sluid,
    stderr_tail = coalesce(excluded.stderr_tail, attempts.stderr_tail), resources = excluded.resources;

-- name: add_transitions
-- In the order given.
INSERT INTO transitions (run_id, attempt, status, time, source, reason, raw)
SELECT run_id, attempt, status::runstatus, time, source, reason, raw
FROM json_to_recordset(%(rows)s::json) AS c(
    run_id bigint, attempt integer, status text, time timestamptz, source text, reason text, raw text);

-- name: set_run_env
-- What the node's environment has that the submission's has not.
UPDATE runs r SET env = c.env, time_updated = now()
FROM json_to_recordset(%(rows)s::json) AS c(id bigint, env jsonb)
WHERE r.id = c.id AND r.env IS DISTINCT FROM c.env;

-- name: find_silent_commands
-- The caller's commands outside Slurm on a machine that have been silent for a while: when they were heard of last,
-- whether the machine has been started since they were, and their names on the wire.
SELECT id AS run_id, heard, time_started < %(booted)s AS restarted, submission || ':' || task AS name
FROM (
    SELECT r.id, r.submission, r.task, a.batch_host, a.time_started,
           greatest(r.time_seen, a.time_started, (SELECT max(s.time_last) FROM streams s WHERE s.run_id = r.id)) AS heard
    FROM runs r JOIN attempts a ON a.run_id = r.id AND a.attempt = r.attempt
    WHERE r.kind = 'command' AND r.cluster IS NULL AND r.time_ended IS NULL AND r.submission IS NOT NULL
      AND r.user_name = session_user
) c
WHERE batch_host = %(node)s AND heard < now() - make_interval(secs => %(silence)s)
ORDER BY id;

-- name: check_lease
-- Whether a collector still is the one that reconciles; until the transaction ends nobody else becomes it.
SELECT lease > now() FROM collectors WHERE id = %(id)s FOR UPDATE;

-- name: get_cluster_checked
-- When Slurm last answered.
SELECT time_checked FROM clusters WHERE name = %(name)s;

-- name: note_cluster_answered
-- Slurm answered everything.
INSERT INTO clusters (name, time_checked) VALUES (%(name)s, now())
ON CONFLICT (name) DO UPDATE SET time_checked = now(), unreachable_since = NULL, error = NULL;

-- name: note_cluster_silent
-- Slurm did not answer: since the first time in a row.
INSERT INTO clusters (name, unreachable_since, error) VALUES (%(name)s, now(), %(error)s)
ON CONFLICT (name) DO UPDATE
SET unreachable_since = coalesce(clusters.unreachable_since, now()), error = excluded.error;
