-- Who belongs to which account.

-- name: delete_members
-- Forget who is none any more, or something else by now.
DELETE FROM members m
WHERE NOT EXISTS (SELECT FROM unnest(%(users)s::text[], %(accounts)s::text[], %(roles)s::text[]) AS n (user_name, account, role)
                  WHERE n.user_name = m.user_name AND n.account IS NOT DISTINCT FROM m.account AND n.role = m.role);

-- name: write_members
-- Note who is.
INSERT INTO members (user_name, account, role)
SELECT n.* FROM unnest(%(users)s::text[], %(accounts)s::text[], %(roles)s::text[]) AS n (user_name, account, role)
ON CONFLICT DO NOTHING;

-- name: note_members_checked
-- They are up to date.
INSERT INTO clusters (name, members_checked) VALUES (%(cluster)s, now())
ON CONFLICT (name) DO UPDATE SET members_checked = now(), members_error = NULL;

-- name: note_members_error
-- They could not be brought up to date.
INSERT INTO clusters (name, members_error) VALUES (%(cluster)s, %(error)s)
ON CONFLICT (name) DO UPDATE SET members_error = excluded.members_error;

-- name: fetch_login_roles
-- Who can log in to this server.
SELECT rolname::text FROM pg_roles WHERE rolcanlogin ORDER BY 1;
