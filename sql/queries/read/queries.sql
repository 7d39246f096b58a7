-- What the command line and the API read. Runs come from run_overview, so that lists never scan
-- metrics and nobody sees more than they may.

-- name: get_run
-- Everything about one run that is in its own row.
SELECT id, experiment, status, time_created, time_started, time_ended, tags, args, user_name, cluster, kind, archived,
       slurm_job_id, array_job_id, array_task_id, het_job_id, job_name, partition, time_limit, attempt, exit_code,
       exit_signal, reason, node_list, slurm_state, missing_since, silent_since, time_stopped, suspended,
       last_step, last,
       rows, lost, waiting,
       comment, env, submission, account, qos, stdout_path, stderr_path, time_seen
FROM run_overview
WHERE id = %(id)s;

-- name: fetch_transitions
-- The timeline of a run, in the order in which it was learnt: clocks differ, and Slurm tells whole seconds.
SELECT run_id, attempt, status, time, source, reason, raw
FROM transitions
WHERE run_id = %(id)s
ORDER BY id;

-- name: fetch_attempts
-- The executions of a run.
SELECT attempt, status, time_submitted, time_started, time_ended, exit_code, exit_signal, slurm_exit_code,
       slurm_exit_signal, node_list, batch_host, reason, stderr_tail, coalesce(resources, '{}') AS resources
FROM attempt_overview
WHERE run_id = %(id)s
ORDER BY attempt;

-- name: fetch_submission
-- What was handed in; nothing where its owner keeps it to himself.
SELECT uuid, user_name, cluster, time, submit_line, script, script_path, script_sha256, work_dir, git, env
FROM submissions
WHERE uuid = %(uuid)s;

-- name: fetch_relatives
-- Runs that submitted this one from inside their job, and runs that this one submitted. Anybody may link to a run.
SELECT from_id, kind, to_id
FROM ((SELECT from_id, kind, to_id FROM run_relationships WHERE from_id = %(id)s ORDER BY to_id, kind LIMIT 1000)
      UNION
      (SELECT from_id, kind, to_id FROM run_relationships WHERE to_id = %(id)s ORDER BY from_id, kind LIMIT 100)) AS ends
ORDER BY from_id, to_id;

-- name: fetch_usage
-- What each attempt used: the greatest value of each figure (`messages.FIGURES`) on each node, added up.
SELECT attempt, count(*) AS nodes, sum(samples)::bigint AS samples, min(time_first) AS time_first,
       max(time_last) AS time_last, sum(cores) AS cores{totals}
FROM (SELECT attempt, node, count(*) AS samples, min(time) AS time_first, max(time) AS time_last,
             CASE WHEN max(time) - min(time) >= interval '1 second'
                  THEN (max(cpu_s) - min(cpu_s)) / extract(epoch FROM max(time) - min(time))::double precision END AS cores{greatest}
      FROM usage
      WHERE run_id = %(id)s
      GROUP BY attempt, node) per_node
GROUP BY attempt
ORDER BY attempt;

-- name: fetch_losses
-- What did not arrive whole, over all journals of a run.
SELECT coalesce(sum(lost), 0)::bigint AS lost, coalesce(sum(torn), 0)::bigint AS torn,
       coalesce(sum(rejected), 0)::bigint AS rejected, coalesce(sum(replaced), 0)::bigint AS replaced
FROM streams
WHERE run_id = %(id)s;

-- name: fetch_rejections
-- Why PostgreSQL refused rows of a run.
SELECT reason, count(*)
FROM rejected
WHERE run_id = %(id)s
GROUP BY reason
ORDER BY count(*) DESC, reason
LIMIT 5;

-- name: find_silent_clients
-- Runs whose programs have said nothing for minutes, the first of them.
SELECT id FROM run_overview
WHERE status = 'RUNNING' AND kind = 'client' AND user_name = ANY (%(users)s) AND silent_since IS NOT NULL
ORDER BY id
LIMIT 20;

-- name: fetch_clusters
-- What the reconciler knows about each Slurm cluster.
SELECT name, time_checked, unreachable_since, error, members_checked, members_error,
       EXISTS (SELECT FROM runs WHERE cluster = name AND time_ended IS NULL AND submission IS NOT NULL) AS awaited
FROM clusters
ORDER BY name;

-- name: fetch_now
-- The time by PostgreSQL's clock, whenever the transaction began.
SELECT clock_timestamp();

-- name: fetch_relay_lag
-- Seconds between what the relay told first, by its node's clock, and when it was stored; NULL if it told nothing.
SELECT extract(epoch FROM (SELECT min(time_first) FROM streams WHERE run_id = %(id)s)
                        - (SELECT min(time) FROM transitions WHERE run_id = %(id)s AND source = 'relay'))::double precision
       AS lag;
