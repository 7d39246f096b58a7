-- Runs that other sessions hold.

-- name: find_locked_runs
-- Runs that somebody else holds, or something of theirs that is changed with them; the others are locked now.
WITH wanted AS (SELECT unnest(%(runs)s::bigint[]) AS id),
r AS MATERIALIZED (SELECT id FROM runs WHERE id IN (SELECT id FROM wanted) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED),
l AS MATERIALIZED (SELECT run_id FROM run_latest WHERE run_id IN (SELECT id FROM wanted) ORDER BY run_id
                   FOR NO KEY UPDATE SKIP LOCKED),
a AS MATERIALIZED (SELECT run_id, attempt FROM attempts WHERE run_id IN (SELECT id FROM wanted) ORDER BY run_id, attempt
                   FOR NO KEY UPDATE SKIP LOCKED),
s AS MATERIALIZED (SELECT run_id, journal_id FROM streams WHERE run_id IN (SELECT id FROM wanted)
                   ORDER BY run_id, journal_id FOR NO KEY UPDATE SKIP LOCKED),
e AS MATERIALIZED (SELECT id FROM experiments
                   WHERE id IN (SELECT experiment_id FROM runs WHERE id IN (SELECT id FROM wanted))
                   ORDER BY id FOR KEY SHARE SKIP LOCKED)
SELECT id FROM runs WHERE id IN (SELECT id FROM wanted)
                      AND (id NOT IN (SELECT id FROM r) OR experiment_id NOT IN (SELECT id FROM e))
UNION SELECT run_id FROM run_latest WHERE run_id IN (SELECT id FROM wanted) AND run_id NOT IN (SELECT run_id FROM l)
UNION SELECT run_id FROM attempts WHERE run_id IN (SELECT id FROM wanted) AND (run_id, attempt) NOT IN (SELECT * FROM a)
UNION SELECT run_id FROM streams WHERE run_id IN (SELECT id FROM wanted) AND (run_id, journal_id) NOT IN (SELECT * FROM s);
