-- The ledger of migrations and setup files.

-- name: fetch_built_in
-- The migrations of hpctrack's own that this schema has; every connection asks this once.
SELECT name, checksum FROM applied_migrations WHERE built_in;

-- name: fetch_applied
-- Everything in the ledger.
SELECT name, checksum, built_in FROM applied_migrations;

-- name: insert_applied
-- Ledger row of a file; belongs into the file's own transaction.
INSERT INTO applied_migrations (name, checksum, built_in) VALUES (%(name)s, %(checksum)s, %(built_in)s);

-- name: lock_ledger
-- One setup of a schema at a time; held until the transaction ends.
LOCK TABLE applied_migrations IN SHARE UPDATE EXCLUSIVE MODE;

-- name: lock_setup
-- The same where there is no ledger yet.
SELECT pg_advisory_xact_lock(hashtextextended('hpctrack setup ' || %(schema)s, 0));

-- name: set_search_path
-- Put the schema alone on the search path; a setup file may have changed it.
SELECT set_config('search_path', quote_ident(%(schema)s), false);

-- name: fetch_schema_state
-- Why the ledger can't be read: is there such a schema, may we look into it, is there a ledger, is it hpctrack's?
SELECT n.oid IS NOT NULL AS present,
       coalesce(has_schema_privilege(n.oid, 'USAGE'), false) AS usable,
       c.oid IS NOT NULL AS ledger,
       EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'built_in') AS ours
FROM (SELECT 1) one
LEFT JOIN pg_namespace n ON n.nspname = %(schema)s
LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'applied_migrations';
