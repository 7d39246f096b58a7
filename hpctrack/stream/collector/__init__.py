"""The collector: receives what relays send, commits it, acknowledges it, and reconciles with Slurm.

`service` holds it together: one thread receives (`receive`), one stores (`storing`), one looks up keys and
says that it lives (`keeping`), one asks Slurm (`reconciling`), one delivers what waits in the spool
(`delivering`). `starting` starts a collector of the user's own. The only part that joins stream and store,
and all of stream that is not for nodes.
"""

from hpctrack.stream.collector.launch import ensure_running

__all__ = ["ensure_running"]
