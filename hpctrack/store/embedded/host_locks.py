"""Two locks around the start of the embedded PostgreSQL; `owner` says why there are two."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from hpctrack import errors, files
from hpctrack.store.embedded import host_folder, postmaster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hpctrack.store.embedded.cluster_folder import Place


@contextlib.contextmanager
def local_lock(place: Place, host: str, seconds: float) -> Iterator[Path]:
    """Hold the lock among the processes of this host; yield its folder, which is made if it is missing.

    Raises `errors.EmbeddedError` if another process holds it for ``seconds``, OSError.
    """
    deadline = time.monotonic() + seconds
    while True:
        folder, descriptor = _open(place, host)
        try:
            # Another process (`remove`, a cleaner of /tmp, a command that can't use the folder) may have
            # removed the file meanwhile: then other processes can't see this lock.
            if files.try_lock(descriptor) and os.fstat(descriptor).st_nlink:
                if host_folder.current(place, host) == folder:
                    yield folder
                    return
                remove(folder)
        finally:
            os.close(descriptor)
        if time.monotonic() > deadline:
            raise errors.EmbeddedError(
                f"another command has been starting PostgreSQL for {seconds:.0f} s ({folder})"
            )
        time.sleep(postmaster.POLL_SECONDS)


def _open(place: Place, host: str) -> tuple[Path, int]:
    while True:
        folder = host_folder.make(place, host)
        with contextlib.suppress(FileNotFoundError):  # `remove` came between these two calls
            return folder, files.open_or_create(str(folder / "lock"))


def remove(folder: Path) -> None:
    """Remove the local lock and its folder. Only its holder may call this, as the last step."""
    with contextlib.suppress(OSError):  # another process has made the lock anew: the folder stays
        (folder / "lock").unlink()
        folder.rmdir()


@contextlib.contextmanager
def folder_lock(place: Place) -> Iterator[int]:
    """Hold the lock that the server inherits; yield its file descriptor.

    Raises `errors.OwnedElsewhere` if it is taken, or if a process of an earlier server lives.
    """
    path = place.base / "server.lock"
    descriptor = files.open_or_create(str(path))
    try:
        if not files.try_lock(descriptor) or postmaster.processes(place.data):
            raise errors.OwnedElsewhere(
                f"a PostgreSQL that can't be reached from here still uses {place.data}: end it there, "
                f"or, if its host is gone for good, delete {path}"
            )
        yield descriptor
    finally:
        os.close(descriptor)
