"""Scripts that do other things to their journal than append to it: what they write next arrives."""

from __future__ import annotations

import os

import pytest

from hpctrack.stream import tail
from tests.integration.relay.relayed_job import await_result


@pytest.mark.parametrize(
    ("redirect", "then", "steps"),
    [
        (">>", "sed -i s/loss/loss/ $HPCTRACK_JOURNAL", (2, 3)),
        (">>", "rm $HPCTRACK_JOURNAL", (2, 3)),
        (">", "", (2, 3)),
        (">", "", (20, 300)),
    ],
    ids=["replaced", "removed", "overwritten", "overwritten by what is longer"],
)
def test_what_is_written_in_place_of_a_journal_arrives(job, collector, redirect, then, steps):
    job.submit()
    job.find_collector_at(collector.address)
    os.mkfifo(job.folder / "go")
    # Open all the time, here and there: whoever opens it while the other still closes it reads the end.
    with (job.folder / "go").open("r+b", buffering=0) as go:
        process = job.start(
            f"""#!/bin/sh
exec 3< go
echo "step=1 loss=1" {redirect} $HPCTRACK_JOURNAL
read line <&3
{then}
for i in {" ".join(map(str, steps))}; do
    echo "step=$i loss=1" {redirect} $HPCTRACK_JOURNAL
    read line <&3
done
"""
        )
        for step in (1, *steps):
            await_result(lambda step=step: step in collector.steps())
            if redirect == ">" and step == steps[-1]:
                await_result(lambda: collector.messages("event"))
            go.write(b"on\n")
        process.wait(60)
    assert sorted(set(collector.steps())) == [1, *steps]
    told = [event["name"] for event in collector.messages("event")]
    assert len(told) == (redirect == ">") and all("> in place of >>" in name for name in told)


def test_what_was_given_back_is_not_taken_for_something_else(tmp_path):
    path = tmp_path / f"{'0' * 15}1.log.journal"
    path.write_bytes(b"a=1\n" * (1 << 19))
    one = tail.Tail([tail.parse_name(str(path))])
    while one.read():
        pass
    one.give_back(one.end)
    with path.open("ab") as file:
        file.write(b"b=2\n")
    assert one.look() and not one.shrunk
    assert [row.values for row in one.read()] == [{"b": 2}]
    one.seek(1 << 20)  # PostgreSQL was set back
    assert one.look() and one.read() and not one.shrunk
