"""The folder for lock and socket of a host: private, agreed on by all, whoever takes its name."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from hpctrack import errors, files
from hpctrack.settings import Settings
from hpctrack.store.embedded import cluster_folder, host_folder, host_locks

NOBODY = 65534


@pytest.fixture
def place(tmp_path):
    """A folder of data; what is made for it in /tmp is removed."""
    made = cluster_folder.Place(tmp_path / "postgres")
    made.base.mkdir(mode=0o700)
    yield made
    for named in made.hosts.iterdir():
        folder = Path(named.read_text().strip())
        assert folder.name.startswith("hpctrack-")
        shutil.rmtree(folder, ignore_errors=True)


def test_local_lock_excludes_and_survives_a_removed_file(place):
    with (
        host_locks.local_lock(place, "login1", 1),
        pytest.raises(errors.EmbeddedError),
        host_locks.local_lock(place, "login1", 0.1),
    ):
        pass
    with host_locks.local_lock(place, "login1", 1) as folder:
        (folder / "lock").unlink()  # a cleaner of /tmp
    with host_locks.local_lock(place, "login1", 1) as folder:
        assert (folder / "lock").exists()


def test_a_local_lock_is_removed_and_made_anew_and_one_holds_it_all_the_same(place):
    inside, most, folders = [], [], set()

    def work():
        for _ in range(100):
            with host_locks.local_lock(place, "login1", 60) as folder:
                inside.append(1)
                most.append(len(inside))
                inside.pop()
                folders.add(folder)
                host_locks.remove(folder)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 400
    assert not any(folder.exists() for folder in folders)


def squat_folder(path, uid):
    path.mkdir(mode=0o777)


def squat_file(path, uid):
    path.write_text("")


def squat_link(path, uid):
    path.symlink_to("/etc")


def squat_dangling_link(path, uid):
    path.symlink_to("/nowhere")


def squat_fifo(path, uid):
    os.mkfifo(path)


SQUATTERS = [squat_folder, squat_file, squat_link, squat_dangling_link, squat_fifo]


@pytest.mark.parametrize("squat", SQUATTERS)
@pytest.mark.parametrize("mode", [0o000, 0o700, 0o755, 0o1777])
def test_a_name_that_another_user_takes_is_given_up_for_another(place, squat, mode):
    if os.geteuid() != 0:
        pytest.skip("only root can make another user's files")
    taken = host_folder.make(place, "login1")
    taken.rmdir()
    squat(taken, NOBODY)
    os.chown(taken, NOBODY, NOBODY, follow_symlinks=False)
    if not taken.is_symlink():
        taken.chmod(mode)
    try:
        with host_locks.local_lock(place, "login1", 10) as folder:
            assert folder != taken
            assert files.is_private(str(folder))
            assert host_folder.current(place, "login1") == host_folder.make(place, "login1") == folder
        assert len(list(place.hosts.iterdir())) == 1
    finally:
        taken.rmdir() if taken.is_dir() and not taken.is_symlink() else taken.unlink()


def test_a_folder_of_ours_that_was_opened_to_others_is_not_used(place):
    opened = host_folder.make(place, "login1")
    opened.chmod(0o777)
    try:
        assert host_folder.make(place, "login1") != opened
    finally:
        opened.rmdir()


def test_many_who_find_the_name_taken_agree_on_another(place):
    taken = host_folder.make(place, "login1")
    taken.rmdir()
    taken.write_text("")
    inside, most, folders, gate = [], [], set(), threading.Barrier(8)

    def work():
        gate.wait()
        with host_locks.local_lock(place, "login1", 60) as folder:
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()
            folders.add(folder)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken.unlink()
    assert most == [1] * 8
    assert len(folders) == 1


def test_each_host_has_a_folder_of_its_own(place):
    names = ["login1", "login1.site.example", "login1.2", "login2"]
    assert len({host_folder.make(place, name) for name in names}) == len(names)


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_the_umask_does_not_matter(place, umask):
    before = os.umask(umask)
    try:
        with host_locks.local_lock(place, "login1", 1) as folder:
            assert folder.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


def test_a_parent_that_can_not_be_used_is_passed_over(place, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(host_folder, "_PARENTS", (str(tmp_path / "none"), str(tmp_path / "file"), "/tmp"))
    assert host_folder.make(place, "login1").parent == Path("/tmp")
    monkeypatch.setattr(host_folder, "_PARENTS", (str(tmp_path / "none"),))
    with pytest.raises(OSError, match="none"):
        host_folder.make(place, "login2")


def test_a_name_in_a_foreign_place_is_not_believed(place):
    folder = host_folder.make(place, "login1")
    (named,) = place.hosts.iterdir()
    named.write_text("/etc/hpctrack\n")
    assert host_folder.make(place, "login1").parent in map(Path, host_folder._PARENTS)
    folder.rmdir()


def test_the_socket_path_is_short_whatever_the_home_is(tmp_path):
    place = cluster_folder.Place.of(Settings(data_dir=str(tmp_path / ("long" * 50) / "x")))
    place.make_base()
    local = host_folder.make(place, "login1")
    local.rmdir()
    assert len(os.fsencode("/proc/4194304/root" / Path("/var") / local / ".s.PGSQL.65535.lock")) < 107
