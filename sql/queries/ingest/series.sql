-- Rows of series on their way in. The runs are held: nobody else writes them.

-- name: fetch_series
-- What is stored of series: their greatest steps, over all attempts.
SELECT s.run_id, s.series, max(s.next_idx), bool_or(s.numbered)
FROM unnest(%(runs)s::bigint[], %(series)s::text[]) AS k (run_id, series)
JOIN run_series s USING (run_id, series)
GROUP BY s.run_id, s.series;

-- name: give_way_in_series
-- Stored rows that were logged without a step make room for those that bring the step they stand at.
UPDATE series_rows s
SET idx = n.idx
FROM (SELECT s.idx AS before, %(next)s::bigint - 1 + row_number() OVER (ORDER BY s.idx) AS idx
      FROM series_rows s
      WHERE s.run_id = %(run)s AND s.series = %(series)s AND s.idx = ANY (%(brought)s::bigint[]) AND s.numbered) n
WHERE s.run_id = %(run)s AND s.series = %(series)s AND s.idx = n.before;

-- name: merge_series
-- Rows; of each metric the later value stays, unless the earlier is of a later attempt.
INSERT INTO series_rows AS s (run_id, series, idx, progress, time, attempt, numbered, values)
SELECT run_id, series, idx, progress, timestamptz 'epoch' + time * interval '1 microsecond', attempt, numbered, values
FROM jsonb_to_recordset(%(rows)s::jsonb)
     AS k (run_id bigint, series text, idx bigint, progress double precision, time bigint, attempt integer,
           numbered boolean, values jsonb)
ORDER BY run_id, series, idx
ON CONFLICT (run_id, series, idx) DO UPDATE
SET progress = CASE WHEN excluded.attempt < s.attempt THEN coalesce(s.progress, excluded.progress)
                    ELSE coalesce(excluded.progress, s.progress) END,
    time = CASE WHEN excluded.attempt < s.attempt THEN coalesce(s.time, excluded.time) ELSE coalesce(excluded.time, s.time) END,
    attempt = greatest(s.attempt, excluded.attempt),
    values = CASE WHEN excluded.attempt < s.attempt THEN excluded.values || s.values ELSE s.values || excluded.values END;

-- name: update_series
-- Counters of series.
INSERT INTO run_series AS s (run_id, series, attempt, rows, numbered, next_idx, first_idx)
SELECT run_id, series, attempt, rows, numbered, next_idx, first_idx
FROM jsonb_to_recordset(%(series)s::jsonb)
     AS k (run_id bigint, series text, attempt integer, rows bigint, numbered boolean, next_idx bigint, first_idx bigint)
ON CONFLICT (run_id, series, attempt) DO UPDATE
SET rows = s.rows + excluded.rows, numbered = s.numbered OR excluded.numbered,
    next_idx = greatest(s.next_idx, excluded.next_idx), first_idx = least(s.first_idx, excluded.first_idx);

-- name: count_series_rows
-- Rows of runs, besides those of their metrics.
UPDATE run_latest l
SET rows = l.rows + k.rows,
    last_time = greatest(l.last_time, timestamptz 'epoch' + k.time * interval '1 microsecond')
FROM unnest(%(runs)s::bigint[], %(rows)s::bigint[], %(times)s::bigint[]) AS k (run_id, rows, time)
WHERE l.run_id = k.run_id;
