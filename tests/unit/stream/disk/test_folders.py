"""Folders of journals: whose they are, and who works there."""

from __future__ import annotations

import json
import os
import time

from hpctrack.stream.disk import folders


def test_identity_of_folders(tmp_path):
    identity = folders.Identity("u", 3, "c", 14, None, host="h", boot="b", pid=7)
    folders.write_identity(str(tmp_path), identity)
    assert folders.read_identity(str(tmp_path)) == identity
    (tmp_path / "identity.json").write_text("{")
    assert folders.read_identity(str(tmp_path)) is None


def test_identity_is_written_and_read_as_ever(tmp_path):
    """Installations of several versions stand side by side, and take up each other's folders."""
    identity = folders.Identity("u", 3, "c", 14, "r", 1, "h", "b", 7, "9", True, "n", 8, "10", True)
    written = {
        "uuid": "u", "task": 3, "cluster": "c", "job_id": 14, "record": "r", "attempt": 1, "host": "h",
        "boot": "b", "pid": 7, "pid_start": "9", "closed": True, "namespace": "n", "script": 8,
        "script_start": "10", "withdrawn": True,
    }  # fmt: skip
    folders.write_identity(str(tmp_path), identity)
    assert json.loads((tmp_path / "identity.json").read_text()) == written
    (tmp_path / "identity.json").write_text(json.dumps({**written, "of a later version": 1}))
    assert folders.read_identity(str(tmp_path)) == identity


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
