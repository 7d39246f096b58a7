"""The mirror on disks that say late that they did not take what was written."""

from __future__ import annotations

import errno
import os

import pytest

from hpctrack.script import journal_lines
from hpctrack.stream.disk import folders, mirror, tail

HEADER = journal_lines.format_header(1, 0)


def line(step: int) -> bytes:
    return f"step={step} loss=0.5\n".encode()


@pytest.fixture
def journal(tmp_path):
    path = tmp_path / f"{'ab' * 8}.log.journal"
    path.write_bytes(HEADER + b"".join(map(line, range(10))))
    return path


def grow(path, steps) -> tail.Tail:
    with path.open("ab") as file:
        file.write(b"".join(map(line, steps)))
    (only,) = tail.find(str(path.parent))
    return tail.Tail([only])


def damaged(path, begin: int) -> None:
    """Do to a file what a server does that has refused its last pages: its size stays, its bytes are gone."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(begin)
        file.truncate(size)


@pytest.mark.parametrize("cut", [True, False], ids=["cut", "cut later"])
@pytest.mark.parametrize("call", ["close", "fsync"])
def test_what_the_disk_refuses_late_is_copied_again(journal, tmp_path, monkeypatch, call, cut):
    spool = mirror.Mirror(str(tmp_path / "spool"), folders.Identity(None, -1))
    spool.copy(grow(journal, ()), 0, 1 << 20)
    assert spool.synced(grow(journal, ())) == journal.stat().st_size
    (part,) = (tmp_path / "spool").glob("*.part")
    safe = part.stat().st_size
    real, refusals = getattr(os, call), [errno.EDQUOT]

    def refusing(descriptor):
        is_part = os.fstat(descriptor).st_ino == part.stat().st_ino if part.exists() else False
        real(descriptor)
        if is_part and refusals:
            damaged(part, safe)
            raise OSError(refusals.pop(), "disk quota exceeded")

    def shut(*_):
        raise OSError(errno.EIO, "no")

    with monkeypatch.context() as patched:
        patched.setattr(mirror.os, call, refusing)
        if not cut:
            patched.setattr(mirror.os, "ftruncate", shut)
        grown = grow(journal, range(10, 20))
        with pytest.raises(OSError, match="quota"):
            spool.copy(grown, 0, 1 << 20)
            spool.synced(grown)
        if not cut:
            with pytest.raises(OSError, match="no"):
                spool.close(over=True, prove=lambda _: None)
        assert spool.settled(grown) == safe  # the journal may have given that back
    assert part.read_bytes()[:safe] == journal.read_bytes()[:safe]
    grown = grow(journal, range(20, 30))
    spool.copy(grown, 0, 1 << 20)
    assert spool.synced(grown) == journal.stat().st_size
    (part,) = (tmp_path / "spool").glob("*.part")
    assert part.read_bytes() == journal.read_bytes()
