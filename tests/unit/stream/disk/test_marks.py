"""Marks beside journals that shells write: whatever stands there, the journal is read, and nothing else."""

from __future__ import annotations

import os

import pytest

from hpctrack.stream.disk import marks, tail

NAME = "00112233445566aa"
LINE = b"loss=0.5 step=1\n"
MARKS = {
    "an offset that no file has": f"{NAME} 99999999999999999999 00000000 00000000\n",
    "the greatest offset": f"{NAME} 09223372036854775807 00000000 00000000\n",
    "an offset beyond the end": f"{NAME} 00999999999999999999 00000000 00000000\n",
    "other checksums": f"{NAME} 00000000000000000016 00000000 00000000\n",
    "half of one": NAME[:8],
    "nothing": "",
    "much": "x" * 10_000,
}
#: What stands in the place of a file.
KINDS = {
    "a folder": os.mkdir,
    "a FIFO": os.mkfifo,
    "a link": lambda path: os.symlink("victim", path),
    "an endless file": lambda path: os.symlink("/dev/zero", path),
}


@pytest.fixture
def journal(tmp_path):
    path = tmp_path / f"{NAME}.shell.journal"
    path.write_bytes(LINE)
    (tmp_path / "victim").write_bytes(b"precious")
    return path


def names(path) -> list[str]:
    """Read all that is there, three times as three readers would; return under which names they send it."""
    found = []
    for _ in range(3):
        reader = tail.Tail([tail.parse_name(str(path))])
        rows = reader.read()
        assert [row.values for row in rows] == [{"loss": 0.5}], reader.trouble
        found.append(reader.name.hex())
        reader.close()
    return found


@pytest.mark.parametrize("text", MARKS.values(), ids=MARKS)
def test_a_mark_that_means_nothing_costs_one_new_name_at_most(journal, text):
    path = journal.with_name(f"{NAME}.shell.mark")
    path.write_text(text)
    path.chmod(0o600)
    assert len(set(names(journal))) == 1


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_what_is_no_mark_is_neither_read_nor_written(journal, make):
    make(journal.with_name(f"{NAME}.shell.mark"))
    assert len(set(names(journal))) == 1
    assert journal.with_name("victim").read_bytes() == b"precious"


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_what_is_no_journal_holds_no_row(journal, make):
    journal.unlink()
    make(journal)
    reader = tail.Tail([tail.parse_name(str(journal))])
    assert not reader.read()
    assert reader.trouble.filename == str(journal)
    assert not os.path.exists(journal.with_name(f"{NAME}.shell.mark"))
    reader.close()


def test_a_mark_that_can_not_be_written_holds_no_row_back(journal, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(marks.os, "pwrite", full)
    assert len(set(names(journal))) == 1
