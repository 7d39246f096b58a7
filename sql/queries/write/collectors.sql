-- Collectors: keys of runs, heartbeat, lease, and what keeps one alive.

-- name: fetch_run_keys
-- Runs by what the wire calls them, with the secret of their submission, and whose they are. A submission that never
-- had a run is there to try an echo: it counts as run 0.
SELECT w.submission, w.task, coalesce(r.id, 0), k.secret, coalesce(r.user_name, '')
FROM unnest(%(submissions)s::uuid[], %(tasks)s::integer[]) AS w (submission, task)
JOIN run_keys k ON k.submission = w.submission
LEFT JOIN runs r ON r.submission = w.submission AND r.task = w.task
WHERE r.id IS NOT NULL
   OR w.task = -1 AND NOT EXISTS (SELECT FROM runs o WHERE o.submission = w.submission);

-- name: fetch_rights
-- Who is logged in, and whether they may act for everybody.
SELECT session_user::text, acts_for_all();

-- name: beat
-- A collector lives, and this is what it does.
INSERT INTO collectors AS c (id, host, pid, addresses, stats)
VALUES (%(id)s, %(host)s, %(pid)s, %(addresses)s, %(stats)s::jsonb)
ON CONFLICT (id) DO UPDATE SET addresses = excluded.addresses, stats = excluded.stats, heartbeat = now();

-- name: relax_commit
-- A heartbeat need not reach the disk at once.
SET LOCAL synchronous_commit = off;

-- name: lock_lease
-- One collector at a time asks for the lease. Advisory locks are anybody's who can connect; this is for collectors.
LOCK TABLE collectors IN SHARE UPDATE EXCLUSIVE MODE;

-- name: take_lease
-- Take the lease, or keep it; nothing comes back while another collector has it.
UPDATE collectors c SET lease = now() + make_interval(secs => %(seconds)s)
WHERE c.id = %(id)s AND NOT EXISTS (SELECT FROM collectors o WHERE o.id <> c.id AND o.lease > now())
RETURNING id;

-- name: delete_collector
-- A collector ends.
DELETE FROM collectors WHERE id = %(id)s;

-- name: delete_silent_collectors
-- Forget collectors that ended without saying so, long ago.
DELETE FROM collectors WHERE heartbeat < now() - interval '1 day';

-- name: list_collectors
-- What `hpctrack collector --status` shows.
SELECT id, host, pid, addresses, started, heartbeat, stats,
       extract(epoch FROM now() - heartbeat)::double precision AS silent,
       coalesce(lease > now(), false) AS reconciles
FROM collectors ORDER BY started;

-- name: count_live_runs
-- Runs that may still have something to say; commands tell of their end themselves, if they can.
SELECT count(*) FROM runs r
WHERE r.time_ended IS NULL AND r.submission IS NOT NULL
  AND (r.kind = 'batch' OR r.time_created > now() - interval '1 hour'
       OR EXISTS (SELECT FROM streams s WHERE s.run_id = r.id AND s.time_last > now() - interval '1 hour'));

-- name: seconds_since_last_end
-- Slurm may tell of an end a minute late: what counts is when it was.
SELECT extract(epoch FROM now() - max(time_ended)) FROM runs WHERE submission IS NOT NULL;

-- name: count_other_sessions
-- Who else uses this database, now or a moment ago: an analysis is not cut short.
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND application_name <> %(own)s
  AND pid <> pg_backend_pid() AND (state <> 'idle' OR state_change > now() - make_interval(secs => %(seconds)s));

-- name: end_standstill
-- End sessions of collectors that stand still in mid-COPY (their host does, or somebody stopped them) with journals
-- locked that others may have to serve: idle_in_transaction_session_timeout does not see these.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND application_name = ANY(%(own)s)
  AND state = 'active' AND wait_event = 'ClientRead' AND query_start < now() - make_interval(secs => %(seconds)s);

-- name: fetch_known_runs
-- Which of these runs exist, by what the wire calls them, their last attempt, and whether that is over for long.
SELECT submission, task, id, attempt, over FROM known_runs(%(submissions)s::uuid[], %(tasks)s::integer[]);

-- name: fetch_deleted_runs
-- Which of these were deleted from this database, as those who had their secrets know them.
SELECT d.submission, d.task
FROM unnest(%(submissions)s::uuid[], %(tasks)s::integer[], %(keys)s::bytea[]) AS w (submission, task, key)
     JOIN deletions d ON d.submission = w.submission AND d.task = w.task AND d.key = w.key;

-- name: fetch_runs_watermarks
-- How far the journals of these runs are in.
SELECT run_id, journal_id, watermark FROM streams WHERE run_id = ANY (%(runs)s::bigint[]);

-- name: note_waiting
-- What is known to wait in the spool, of all runs of this spool's submissions.
UPDATE run_latest l SET waiting = coalesce(w.rows, 0)
FROM runs r LEFT JOIN unnest(%(runs)s::bigint[], %(rows)s::bigint[]) AS w (run_id, rows) ON w.run_id = r.id
WHERE l.run_id = r.id AND (l.waiting > 0 OR w.rows > 0) AND l.waiting <> coalesce(w.rows, 0);

-- name: insert_waiting
-- Runs of which nothing but this is known yet.
INSERT INTO run_latest (run_id, waiting)
SELECT * FROM unnest(%(runs)s::bigint[], %(rows)s::bigint[]) ON CONFLICT DO NOTHING;
