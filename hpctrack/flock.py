"""flock(2), as far as a file system has it."""

from __future__ import annotations

import errno
import fcntl

#: What it says where there are no locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


def try_lock(descriptor: int) -> bool:
    """Take the lock of an open file if it is free; without locks it always is: other guards must do then.

    Raises OSError for what has to do neither with a lock that is taken nor with locks that are missing.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True
