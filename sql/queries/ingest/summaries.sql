-- Statistics of runs: what rows brought to them, and runs that are over.

-- name: lock_stats
-- Statistics of runs; those that are to be reckoned anew are left out.
SELECT run_id, scans, stats FROM run_latest
WHERE run_id = ANY (%(runs)s::bigint[]) AND NOT stale
ORDER BY run_id
FOR UPDATE;

-- name: update_stats
-- Statistics of runs, and how many rows they tell of besides.
UPDATE run_latest l
SET stats = k.stats, unsummed = greatest(l.unsummed - k.rows, 0)
FROM jsonb_to_recordset(%(runs)s::jsonb) AS k (run_id bigint, rows bigint, stats jsonb)
WHERE l.run_id = k.run_id;

-- name: find_stale
-- Runs whose statistics are not what their rows say; of those that go on, only what is known to be wrong. Rows that
-- somebody still keeps in memory come within a minute.
SELECT l.run_id, r.time_ended IS NOT NULL AS over, l.rows
FROM run_latest l JOIN runs r ON r.id = l.run_id
WHERE NOT l.settled AND (l.stale OR l.unsummed > 0 AND r.time_ended < now() - interval '1 minute')
ORDER BY r.time_ended IS NULL, l.run_id
LIMIT %(most)s;

-- name: lock_stale
-- One of them, and whether it still is one.
SELECT stale OR unsummed > 0 FROM run_latest WHERE run_id = %(run)s FOR UPDATE;

-- name: replace_stats
-- Statistics that were reckoned anew: what was brought before that is in them.
UPDATE run_latest SET stats = %(stats)s::jsonb, unsummed = 0, stale = false, scans = scans + 1 WHERE run_id = %(run)s;

-- name: replace_last
-- Latest values that an attempt of before had, and that were superseded, give way to those that stand.
UPDATE run_latest l
SET last = n.last
FROM (SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}') AS last
      FROM run_latest o CROSS JOIN LATERAL jsonb_each(%(last)s::jsonb) e
      WHERE o.run_id = %(run)s AND o.last ? e.key) n
WHERE l.run_id = %(run)s AND pg_column_size(n.last) < 1000000;

-- name: drop_settled
-- Statistics of a run that went on after it was over.
DELETE FROM run_metrics WHERE run_id = %(run)s;

-- name: lock_over
-- Runs that are over, and whose statistics tell of all rows.
SELECT l.run_id
FROM run_latest l JOIN runs r ON r.id = l.run_id
WHERE NOT l.settled AND NOT l.stale AND l.unsummed = 0 AND r.time_ended IS NOT NULL
ORDER BY l.run_id
LIMIT %(most)s
FOR UPDATE OF l SKIP LOCKED;

-- name: insert_metric_names
-- Names of metrics that are new.
INSERT INTO metric_names (name)
SELECT DISTINCT s.key FROM run_latest l CROSS JOIN LATERAL jsonb_object_keys(l.stats) AS s (key)
WHERE l.run_id = ANY (%(runs)s::bigint[]) AND NOT EXISTS (SELECT FROM metric_names n WHERE n.name = s.key)
ORDER BY s.key
ON CONFLICT DO NOTHING;

-- name: insert_run_metrics
-- Statistics of runs that are over, for good.
INSERT INTO run_metrics (run_id, name_id, count, nans, min, min_step, max, max_step, first, first_step, first_progress, last,
                         last_step, last_progress)
SELECT l.run_id, n.id, m.*
FROM run_latest l
CROSS JOIN LATERAL jsonb_each(l.stats) s
CROSS JOIN LATERAL statistics_of(s.value) m
JOIN metric_names n ON n.name = s.key
WHERE l.run_id = ANY (%(runs)s::bigint[])
ON CONFLICT (run_id, name_id) DO NOTHING;

-- name: settle
-- Their statistics are there now.
UPDATE run_latest SET stats = '{}', settled = true WHERE run_id = ANY (%(runs)s::bigint[]);
