"""Private files and folders: what is made, what is mended, what is refused, and what is never waited for."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import stat
import struct

import pytest

from hpctrack import errors, files
from tests.support.requirements import root_only

UMASKS = (0o000, 0o002, 0o022, 0o077, 0o477, 0o777)
STRANGER = 65534


@pytest.fixture(params=UMASKS, ids=lambda mask: f"umask {mask:03o}")
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def as_somebody(act, *, uid=STRANGER, gid=STRANGER) -> str:
    """Do something as another user; return what it says."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            said = act()
        except BaseException as error:  # noqa: BLE001
            said = f"{type(error).__name__}: {error}"
        os.write(writing, repr(said).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, "rb") as pipe:
        return pipe.read().decode()


def let_in(folder) -> None:
    """Let other users look into a folder of the tests, and into those above it."""
    for above in (folder, *folder.parents):
        if not mode(above) & 0o001:
            above.chmod(mode(above) | 0o011)


def make_all(tmp_path):
    """Make one of each."""
    folder = files.make_folder(
        str(tmp_path / "new" / "data" / "spool"), within=str(tmp_path / "new" / "data")
    )
    descriptors = [files.create(f"{folder}/journal", append=True), files.open_or_create(f"{folder}/lock")]
    files.replace(f"{folder}/record", b"old")
    files.replace(f"{folder}/record", b"new", sync=True)
    for descriptor in descriptors:
        os.write(descriptor, b"x")
        os.close(descriptor)
    return folder


def test_all_that_is_made_is_private_whatever_the_umask(tmp_path, umask):
    folder = make_all(tmp_path)
    assert {entry.name: mode(entry) for entry in os.scandir(folder)} == dict.fromkeys(
        ("journal", "lock", "record"), 0o600
    )
    assert [mode(tmp_path / name) for name in ("new", "new/data", "new/data/spool")] == [0o700] * 3
    assert files.read(f"{folder}/record", 3) == b"new"


def test_what_is_there_stays_and_nothing_else_is_left(tmp_path):
    for _ in range(2):
        with pytest.raises(FileExistsError):
            os.close(files.create(f"{make_all(tmp_path)}/journal"))
            make_all(tmp_path)
    assert sorted(os.listdir(tmp_path / "new/data/spool")) == ["journal", "lock", "record"]


def test_a_replacement_that_fails_leaves_the_old_contents_and_no_draft(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="directory"):
        files.replace(str(tmp_path / "taken"), b"new")
    assert os.listdir(tmp_path) == ["taken"]


