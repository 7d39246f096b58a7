"""Metrics in PostgreSQL: their names, columns and values, one by one or as arrays."""
