"""hpctrack's own files and folders: private, whatever the umask; believed only if nobody else wrote them.

All code on login nodes and compute nodes goes through this module; in the user's script `script.writer` does
the same. Before code makes something in a folder of hpctrack, it calls `make_folder`, each time:

* `make_folder` makes a folder that only this user can enter, or checks an existing one; `new_folder` makes
  one and fails if the name is taken;
* `create` makes a new private file; `open_or_create` also opens an existing one (locks, logs); `replace`
  replaces or makes a private file atomically; `create_whole` makes one atomically and fails if there is one;
* `read` reads a file of bounded size that only this user or root can have written;
* `try_lock` takes the lock of an open file;
* `exposure` says why others could replace a folder or file, or put something into it. Code that decides which
  program runs takes nothing from such a place. `changers` returns the accounts and groups that could do so.

If a folder of hpctrack is open to others, it is made private, and the user is told. The folders above it are
the user's or the site's: they may be open to a group. Its members can then remove our folder, but can't
replace it by one that passes for ours. A symbolic link in a path is followed if this user or root made it.

Functions raise `errors.Untrusted`, which is an OSError as well, for a place that others may have made.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

TYPE_CHECKING = False  # the module typing takes longer to load than all of this
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from hpctrack import errors

#: Errors of flock(2) on a file system without locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
_OTHERS = 0o077
_WRITABLE = 0o022
#: As many links as Linux follows on one path (path_resolution(7)).
_MAX_LINKS = 40
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
)
#: To open without waiting for the other end of a FIFO, and without taking over a terminal.
_SAFELY = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def make_folder(path: str, within: str = "", say: Callable[[str], None] | None = None) -> str:
    """Make a folder that only this user can enter, with missing folders above it; or make sure it is one.

    ``within`` is a folder above it: all folders from there down become private. ``say`` is told of a folder
    that was open to others until now; the default prints that on standard error. Raises `errors.Untrusted`
    for a folder of another user, OSError for one that can't be made.
    """
    above = os.path.dirname(path)
    if within and len(above) >= len(within):
        make_folder(above, within, say)
    elif above and not os.path.isdir(above):
        make_folder(above, "", say)
    try:
        new_folder(path)
    except FileExistsError:
        pass
    _check_folder(path, say or _say)  # also a new one: another user's link may have led there
    return path


def new_folder(path: str) -> None:
    """Make a folder that only this user can enter. Raises FileExistsError if the name is taken, OSError."""
    os.mkdir(path, 0o700)
    if os.lstat(path).st_mode & 0o777 != 0o700:  # the umask took rights away
        os.chmod(path, 0o700)


def is_private(path: str) -> bool:
    """Whether a path is a folder, no link, that only this user can enter."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & _OTHERS


