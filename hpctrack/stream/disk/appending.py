"""The public name of the shell journal, ``$HPCTRACK_JOURNAL`` of a job: ``>>`` to it never fails.

A job's children inherit the path, and may run on any node, during the job and long after it. So the name
is in a folder that every node has: directly in ``/var/tmp``, ``/tmp`` or ``node_dir``; in
``<spool>/appended/`` for a job of several nodes, and where others could make the name lead elsewhere, or the
file system has no hard links. While the run lives, the name is a hard link of the shell journal. A file that
a shell puts in its place (after ``rm`` or ``sed -i``, or after a cleaner of /tmp came by) is linked into the
run folder as another journal (`Name.take_in`). When the run is over, the name is removed
(`stream.disk.removal.withdraw`). A shell that appends later makes a new file there, which is never read as
the run's (`hpctrack.stream.disk.late`).
"""

from __future__ import annotations

import os
import stat

from hpctrack.stream.disk import marks, runfolder, tail


class Name:
    """The public name of one run's shell journal."""

    def __init__(self, folder: str, base_job_id: int | None, task: int) -> None:
        """``folder`` holds the journal."""
        self.folder = folder
        self.path = runfolder.public_name(folder, base_job_id, task)
        #: By device and inode of each file that had the public name: its name in the folder.
        self._journals: dict[tuple[int, int], str] = {}

    def take_in(self, *, known: bool = False) -> None:
        """Link a new file that a shell has put there into the folder, as another journal.

        With ``known``, after the script has ended, also a known file whose name in the folder is gone. While
        the script runs that file is read by its descriptor: a new name would disturb an ``rm -r`` of the
        folder. Raises FileNotFoundError if the folder is gone, OSError.
        """
        try:
            status = os.lstat(self.path)
        except FileNotFoundError:
            return
        if not is_ours(status):
            return
        behind = status.st_dev, status.st_ino
        new = os.path.join(self.folder, f"{os.urandom(8).hex()}.{tail.SHELL}.journal")
        if behind not in self._journals:
            self._journals[behind] = _journals(self.folder).get(behind, new)
            known = known or self._journals[behind] == new
        if known and status.st_nlink == 1:
            self._link(self._journals[behind])

    def _link(self, path: str) -> None:
        os.link(self.path, path, follow_symlinks=False)
        os.chmod(path, 0o600)  # the script's umask may be anything
        marks.begin(path)


def leads_into(name: str, folder: str) -> bool:
    """Whether a name leads to a journal in a folder. Raises OSError."""
    status = os.lstat(name)
    return (status.st_dev, status.st_ino) in _journals(folder)


def is_ours(status: os.stat_result) -> bool:
    """Whether this is a regular file of this user."""
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def _journals(folder: str) -> dict[tuple[int, int], str]:
    """Return a folder's journals by device and inode. Raises OSError."""
    journals = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".journal"):
                status = entry.stat(follow_symlinks=False)
                journals[status.st_dev, status.st_ino] = entry.path
    return journals
