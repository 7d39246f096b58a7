-- Lists of runs. What is in braces is filled in by hpctrack.store.read.filters: fixed expressions and placeholders.

-- name: list_runs
-- Runs that match, in some order.
SELECT id, experiment, status, time_created, time_started, time_ended, for_lists(tags) AS tags,
       for_lists(args) AS args, user_name, cluster, kind, archived,
       slurm_job_id, array_job_id, array_task_id, het_job_id, job_name, partition, account, qos, comment,
       time_limit, attempt, exit_code, exit_signal, reason, node_list, slurm_state, missing_since, silent_since,
       time_stopped, suspended, last_step, for_lists(last) AS last, rows, lost, waiting
FROM (SELECT run_overview.*, {key} AS key FROM run_overview {joins} WHERE {condition} AND {behind}) keyed
ORDER BY {order}
LIMIT {limit};

-- name: count_runs
-- How many runs match, by status.
SELECT status, count(*)
FROM run_overview {joins}
WHERE {condition}
GROUP BY status
ORDER BY count(*) DESC, status;

-- name: fetch_page
-- A page of lines, and the states of the runs that match.
WITH found AS MATERIALIZED (
    SELECT id, status, {array} AS array_of, {key} AS key
    FROM {runs} {joins}
    WHERE {condition} AND {behind}
    {window}
), lines AS ({lines})
SELECT ARRAY (SELECT id FROM lines) AS ids,
       ARRAY (SELECT array_of FROM lines WHERE runs > 1) AS arrays,
       (SELECT coalesce(jsonb_object_agg(status, runs), '{{}}')
        FROM (SELECT status, count(*) AS runs FROM found GROUP BY status) by_status) AS counts,
       (SELECT min(id) FROM found) AS oldest,
       {filled} AS filled, {complete} AS complete;

-- name: newest_runs
-- What fetch_page looks through first, so that it takes as long with a million runs as with ten thousand. The limit
-- keeps conditions out: for those that few meet, PostgreSQL would walk through the latest values of all runs.
(SELECT * FROM run_overview WHERE {behind} ORDER BY id DESC LIMIT {reach}) run_overview

-- name: newest_runs_of
-- The same where only some users' are asked for: those among the newest of everybody's. Their own newest stand far apart.
(SELECT * FROM run_overview
 WHERE {behind} AND user_name = ANY ({users}::text[]) AND id > coalesce((SELECT nth_newest_run({reach}, {after})), 0)) run_overview

-- name: page_window
-- As many of them as a person may want counted.
ORDER BY id DESC LIMIT {window}

-- name: page_filled
-- Whether there may be more in the window.
(SELECT count(*) FROM found) = {window}

-- name: page_complete
-- Whether nothing was left out.
(SELECT count(*) FROM found) < {window}
AND NOT EXISTS (SELECT FROM run_overview WHERE {behind} ORDER BY id DESC OFFSET {reach} LIMIT 1)

-- name: page_complete_of
-- The same where only some users' are asked for.
(SELECT count(*) FROM found) < {window} AND nth_newest_run({reach}, {after}) IS NULL

-- name: page_lines
-- A line for each run.
SELECT id, array_of, 1 AS runs FROM found ORDER BY {order} LIMIT {limit}

-- name: folded_lines
-- A line for each run or job array, the newest first.
SELECT max(id) AS id, array_of, count(*) AS runs FROM found
GROUP BY array_of, CASE WHEN array_of IS NULL THEN id END
ORDER BY max(id) DESC LIMIT {limit}

-- name: fetch_arrays_at
-- Arrays that the page before may have shown: tasks of one have neighbouring ids, but for what others inserted meanwhile.
SELECT DISTINCT submission
FROM run_overview {joins}
WHERE id >= {after} AND id < {after} + 1000 AND array_task_id IS NOT NULL AND submission IS NOT NULL AND {condition};

-- name: fetch_arrays
-- Those tasks of job arrays that match, added up by state.
SELECT submission, status, array_agg(array_task_id) AS tasks, array_agg(id) AS ids, count(*) FILTER (WHERE time_ended IS NULL) AS unended,
       min(time_started) AS time_started, max(time_ended) AS time_ended,
       count(*) FILTER (WHERE time_started IS NOT NULL AND coalesce(time_ended, time_stopped) IS NULL) AS running,
       max(coalesce(time_ended, time_stopped)) FILTER (WHERE time_started IS NOT NULL) AS time_stopped,
       least(sum(rows), 9223372036854775807)::bigint AS rows, least(sum(lost), 9223372036854775807)::bigint AS lost, least(sum(waiting), 9223372036854775807)::bigint AS waiting
FROM run_overview {joins}
WHERE submission = ANY ({arrays}::uuid[]) AND {condition}
GROUP BY submission, status
ORDER BY submission, count(*) DESC, status;
