"""Files of journals that are read. Of many journals only few are open at a time.

A file that is opened again must have the same device and inode as before.
"""

from __future__ import annotations

import errno
import os
import resource
import stat

#: Most journals that are open at a time; fewer if the process may not open so many files.
_MAX_OPEN = 256
_REPLACED = "another file has its name"
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Replaced(FileNotFoundError):
    """Another file has taken the name of a journal."""


class Opened:
    """One file, opened when it is read, and closed when too many others are open."""

    #: All open files and their descriptors, the last used one at the end.
    _open: dict[Opened, int] = {}  # noqa: RUF012 (of this process)

    def __init__(self, path: str) -> None:
        self.path = path
        #: Device and inode; None before it could be opened.
        self.identity: tuple[int, int] | None = None

    def descriptor(self) -> int:
        """Return a descriptor for reading. Raises OSError, `Replaced`."""
        descriptor = self._open.pop(self, None)
        if descriptor is None:
            descriptor = self._opened()
        self._open[self] = descriptor
        return descriptor

    def _opened(self) -> int:
        room = min(_MAX_OPEN, max(8, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))
        while len(self._open) >= room:
            next(iter(self._open)).close()
        descriptor = open_own(self.path)
        status = os.fstat(descriptor)
        identity = status.st_dev, status.st_ino
        if self.identity not in (None, identity):
            os.close(descriptor)
            raise Replaced(errno.ENOENT, _REPLACED, self.path)
        self.identity = identity
        return descriptor

    def status(self) -> os.stat_result:
        """Return the file's status (stat(2)), without opening it again. Raises OSError."""
        descriptor = self._open.get(self)
        if descriptor is not None or self.identity is None:
            return os.fstat(self.descriptor())
        named = os.lstat(self.path)
        if (named.st_dev, named.st_ino) != self.identity:
            raise Replaced(errno.ENOENT, _REPLACED, self.path)
        return named

    def open_to_write(self) -> int:
        """Return a new descriptor, for writing; the caller closes it. Raises OSError, `Replaced`."""
        descriptor = os.open(
            self.path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) != self.identity:
            os.close(descriptor)
            raise Replaced(errno.ENOENT, _REPLACED, self.path)
        return descriptor

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        descriptor = self._open.pop(self, None)
        if descriptor is not None:
            os.close(descriptor)


def open_own(path: str) -> int:
    """Open a file for reading; if a umask took this user's own rights to it, give them back. Raises OSError.

    Only for a regular file with at most two names: a journal's, and its public one.
    """
    try:
        return os.open(path, _READ)
    except PermissionError:
        handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(handle)
            ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink <= 2
            if not ours or status.st_mode & 0o600 == 0o600:
                raise
            os.chmod(f"/proc/self/fd/{handle}", 0o600)
        finally:
            os.close(handle)
        return os.open(path, _READ)
