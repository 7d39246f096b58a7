-- The sessions that hold the locks for which a statement waited in vain.

-- name: list_holders
-- Other sessions that hold locks here: with the strongest first, then the oldest. Who may not read others' statistics
-- learns of them all the same, but neither their age nor their program.
SELECT a.pid, a.usename::text, extract(epoch FROM clock_timestamp() - a.xact_start)::double precision,
       nullif(a.application_name, '')
FROM pg_stat_activity a
CROSS JOIN LATERAL (
    SELECT max(array_position('{RowShareLock, RowExclusiveLock, ShareUpdateExclusiveLock, ShareLock, ShareRowExclusiveLock,
                                ExclusiveLock, AccessExclusiveLock}', l.mode)) AS rank
    FROM pg_locks l LEFT JOIN pg_class c ON c.oid = l.relation
    WHERE l.pid = a.pid AND l.granted AND l.mode <> 'AccessShareLock'
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (c.relnamespace = current_schema()::regnamespace OR l.locktype = 'advisory')
) held
WHERE a.pid <> pg_backend_pid() AND a.usename IS NOT NULL AND held.rank IS NOT NULL
ORDER BY greatest(held.rank, 2) DESC, a.xact_start NULLS FIRST
LIMIT 3;
