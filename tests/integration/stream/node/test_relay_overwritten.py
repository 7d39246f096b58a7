"""Scripts that do other things to their journal than append to it: what they write next arrives."""

from __future__ import annotations

import os
import signal

import pytest

from hpctrack.script import journal_lines
from hpctrack.stream.disk import folders, tail
from hpctrack.stream.node import outbox
from hpctrack.stream.wire.names import RunName
from tests.support.waiting import eventually


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
            eventually(lambda step=step: step in collector.steps())
            if redirect == ">" and step == steps[-1]:
                eventually(lambda: collector.messages("event"))
            go.write(b"on\n")
        process.wait(60)
    assert sorted(set(collector.steps())) == [1, *steps]
    told = [event["name"] for event in collector.messages("event")]
    assert len(told) == (redirect == ">") and all("> in place of >>" in name for name in told)


CUT_LATER = """#!/bin/sh
for i in 100 101 102; do echo "step=$i loss=1" >> $HPCTRACK_JOURNAL; done
read line < go
{then}
for i in $(seq 200 220); do echo "step=$i loss=1" {padding} >> $HPCTRACK_JOURNAL; done
"""


@pytest.mark.parametrize("then", [": > $HPCTRACK_JOURNAL", "rm $HPCTRACK_JOURNAL"], ids=["cut", "removed"])
@pytest.mark.parametrize("padding", ["", "x=0.5"], ids=["lines alike", "other lines"])
def test_what_is_written_in_place_of_a_journal_while_its_relay_is_dead_arrives(job, collector, then, padding):
    """The lines meet the watermark at a line's end, or within one."""
    job.submit()
    job.find_collector_at(collector.address)
    os.mkfifo(job.folder / "go")
    # The first line is as long as a journal's header, so that all others are where others were.
    first = f"echo {'#' * (journal_lines.HEADER_SIZE - 1)} >> $HPCTRACK_JOURNAL"
    process = job.start(CUT_LATER.format(then=f"{then}\n{first}", padding=padding))
    eventually(lambda: 102 in collector.steps())
    for pid in (job.relay(process), process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait(30)
    script = folders.read_identity(str(job.run_dir())).script
    (job.folder / "go").write_text("on\n")
    eventually(lambda: not folders.started_at(script))
    assert job.sync(collector) == [True]
    assert sorted(collector.steps()) == [100, 101, 102, *range(200, 221)] and job.run_folders() == []


CUT_TWICE = """#!/bin/sh
{live}
read line < go
echo "step=200 loss=1" > $HPCTRACK_JOURNAL
for i in 201 202 203; do echo "step=$i loss=1" >> $HPCTRACK_JOURNAL; done
"""


@pytest.mark.parametrize("between", [False, True], ids=["by its relay", "by sync"])
@pytest.mark.parametrize(
    "live",
    [
        'echo "step=100 loss=1" > $HPCTRACK_JOURNAL',
        'for i in 100 101; do echo "step=$i loss=1" > $HPCTRACK_JOURNAL; sleep 0.5; done',
        'echo "step=100 loss=1" >> $HPCTRACK_JOURNAL',
    ],
    ids=["cut", "cut twice", "appended to"],
)
def test_a_journal_that_is_cut_again_when_its_relay_is_dead_arrives(job, collector, live, between):
    """The watermark of what it held before is met at a line's end."""
    job.submit()
    job.find_collector_at(collector.address)
    os.mkfifo(job.folder / "go")
    process = job.start(CUT_TWICE.format(live=live))
    before = [100, 101] if "101" in live else [100]
    eventually(lambda: set(before) <= set(collector.steps()))
    for pid in (job.relay(process), process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait(30)
    if between:
        assert job.sync(collector) == [False]
    script = folders.read_identity(str(job.run_dir())).script
    (job.folder / "go").write_text("on\n")
    eventually(lambda: not folders.started_at(script))
    assert job.sync(collector) == [True]
    assert sorted(collector.steps()) == [*before, *range(200, 204)] and job.run_folders() == []
    assert any("overwritten" in event["name"] for event in collector.messages("event"))


def test_a_journal_that_is_cut_while_it_is_copied_to_the_spool_arrives(job, collector):
    """No collector answers: its lines are as long as those that were copied."""
    job.record = job.record._replace(transport="spool")
    job.submit()
    process = job.start("""#!/bin/sh
for i in 100 101 102; do echo "step=$i loss=1" > $HPCTRACK_JOURNAL; sleep 2.5; done
""")
    process.wait(60)
    job.sync(collector)
    assert sorted(collector.steps()) == [100, 101, 102]
    assert any("overwritten" in event["name"] for event in collector.messages("event"))


def test_what_was_given_back_is_not_taken_for_something_else(tmp_path):
    path = tmp_path / f"{'0' * 15}1.log.journal"
    path.write_bytes(b"a=1\n" * (1 << 19))
    journal_tail = tail.Tail([tail.parse_name(str(path))])
    while journal_tail.read():
        pass
    journal_tail.give_back(journal_tail.end)
    with path.open("ab") as file:
        file.write(b"b=2\n")
    assert journal_tail.look() and not journal_tail.shrunk
    assert [row.values for row in journal_tail.read()] == [{"b": 2}]
    journal_tail.seek(1 << 20)  # PostgreSQL was set back
    assert journal_tail.look() and journal_tail.read() and not journal_tail.shrunk


def test_what_is_appended_while_a_journal_is_read_is_no_cut(tmp_path):
    path = tmp_path / f"{'0' * 15}1.log.journal"
    path.write_bytes(journal_lines.format_header(0, 0) + b"a=1\n")
    journal_tail = tail.Tail([tail.parse_name(str(path))])
    with path.open("ab") as file:
        file.write(b"a=2\n")
    box = outbox.Outbox(outbox.Run(RunName(bytes(16), -1), bytes(32)))
    box.add(journal_tail)
    while list(box.datagrams(0.0)):
        pass
    assert journal_tail.offset == path.stat().st_size
    assert not box.renew() and box.cuts == 0
