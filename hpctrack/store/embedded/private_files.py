"""Files and folders that only this user can read."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from hpctrack import errors

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, text: str) -> None:
    """Write a private file, anew, and see it on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def folder(path: Path) -> Path:
    """Make a folder that only this user can enter, or check that it is one; its parent is made if missing.

    Others may have put something under a predictable name in /tmp: lstat, so that a link is not followed.
    """
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise errors.EmbeddedError(f"{path} is not a folder of this user: refusing to use it")
    if stat.S_IMODE(found.st_mode) & 0o077:
        path.chmod(0o700)
    return path
