-- Who else sees runs. Row-level security leaves everybody shares of their own, and shows those with them.

-- name: fetch_sights
-- Who sees runs.
SELECT r.id AS run_id, r.user_name, r.account, r.visible, n.visible AS experiment_visible,
       site_choice('runs_visible') AS runs_visible, site_choice('details_visible') AS details_visible
FROM run_facts r LEFT JOIN experiment_scopes n ON n.experiment_id = r.experiment_id
WHERE r.id = ANY (%(ids)s)
ORDER BY r.id;

-- name: fetch_shares_of_runs
-- With whom runs are shared, by themselves or as all of their owner's in their experiment.
SELECT s.owner, r.id AS run_id, CASE WHEN s.run_id IS NULL THEN e.name END AS experiment, s.user_name AS user, s.account,
       s.time AS since
FROM run_facts r
JOIN experiments e ON e.id = r.experiment_id
JOIN shares s ON s.owner = r.user_name AND (s.run_id = r.id OR s.experiment_id = r.experiment_id)
WHERE r.id = ANY (%(ids)s)
ORDER BY r.id, s.time, s.user_name, s.account;

-- name: fetch_shares_of_experiment
-- With whom runs of an experiment are shared, all of an owner's.
SELECT s.owner, s.run_id, e.name AS experiment, s.user_name AS user, s.account, s.time AS since
FROM shares s JOIN experiments e ON e.id = s.experiment_id
WHERE s.experiment_id = %(id)s
ORDER BY s.owner, s.time, s.user_name, s.account;

-- name: share_runs
-- Share each of some runs with each of some users or accounts.
INSERT INTO shares (owner, run_id, user_name, account)
SELECT r.user_name, r.id, a.user_name, a.account
FROM runs r CROSS JOIN unnest(%(users)s::text[], %(accounts)s::text[]) AS a (user_name, account)
WHERE r.id = ANY (%(ids)s)
ON CONFLICT DO NOTHING;

-- name: unshare_runs
-- Take shares of runs back.
DELETE FROM shares s
WHERE s.run_id = ANY (%(ids)s)
  AND (%(users)s::text[] IS NULL OR s.user_name = ANY (%(users)s) OR s.account = ANY (%(accounts)s::text[]));

-- name: narrow_runs
-- Who may see runs at most.
WITH chosen AS (SELECT id FROM runs WHERE id = ANY (%(ids)s) ORDER BY id FOR NO KEY UPDATE)
UPDATE runs r SET visible = %(visible)s, time_updated = now()
FROM chosen WHERE r.id = chosen.id;

-- name: share_experiment
-- Share all of the caller's in an experiment.
INSERT INTO shares (experiment_id, user_name, account)
SELECT %(id)s, a.user_name, a.account FROM unnest(%(users)s::text[], %(accounts)s::text[]) AS a (user_name, account)
ON CONFLICT DO NOTHING;

-- name: unshare_experiment
-- Take the caller's shares of an experiment back.
DELETE FROM shares s
WHERE s.experiment_id = %(id)s AND s.owner = session_user
  AND (%(users)s::text[] IS NULL OR s.user_name = ANY (%(users)s) OR s.account = ANY (%(accounts)s::text[]));

-- name: narrow_experiment
-- Who may see an experiment's runs at most.
INSERT INTO experiment_scopes (experiment_id, visible) VALUES (%(id)s, %(visible)s)
ON CONFLICT (experiment_id) DO UPDATE SET visible = excluded.visible;

-- name: widen_experiment
-- Whoever the site says.
DELETE FROM experiment_scopes WHERE experiment_id = %(id)s;

-- name: fetch_own_accounts
-- The caller's accounts.
SELECT unnest(my_accounts());

-- name: fetch_logins
-- Who can log in to this server.
SELECT rolname::text FROM pg_roles WHERE rolcanlogin ORDER BY 1;
