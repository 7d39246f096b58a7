"""Journals that no program of ours wrote: each line is kept, or counted and told; memory stays bounded."""

from __future__ import annotations

import codecs
import errno
import tracemalloc

import pytest

from hpctrack.script import journal_lines
from hpctrack.stream.disk import opened, tail
from hpctrack.stream.wire import doubts, journal

_HEADER = journal_lines.format_header(0, 0)
_ROWS = "step=1 x=1\nstep=2 x=2\n"
_BOM = codecs.BOM_UTF8


def read(tmp_path, kind: str, *parts: bytes) -> tuple[list[int | None], int, list[str]]:
    """Return the steps of the rows in a journal, how many lines are torn, and what is told."""
    with open(tmp_path / f"{'a' * 16}.{kind}.journal", "wb") as file:
        for part in parts:
            file.write(part)
    (journal_tail,) = [tail.Tail([file]) for file in tail.find(str(tmp_path))]
    journal_tail.doubts = doubts.Doubts()
    journal_tail.close_line()
    journal_tail.look()
    lines: list[journal.Line] = []
    while not journal_tail.is_read:
        lines += journal_tail.read()
    journal_tail.close()
    steps = [line.step for line in lines if isinstance(line, journal.Row)]
    return steps, sum(isinstance(line, journal.Torn) for line in lines), journal_tail.doubts.take()


@pytest.mark.parametrize("kind", ["shell", "log"])
@pytest.mark.parametrize(
    ("data", "steps", "torn", "told"),
    [
        (_BOM + _ROWS.encode(), [1, 2], 0, ""),
        (_BOM + _HEADER + _ROWS.encode(), [1, 2], 0, ""),
        (_HEADER + _ROWS.replace("\n", "\r\n").encode(), [1, 2], 0, ""),
        (_HEADER + b"\r\n" * 3 + _ROWS.encode(), [1, 2], 0, ""),
        (b"step=0 x=\0\n" + _ROWS.encode(), [1, 2], 1, "it holds NUL bytes"),
        # Nobody can tell it from what was given back to the file system.
        (_HEADER + bytes(300_000) + b"\n" + _ROWS.encode(), [1, 2], 1, "an unknown number of rows is lost"),
        (_ROWS.encode("utf-16"), [], 3, "it is UTF-16; journals are UTF-8"),
        (_ROWS.encode("utf-16-be"), [], 2, "it is UTF-16; journals are UTF-8"),
        (b"# hpctrack journal x\n" + _ROWS.encode(), [1, 2], 0, ""),
        (_ROWS.encode().replace(b"\n", b"\r"), [], 1, "its writer could not write it whole"),
        (b"\n" * 1_000_000 + _ROWS.encode(), [1, 2], 0, ""),
    ],
    ids=[
        "BOM",
        "BOM and header",
        "CRLF",
        "empty CRLF",
        "NUL",
        "many NUL",
        "UTF-16",
        "UTF-16 without BOM",
        "garbled header",
        "CR",
        "a million empty lines",
    ],
)
def test_each_line_is_kept_or_counted_and_told(tmp_path, kind, data, steps, torn, told):
    found = read(tmp_path, kind, data)
    assert found[:2] == (steps, torn)
    assert told in "".join(found[2][:1]) and bool(found[2]) == bool(told)


def test_a_last_line_that_can_not_be_voided_is_counted_and_told(tmp_path, monkeypatch):
    """On a full disk, or one that is only read."""

    def refuse(_):
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(opened.Opened, "open_to_write", refuse)
    steps, torn, told = read(tmp_path, "shell", _ROWS.encode() + b"step=3 lo")
    assert (steps, torn) == ([1, 2], 1)
    (said,) = told
    assert "its writer could not write it whole" in said and "step=3 lo" in said


@pytest.mark.parametrize("end", [b"\n" + _ROWS.encode(), b""])
def test_a_line_without_end_is_counted_told_and_not_held(tmp_path, end):
    parts = [b"x" * (1 << 20)] * 32
    tracemalloc.start()
    try:
        steps, torn, told = read(tmp_path, "shell", *parts, end)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert (steps, torn) == ([1, 2] if end else [], 1)
    (said,) = told
    assert said.startswith("a line can't be read, it is longer than 1,048,576 bytes: xxx") and len(said) < 200
