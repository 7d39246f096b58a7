"""The embedded PostgreSQL of the personal mode: found, set up once, started on first use, ended.

`server` does that, and loads neither psycopg nor the wheel. Beside it: `owner` says which host may run the
server of a folder that several share, `server_status` looks, `host_locks` keep others out of `host_folder`,
`postgres_binaries` and `cluster_folder` set up, `postmaster` deals with processes, `listening` with
addresses. `launch` starts the `keeper`, a process that starts the server and ends it, and that opens the
`gate` to hosts which ask for it by `asking`.
"""

from hpctrack.store.embedded.server import ensure, running, stop, take_over, use_mark

__all__ = ["ensure", "running", "stop", "take_over", "use_mark"]
