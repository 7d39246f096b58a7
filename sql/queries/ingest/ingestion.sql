-- How far journals are in, before any piece of them is stored.

-- name: fetch_watermarks
-- How far journals are in; unknown ones are left out.
SELECT s.run_id, s.journal_id, s.watermark
FROM unnest(%(runs)s::bigint[], %(journals)s::text[]) AS k (run_id, journal_id)
JOIN streams s USING (run_id, journal_id);
