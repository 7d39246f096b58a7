"""What tests of the embedded PostgreSQL do to it, and ask of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import psycopg

import hpctrack
from hpctrack.settings import Settings
from hpctrack.store.embedded import owner, postmaster
from hpctrack.store.embedded.cluster_folder import Place
from hpctrack.store.embedded.owner import Host

NOBODY = 65534
HERE = Host.here()
ELSEWHERE = Host("login2", "boot-of-login2")
SOURCES = Path(hpctrack.__file__).parent.parent


def configure(folder, **fields):
    return Settings(data_dir=str(folder), embedded_listen="127.0.0.1", **fields)


def end(place):
    """End what a test started, by pid, however broken its records are."""
    deadline = time.monotonic() + 30
    while (alive := postmaster.processes(place.data)) and time.monotonic() < deadline:
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    assert not alive
    for name in place.hosts.iterdir() if place.hosts.exists() else ():
        shutil.rmtree(name.read_text().strip(), ignore_errors=True)


def postmaster_pid(settings):
    return owner.read(Place.of(settings).owner_file).pid


def grow_old(settings):
    """Make the owner's record say that its server started an hour ago."""
    path = Place.of(settings).owner_file
    an_hour_ago = datetime.now(timezone.utc) - timedelta(hours=1)
    owner.replace(path, owner.read(path)._replace(since=an_hour_ago.isoformat()))


def parent(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None  # ended just now, as the process behind a closed connection does


def postmasters(settings):
    """All postmasters of the folder: those whose parent is not one of its processes."""
    pids = set(postmaster.processes(Place.of(settings).data))
    parents = {pid: parent(pid) for pid in pids}
    return [pid for pid, its in parents.items() if its is not None and its not in pids]


def kill_9(settings):
    """Kill the postmaster alone, and wait until it is gone (its children may live on for a moment)."""
    pid = postmaster_pid(settings)
    os.kill(pid, signal.SIGKILL)
    while postmaster.start_time(pid) is not None:
        time.sleep(0.01)
    return pid


def password(settings):
    return Place.of(settings).passfile.read_text().strip().split(":")[4]


def ask(params, query="SELECT current_database()"):
    with psycopg.connect(**params) as connection:
        return connection.execute(query).fetchone()[0]


def python(code, *arguments, **options):
    """Start another Python that can import hpctrack."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


ENSURE = """
    import json, sys
    from hpctrack.settings import Settings
    from hpctrack.store import embedded
    print(json.dumps(embedded.ensure(Settings(data_dir=sys.argv[1], embedded_listen="127.0.0.1"))))
"""
ENSURE_AND_ASK = """
    import sys, psycopg
    from hpctrack.settings import Settings
    from hpctrack.store import embedded
    with psycopg.connect(**embedded.ensure(Settings(data_dir=sys.argv[1]))) as connection:
        print(connection.execute("SELECT current_database()").fetchone()[0])
"""
