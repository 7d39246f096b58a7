"""The grammar of packed lines is written twice: `log` has a line of its own for rows like one before."""

from __future__ import annotations

import itertools

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpctrack.script import calls, journal_lines

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
NAMES = st.text(st.sampled_from("abz_/.-éλ0"), min_size=1, max_size=8).filter(
    lambda name: name not in journal_lines.RESERVED
)
CODES = {float: "d", int: "q", bool: "?"}
NOW = itertools.count(1_700_000_000_000_000_000)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.dictionaries(NAMES, st.floats() | INT64 | st.booleans(), min_size=1, max_size=5), INT64)
def test_the_line_of_log_is_that_of_format_packed(run_folder, monkeypatch, values, step):
    now = next(NOW)
    monkeypatch.setattr(calls, "time_ns", lambda: now)
    calls.log(values, step=0)  # it is remembered by this how rows like it are packed
    assert (int, type(None), type(None), *values, *map(type, values.values())) in calls._packers
    calls.log(values, step=step)
    packer = journal_lines.packer(values, "".join(CODES[type(value)] for value in values.values()))
    assert packer is not None
    [journal] = run_folder.glob("*.log.journal")
    lines = journal.read_bytes().splitlines(keepends=True)
    assert lines[-1] == journal_lines.format_packed(packer[0], packer[1](*values.values()), step, None, now)
