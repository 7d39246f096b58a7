-- Which rows of metrics stand. Statements without a semicolon at their end become part of others.

-- name: fetch_resumptions
-- Attempts after the first, and the least positive step that each brought.
SELECT run_id, attempt, min(first_step) AS first_step
FROM streams
WHERE run_id = ANY (%(ids)s::bigint[]) AND first_step IS NOT NULL
GROUP BY run_id, attempt;

-- name: fetch_resumptions_in_series
-- The same of a series, whose steps are its own.
SELECT run_id, attempt, first_idx AS first_step
FROM run_series
WHERE run_id = ANY (%(ids)s::bigint[]) AND series = %(series)s AND first_idx IS NOT NULL;

-- name: is_behind
-- A row that an attempt supersedes.
(m.run_id = {run_id} AND m.attempt < {attempt} AND m.step >= {first_step})

-- name: stands_by_conditions
-- One that is not superseded; rows that another client wrote have no attempt.
(m.numbered OR m.attempt IS NULL OR NOT ({superseded}))

-- name: stands_by_list
-- The same, for many runs.
(m.numbered OR m.attempt IS NULL
 OR NOT EXISTS (SELECT FROM unnest({}::bigint[], {}::integer[], {}::bigint[]) AS s (run_id, attempt, first_step)
                WHERE s.run_id = m.run_id AND s.attempt > m.attempt AND s.first_step <= m.step))
