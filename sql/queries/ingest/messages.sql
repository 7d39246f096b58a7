-- What messages of a node change.

-- name: update_stream_lost
-- What the relay said at the end: lines that could not be written to a journal.
INSERT INTO streams AS s (run_id, journal_id, attempt, lost) VALUES (%(run_id)s, %(journal)s, %(attempt)s, %(lost)s)
ON CONFLICT (run_id, journal_id) DO UPDATE SET lost = greatest(s.lost, excluded.lost);

-- name: insert_usage
-- A sample of what the job used on a node. The figures are those of `messages.FIGURES`.
INSERT INTO usage (run_id, attempt, node, time{columns})
VALUES (%(run_id)s, %(attempt)s, %(node)s, to_timestamp(%(time)s){values})
ON CONFLICT DO NOTHING;

-- name: count_events
-- How many events runs have in their timelines.
SELECT t.run_id, count(*) FROM transitions t
WHERE t.run_id = ANY (%(runs)s::bigint[]) AND t.source = 'relay' AND t.status IS NULL
GROUP BY t.run_id;

-- name: insert_event
-- Something that happened on the node, in the run's timeline.
INSERT INTO transitions (run_id, attempt, time, source, reason, raw)
VALUES (%(run_id)s, %(attempt)s, to_timestamp(%(time)s), 'relay', %(reason)s, %(raw)s);

-- name: merge_args
-- What set_args() said.
UPDATE runs SET args = CASE jsonb_typeof(args) WHEN 'object' THEN args ELSE '{}' END || %(value)s::jsonb, time_updated = now()
WHERE id = %(run_id)s;

-- name: merge_tags
-- What set_tags() said.
UPDATE runs SET tags = CASE jsonb_typeof(tags) WHEN 'object' THEN tags ELSE '{}' END || %(value)s::jsonb, time_updated = now()
WHERE id = %(run_id)s;
