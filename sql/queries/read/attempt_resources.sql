-- What attempts asked for and what they used.

-- name: fetch_resources
-- What attempts of runs asked for and what they used; all of them, or each run's latest.
SELECT v.run_id, v.attempt, a.time_ended IS NOT NULL AS over, v.elapsed_s,
       extract(epoch FROM r.time_limit)::double precision AS time_limit_s, v.cpus, v.cpu_s,
       v.memory_requested_bytes, v.memory_used_bytes
FROM run_overview r
JOIN attempt_overview a ON a.run_id = r.id
JOIN attempt_resources v ON v.run_id = a.run_id AND v.attempt = a.attempt
WHERE r.id = ANY (%(ids)s) AND (NOT %(latest)s OR a.attempt = r.attempt)
ORDER BY v.run_id, v.attempt;
