"""The run folder: where a run's journals and its script stand on the node's local disk."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from typing import TYPE_CHECKING, NamedTuple

from hpctrack.stream import journal_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hpctrack.redact import Redactor

#: So much of a script is looked at for secrets.
_MAX_SCRIPT = 1 << 20
_SCRIPT = "slurm_script"
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
    for parent in _candidates(node_dir):
        try:
            path = os.path.join(_home(parent), name)
            os.mkdir(path, 0o700)
            shell = create_journal(path, "shell", attempt, 0)
        except OSError as error:
            failure = error
            continue
        return RunFolder(path, name, os.path.join(spool, "journals", name), shell)
    raise failure or FileNotFoundError("no folder for journals")


def create_journal(folder: str, kind: str, attempt: int, rank: int) -> str:
    """Create a journal that holds its header; return its path."""
    path = os.path.join(folder, f"{os.urandom(8).hex()}.{kind}.journal")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, journal_lines.format_header(attempt, rank))
    finally:
        os.close(descriptor)
    return path


def make_private(path: str) -> None:
    """Make a folder that only this user can enter, or check that it is one.

    Raises PermissionError for a folder that is somebody else's or open to others: /tmp is everybody's.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not _is_private(path):
            raise PermissionError(f"{path} is not a private folder of this user") from None


def _is_private(path: str) -> bool:
    found = os.lstat(path)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _home(parent: str) -> str:
    """Return this user's folder in there, made if need be.

    /tmp is everybody's: where another user has taken its name, it gets one that nobody can guess.
    Raises OSError if there can't be one.
    """
    plain = os.path.join(parent, f"hpctrack-{os.geteuid()}")
    try:
        make_private(plain)
    except PermissionError:
        for other in _homes(parent):
            return other
        hidden = f"{plain}.{os.urandom(8).hex()}"
        os.mkdir(hidden, 0o700)
        return hidden
    return plain


def _homes(parent: str) -> Iterator[str]:
    """Yield the folders in there that `_home` has made for this user."""
    plain = f"hpctrack-{os.geteuid()}"
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name == plain or entry.name.startswith(plain + "."):
                with contextlib.suppress(OSError):
                    if _is_private(entry.path):
                        yield entry.path


def offer_package(run_dir: str, spool: str = "") -> list[str]:
    """Make folders for PYTHONPATH that hold just this package, so that nothing else of ours shadows modules.

    One is in the run folder. Other nodes find nothing there: with ``spool`` there is one on the shared home
    too. Returns those that could be made.
    """
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    places = [os.path.join(run_dir, "python")]
    if spool:
        with contextlib.suppress(OSError):
            os.makedirs(spool, 0o700, exist_ok=True)
        places.append(os.path.join(spool, "python") + os.path.dirname(package))  # one for each installation
    made = []
    for place in places:
        try:
            os.makedirs(place, 0o700, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.symlink(package, os.path.join(place, "hpctrack"))
        except OSError:
            continue
        made.append(place)
    return made


def redactor(folder: str) -> Redactor:
    """Return a redactor that knows the secrets of this environment and command, and of the script."""
    from hpctrack import redact  # late: its patterns take longer to compile than all else to load

    texts = []
    path = os.path.join(folder, _SCRIPT)
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        texts.append(file.read(_MAX_SCRIPT))
    return redact.Redactor.collect(os.environ, sys.argv, texts)


def homes(node_dir: str) -> list[str]:
    """Return the folders on this host that hold run folders of this user."""
    return [home for parent in _candidates(node_dir) for home in _homes(parent)]


def _candidates(node_dir: str) -> list[str]:
    """Return where to try: what is configured, else disks before memory, which is charged to the job."""
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