def create(path: str, *, append: bool = False, mode: int = 0o600) -> int:
    """Create a private file and return its descriptor, for writing. Raises FileExistsError, OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags | (os.O_APPEND if append else 0), mode)
    _set_mode(descriptor, mode)
    return descriptor


def open_or_create(path: str, flags: int = os.O_RDWR) -> int:
    """Open a private file, made if it is missing; return its descriptor.

    A file that others may read or write is closed to them; they may have written it, so callers must not
    believe its contents. Raises `errors.Untrusted` if it is no regular file or another user's, OSError.
    """
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | _SAFELY, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _untrusted(path, "is a symbolic link, not a regular file") from None
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise _untrusted(path, _why_foreign(status, (os.geteuid(),)))
    except BaseException:
        os.close(descriptor)
        raise
    _set_mode(descriptor, 0o600)
    return descriptor


def replace(path: str, data: bytes, *, sync: bool = False) -> None:
    """Replace or make a private file atomically: readers see all of the old contents or all of the new ones.

    With ``sync`` it is on the disk when this returns. Raises OSError; the old contents stay then.
    """
    draft = f"{path}.{os.urandom(4).hex()}"
    descriptor = create(draft)
    try:
        try:
            _write(descriptor, data)
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(draft, path)
    except BaseException:
        _unlink(draft)
        raise
    if sync:
        _sync_folder(os.path.dirname(path) or ".")


def create_whole(path: str, data: bytes) -> bool:
    """Create a private file atomically, and on the disk; False if the name is taken. Raises OSError.

    link(2) is atomic on network file systems, too (open(2) on Linux, O_EXCL).
    """
    draft = f"{path}.{os.urandom(4).hex()}.new"
    replace(draft, data, sync=True)
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        _unlink(draft)
    return True


def read(path: str, limit: int, *, links: bool = False) -> bytes:
    """Read a regular file of at most ``limit`` bytes that only this user or root can have written.

    With ``links`` the path may contain symbolic links of this user or root. Does not wait for the writer of a
    FIFO. Raises `errors.Untrusted` for any other file, FileNotFoundError, OSError.
    """
    descriptor = open_to_read(path, limit, links=links)
    try:
        data = b""
        while len(data) <= limit:
            piece = os.read(descriptor, limit + 1 - len(data))
            if not piece:
                return data
            data += piece
    finally:
        os.close(descriptor)
    raise _untrusted(path, _too_long(limit))


def open_to_read(path: str, limit: int | None = None, *, links: bool = False) -> int:
    """Open a file under the conditions of `read`; return the descriptor. Raises what `read` raises."""
    if links:
        _resolve(path)
    _check_file(path, path, os.stat(path) if links else os.lstat(path), limit)
    descriptor = os.open(path, os.O_RDONLY | _SAFELY | (0 if links else os.O_NOFOLLOW))
    try:
        # Again: it may have been replaced since.
        _check_file(path, descriptor, os.fstat(descriptor), limit)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def exposure(
    path: str, *, inside: bool = False, owners: Collection[int] = (), groups: Collection[int] = ()
) -> str:
    """Return why somebody besides this user and root could replace a file or folder; empty if nobody could.

    With ``inside`` also why somebody could put something into the folder. ``owners`` and ``groups`` may do
    both.
    """
    place, status = path, None
    try:
        for place, status in _steps(path):
            if not _may_lead(status.st_uid) and status.st_uid not in owners:
                return f"{place} belongs to another user (id {status.st_uid})"
            if _may_be_swapped(place, status, groups):
                return _may_be_changed(place, status)
    except OSError as error:
        return f"{error.filename or place}: {error.strerror}"
    if inside and status is not None and _is_writable(place, status, groups):
        return _may_be_changed(place, status)
    return ""


def changers(path: str) -> tuple[set[int], set[int]]:
    """Return the accounts and the groups that could replace a file or folder."""
    owners, groups = set(), set()
    for _, status in _steps(path):
        owners.add(status.st_uid)
        if stat.S_ISDIR(status.st_mode) and status.st_mode & (stat.S_IWGRP | stat.S_ISVTX) == stat.S_IWGRP:
            groups.add(status.st_gid)
    return owners, groups


def try_lock(descriptor: int) -> bool:
    """Take the lock of an open file (flock(2)); False if another process has it.

    On a file system without locks it is always free. Raises OSError for any other failure.
    """
    import fcntl  # late: scripts that log need none

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


# ---- folders ---------------------------------------------------------------------------------------------


def _check_folder(path: str, say: Callable[[str], None]) -> None:
    place, status = _resolve(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise _untrusted(path, _why_foreign(status, (os.geteuid(),), wanted="a folder"))
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o777 == 0o700:
        return
    if mode & stat.S_ISVTX or _is_everythings(status):
        raise _untrusted(path, "is open to others, and not for hpctrack alone: choose another folder")
    os.chmod(place, mode & ~0o777 | 0o700)
    if os.stat(place).st_mode & _OTHERS:
        raise _untrusted(path, "can't be closed to others on this file system")
    if mode & _OTHERS:
        say(f"{path} was open to others (mode {mode:04o}): now only you can enter it")


def _is_everythings(status: os.stat_result) -> bool:
    """Whether a folder is / or the home, which don't belong to hpctrack alone."""
    for place in ("/", os.environ.get("HOME", "")):
        try:
            if place and os.path.samestat(os.stat(place), status):
                return True
        except OSError:
            pass
    return False


def _resolve(path: str) -> tuple[str, os.stat_result]:
    """Return where a path leads, and its status. Raises `errors.Untrusted` at another user's link."""
    place, status = path, None
    for place, status in _steps(path):
        if stat.S_ISLNK(status.st_mode) and not _may_lead(status.st_uid):
            why = "is a symbolic link" if place == path else f"leads through the symbolic link {place}"
            raise _untrusted(path, f"{why} of another user (id {status.st_uid})")
    assert status is not None  # noqa: S101 (there is a first step)
    return place, status


