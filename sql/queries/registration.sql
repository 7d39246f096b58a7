-- name: wait_briefly
-- Somebody who holds the experiment in an open transaction keeps nobody from their work for long.
SET LOCAL lock_timeout = '1s';

-- name: register_submission
-- A submission and a run for each of its tasks; again with the same UUID, it changes nothing.
SELECT task, run_id FROM register_submission(%(submission)s, %(secret)s, %(run)s, %(tasks)s);
