"""The writer: one process's journal, on the side of the user's script. Python 3.8 or newer.

It never blocks but for the file system, and holds no lock: O_APPEND and a single write(2) keep the lines of
threads apart, and a forked child gets a journal of its own.
"""

from __future__ import annotations

import errno
import fcntl
import os
from os import SEEK_CUR, lseek, write
from time import time_ns

from hpctrack.script import journal_lines

TYPE_CHECKING = False  # the module typing takes longer to load than all of this
if TYPE_CHECKING:
    from collections.abc import Callable

#: Lower file descriptors belong to the script, which may close or replace what it did not open.
_DESCRIPTORS = (1000, 200, 20)
#: Nanoseconds between two looks at the journal: is it still there, how much is not acknowledged.
_LOOK_INTERVAL = 1_000_000_000
_VOID = journal_lines.CANCEL + b"\n"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: What keeps a journal from being created now, and may pass.
_PASSING = (*_FULL, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS)
#: Looks at a lock that another process holds for the time of two system calls.
_LOOKS = 100


class Writer:
    """This process's journal."""

    _fd: int = -1
    _path: str = ""  # while there can be none
    _identity: tuple[int, int] = (0, 0)  # device and inode
    _position: int = -1  # where our file offset was left
    _looked: int
    _full: bool = False  # as much is not acknowledged as may be
    _torn: bool = False  # the last line is cut short and not voided yet
    _lost: int = 0
    _counted: int = 0  # of these, so many stand in a header

    def __init__(
        self,
        run_dir: str,
        spool_dir: str,
        *,
        attempt: int,
        rank: int,
        cap: int,
        suffix: str,
        warn: Callable[[str], None],
    ) -> None:
        """Create the journal in the run folder, or where that is not to be had in the run's spool folder.

        Raises OSError if neither will have it. Where that may pass (a full disk) it is tried later, with
        what is to be appended. An empty name stands for no folder; ``cap`` bounds the bytes that are not
        acknowledged; ``warn`` is called when a line is lost.
        """
        #: What the names of this process's metrics end with.
        self.suffix = suffix
        self._run_dir, self._spool_dir = run_dir, spool_dir
        self._attempt, self._rank, self._cap = attempt, rank, cap
        self._warn = warn
        self._looked = time_ns()
        try:
            self._create()
        except OSError as error:
            if error.errno not in _PASSING:
                raise

    @property
    def exists(self) -> bool:
        """Whether there is a journal."""
        return bool(self._path)

    def append(self, line: bytes, now: int) -> None:
        """Append one line with one write(2), ``now`` in nanoseconds.

        A line that finds no space is lost, and counted. Raises OSError for any other trouble that has not
        passed at the second attempt.
        """
        try:
            # The cheap look: nobody else moves our file offset, so another file under our number shows.
            in_place = lseek(self._fd, 0, SEEK_CUR) == self._position
            if not (in_place and 0 <= now - self._looked <= _LOOK_INTERVAL):
                self._look(now)
            if self._full:
                self._lose()
            elif self._torn:
                self._write(_VOID + line)
            else:
                self._position += (written := write(self._fd, line))
                if written < len(line):
                    self._cut_short(written)
        except OSError as error:
            _raise_foreign(error)
            if error.errno in _FULL or not (self._path or self._may_create(now)):
                self._lose()
                return
            self._look(now)  # in the place of a journal that is gone there is another now
            self._write(_VOID + line if self._torn else line)

    def _may_create(self, now: int) -> bool:
        """Try again, once in a while, to create a journal; whether there is one."""
        if 0 <= now - self._looked <= _LOOK_INTERVAL:
            return False
        self._looked = now
        try:
            self._create()
        except OSError as error:
            _raise_foreign(error)
        return self.exists

    def _write(self, line: bytes) -> None:
        written = write(self._fd, line)
        self._position += written
        was_torn, self._torn = self._torn, False
        if was_torn and written < len(_VOID):
            self._torn = True
            self._lose()
        elif written < len(line):
            self._cut_short(written)

    def _cut_short(self, written: int) -> None:
        """Void a line that was written in part; count one of which nothing was written as lost."""
        if written:
            self._void()
        else:
            self._lose()

    def _void(self) -> None:
        """Void the piece of a line, now or with the next line, so that it is not read as a whole one."""
        self._torn = True
        try:
            voided = write(self._fd, _VOID)
            self._position += voided
            self._torn = voided < len(_VOID)
        except OSError as error:
            _raise_foreign(error)

    def _look(self, now: int) -> None:
        """Is the journal still there, the descriptor ours, and how much of it is not acknowledged?"""
        try:
            status = os.fstat(self._fd)
            ours = (status.st_dev, status.st_ino) == self._identity and status.st_nlink > 0
        except OSError as error:
            _raise_foreign(error)
            ours = False
        if not ours:
            self._reopen()
            status = os.fstat(self._fd)
        # The relay gives acknowledged space back to the file system.
        self._full = min(status.st_blocks * 512, status.st_size) > self._cap
        self._position = os.lseek(self._fd, 0, os.SEEK_CUR)
        self._looked = now
        if self._counted < self._lost:
            self._count()

    def _reopen(self) -> None:
        """Open the journal again, or a new one if it is gone. What stands under our number is not ours."""
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._path, flags)
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) == self._identity:
                self._fd = _move_high(descriptor)
                return
            os.close(descriptor)
        except OSError as error:
            _raise_foreign(error)
        self._path, self._fd = "", -1
        self._create()

    def _create(self) -> None:
        failure: OSError | None = None
        for folder in (self._run_dir, self._spool_dir):
            if not folder:
                continue
            try:
                if folder == self._spool_dir:
                    claim_spool(folder, self._attempt)
                self._create_in(folder)
                return
            except FileNotFoundError as error:
                failure = failure or error
            except OSError as error:  # it is there, and will not have us: that says more
                _raise_foreign(error)
                failure = error
        raise failure or FileNotFoundError("there is no folder for it")

    def _create_in(self, folder: str) -> None:
        path = os.path.join(folder, f"{os.urandom(8).hex()}.log.journal")
        inside, owner = _open_folder(folder)
        try:
            descriptor = _open_new(os.path.basename(path), inside, owner)
            try:
                header = journal_lines.format_header(self._attempt, self._rank)
                if os.write(descriptor, header) < len(header):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            except OSError:
                os.close(descriptor)
                os.unlink(os.path.basename(path), dir_fd=inside)
                raise
        finally:
            os.close(inside)
        status = os.fstat(descriptor)
        self._path = path
        self._identity = status.st_dev, status.st_ino
        self._fd = _move_high(descriptor)
        self._position = os.lseek(self._fd, 0, os.SEEK_CUR)
        self._looked = time_ns()
        self._full = self._torn = False
        self._carry_over()

    def _carry_over(self) -> None:
        """Count in a new journal what could not be counted in the one before."""
        self._lost, self._counted = self._lost - self._counted, 0
        if self._lost:
            self._count()

    def _lose(self) -> None:
        self._warn("the journal can't grow (disk full, or nothing is acknowledged): metrics are lost")
        self.lose()

    def lose(self) -> None:
        """Count a lost line."""
        self._lost += 1
        self._count()

    def _count(self) -> None:
        """Write the count into a header, in place, as a full disk lets us; if not now, then later."""
        while self._counted < self._lost:  # again where another thread has lost a line meanwhile
            lost = self._lost
            try:
                if self._path:
                    _write_count(self._path, lost)
                else:
                    _add_to_count(os.environ.get("HPCTRACK_JOURNAL", ""), lost - self._counted)
            except OSError as error:
                _raise_foreign(error)
                return
            self._counted = lost

    def settle(self) -> None:
        """Count what could not be counted yet: the program ends."""
        if self._counted < self._lost:
            self._count()

    def close(self) -> None:
        """Let go of the descriptor if it is still ours."""
        try:
            status = os.fstat(self._fd)
            if (status.st_dev, status.st_ino) == self._identity:
                os.close(self._fd)
        except OSError:
            pass

    def discard(self) -> None:
        """Remove a journal that nothing was written to."""
        self.close()
        if self._path:
            os.unlink(self._path)


