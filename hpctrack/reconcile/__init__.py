"""Reconciling: what Slurm and the relays say, against what PostgreSQL believes, which is corrected.

`plan`, with `matching` and `attempts`, is pure: facts and stored runs to changes; `relayed` makes facts of
what relays say. Around them `inquiry` asks Slurm, and `passes`, the only one that joins slurm and store,
reads and writes PostgreSQL.
"""

from hpctrack.reconcile.passes import Report, commands, observe, run_once, settle_lost

__all__ = ["Report", "commands", "observe", "run_once", "settle_lost"]
