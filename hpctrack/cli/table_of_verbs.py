"""The table of verbs: each is the ``command`` of the module of its name in `verbs`. Imports nothing of ours.

``hpctrack --help`` and the completion of verbs read the table alone.
"""

from __future__ import annotations

_ABOUT = """\
Usage: hpctrack [OPTIONS] COMMAND [ARGS]...

  Track Slurm jobs in PostgreSQL.

  Put hpctrack in front of sbatch, and PostgreSQL knows what ran, with which
  arguments, what it measured while it ran, and how Slurm says it ended.

Options:
  -V, --version  Show the version and exit.
  -h, --help     Show this message and exit.
"""
_EPILOG = """\
  RUN is a Slurm job id (14, 14_3, a SLUID), a run's own id (r14), or the
  beginning of its job's name.
"""


class Verb:
    """The section that lists a verb in ``--help``, and its line there."""

    def __init__(self, section: str, help: str) -> None:
        self.section, self.help = section, help


VERBS = {
    "sbatch": Verb("Submit", "Submit a job with sbatch, tracked."),
    "run": Verb("Submit", "Run a command here, tracked."),
    "rerun": Verb("Submit", "Submit what was submitted again."),
    "cancel": Verb("Submit", "End the jobs of runs with scancel."),
    "templates": Verb("Submit", "List job scripts to start from."),
    "status": Verb("Look", "List runs: state, progress, latest metrics."),
    "show": Verb("Look", "Tell everything about one run."),
    "metrics": Verb("Look", "Print what a run measured, row by row."),
    "export": Verb("Look", "Write metrics into Parquet, CSV or JSON Lines."),
    "plot": Verb("Look", "Draw metrics of runs, here or into a file."),
    "logs": Verb("Look", "Print what a run wrote to its output."),
    "compare": Verb("Look", "Tell what differs between runs."),
    "psql": Verb("Look", "Open psql on the tracked data."),
    "tag": Verb("Change", "Tag runs."),
    "untag": Verb("Change", "Take tags off runs."),
    "note": Verb("Change", "Note something about a run."),
    "link": Verb("Change", "Link a run to another."),
    "archive": Verb("Change", "Leave runs or an experiment out of lists."),
    "unarchive": Verb("Change", "List archived runs or an experiment again."),
    "share": Verb("Change", "Show runs to others, or to fewer; tell who sees them."),
    "unshare": Verb("Change", "Take back what was shared."),
    "experiment": Verb("Change", "List, show, rename, delete experiments."),
    "delete": Verb("Change", "Delete runs with all that belongs to them."),
    "setup": Verb("Keep", "Create or migrate the schema; apply SQL files; give rights."),
    "collector": Verb("Keep", "Receive what running jobs send."),
    "sync": Verb("Keep", "Deliver what could not be sent when it happened."),
    "reconcile": Verb("Keep", "Compare PostgreSQL with Slurm once."),
    "prune": Verb("Keep", "Delete runs that have been over for long."),
    "doctor": Verb("Keep", "Check that everything works, and say what to do."),
    "completion": Verb("Keep", "Print a shell's completion script."),
}


def module(verb: str) -> str:
    """Return the module whose ``command`` a verb is."""
    return "hpctrack.cli.verbs." + verb


def help_text() -> str:
    """Return what ``hpctrack --help`` prints."""
    width = max(map(len, VERBS)) + 2
    parts = [_ABOUT]
    for section in dict.fromkeys(verb.section for verb in VERBS.values()):
        lines = [f"  {name:<{width}}{verb.help}\n" for name, verb in VERBS.items() if verb.section == section]
        parts.append(f"{section}:\n" + "".join(lines))
    return "\n".join([*parts, _EPILOG])
