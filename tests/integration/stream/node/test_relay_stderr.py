"""What is told of a failed script's standard error: what it wrote there, and of no other file a byte."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.relayed_job import MAIN

SECRET = "-----BEGIN PRIVATE KEY-----"
#: What a script, or anybody else who may write in its folder, does with the file while it is written.
SWAPS = {
    "nothing": "",
    "a link in its place": "rm err; ln -s secret err",
    "a link in its place, renamed": "mv err old; ln -s secret err",
    "another file in its place": "cp secret new; mv new err",
    "a hard link in its place": "ln secret new; mv new err",
    "a FIFO in its place": "rm err; mkfifo err",
    "a device in its place": "rm err; ln -s /dev/zero err",
    "its folder swapped": "mkdir other; cp secret other/err; cd ..; mv work gone; mv gone/other work",
    "removed": "rm err",
    "cut": ": > err",
}


def run(job, script, *, mode="wb", stderr=None):
    """Run a script whose standard error is ``work/err``, and which fails."""
    work = job.folder / "work"
    work.mkdir(exist_ok=True)
    (work / "secret").write_text(SECRET + "\n")
    batch = job.folder / "batch"
    batch.write_text(f"#!/bin/sh\n#!/bin/sh\n{script}\necho the last words >&2\nexit 3\n")
    with open(work / "err", mode) as opened:
        done = subprocess.run(
            [sys.executable, "-I", "-S", MAIN, "supervise", "--spool", job.spool, "--script-line", "2",
             "--node-dir", job.node, "--", batch],
            env={"PATH": os.environ["PATH"], "SLURM_JOB_ID": "14", "SLURM_CLUSTER_NAME": "c"},
            cwd=work, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr or opened,
            check=False, timeout=120,
        )  # fmt: skip
    assert done.returncode == 3
    return done


@pytest.fixture
def told(job, collector):
    """Run a script; return the tail that was told of."""
    job.submit()
    job.find_collector_at(collector.address)

    def call(script, **options):
        run(job, script, **options)
        (fin,) = collector.messages("fin")
        assert fin["exit_code"] == 3
        return fin["stderr_tail"]

    return call


@pytest.mark.parametrize("swap", SWAPS)
def test_no_other_file_is_told_of(told, swap):
    tail = told(f"echo before >&2; {SWAPS[swap]}")
    assert tail.endswith("the last words\n") and SECRET not in tail


@pytest.mark.parametrize("mode", ["ab", "r+b"])
def test_what_stood_there_before_is_not_told_of(told, job, mode):
    """Requeued with --open-mode=append; a log that several write to."""
    (job.folder / "work").mkdir()
    (job.folder / "work" / "err").write_text(f"{SECRET}\n" if mode == "ab" else "")
    assert told("echo before >&2", mode=mode) == "before\nthe last words\n"


def test_what_is_written_beyond_four_kilobytes_is_cut_at_the_front(told):
    tail = told("yes filler | head -c 50000 >&2")
    assert tail.endswith("the last words\n") and len(tail) == 4096


def test_nothing_is_told_of_a_pipe_and_nobody_waits_for_it(told):
    assert told("echo before >&2", stderr=subprocess.PIPE) is None


def test_nothing_is_told_of_a_terminal(told):
    ours, theirs = os.openpty()
    try:
        assert told("echo before >&2", stderr=theirs) is None
    finally:
        os.close(ours)
        os.close(theirs)
