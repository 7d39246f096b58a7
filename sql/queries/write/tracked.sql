-- Runs that scripts track through the API, without collector and Slurm's word. Row-level security leaves everybody
-- their own.

-- name: create_run
-- A run that waits for its start.
INSERT INTO runs (experiment_id, status, kind, job_name, cluster, slurm_job_id, array_job_id, array_task_id, partition,
                  time_updated)
VALUES (%(experiment)s, 'PENDING', 'client', %(job_name)s, %(cluster)s, %(job_id)s, %(array_job_id)s, %(task)s,
        %(partition)s, now())
RETURNING id;

-- name: lock_run
-- A run of the caller's own, which nobody else changes until the transaction ends.
SELECT r.attempt, r.time_started IS NOT NULL AS started, r.submission IS NOT NULL AS submitted,
       coalesce((SELECT max(m.step) + 1 FROM metrics m WHERE m.run_id = r.id AND m.step < 9223372036854775807), 0)
       AS next_step
FROM runs r
WHERE r.id = %(id)s
FOR NO KEY UPDATE;

-- name: fetch_progress
-- The greatest progress at a step of a run; NULL where none was logged.
SELECT max(progress) FROM metrics WHERE run_id = %(id)s AND step = %(step)s AND progress <> 0;

-- name: start_run
-- A run that begins, perhaps again.
UPDATE runs
SET status = 'RUNNING', attempt = %(attempt)s, time_started = now(), time_ended = NULL, time_updated = now(),
    exit_code = NULL, exit_signal = NULL, reason = NULL, node_list = %(node)s
WHERE id = %(id)s;

-- name: start_attempt
-- Its attempt.
INSERT INTO attempts (run_id, attempt, slurm_job_id, status, time_started, node_list, batch_host)
VALUES (%(id)s, %(attempt)s, %(job_id)s, 'RUNNING', now(), %(node)s, %(node)s)
ON CONFLICT (run_id, attempt) DO NOTHING;

-- name: end_run
-- A run that is over.
UPDATE runs
SET status = %(status)s, time_ended = now(), time_updated = now(), exit_code = %(exit_code)s,
    exit_signal = %(exit_signal)s, reason = %(reason)s
WHERE id = %(id)s;

-- name: end_attempt
-- Its attempt.
UPDATE attempts
SET status = %(status)s, time_ended = now(), exit_code = %(exit_code)s, exit_signal = %(exit_signal)s,
    reason = %(reason)s
WHERE run_id = %(id)s AND attempt = %(attempt)s;

-- name: note_transition
-- What its script said.
INSERT INTO transitions (run_id, attempt, status, source, reason)
VALUES (%(id)s, %(attempt)s, %(status)s, 'user', %(reason)s);

-- name: touch_run
-- Its metrics changed; a trigger notes the latest ones.
UPDATE runs SET time_updated = clock_timestamp() WHERE id = %(id)s;

-- name: set_run_args
-- Arguments; given ones are merged over those that are there, or replace them.
UPDATE runs
SET args = CASE WHEN %(merge)s AND jsonb_typeof(args) = 'object' THEN args ELSE '{}' END || %(args)s, time_updated = now()
WHERE id = %(id)s;
