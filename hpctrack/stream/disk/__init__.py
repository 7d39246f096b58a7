"""Journals on disk: found in their folders, read as they grow, given back, deleted."""
