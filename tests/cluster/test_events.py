"""Jobs of all kinds to which anything happens at any moment; each execution is compared with accounting.

Jobs are submitted with plain sbatch and registered as `hpctrack sbatch` would: only the reconciler decides.
What happens is drawn: ``EVENTS_SEED`` repeats it (Slurm's own timing does not repeat), ``EVENTS_JOBS`` is how
many jobs there are. What was done is printed where something differs.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest

from hpctrack import errors, reconcile
from hpctrack.model import JobFacts
from hpctrack.slurm import units
from tests.support import books
from tests.support.lab import GRACE, USER, Lab, Listening, own_database

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1800)]

SEED = int(os.environ.get("EVENTS_SEED") or random.randrange(1 << 16))
JOBS = int(os.environ.get("EVENTS_JOBS", "60"))
AGAIN = '[ "${SLURM_RESTART_COUNT:-0}" -ge 1 ] || '
#: Options, script, number of array tasks.
KINDS: dict[str, tuple[str, str, int]] = {
    "short": ("", "sleep 1", 0),
    "at once": ("", "true", 0),
    "medium": ("", "sleep 8", 0),
    "long": ("", "sleep 25", 0),
    "fails": ("", "sleep 2; exit 3", 0),
    "dies of a signal": ("", "kill -SEGV $$", 0),
    "wants too much memory": ("--mem=50", "/usr/bin/python3 -c 'bytearray(200_000_000)'", 0),
    "requeues itself": ("", AGAIN + "{ scontrol requeue $SLURM_JOB_ID; sleep 60; }; sleep 3", 0),
    "is requeued by its exit code": ("", AGAIN + "exit 111; sleep 2; exit 4", 0),
    "special exit": ("", AGAIN + "exit 112; exit 0", 0),
    "array": ("-a 0-3%2", "sleep $SLURM_ARRAY_TASK_ID; exit $SLURM_ARRAY_TASK_ID", 4),
    "held array": ("-H -a 0-4", "sleep 2", 5),
    "cancels itself": ("", "scancel $SLURM_JOB_ID; sleep 60", 0),
    "het": ("-n1 --no-requeue : -n1 --no-requeue", "sleep 3", 0),
    "steps": ("-n2", "srun sleep 2; srun -n1 sh -c 'exit 7'; exit 4", 0),
    "traps": ("", "trap 'sleep 1; exit 9' TERM; sleep 20 & wait", 0),
    "held": ("-H", "sleep 2", 0),
    "later": ("--begin=now+15", "sleep 2", 0),
    "scav": ("-p scav -n8", "sleep 20", 0),
    "wide": ("-N2 -n2", "sleep 15", 0),
    "no requeue": ("--no-requeue", "sleep 12", 0),
    "after": ("-d afterany:EARLIER", "sleep 1", 0),
    "never": ("-d afternotok:EARLIER --kill-on-invalid-dep=yes", "true", 0),
    "deadline": ("-N4 --exclusive -t 1 --deadline=now+70", "sleep 1", 0),
    "timeout": ("-t 1", "sleep 200", 0),
}  # fmt: skip
#: How often, and what; JOB is a job or a task of an array.
EVENTS: list[tuple[float, str]] = [
    (3, "scontrol requeue JOB"), (1, "scontrol requeuehold JOB"), (2, "scontrol suspend JOB"),
    (2, "scontrol resume JOB"), (1, "scontrol hold JOB"), (2, "scontrol release JOB"), (2, "scancel JOB"),
    (0.5, "scancel -s KILL JOB"), (0.5, "scancel -b -s TERM JOB"), (0.5, "scancel -f -s USR1 JOB"),
    (1, "scontrol update JobId=JOB Name=renamed"), (0.5, "scontrol update JobId=JOB TimeLimit=5"),
    (0.5, "scontrol update JobId=JOB TimeLimit=UNLIMITED"), (0.5, "scontrol update JobId=JOB Nice=50"),
    (0.5, "scontrol update JobId=JOB Partition=hidden"), (0.7, "scontrol update JobId=JOB NumNodes=1"),
    (0.5, "scontrol update JobId=JOB StartTime=now+20"), (0.5, "scontrol update JobId=JOB Requeue=0"),
    (0.5, "scontrol update JobId=JOB ArrayTaskThrottle=1"), (0.5, "scontrol top JOB"),
    (1, "scontrol reconfigure"),
]  # fmt: skip
TROUBLES = ["slurmctld", "slurmctld", "slurmdbd", "n4", "n1", "urgent", "urgent", "squeue", "sacct", "absent"]


class Uncertain(Listening):
    """Asks Slurm: sometimes in vain, and while things happen."""

    happens: Callable[[], None] | None = None
    failing: frozenset[str] = frozenset()

    def queue(self, users: Sequence[str] | None = None) -> list[JobFacts]:
        return self._asked("squeue", lambda: super(Uncertain, self).queue(users))

    def ended(self, jobs: Sequence[str], since: datetime) -> list[JobFacts]:
        return self._asked("sacct", lambda: super(Uncertain, self).ended(jobs, since))

    def _asked(self, name: str, ask: Callable[[], list[JobFacts]]) -> list[JobFacts]:
        if name in self.failing:
            raise errors.SlurmUnavailable(f"{name} fails")
        answer = ask()
        happens, self.happens = self.happens, None
        if happens:
            happens()
        return answer


@dataclass
class Fate(Lab):
    """A lab in which things happen."""

    backend: Uncertain
    draw: random.Random = field(default_factory=lambda: random.Random(SEED))
    log: list[str] = field(default_factory=list)
    until_when: dict[str, float] = field(default_factory=dict)
    """Troubles, and when each is over."""

    def say(self, what: str) -> None:
        self.log.append(f"{time.strftime('%H:%M:%S')} {what}")

    def slurm(self, command: str, user: str | None = None) -> None:
        """Run one of Slurm's commands, which may well refuse."""
        argv = command.split() if user is None else self.cluster.command_as(user, *command.split())
        done = subprocess.run(
            argv, check=False, capture_output=True, text=True, timeout=100, env={**self.cluster.env()}
        )
        self.say(command + (f": {done.stderr.strip()}" if done.returncode else ""))

    def new(self) -> None:
        """Submit a job."""
        kind = self.draw.choice(list(KINDS))
        options, script, tasks = KINDS[kind]
        earlier = str(self.draw.choice(list(self.jobs.values()) or [1]))
        words = options.replace("EARLIER", earlier).split()
        memory = [] if "--mem" in options else ["--mem=100"]
        try:
            job = self.submit(
                f"{len(self.jobs)} {kind}", *memory, *words, wrap=script, tasks=list(range(tasks)) or None
            )
        except AssertionError as error:
            self.say(f"{kind}: {error}")
        else:
            self.say(f"{kind} is {job}")

    def happen(self) -> None:
        """Do something to a job, rather to a young one."""
        if not self.jobs:
            return
        name = self.draw.choice(list(self.jobs)[-12:])
        tasks = [task for task in self.runs[name] if task >= 0]
        job = str(self.jobs[name])
        if tasks and self.draw.random() < 0.6:
            job += f"_{self.draw.choice(tasks)}"
        [event] = self.draw.choices([event for _, event in EVENTS], [often for often, _ in EVENTS])
        self.slurm(event.replace("JOB", job))

    def trouble(self) -> None:
        """Take something away for a while, or start it anew."""
        what = self.draw.choice(TROUBLES)
        if what in self.until_when:
            return
        self.say(f"trouble: {what}")
        if what in ("slurmctld", "n1"):
            self.cluster.daemon("restart", what)
        elif what == "urgent":
            node = self.draw.choice(["n2", "n3"])
            self.slurm(f"sbatch -o /dev/null -p urgent -w {node} --exclusive --wrap true", USER)
        else:
            if what in ("slurmdbd", "n4"):
                self.cluster.daemon("crash" if what == "n4" else "stop", what)
            self.until_when[what] = time.monotonic() + (45 if what == "n4" else self.draw.uniform(3, 40))
        self._fail()

    def mend(self, *, everything: bool = False) -> None:
        """End the troubles whose time is over."""
        for what, until in list(self.until_when.items()):
            if everything or time.monotonic() > until:
                del self.until_when[what]
                self.say(f"over: {what}")
                if what in ("slurmdbd", "n4"):
                    self.cluster.daemon("start", what)
        self._fail()

    def _fail(self) -> None:
        self.backend.failing = frozenset(self.until_when)

    def look(self) -> None:
        """Make a pass, maybe an early one, maybe while something happens."""
        if "absent" in self.until_when:
            time.sleep(0.5)
            return
        self.backend.happens = self.happen if self.draw.random() < 0.3 else None
        runs = [run for tasks in self.runs.values() for run in tasks.values()]
        self.step(self.draw.sample(runs, min(3, len(runs))) if self.draw.random() < 0.3 else ())

    def step(self, only: Sequence[int] = ()) -> None:
        """Make one pass, and note what is over although Slurm goes on with it."""
        cluster = self.backend.cluster or ""
        report = reconcile.run_once(self.connection, self.backend, cluster, grace=GRACE, only=only)
        over = {
            change.run.slurm_job_id: change.run.run_id
            for change in report.changes
            if change.run.time_ended and not change.before.time_ended
        }
        listed = self.root("squeue", "-a", "-h", "-o", "%A").split() if over else []
        self.premature += [run for job, run in over.items() if str(job) in listed]

    def rest(self) -> None:
        """Let go of what is held or suspended, and make passes until all is over for good."""
        self.mend(everything=True)
        self.say("rest")
        unsettled = "SELECT count(*) FROM runs WHERE time_ended IS NULL OR recheck_after IS NOT NULL"
        deadline = time.monotonic() + 600
        while self.rows(unsettled)[0]["count"]:
            assert time.monotonic() < deadline, self.rows("SELECT * FROM runs WHERE time_ended IS NULL")
            self.step()
            for line in self.root("squeue", "-a", "-h", "-u", USER, "-o", "%i %t %r").splitlines():
                self._free(*line.split(" ", 2))
            time.sleep(4)

    def _free(self, job: str, state: str, reason: str) -> None:
        job = job.partition("+")[0]
        if state == "S":
            self.slurm(f"scontrol resume {job}")
        elif "eld" in reason or "requeued" in reason:
            self.slurm(f"scontrol release {job}")
        elif "Never" in reason:
            self.slurm(f"scancel {job}")


