"""The embedded PostgreSQL of the personal mode: found, set up once, started on first use, ended.

`server` does that, and loads neither psycopg nor the wheel. Beside it: `owner` says which host may run the
server of a folder that several share, `server_status` looks, `host_locks` keep others out, `listening` asks
ports and sockets, `postgres_binaries` and `cluster_folder` set up, `postmaster` deals with the processes.
"""

from hpctrack.store.embedded.server import ensure, running, stop, take_over

__all__ = ["ensure", "running", "stop", "take_over"]
