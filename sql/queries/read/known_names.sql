-- Names that runs and experiments have.

-- name: fetch_experiment_names
-- The names of all experiments.
SELECT name FROM experiments ORDER BY id DESC;

-- name: fetch_tags_of_runs
-- The names of the tags that any of some runs has.
SELECT DISTINCT tag FROM runs, jsonb_object_keys(CASE jsonb_typeof(tags) WHEN 'object' THEN tags END) tag
WHERE id = ANY (%(ids)s);

-- name: fetch_known_names
-- The names that the newest runs have, in what may be asked for by name.
WITH RECURSIVE newest AS MATERIALIZED (
    SELECT user_name, partition, job_name, tags, args, last FROM run_overview ORDER BY id DESC LIMIT %(newest)s
), nested AS (
    SELECT e.key AS name, e.value, 1 AS depth
    FROM newest, jsonb_each(CASE jsonb_typeof(args) WHEN 'object' THEN args END) e
    UNION
    SELECT n.name || '.' || e.key, e.value, n.depth + 1
    FROM nested n, jsonb_each(CASE jsonb_typeof(n.value) WHEN 'object' THEN n.value END) e
    WHERE n.depth < 8
), names AS (
    SELECT 'metrics' AS scope, name FROM newest, jsonb_object_keys(CASE jsonb_typeof(last) WHEN 'object' THEN last END) name
    UNION SELECT 'args', name FROM nested
    UNION SELECT 'tags', name FROM newest, jsonb_object_keys(CASE jsonb_typeof(tags) WHEN 'object' THEN tags END) name
    UNION SELECT 'user', user_name FROM newest
    UNION SELECT 'partition', partition FROM newest WHERE partition IS NOT NULL
    UNION SELECT 'name', job_name FROM newest WHERE job_name IS NOT NULL
)
SELECT scope, array_agg(name ORDER BY name) FROM names GROUP BY scope;
