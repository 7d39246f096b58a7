"""The table of verbs: where each is, and what ``hpctrack --help`` says of it. Nothing is imported for it."""

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
    """Where a verb's `click.Command` is, and its line in ``--help``."""

    def __init__(self, section: str, target: str, help: str) -> None:
        self.section, self.target, self.help = section, target, help


VERBS = {
    "sbatch": Verb("Submit", "hpctrack.cli.verbs.sbatch:command", "Submit a job with sbatch, tracked."),
    "run": Verb("Submit", "hpctrack.cli.verbs.run:command", "Run a command here, tracked."),
    "rerun": Verb("Submit", "hpctrack.cli.verbs.rerun:command", "Submit what was submitted again."),
    "cancel": Verb("Submit", "hpctrack.cli.verbs.cancel:command", "End the jobs of runs with scancel."),
    "templates": Verb("Submit", "hpctrack.cli.verbs.templates:command", "List job scripts to start from."),
    "status": Verb(
        "Look", "hpctrack.cli.verbs.status:command", "List runs: state, progress, latest metrics."
    ),
    "show": Verb("Look", "hpctrack.cli.verbs.show:command", "Tell everything about one run."),
    "metrics": Verb("Look", "hpctrack.cli.verbs.metrics:command", "Print what a run measured, row by row."),
    "export": Verb(
        "Look", "hpctrack.cli.verbs.export:command", "Write metrics into Parquet, CSV or JSON Lines."
    ),
    "plot": Verb("Look", "hpctrack.cli.verbs.plot:command", "Draw metrics of runs, here or into a file."),
    "logs": Verb("Look", "hpctrack.cli.verbs.logs:command", "Print what a run wrote to its output."),
    "compare": Verb("Look", "hpctrack.cli.verbs.compare:command", "Tell what differs between runs."),
    "psql": Verb("Look", "hpctrack.cli.verbs.psql:command", "Open psql on the tracked data."),
    "tag": Verb("Change", "hpctrack.cli.verbs.annotate:tag", "Tag runs."),
    "untag": Verb("Change", "hpctrack.cli.verbs.annotate:untag", "Take tags off runs."),
    "note": Verb("Change", "hpctrack.cli.verbs.annotate:note", "Note something about a run."),
    "link": Verb("Change", "hpctrack.cli.verbs.annotate:link", "Link a run to another."),
    "experiment": Verb(
        "Change", "hpctrack.cli.verbs.experiment:command", "List, show, rename, delete experiments."
    ),
    "delete": Verb(
        "Change", "hpctrack.cli.verbs.delete:command", "Delete runs with all that belongs to them."
    ),
    "setup": Verb(
        "Keep",
        "hpctrack.cli.verbs.setup:command",
        "Create or migrate the schema; apply SQL files; give rights.",
    ),
    "collector": Verb("Keep", "hpctrack.cli.verbs.collector:command", "Receive what running jobs send."),
    "sync": Verb(
        "Keep", "hpctrack.cli.verbs.sync:command", "Deliver what could not be sent when it happened."
    ),
    "reconcile": Verb("Keep", "hpctrack.cli.verbs.reconcile:command", "Compare PostgreSQL with Slurm once."),
    "prune": Verb("Keep", "hpctrack.cli.verbs.prune:command", "Delete runs that have been over for long."),
    "doctor": Verb(
        "Keep", "hpctrack.cli.verbs.doctor:command", "Check that everything works, and say what to do."
    ),
    "completion": Verb("Keep", "hpctrack.cli.group:completion", "Print a shell's completion script."),
}


def help_text() -> str:
    """Return what ``hpctrack --help`` prints."""
    width = max(map(len, VERBS)) + 2
    parts = [_ABOUT]
    for section in dict.fromkeys(verb.section for verb in VERBS.values()):
        lines = [f"  {name:<{width}}{verb.help}\n" for name, verb in VERBS.items() if verb.section == section]
        parts.append(f"{section}:\n" + "".join(lines))
    return "\n".join([*parts, _EPILOG])