@pytest.mark.parametrize("found", [0o777, 0o775, 0o755, 0o750, 0o701, 0o2775, 0o000])
def test_a_folder_of_ours_is_made_private_and_that_is_said_once(tmp_path, found, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(found)
    said = []
    for _ in range(2):
        files.make_folder(str(folder), say=said.append)
    assert mode(folder) == found & 0o7000 | 0o700
    assert [f"mode {found:04o}" in line for line in said] == ([True] if found & 0o077 else [])
    folder.chmod(0o755)
    files.make_folder(str(folder / "spool"), within=str(folder))
    assert mode(folder) == 0o700
    assert capsys.readouterr().err.count("\n") == 1


def test_folders_that_hold_more_than_what_is_ours_are_not_closed(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tmp_path.chmod(0o755)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    for folder in (tmp_path, tmp_path / "tmp"):
        before = mode(folder)
        with pytest.raises(errors.Untrusted, match="choose another"):
            files.make_folder(str(folder))
        assert mode(folder) == before


def test_a_link_of_ours_may_lead_to_a_folder_of_ours(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch").chmod(0o775)
    (tmp_path / "data").symlink_to("scratch")
    files.make_folder(str(tmp_path / "data" / "spool"), within=str(tmp_path / "data"), say=[].append)
    assert mode(tmp_path / "scratch") == mode(tmp_path / "scratch/spool") == 0o700


@root_only
@pytest.mark.parametrize("what", ["folder", "link to theirs", "link to ours", "link on the way", "file"])
def test_what_somebody_else_has_put_there_is_refused(tmp_path, what):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir(mode=0o700)
    theirs.mkdir()
    os.chown(theirs, STRANGER, STRANGER)
    path = place = tmp_path / "data"
    if what == "folder":
        path.mkdir(mode=0o700)
    elif what == "file":
        path.touch()
    else:
        path.symlink_to(theirs if what == "link to theirs" else ours)
        place = path / "spool" if what == "link on the way" else path
    os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
    with pytest.raises(errors.Untrusted, match=rf"another user \(id {STRANGER}\)"):
        files.make_folder(str(place))
    assert mode(theirs) == 0o755


@pytest.mark.parametrize("what", ["file", "dangling link", "loop"])
def test_what_is_no_folder_is_refused(tmp_path, what):
    path = tmp_path / "data"
    if what == "file":
        path.touch()
    else:
        path.symlink_to("data" if what == "loop" else "missing")
    with pytest.raises(OSError, match=r"not a folder|No such file|symbolic links"):
        files.make_folder(str(path))


# ---- reading ---------------------------------------------------------------------------------------------


def fifo(path):
    os.mkfifo(path, 0o600)


def device(path):
    if os.geteuid():
        pytest.skip("only root makes devices")
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero


def unix_socket(path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


def of_mode(bits):
    def make(path):
        path.write_bytes(b"x")
        path.chmod(bits)

    return make


def of_somebody(path):
    if os.geteuid():
        pytest.skip("only root can give files away")
    path.write_bytes(b"x")
    os.chown(path, STRANGER, STRANGER)


def linked_by_somebody(path):
    if os.geteuid():
        pytest.skip("only root can give files away")
    (path.parent / "target").write_bytes(b"x")
    path.symlink_to("target")
    os.chown(path, STRANGER, STRANGER, follow_symlinks=False)


def sparse(path):
    path.touch()
    os.truncate(path, 1 << 40)


REFUSED = {
    "a FIFO": fifo,
    "a device": device,
    "a socket": unix_socket,
    "a folder": lambda path: path.mkdir(),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to a FIFO": lambda path: (fifo(path.parent / "fifo"), path.symlink_to("fifo")),
    "a link of somebody else's": linked_by_somebody,
    "a file of somebody else's": of_somebody,
    "0666": of_mode(0o666),
    "0662": of_mode(0o662),
    "0602": of_mode(0o602),
    "huge": sparse,
    "one byte too long": lambda path: path.write_bytes(b"x" * 1001),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("links", [False, True])
def test_what_may_be_somebody_elses_work_or_never_ends_is_not_read(tmp_path, what, links):
    REFUSED[what](tmp_path / "file")
    with pytest.raises(errors.Untrusted) as caught:
        files.read(str(tmp_path / "file"), 1000, links=links)
    assert str(caught.value).startswith(str(tmp_path / "file")) and "\n" not in str(caught.value)


@root_only
def test_a_group_may_only_write_what_is_its_only_members(tmp_path):
    """0664 is what umask 002 makes; some sites give each account a group of its own for that."""
    path = tmp_path / "file"
    of_mode(0o664)(path)
    with pytest.raises(errors.Untrusted, match="mode 0664"):  # root has no such group
        files.read(str(path), 1000)
    os.chown(path, STRANGER, STRANGER)
    let_in(tmp_path)
    read = lambda: files.read(str(path), 1000)  # noqa: E731
    assert "Untrusted" in as_somebody(read)  # its group has another name, or none
    account = pwd.getpwnam("daemon")
    if grp.getgrgid(account.pw_gid) != ("daemon", "x", account.pw_gid, []):
        pytest.skip("this system's accounts share groups")
    os.chown(path, account.pw_uid, account.pw_gid)
    assert as_somebody(read, uid=account.pw_uid, gid=account.pw_gid) == "b'x'"
    os.chown(path, account.pw_uid, STRANGER)
    assert "Untrusted" in as_somebody(read, uid=account.pw_uid, gid=account.pw_gid)


def let_write(path, uid) -> None:
    """Let one more user write, as setfacl(1) does."""
    entries = [(0x01, 7, -1), (0x02, 7, uid), (0x04, 5, -1), (0x10, 7, -1), (0x20, 5, -1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", acl)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        pytest.skip("this file system has no ACLs")


@root_only
def test_the_group_of_ones_own_does_not_hide_an_acl(tmp_path):
    """The bits of the group are those of the ACL's mask then."""
    account = pwd.getpwnam("daemon")
    if grp.getgrgid(account.pw_gid) != ("daemon", "x", account.pw_gid, []):
        pytest.skip("this system's accounts share groups")
    (tmp_path / "above").mkdir()
    path = tmp_path / "above" / "file"
    of_mode(0o664)(path)
    let_in(tmp_path)
    for place in (path, path.parent):
        os.chown(place, account.pw_uid, account.pw_gid)
    path.parent.chmod(0o775)
    look = lambda: (files.read(str(path), 1000), files.exposure(str(path)))  # noqa: E731
    assert as_somebody(look, uid=account.pw_uid, gid=account.pw_gid) == "(b'x', '')"
    let_write(path.parent, STRANGER)
    assert "may be changed by others" in as_somebody(look, uid=account.pw_uid, gid=account.pw_gid)
    let_write(path, STRANGER)
    assert "Untrusted" in as_somebody(look, uid=account.pw_uid, gid=account.pw_gid)


@root_only
def test_what_root_wrote_is_read_by_everybody(tmp_path):
    (tmp_path / "conf").write_bytes(b"x")
    let_in(tmp_path)
    assert as_somebody(lambda: files.read(str(tmp_path / "conf"), 1)) == "b'x'"
    assert as_somebody(lambda: files.read(str(tmp_path / "conf"), 0)).startswith("'Untrusted")


def test_a_link_of_ours_is_followed_where_links_are_allowed(tmp_path, monkeypatch):
    (tmp_path / "dotfiles").mkdir()
    (tmp_path / "dotfiles" / "conf").write_bytes(b"x")
    (tmp_path / "conf").symlink_to("dotfiles/../dotfiles/./conf")
    assert files.read(str(tmp_path / "conf"), 1, links=True) == b"x"
    monkeypatch.chdir(tmp_path)
    assert files.read("conf", 1, links=True) == b"x"
    with pytest.raises(errors.Untrusted, match="symbolic link"):
        files.read("conf", 1)


def test_a_missing_file_is_missing(tmp_path):
    for links in (False, True):
        with pytest.raises(FileNotFoundError):
            files.read(str(tmp_path / "file"), 1, links=links)


# ---- locks and logs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [0o666, 0o664, 0o644, 0o600, 0o200])
def test_a_lock_of_ours_is_closed_to_others(tmp_path, bits):
    of_mode(bits)(tmp_path / "lock")
    if os.geteuid() and bits == 0o200:
        pytest.skip("only root reads it")
    os.close(files.open_or_create(str(tmp_path / "lock")))
    assert mode(tmp_path / "lock") == 0o600


@pytest.mark.parametrize("what", [name for name in REFUSED if name[0].isalpha() and name[:2] == "a "])
def test_a_lock_that_is_none_of_ours_is_not_opened(tmp_path, what):
    REFUSED[what](tmp_path / "lock")
    for flags in (os.O_RDWR, os.O_WRONLY | os.O_APPEND):
        with pytest.raises(OSError):
            os.close(files.open_or_create(str(tmp_path / "lock"), flags))


# ---- who could swap it -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("above", "exposed"), [(0o700, False), (0o755, False), (0o775, True), (0o777, True), (0o1777, False)]
)
def test_folders_above_that_others_may_change_expose_what_is_in_them(tmp_path, above, exposed):
    if os.geteuid() and above == 0o775:
        pytest.skip("the group may be one's own")
    place = tmp_path / "home" / "data" / "cache"
    place.mkdir(parents=True, mode=0o700)
    (tmp_path / "home" / "data").chmod(0o700)
    (tmp_path / "home").chmod(above)
    if os.geteuid() and files.exposure(str(tmp_path)):
        pytest.skip("the folder of the tests is open to others")
    said = files.exposure(str(place))
    assert bool(said) is exposed and (not exposed or f"{tmp_path}/home may be changed" in said)
    (tmp_path / "link").symlink_to("home/data")
    assert bool(files.exposure(str(tmp_path / "link" / "cache"))) is exposed
    assert bool(files.exposure(str(tmp_path / "home"), inside=True)) is (above & 0o022 != 0)
    assert "No such file" in files.exposure(str(tmp_path / "missing"))


@root_only
def test_folders_of_others_expose_what_is_in_them(tmp_path):
    (tmp_path / "theirs" / "data").mkdir(parents=True)
    os.chown(tmp_path / "theirs", STRANGER, STRANGER)
    assert f"{tmp_path}/theirs belongs to another user" in files.exposure(str(tmp_path / "theirs" / "data"))