def _steps(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield each folder, link and target of a path, from its beginning, with its status. Raises OSError."""
    here = "/" if path.startswith("/") else ""
    left = path.split("/")[::-1]
    links = 0
    yield here or ".", os.lstat(here or ".")
    while left:
        part = left.pop()
        if part in ("", "."):
            continue
        step = os.path.join(here, part)
        status = os.lstat(step)
        yield step, status
        if not stat.S_ISLNK(status.st_mode):
            here = step
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        target = os.readlink(step)
        if target.startswith("/"):
            here = "/"
        left += target.split("/")[::-1]


# ---- trust -----------------------------------------------------------------------------------------------


def _check_file(path: str, place: str | int, status: os.stat_result, limit: int | None) -> None:
    """Raise `errors.Untrusted` if a file is not regular, too long, another user's, or writable by others."""
    owners = (os.geteuid(), 0)
    if not stat.S_ISREG(status.st_mode) or status.st_uid not in owners:
        raise _untrusted(path, _why_foreign(status, owners))
    if _is_writable(place, status):
        mode = stat.S_IMODE(status.st_mode)
        raise _untrusted(path, f"may be written by others (mode {mode:04o}): mend it with chmod go-w")
    if limit is not None and status.st_size > limit:
        raise _untrusted(path, _too_long(limit))


def _too_long(limit: int) -> str:
    return f"has more than {limit} bytes"


def _why_foreign(status: os.stat_result, owners: tuple[int, ...], wanted: str = "a regular file") -> str:
    if status.st_uid not in owners:
        return f"belongs to another user (id {status.st_uid})"
    kind = next((word for test, word in _KINDS if test(status.st_mode)), "a device")
    return f"is {'a regular file' if stat.S_ISREG(status.st_mode) else kind}, not {wanted}"


def _may_be_changed(place: str, status: os.stat_result) -> str:
    return f"{place} may be changed by others (mode {stat.S_IMODE(status.st_mode):04o})"


def _may_be_swapped(place: str, status: os.stat_result, groups: Collection[int]) -> bool:
    """Whether others may remove or rename files in a folder. In a sticky one only a file's owner may."""
    if not stat.S_ISDIR(status.st_mode) or status.st_mode & stat.S_ISVTX:
        return False
    return _is_writable(place, status, groups)


def _is_writable(place: str | int, status: os.stat_result, groups: Collection[int] = ()) -> bool:
    """Whether somebody besides these groups may write. The group bits may be the mask of an ACL (acl(5))."""
    if status.st_mode & _WRITABLE != 0o020:
        return bool(status.st_mode & _WRITABLE)
    return not (status.st_gid in groups or _is_own_group(status.st_gid)) or _has_acl(place)


def _has_acl(place: str | int) -> bool:
    """Whether a file has an ACL, so that its group bits are about others than its group, too."""
    try:
        return bool(os.getxattr(place, "system.posix_acl_access"))
    except OSError as error:
        return error.errno not in (errno.ENODATA, errno.ENOTSUP)


def _is_own_group(gid: int) -> bool:
    """Whether a group has this account's name and no other member (on sites where umask is 002)."""
    import grp
    import pwd

    try:
        account = pwd.getpwuid(os.geteuid())
        group = grp.getgrgid(gid)
    except KeyError:
        return False
    named = account.pw_uid != 0 and gid == account.pw_gid and group.gr_name == account.pw_name
    return named and not set(group.gr_mem) - {account.pw_name}


def _may_lead(uid: int) -> bool:
    """Whether an account may own a folder or link in a path: this user, root, or an unmapped one."""
    return uid in (0, os.geteuid()) or (uid == _unknown_uid())


def _unknown_uid() -> int:
    """Return the id that root's files have in a user namespace (user_namespaces(7)); -1 outside of one."""
    try:
        with open("/proc/self/uid_map", "rb") as ranges:
            if ranges.readline().split() == [b"0", b"0", b"4294967295"]:
                return -1
        with open("/proc/sys/kernel/overflowuid", "rb") as number:
            return int(number.read())
    except (OSError, ValueError):
        return -1


# ---- descriptors -----------------------------------------------------------------------------------------


def _set_mode(descriptor: int, mode: int) -> None:
    """Give an open file its mode, which the umask may have changed. It is closed if that fails."""
    try:
        if os.fstat(descriptor).st_mode & 0o777 != mode:
            os.fchmod(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(path: str) -> None:
    """Have a rename written to the disk, if the file system supports that."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _untrusted(path: str, why: str) -> errors.Untrusted:
    from hpctrack import errors  # late: only needed for a failure

    return errors.Untrusted(why, path)


def _say(line: str) -> None:
    try:
        sys.stderr.write(f"hpctrack: {line}\n")
    except (OSError, ValueError, AttributeError):  # closed, or none
        pass
