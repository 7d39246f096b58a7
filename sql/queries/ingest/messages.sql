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

-- name: find_goals
-- What goal() said of the metrics of a run's experiment: whether the run's owner may say that, and whether it says so
-- already. In the personal mode the login that we have stands for the owner of the runs, whatever they are called. The
-- experiment of all who name none has no goals.
SELECT e.id, e.name, e.user_name, e.user_name IN (r.user_name, session_user) AND e.name <> 'default' AS taken,
       e.goals @> %(value)s::jsonb AS known
FROM runs r JOIN experiments e ON e.id = r.experiment_id
WHERE r.id = %(run_id)s;

-- name: lock_experiment
-- Its owner may hold it for long: nobody waits.
SELECT id FROM experiments WHERE id = %(id)s FOR NO KEY UPDATE NOWAIT;

-- name: merge_goals
-- What goal() said.
UPDATE experiments SET goals = goals || %(value)s::jsonb WHERE id = %(id)s;

-- name: note_refusal
-- In the run's timeline, once, what the run can't have.
INSERT INTO transitions (run_id, attempt, source, raw)
SELECT %(run_id)s, %(attempt)s, 'relay', %(raw)s
WHERE NOT EXISTS (SELECT FROM transitions t WHERE t.run_id = %(run_id)s AND t.source = 'relay' AND t.raw = %(raw)s);

-- name: merge_args
-- What set_args() said.
UPDATE runs SET args = CASE jsonb_typeof(args) WHEN 'object' THEN args ELSE '{}' END || %(value)s::jsonb, time_updated = now()
WHERE id = %(run_id)s;

-- name: merge_tags
-- What set_tags() said.
UPDATE runs SET tags = CASE jsonb_typeof(tags) WHEN 'object' THEN tags ELSE '{}' END || %(value)s::jsonb, time_updated = now()
WHERE id = %(run_id)s;
