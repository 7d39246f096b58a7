"""What the reconciler costs: reading accounting, and comparing a large site's runs with its queue."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone

from benchmarks import site
from benchmarks.result import Result
from hpctrack import reconcile
from hpctrack.model import Attempt, JobFacts, StoredRun
from hpctrack.reconcile.plan import Survey, plan
from hpctrack.run.states import RunStatus
from hpctrack.slurm import parse

#: What the names of its results begin with.
RESULTS = ("reconcile.",)

RUNS = 100_000
QUEUED = 20_000
_T0 = datetime(2026, 11, 21, tzinfo=timezone.utc)
_EPOCH = int(_T0.timestamp())
_D = "\x1fd3adb33f\x1f"
_ROW = (
    "{0} {0}{1} mini COMPLETED {2} {2} {2} 0:0 0:0 alice main lab normal 60 n1 10 00:01.500 {3} "
    "cpu=1,mem=250M,node=1 cpu=1,mem=250M,node=1 0 0 s9{0:012} s9{0:012} train"
)
_SUBMIT = """
WITH e AS (INSERT INTO experiments (name) VALUES ('cycle') RETURNING id),
     n AS (SELECT n, gen_random_uuid() AS uuid FROM generate_series(0, %(count)s - 1) n),
     s AS (INSERT INTO submissions (uuid, user_name, cluster, time)
           SELECT uuid, 'alice', 'mini', %(time)s FROM n RETURNING uuid)
INSERT INTO runs (experiment_id, submission, task, cluster, slurm_job_id, user_name, kind)
SELECT e.id, n.uuid, -1, 'mini', n.n, 'alice', 'batch' FROM e, n JOIN s USING (uuid)
"""
_OF_ALL = "0 alice main lab normal 1:00:00"
_WAITING = f"{{0}} {{0}} N/A N/A PENDING 0 {{1}} N/A N/A {_OF_ALL} 0:00 N/A N/A Priority s9{{0:012}} train"
_LINE = f"{{0}} {{0}} N/A N/A RUNNING 0 {{1}} {{2}} N/A {_OF_ALL} {{3}} n1 n1 None s9{{0:012}} train"


def measure() -> Iterator[Result]:
    """Yield seconds of processor time; the targets are the project's promises."""
    rows = [
        _ROW.format(100 + n // 3, ("", ".batch", ".0")[n % 3], _EPOCH + n // 3, "216K" if n % 3 else "-")
        for n in range(RUNS)
    ]
    text = _text(rows)
    fields = list(parse.SACCT_FIELDS)
    spent = _seconds(lambda: parse.sacct(text, _D, fields, _T0))
    yield Result("reconcile.parse_sacct_100k_rows", spent, "s", target=1.5)

    stored = [_run(n) for n in range(RUNS)]
    facts = [_fact(n, RunStatus.RUNNING) for n in range(RUNS)]
    survey = Survey(queue=True)
    spent = _seconds(lambda: plan(facts, stored, _T0, survey=survey))
    yield Result("reconcile.plan_100k_runs", spent, "s", target=2.0, note="nothing changed")
    facts[::50] = [_fact(n, RunStatus.COMPLETING) for n in range(0, RUNS, 50)]
    spent = _seconds(lambda: plan(facts, stored, _T0, survey=survey))
    yield Result("reconcile.plan_100k_runs_2k_changes", spent, "s", target=2.0)

    every = [_fact(n, RunStatus.COMPLETING) for n in range(RUNS)]
    spent = _seconds(lambda: plan(every, stored, _T0, survey=survey))
    yield Result("reconcile.plan_100k_runs_all_change", spent, "s", note="the worst case")

    with site.personal() as place, contextlib.closing(place.connect()) as connection:
        connection.execute(_SUBMIT, {"count": QUEUED, "time": _T0})
        connection.autocommit = False
        asked = Prepared()
        reconcile.run_once(connection, asked, "mini")
        spent = _seconds(lambda: reconcile.run_once(connection, asked, "mini"))
        yield Result("reconcile.cycle_20k_jobs", spent, "s", target=1.0, note="load, parse and plan")


class Prepared:
    """A backend that has squeue's answer already: every second job runs, the others wait."""

    def __init__(self) -> None:
        self._now = datetime.now(timezone.utc)
        ran = int(self._now.timestamp()) - _EPOCH - 5
        self._text = _text(
            [(_LINE if n % 2 else _WAITING).format(n, _EPOCH, _EPOCH + 5, ran) for n in range(QUEUED)]
        )

    def queue(self, users: Sequence[str] | None = None) -> list[JobFacts]:
        """Read it."""
        del users
        return parse.squeue(self._text, _D, "mini", self._now)

    def ended(self, jobs: Sequence[str], since: datetime) -> list[JobFacts]:
        """Nothing has ended."""
        del jobs, since
        return []


def _seconds(call: Callable[[], object]) -> float:
    """Return the least processor time of three runs."""
    times = []
    for _ in range(3):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return min(times)


def _text(lines: list[str]) -> str:
    return "".join("".join(word + _D for word in line.split()) + "\n" for line in lines)


def _run(number: int) -> StoredRun:
    started = _T0 + timedelta(seconds=5)
    attempt = Attempt(0, RunStatus.RUNNING, _T0, started, node_list="n1")
    return StoredRun(
        run_id=number,
        kind="batch",
        status=RunStatus.RUNNING,
        slurm_user="alice",
        cluster="mini",
        time_submitted=_T0,
        slurm_job_id=number,
        time_started=started,
        time_seen=_T0,
        node_list="n1",
        slurm_state="RUNNING",
        job_name="train",
        partition="main",
        account="lab",
        qos="normal",
        time_limit=timedelta(hours=1),
        attempts=(attempt,),
    )


def _fact(number: int, status: RunStatus) -> JobFacts:
    return JobFacts(
        source="squeue",
        cluster="mini",
        job_id=number,
        raw=status.value,
        status=status,
        slurm_user="alice",
        attempt=0,
        time_submitted=_T0,
        time_started=_T0 + timedelta(seconds=5),
        node_list="n1",
        job_name="train",
        time=_T0,
    )
