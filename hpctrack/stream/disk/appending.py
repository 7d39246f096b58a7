"""The name by which shells append: ``$HPCTRACK_JOURNAL`` of a job, where ``>>`` never fails.

Children of a job inherit the path, and may run on any node, while the job runs and long after it. So the
name stands where each node has a folder: directly in ``/var/tmp``, ``/tmp`` or ``node_dir``; in
``<spool>/appended/`` for a job of several nodes, and where others could make such a name lead elsewhere, or
there are no hard links. While the run lives it is a hard link of the shell journal, so that appending and
reading cost what they cost in the run folder. What a shell puts in its place (``rm``, ``sed -i``, a cleaner
of /tmp) is linked into the folder as another journal (`Name.take_in`). When the run is over the name is taken
away (`stream.disk.removal.withdraw`), and who appends later makes a file of its own there, which is never
read as the run's (`hpctrack.stream.disk.late`).
"""

from __future__ import annotations

import os
import stat

from hpctrack.stream.disk import marks, runfolder, tail


class Name:
    """Such a name, as a relay looks after it."""

    def __init__(self, folder: str, base_job_id: int | None, task: int) -> None:
        """``folder`` holds the journal."""
        self.folder = folder
        self.path = runfolder.public_name(folder, base_job_id, task)
        #: By device and inode of what stood there: its other name, in the folder.
        self._journals: dict[tuple[int, int], str] = {}

    def take_in(self, *, known: bool = False) -> None:
        """Link a file that a shell has put there into the folder, as another journal.

        With ``known``, when the script has ended, also one whose name there is gone: before, it is read by
        its descriptor, and ``rm -r`` of the folder would meet what it does not expect. Raises OSError,
        FileNotFoundError where there is no such folder any more.
        """
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return
        if not is_ours(found):
            return
        behind = found.st_dev, found.st_ino
        new = os.path.join(self.folder, f"{os.urandom(8).hex()}.{tail.SHELL}.journal")
        if behind not in self._journals:
            self._journals[behind] = _journals(self.folder).get(behind, new)
            known = known or self._journals[behind] == new
        if known and found.st_nlink == 1:
            self._link(self._journals[behind])

    def _link(self, path: str) -> None:
        os.link(self.path, path, follow_symlinks=False)
        os.chmod(path, 0o600)  # the script's umask may be anything
        marks.begin(path)


def leads_into(name: str, folder: str) -> bool:
    """Whether a name is one more of a journal in a folder. Raises OSError."""
    found = os.lstat(name)
    return (found.st_dev, found.st_ino) in _journals(folder)


def is_ours(found: os.stat_result) -> bool:
    """Whether that is a regular file of this user's."""
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def _journals(folder: str) -> dict[tuple[int, int], str]:
    """Return a folder's journals by device and inode. Raises OSError."""
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".journal"):
                status = entry.stat(follow_symlinks=False)
                found[status.st_dev, status.st_ino] = entry.path
    return found
