"""Folders of journals: whose they are, and who works there."""

from __future__ import annotations

import os
import time

from hpctrack.stream.disk import folders


def test_identity_of_folders(tmp_path):
    identity = folders.Identity("u", 3, "c", 14, None, host="h", boot="b", pid=7)
    folders.write_identity(str(tmp_path), identity)
    assert folders.read_identity(str(tmp_path)) == identity
    (tmp_path / "identity.json").write_text("{")
    assert folders.read_identity(str(tmp_path)) is None


def test_a_lock_is_for_one_at_a_time(tmp_path):
    first, second = folders.Lock(str(tmp_path)), folders.Lock(str(tmp_path))
    assert first.take() and not second.take()
    first.release()
    assert second.take()
    second.release()


def test_a_lock_of_another_host_is_kept_until_it_is_stale(tmp_path):
    path = tmp_path / "lock"
    path.write_text("elsewhere 1234\n")
    assert not folders.Lock(str(tmp_path)).take()
    long_ago = time.time() - 1000
    os.utime(path, (long_ago, long_ago))
    assert folders.Lock(str(tmp_path)).take()
