-- What `hpctrack setup --grant-...` asks and says. store/schema/roles.py has the lists of rights.

-- name: fetch_role
-- A role: may it log in, is it above row-level security, does it own the tables, may it leave out run checks?
SELECT r.rolcanlogin AS can_log_in, r.rolsuper OR r.rolbypassrls AS above_rows,
       pg_has_role(r.oid, c.relowner, 'USAGE') AS owns,
       has_parameter_privilege(r.oid, 'session_replication_role', 'SET') AS may_skip_checks,
       has_database_privilege(r.oid, current_database(), 'CONNECT') AS may_connect,
       has_database_privilege(r.oid, current_database(), 'TEMPORARY') AS may_make_temporary
FROM pg_roles r, pg_class c
WHERE r.rolname = %(role)s AND c.oid = 'run_keys'::regclass;

-- name: fetch_owner
-- Who owns the tables, and whether the caller may act as that role.
SELECT pg_get_userbyid(relowner), pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'run_keys'::regclass;

-- name: fetch_relations
-- Tables and views of the schema on which the caller can give rights, and whether nobody has been given any yet.
SELECT relname, relacl IS NULL
FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT relispartition
  AND pg_has_role(relowner, 'USAGE')
ORDER BY relname;

-- name: fetch_grantees
-- Which roles were made collectors, users and readers before, told by the rights that they have.
SELECT CASE WHEN a.grantee = 0 THEN 'public' ELSE pg_get_userbyid(a.grantee) END,
       bool_or(a.name = 'collectors' AND a.privilege_type = 'INSERT'),
       bool_or(a.name = 'register_submission' AND a.privilege_type = 'EXECUTE')
FROM (SELECT c.relname AS name, c.relowner AS owner, (aclexplode(c.relacl)).*
      FROM pg_class c WHERE c.oid IN ('collectors'::regclass, 'run_overview'::regclass)
      UNION ALL
      SELECT p.proname, p.proowner, (aclexplode(p.proacl)).*
      FROM pg_proc p WHERE p.oid = 'register_submission'::regproc) a
WHERE a.grantee <> a.owner
GROUP BY a.grantee
ORDER BY 1;

-- name: set_site_choice
-- A choice of the site.
INSERT INTO site (name, value) VALUES (%(name)s, %(value)s) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: fetch_site_choices
-- Whom the site shows runs to, and their details.
SELECT site_choice('runs_visible') AS runs_visible, site_choice('details_visible') AS details_visible;