@pytest.fixture
def fate(cluster: Any, wheel_server: Any) -> Iterator[Fate]:
    with own_database(wheel_server, "cluster_events") as connection:
        fate = Fate(cluster, connection, Uncertain(cluster.layout.name, environ=cluster.env()))
        try:
            yield fate
        finally:
            fate.mend(everything=True)
            fate.slurm("scancel -u " + USER)


def compare(fate: Fate) -> tuple[int, list[str]]:
    """Compare every execution, and every run, with sacct's rows; return how many, and what differs."""
    jobs = ",".join(map(str, fate.jobs.values()))
    told = fate.root("sacct", "-a", "-j", jobs, *books.options(books.MORE))
    rows = books.whole(books.read(told, books.MORE))
    compared, differences = 0, []
    for run in fate.rows("SELECT * FROM runs ORDER BY id"):
        job, task = run["array_job_id"] or run["slurm_job_id"], run["array_task_id"]
        own = [row for row in rows if books.is_of(row, job, -1 if task is None else task)]
        attempts = fate.rows("SELECT * FROM attempts WHERE run_id = %s ORDER BY attempt", run["id"])
        compared += len(own)
        try:
            assert len(own) == len(attempts), f"{own}; {attempts}"
            for row, attempt in zip(own, attempts, strict=True):
                # Accounting may lose where a job ran, when slurmctld is restarted; squeue has told it.
                lost = {} if row["NodeList"] != "None assigned" else {"node_list": None, "time_started": None}
                books.assert_equal(row, {**attempt, **lost})
            if own:
                assert_same_run(own[-1], run)
        except AssertionError as error:
            differences.append(f"r{run['id']} {job} {task}: {error}; {run}")
    return compared, differences


def assert_same_run(row: dict[str, str], run: dict[str, Any]) -> None:
    """Compare what a run shows with the row of its latest execution."""
    assert run["status"] == row["State"].split()[0]
    limit = units.minutes(row["TimelimitRaw"])
    told = (run["partition"], run["job_name"], run["time_limit"])
    assert told == (row["Partition"], row["JobName"], limit)
    if run["time_started"] and row["Start"].isdigit() and row["NodeList"] != "None assigned":
        ran = run["time_ended"] - run["time_started"] - run["suspended"]
        assert ran == timedelta(seconds=int(row["ElapsedRaw"]))


def test_whatever_happens_each_execution_is_told_as_accounting_tells_it(fate: Fate) -> None:
    while len(fate.jobs) < JOBS:
        fate.mend()
        fate.new()
        for _ in range(fate.draw.choice([0, 0, 1, 1, 2, 3])):
            fate.happen()
        if fate.draw.random() < 0.15:
            fate.trouble()
        if fate.draw.random() < 0.7:
            fate.look()
    fate.rest()
    compared, differences = compare(fate)
    print(f"seed {SEED}: {compared} executions compared, {len(differences)} differ")
    assert (differences, fate.premature) == ([], []), "\n".join([*differences, *fate.log])