def tell_silent(run_dir: str, spool_dir: str, attempt: int, rank: int, variable: str) -> None:
    """Have the run's timeline say that processes log nothing because of their rank.

    Once for the node of the script, and once for all others, which don't see its run folder.
    """
    told = f"rank {rank} ({variable}) logs nothing, as all but rank 0; with ranks = all each of them logs"
    event = journal_lines.format_message("event", {"time": time_ns() / 1e9, "name": told})
    folder = run_dir if os.path.isdir(run_dir) else spool_dir
    try:
        if folder == spool_dir:
            claim_spool(folder, attempt)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        os.close(os.open(os.path.join(folder, "silent"), flags, 0o600))
        writer = Writer(folder, "", attempt=attempt, rank=rank, cap=1 << 20, suffix="", warn=lambda _: None)
        if writer.exists:
            writer.append(event, time_ns())
        writer.close()
    except OSError as error:  # somebody has told it, or nobody can
        _raise_foreign(error)


def _write_count(path: str, lost: int) -> None:
    """Write the count of lost lines into the header of this process's journal. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, journal_lines.format_lost(lost), journal_lines.LOST_OFFSET)
    finally:
        os.close(descriptor)


def _add_to_count(path: str, more: int) -> None:
    """Add to the count of the shells' journal: processes that can't create one of their own share it.

    It has the room for that, however full its disk is. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _lock(descriptor)
        header = os.pread(descriptor, journal_lines.HEADER_SIZE, 0)
        before = header[journal_lines.LOST_OFFSET : -1]
        if not (header.startswith(journal_lines.MAGIC) and before.isdigit()):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        os.pwrite(descriptor, journal_lines.format_lost(int(before) + more), journal_lines.LOST_OFFSET)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Keep other processes from adding at the same time. Raises OSError where one stands still meanwhile."""
    for _ in range(_LOOKS):
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            _raise_foreign(error)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            os.sched_yield()
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _raise_foreign(error: OSError) -> None:
    """Raise what no system call said: a signal handler of the script may raise TimeoutError at any moment."""
    if error.errno is None:
        raise error


def _move_high(descriptor: int) -> int:
    """Move a file descriptor out of the way of programs that close or reuse low numbers."""
    for lowest in _DESCRIPTORS:
        try:
            moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)
        except OSError as error:  # beyond RLIMIT_NOFILE
            _raise_foreign(error)
            continue
        os.close(descriptor)
        return moved
    return descriptor


def _open_folder(path: str) -> tuple[int, int]:
    """Open a folder for journals; return its descriptor and its owner.

    It is ours alone, or we are root, as under sudo, and it is one user's alone. Raises OSError otherwise.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if os.geteuid() not in (status.st_uid, 0) or status.st_mode & 0o077:
        os.close(descriptor)
        raise PermissionError(errno.EPERM, "not a private folder of this user", path)
    return descriptor, status.st_uid


