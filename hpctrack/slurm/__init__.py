"""Slurm: commands, parsers, submission. `command` is the only module that starts Slurm commands."""
