"""Holes: what was given back of a journal is counted, and found in the spool where that has it."""

from __future__ import annotations

import os

import pytest

from hpctrack.script import journal_lines
from hpctrack.stream.disk import folders, mirror, tail
from hpctrack.stream.wire import doubts, journal

NAME = "00" * 7 + "01"
ROWS = 14_000


def line(step: int) -> bytes:
    return journal_lines.format_row({"x": step + 0.5, "note": 20 * "word"}, step=step)


@pytest.fixture(params=["log", "shell"])
def path(tmp_path, request):
    """A journal of more than a megabyte, in which messages, remarks and blank lines stand, too."""
    path = tmp_path / f"{NAME}.{request.param}.journal"
    odd = [b"!args {}\n", b"# remark\n", b"\n", b"torn line\n"]
    if request.param == "shell":
        odd += [b"  \t\n", b" # remark\n", b"\xef\xbb\xbf!args {}\n", b"\r\n"]
    lines = [line(step) + (odd[step % len(odd)] if step % 7 == 0 else b"") for step in range(ROWS)]
    path.write_bytes(journal_lines.format_header(0, 0) + b"".join(lines))
    return path


def opened(path) -> tail.Tail:
    journal_tail = tail.Tail([tail.parse_name(str(path))])
    journal_tail.doubts = doubts.Doubts()
    return journal_tail


def read(journal_tail: tail.Tail) -> list[journal.Line]:
    journal_tail.look()
    rows = []
    while lines := journal_tail.read():
        rows += [line for line in lines if not isinstance(line, journal.Message)]
    return [line._replace(time=None) if isinstance(line, journal.Row) else line for line in rows]


def punched(path) -> tuple[tail.Tail, list[journal.Line]]:
    """Read a journal, and have all of it given back that may be."""
    journal_tail = opened(path)
    lines = read(journal_tail)
    assert journal_tail.lines_before(journal_tail.offset) == len(lines)
    journal_tail = opened(path)
    read(journal_tail)
    journal_tail.give_back(journal_tail.offset)
    if b"\0" * 4096 not in path.read_bytes():
        pytest.skip("the file system can't punch holes")
    return journal_tail, lines


@pytest.mark.parametrize("by", ["whoever gave it back", "another"])
@pytest.mark.parametrize("at", [0, 10, 20, 2000, ROWS // 2])
def test_what_was_given_back_is_counted_to_the_last_line(path, by, at):
    journal_tail, lines = punched(path)
    journal_tail = journal_tail if by == "whoever gave it back" else opened(path)
    journal_tail.seek(lines[at - 1].end if at else 0)
    again = read(journal_tail)
    (gap,) = [line for line in again if isinstance(line, journal.Gap)]
    index = again.index(gap)
    assert again[:index] == lines[at : at + index], "what stands before the hole is read"
    assert again[index + 1 :] == lines[gap.lines :]
    assert lines[gap.lines - 1].end <= gap.end < lines[gap.lines].end
    assert at + index < gap.lines < len(lines)


def test_where_nobody_has_counted_the_timeline_says_so(path):
    punched(path)
    os.unlink(str(path).removesuffix("journal") + "hole")
    journal_tail = opened(path)
    again = read(journal_tail)
    assert not any(isinstance(line, journal.Gap) for line in again)
    assert journal_tail.doubts.take().count(doubts.UNCOUNTED) == 1


def test_what_was_given_back_is_read_from_the_spool(path, tmp_path):
    """The relay gives back what the spool has, too: acknowledged or not."""
    spool = tmp_path / "spool"
    identity = folders.Identity(None, -1)
    copied = mirror.Mirror(str(spool), identity)
    source = opened(path)
    source.look()
    while copied.copy(source, 0, 1 << 20):
        pass
    _, lines = punched(path)
    copied.close(over=True, prove=lambda file: None)
    (part,) = tail.find(str(spool))
    journal_tail = tail.Tail([tail.parse_name(str(path)), part], part.journal)
    assert read(journal_tail) == lines


def test_a_journal_that_is_another_by_now_is_counted_anew(path):
    journal_tail, _ = punched(path)
    path.write_bytes(journal_lines.format_header(0, 0) + line(1) + line(2))
    journal_tail.begin_anew()
    assert len(read(journal_tail)) == 2 and journal_tail.lines_before(journal_tail.offset) == 2


@pytest.mark.parametrize(
    "text",
    [
        f"{NAME} 99999999999999999999 00000000000000000001\n",
        f"{NAME} 00999999999999999999 00000000000000000001\n",
        f"{NAME} 00000000000000000100 99999999999999999999\n",
        f"{NAME[::-1]} 00000000000000001000 00000000000000000001\n",
        "nothing",
        "",
    ],
)
def test_a_count_that_means_nothing_counts_for_nothing(path, text):
    _, lines = punched(path)
    with open(str(path).removesuffix("journal") + "hole", "w", encoding="ascii") as file:
        file.write(text)
    journal_tail = opened(path)
    again = read(journal_tail)
    assert not any(isinstance(line, journal.Gap) for line in again) and again[-1] == lines[-1]
    assert journal_tail.doubts.take().count(doubts.UNCOUNTED) == 1