def _open_new(name: str, folder: int, owner: int) -> int:
    """Create a journal that its run's relay can read, whatever the umask says and whoever we are."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(name, flags, 0o600, dir_fd=folder)
    status = os.fstat(descriptor)
    if status.st_mode & 0o777 != 0o600:
        os.fchmod(descriptor, 0o600)
    if status.st_uid != owner:
        os.fchown(descriptor, owner, -1)
    return descriptor


def claim_spool(folder: str, attempt: int) -> None:
    """Make a run's spool folder, and say whose it is where no relay has: it may have ended long ago.

    Raises OSError where there can be no such folder, and where there is no spool: in a container that does
    not see the home, what is written to a spool of its own would reach nobody.
    """
    os.stat(os.path.dirname(os.path.dirname(folder)))
    make_private(folder)
    if os.path.exists(os.path.join(folder, journal_lines.IDENTITY)):
        return
    try:
        _write_identity(folder, attempt)
    except FileExistsError:  # somebody was faster
        pass


def _write_identity(folder: str, attempt: int) -> None:
    import json  # late: few processes find no run folder

    inside, owner = _open_folder(folder)
    try:
        descriptor = _open_new(journal_lines.IDENTITY, inside, owner)
    finally:
        os.close(inside)
    with open(descriptor, "w", encoding="ascii") as file:
        json.dump(_identity(folder, attempt), file)


def _identity(folder: str, attempt: int) -> dict[str, object]:
    """Return what the environment tells of the run; `stream.disk.folders.Identity` has the fields."""
    environ = os.environ
    uuid, _, task = environ.get("HPCTRACK_RUN", "").rpartition(":")
    job, cluster = environ.get("HPCTRACK_JOB_ID", ""), environ.get("SLURM_CLUSTER_NAME")
    if environ.get("SLURM_ARRAY_TASK_ID", "").isdecimal() and not uuid:
        task = environ["SLURM_ARRAY_TASK_ID"]
        job = environ.get("SLURM_ARRAY_JOB_ID", "")
    record = os.path.join(os.path.dirname(os.path.dirname(folder)), "submissions", uuid + ".json")
    return {
        "uuid": uuid or None,
        "task": int(task) if task.lstrip("-").isdecimal() else -1,
        "cluster": cluster,
        "job_id": int(job) if job.isdecimal() and not uuid else None,
        "record": record if uuid else None,
        "attempt": attempt,
    }


def make_private(path: str) -> None:
    """Make a private folder, and what is missing above it.

    `hpctrack.files` makes and checks all other folders; hpctrack-script may be installed without it.
    """
    if not os.path.isdir(path):
        parent = os.path.dirname(path)
        if parent != path:
            make_private(parent)
        try:
            os.mkdir(path, 0o700)
            os.chmod(path, 0o700)  # the umask may have shut it
        except FileExistsError:  # somebody was faster
            pass
