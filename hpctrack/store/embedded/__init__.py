"""The embedded PostgreSQL of the personal mode: set up once, started on first use, ended when it is idle.

`server` has the public functions, and imports neither psycopg nor the wheel. `owner` says which host may run
the server of a folder that several hosts share; `server_status` finds out whether it runs; `host_locks` lock
its start, in the `host_folder`; `postgres_binaries` and `cluster_folder` set it up; `postmaster` deals with
its processes, `listening` with addresses. `launch` starts the `keeper`, the process that starts and ends the
server. The keeper opens the `gate` to hosts that ask for it (`asking`), and encrypts there (`encryption`).
"""

from hpctrack.store.embedded.server import ensure, running, stop, take_over, use_mark

__all__ = ["ensure", "running", "stop", "take_over", "use_mark"]
