-- What changed, for those who act on it.

-- name: take_events
-- The oldest events, which are gone with that. Ids become visible out of order, so that there is no cursor.
DELETE FROM events WHERE id = ANY (ARRAY(SELECT id FROM events ORDER BY id LIMIT %(limit)s FOR UPDATE SKIP LOCKED))
RETURNING id, run_id, experiment_id, kind, time;

-- name: discard_events
-- Some of those that nobody took for long.
DELETE FROM events
WHERE id = ANY (ARRAY(SELECT id FROM events WHERE time < now() - %(age)s ORDER BY id LIMIT %(limit)s
                      FOR UPDATE SKIP LOCKED));

-- name: fetch_channel
-- The channel on which announce() notifies.
SELECT current_schema();

-- name: listen
-- Be told of changes.
LISTEN {channel};

-- name: hear
-- Notifications come with the answer to any statement.
SELECT 1;
