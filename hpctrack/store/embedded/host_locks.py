"""Two locks around the start of the embedded PostgreSQL; `owner` says why there are two."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from hpctrack import errors, files, flock
from hpctrack.store.embedded import postmaster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hpctrack.store.embedded.cluster_folder import Place


@contextlib.contextmanager
def local_lock(path: Path, seconds: float) -> Iterator[None]:
    """Hold a lock among the processes of this host; its folder is made if it is missing.

    Raises `errors.EmbeddedError` when it stays taken.
    """
    deadline = time.monotonic() + seconds
    while True:
        descriptor = _open(path)
        try:
            # `remove` or a cleaner of /tmp may have been here meanwhile: then this lock would guard nothing.
            if flock.try_lock(descriptor) and os.fstat(descriptor).st_nlink:
                yield
                return
        finally:
            os.close(descriptor)
        if time.monotonic() > deadline:
            raise errors.EmbeddedError(
                f"another command has been starting PostgreSQL for {seconds:.0f} s ({path})"
            )
        time.sleep(postmaster.POLL_SECONDS)


def _open(path: Path) -> int:
    while True:
        with contextlib.suppress(FileNotFoundError):  # `remove` was faster: it came between these two
            files.make_folder(str(path.parent))
            return files.open_or_create(str(path))


def remove(path: Path) -> None:
    """Remove a local lock and its folder: the last thing to do for who holds it."""
    with contextlib.suppress(OSError):  # somebody has made the lock anew: then the folder stays
        path.unlink()
        path.parent.rmdir()


@contextlib.contextmanager
def folder_lock(place: Place) -> Iterator[int]:
    """Hold the lock that the server inherits, and yield its file descriptor.

    Raises `errors.OwnedElsewhere` when it is taken, or a process of an earlier server lives.
    """
    path = place.base / "server.lock"
    descriptor = files.open_or_create(str(path))
    try:
        if not flock.try_lock(descriptor) or postmaster.processes(place.data):
            raise errors.OwnedElsewhere(
                f"a PostgreSQL that can't be reached from here still uses {place.data}: end it there, "
                f"or, if its host is gone for good, delete {path}"
            )
        yield descriptor
    finally:
        os.close(descriptor)
