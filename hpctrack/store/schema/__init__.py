"""The schema: migrations, SQL files, roles."""
