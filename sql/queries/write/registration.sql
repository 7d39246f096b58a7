-- What a submission hands in.

-- name: wait_briefly
-- Somebody who holds the experiment in an open transaction keeps nobody from their work for long.
SET LOCAL lock_timeout = '1s';

-- name: register_submission
-- A submission and a run for each of its tasks; again with the same UUID, it changes nothing.
SELECT task, run_id FROM register_submission(%(submission)s, %(secret)s, %(run)s, %(tasks)s);

-- name: fetch_database_identity
-- Which database this is, whatever it is called: a copy in another cluster is another one, a standby is the same.
SELECT format('%%s/%%s/%%s', s.system_identifier, d.oid, %(schema)s::text)
FROM pg_control_system() AS s, pg_database AS d WHERE d.datname = current_database();
