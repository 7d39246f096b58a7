"""The run folder: the folder on the node's local disk that holds a run's journals and its script."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import files
from hpctrack.script import journal_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hpctrack.text.redact import Redactor

#: Characters of a script that are searched for secrets.
_MAX_SCRIPT = 1 << 20
_SCRIPT = "slurm_script"
#: How often a user's folder is made anew if another process removes it meanwhile.
_TRIES = 100
#: The folder in the spool for public names that several nodes use; see `stream.disk.appending`.
LASTING = "appended"
_MEMORY_BACKED = frozenset(("tmpfs", "ramfs", "devtmpfs"))


class RunFolder(NamedTuple):
    """Paths of one attempt on one node; see docs/architecture.md."""

    path: str
    name: str
    spool_path: str
    shell_journal: str

    @property
    def script(self) -> str:
        """The user's script. slurmd names its own copy so, and some scripts look at ``$0``."""
        return os.path.join(self.path, _SCRIPT)


def create(spool: str, node_dir: str, label: str, attempt: int) -> RunFolder:
    """Make the run folder of one attempt.

    ``label`` is ``<cluster>.<job id>`` or a UUID. Raises OSError if no candidate can be used.
    """
    name = f"{label}.{attempt}.{os.urandom(4).hex()}"
    failure: OSError | None = None
    for parent in parents(node_dir):
        try:
            path = _new(parent, name)
        except OSError as error:
            failure = error
            continue
        try:
            shell = create_journal(path, "shell", attempt, 0)
        except OSError as error:
            failure = error
            discard(path)
            continue
        return RunFolder(path, name, os.path.join(spool, "journals", name), shell)
    raise failure or FileNotFoundError("no folder for journals")


def _new(parent: str, name: str) -> str:
    """Make a folder in `_home`, which another run's `discard` may remove meanwhile. Raises OSError."""
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError):
            path = os.path.join(_home(parent), name)
            files.new_folder(path)
            return path
        if not os.path.isdir(parent):
            break
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), parent)


def public_name(folder: str, base_job_id: int | None, task: int) -> str:
    """Return the public name of the shell journal in a run folder, or in a run's spool folder.

    It tells the run: the folder's name, and of an array task also base job and index.
    """
    home, label = os.path.split(folder)
    if task >= 0:
        label = f"{label}.{base_job_id}_{task}"
    above, kind = os.path.split(home)
    if kind == "journals":
        above = os.path.join(above, LASTING)
    return os.path.join(above, f"hpctrack-{os.geteuid()}.{label}.journal")


def publish(journal: str, base_job_id: int | None, task: int) -> str:
    """Give a journal its public name; return that, or an empty text if it can't have one.

    It can't on a file system without hard links, nor where another user's link would be followed.
    """
    name = public_name(os.path.dirname(journal), base_job_id, task)
    place = os.path.dirname(name)
    try:
        if os.path.basename(place) == LASTING:
            files.make_folder(place)
        if not _is_safe(place):
            return ""
        os.link(journal, name)
    except OSError:
        return ""
    return name


def _is_safe(place: str) -> bool:
    """Whether no other user's symbolic link in a folder is followed (proc(5), ``protected_symlinks``)."""
    mode = os.stat(place).st_mode
    if not mode & 0o022:
        return True
    with open("/proc/sys/fs/protected_symlinks", encoding="ascii") as file:
        return bool(mode & stat.S_ISVTX) and file.read().strip() == "1"


def discard(path: str, spool_path: str = "", name: str = "") -> None:
    """Remove the folders of a run that has logged nothing yet. Failures are ignored.

    ``name`` is the public name of its shell journal.
    """
    import shutil  # late: rarely needed

    with contextlib.suppress(OSError):
        os.unlink(name)
    for folder in filter(None, (path, spool_path)):
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))


def create_journal(folder: str, kind: str, attempt: int, rank: int) -> str:
    """Create a journal with its header; return its path. Raises OSError."""
    path = os.path.join(folder, f"{os.urandom(8).hex()}.{kind}.journal")
    descriptor = files.create(path, append=True)
    try:
        os.write(descriptor, journal_lines.format_header(attempt, rank))
    finally:
        os.close(descriptor)
    return path


def _home(parent: str) -> str:
    """Return this user's folder in ``parent``, made if need be.

    In /tmp another user may have taken its name; then it gets a random one. Raises OSError.
    """
    plain = os.path.join(parent, f"hpctrack-{os.geteuid()}")
    try:
        files.new_folder(plain)
    except FileExistsError:
        if not os.path.lexists(plain):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), plain) from None
        if not files.is_private(plain):
            for other in _homes(parent):
                return other
            hidden = f"{plain}.{os.urandom(8).hex()}"
            files.new_folder(hidden)
            return hidden
    return plain


def _homes(parent: str) -> Iterator[str]:
    """Yield the folders in ``parent`` that `_home` has made for this user."""
    plain = f"hpctrack-{os.geteuid()}"
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            named = entry.name == plain or entry.name.startswith(plain + ".")
            if named and files.is_private(entry.path):
                yield entry.path


def redactor(folder: str) -> Redactor:
    """Return a redactor of the secrets in this environment, this command line and the script."""
    from hpctrack.text import redact  # late: compiling its patterns takes longer than loading everything else

    texts = []
    path = os.path.join(folder, _SCRIPT)
    with (
        contextlib.suppress(OSError),
        open(files.open_to_read(path), encoding="utf-8", errors="replace") as file,
    ):
        texts.append(file.read(_MAX_SCRIPT))
    return redact.Redactor.collect(os.environ, sys.argv, texts)


def closed_homes(node_dir: str) -> list[str]:
    """Return this user's folders on this host that have the name of a `_home` but are open to others.

    hpctrack believes nothing in them. Raises OSError if a parent folder can't be listed.
    """
    plain = f"hpctrack-{os.geteuid()}"
    closed = []
    for parent in parents(node_dir):
        with contextlib.suppress(FileNotFoundError), os.scandir(parent) as entries:
            for entry in entries:
                if entry.name.partition(".")[0] == plain and _is_open_to_others(entry.path):
                    closed.append(entry.path)
    return closed


def _is_open_to_others(path: str) -> bool:
    """Whether this is a folder of this user that others may enter, list or write."""
    if files.is_private(path):
        return False
    status = os.lstat(path)
    return status.st_uid == os.geteuid() and stat.S_ISDIR(status.st_mode)


def homes(node_dir: str) -> list[str]:
    """Return the folders on this host that hold run folders of this user."""
    return [home for parent in parents(node_dir) for home in _homes(parent)]


def parents(node_dir: str) -> list[str]:
    """Return parents of `_home`, best first: ``node_dir``; else disks before memory, charged to the job."""
    if node_dir:
        return [node_dir]
    folders = ["/var/tmp", "/tmp"]  # noqa: S108 (private folders inside)
    kinds = _file_systems()
    return sorted(folders, key=lambda folder: kinds(folder) in _MEMORY_BACKED)


def _file_systems() -> Callable[[str], str]:
    """Return a function from a folder to its file system type (proc(5), ``/proc/self/mountinfo``)."""
    mounts: dict[str, str] = {}
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields = line.split()
                mounts[fields[4]] = fields[fields.index("-") + 1]
    except (OSError, ValueError, IndexError):
        pass

    def kind(folder: str) -> str:
        while folder not in mounts and folder != "/":
            folder = os.path.dirname(folder)
        return mounts.get(folder, "")

    return kind
