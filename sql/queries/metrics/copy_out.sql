-- Rows on their way out.

-- name: copy_query
-- Rows of any query, as COPY BINARY.
COPY ({query}) TO STDOUT (FORMAT BINARY);
