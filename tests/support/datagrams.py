"""Headers of datagrams for tests of the receiving side."""

from __future__ import annotations

from hpctrack.stream.wire import datagrams, layout

SUBMISSION = b"s" * 16
JOURNAL = b"journal1"


def header(
    start=0, end=10, *, echo=1, part=0, parts=1, journal=JOURNAL, kind=layout.DATA, task=-1
) -> datagrams.Header:
    return datagrams.Header(kind, SUBMISSION, task, 0, journal, start, end, echo, part, parts)
