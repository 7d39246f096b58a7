"""The collector: receives what relays send, commits it, acknowledges it, and reconciles with Slurm.

`process` holds it together: one thread receives (`intake`), one stores (`committer`), one looks up keys and
says that it lives (`registrar`), one asks Slurm (`reconciler`), one delivers what waits in the spool
(`courier`). `launch` starts a collector of the user's own. The only part that joins stream and store, and all
of stream that is not for nodes.
"""

from hpctrack.stream.collector.launch import ensure_running

__all__ = ["ensure_running"]
