"""A tracked script gets the signals, the exits and the surroundings that plain sbatch would give it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.support.variables import OF_ONE_JOB

pytestmark = pytest.mark.cluster

#: Notes every signal that it and its child receive, in order, until SIGHUP ends both.
LISTENER = """\
#!/usr/bin/python3
import os, signal, sys
every = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
signal.pthread_sigmask(signal.SIG_BLOCK, every)
who = "script" if os.fork() else "child"
def note(what):
    with open(sys.argv[1], "a") as file:
        file.write(f"{who} {what}\\n")
note("ready")
while True:
    signum = signal.sigwaitinfo(every).si_signo
    note(signal.Signals(signum).name)
    if signum == signal.SIGHUP:
        break
"""

SENDS = {
    "scancel": ["scancel"],
    "to the batch process": ["scancel", "-b", "-s", "USR1"],
    "to the whole job": ["scancel", "-f", "-s", "USR1"],
    "to steps only": ["scancel", "-s", "USR1"],
}


def submit(account, tracked, *argv):
    """Submit a script, with or without hpctrack in front, and return the job id."""
    front = ["hpctrack"] if tracked else []
    return int(account.run(*front, "sbatch", "--parsable", *argv, check=False).stdout.split(";")[0])


def signals_seen(account, await_until, send):
    """Send a signal to a plain and to a tracked job; return what scripts and children noted, sorted."""
    script = account.write("listener.py", LISTENER)
    logs = {tracked: account.home / f"signals-{tracked}-{time.time_ns()}" for tracked in (False, True)}
    jobs = {
        tracked: submit(account, tracked, "-o", "listener.out", script, log) for tracked, log in logs.items()
    }
    for log in logs.values():
        await_until(lambda log=log: log.exists() and log.read_text().count("ready") == 2, 60, "listening")
    account.run(*send, *map(str, jobs.values()))
    time.sleep(1.5)
    seen = {
        tracked: sorted(line for line in log.read_text().splitlines() if "ready" not in line)
        for tracked, log in logs.items()
    }
    account.run("scancel", "-s", "KILL", "-f", *map(str, jobs.values()), check=False)
    return seen


@pytest.mark.parametrize("way", SENDS)
def test_signals_are_those_of_plain_sbatch(alice, await_until, way):
    seen = signals_seen(alice, await_until, SENDS[way])
    assert seen[True] == seen[False]
    assert bool(seen[True]) == (way != "to steps only")


@pytest.mark.parametrize("way", [["-b"], ["-f"]], ids=str)
def test_a_job_is_stopped_and_goes_on_as_under_plain_sbatch(alice, await_until, way):
    """``scancel -b -s STOP`` stops the batch script and none of its children, ``-f`` its whole group."""
    script = alice.write("stopped.sh", "#!/bin/bash\nsleep 600 & echo $$ $! > $1\nwait\n")
    jobs, states = {}, {}
    for tracked in (False, True):
        log = alice.home / f"stopped-{tracked}-{time.time_ns()}"
        jobs[tracked] = submit(alice, tracked, "-o", "stopped.out", script, log)
        pids = await_until(lambda log=log: log.exists() and log.read_text().split(), 60, "its start")
        seen = []
        for signum in ("STOP", "CONT"):
            alice.run("scancel", *way, "-s", signum, str(jobs[tracked]))
            time.sleep(2)
            seen += [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids]
        states[tracked] = seen
    alice.run("scancel", "-s", "KILL", "-f", *map(str, jobs.values()), check=False)
    assert states[True] == states[False]
    assert states[True][0] == "T"


@pytest.mark.parametrize("way", ["to the batch process", "to the whole job", "scancel"])
def test_signals_with_every_core_busy(alice, await_until, way):
    busy = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(6)]
    try:
        seen = signals_seen(alice, await_until, SENDS[way])
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert seen[True] == seen[False] != []


ENDINGS = {
    "exit 0": "exit 0",
    "exit 3": "exit 3",
    "death by SIGSEGV": "kill -SEGV $$",
    "death by SIGTERM": "kill -TERM $$",
    "kill 0": "kill 0; sleep 5; echo survived",
    "kill the group": "kill -- -$$; sleep 5; echo survived",
    "kill 0 on exit": "trap 'kill 0' EXIT; sleep 60 & exit 0",
    "a trap that goes on": "trap 'echo got it; trap - TERM; exit 7' TERM; kill 0; sleep 1; echo survived",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_slurm_records_the_same_end(alice, await_until, ending):
    script = alice.write("ending.sh", f"#!/bin/bash\necho begin\n{ENDINGS[ending]}\n")
    outputs = {tracked: alice.home / f"ending-{tracked}.out" for tracked in (False, True)}
    jobs = {tracked: submit(alice, tracked, "-o", output, script) for tracked, output in outputs.items()}
    found = {}
    for tracked, job in jobs.items():
        row = await_until(
            lambda job=job: [r for r in alice.accounted(job) if r["End"] not in ("Unknown", "")], 60, "sacct"
        )[0]
        found[tracked] = (row["State"], row["ExitCode"], without_reports(outputs[tracked]))
    assert found[True] == found[False]


def without_reports(output: Path):
    """Return a job's output without the lines in which bash or slurmstepd name pids and files."""
    return [line for line in output.read_text().splitlines() if "slurm" not in line]


def test_surroundings_are_those_of_plain_sbatch(alice):
    script = alice.write(
        "surroundings.sh",
        "#!/bin/bash\n"
        'umask; pwd; ulimit -a; echo "$#:$*"; fds=(/proc/$$/fd/*); echo ${#fds[@]}; readlink /proc/$$/fd/0\n'
        "grep -E 'Sig(Blk|Ign)' /proc/self/status; [ $(ps -o pgid= $$) = $$ ] && echo leads; cat\n"
        f"env | grep -v -E '^({OF_ONE_JOB})=' | sort\n",
    )
    found = {}
    for tracked in (False, True):
        output = alice.home / f"surroundings-{tracked}.out"
        submit(alice, tracked, "-W", "-w", "n1", "-o", output, script, "one", "two words", "*")
        found[tracked] = output.read_text()
    assert found[True] == found[False]
