"""Facts about one job, a stored run of it, and what the plan makes of them: for tests of the plan."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from hpctrack.model import JobFacts, StoredRun
from hpctrack.reconcile import relayed
from hpctrack.reconcile.plan import GRACE, Survey, plan
from hpctrack.run import states
from hpctrack.run.states import RunStatus
from tests.support.relay_says import said

S = RunStatus
T0 = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)
ALL = Survey(queue=True, accounts=range(1000))
QUEUE = Survey(queue=True)


def at(seconds):
    return T0 + timedelta(seconds=seconds)


def run(**fields):
    return StoredRun(**{
        "run_id": 1, "kind": "batch", "status": S.PENDING, "slurm_user": "alice", "cluster": "mini",
        "time_submitted": T0, "slurm_job_id": 10, **fields,
    })  # fmt: skip


def task(number, **fields):
    fields = {"run_id": number, "slurm_job_id": None, **fields}
    return run(array_job_id=20, array_task_id=number, **fields)


def fact(source, state, **fields):
    return JobFacts(**{
        "source": source, "cluster": "mini", "job_id": 10, "raw": state,
        "status": states.status_of(state), "slurm_user": "alice", "time_submitted": T0, "time": at(1000),
        **fields,
    })  # fmt: skip


def squeue(state, attempt=0, start=None, node="n1", **fields):
    running = state not in ("PENDING", "REQUEUE_HOLD", "SPECIAL_EXIT", "REQUEUED")
    where = {"time_started": at(start if start is not None else 5), "node_list": node} if running else {}
    return fact("squeue", state, **{"attempt": attempt, "job_name": "train", **where, **fields})


def row(state, start=5, end=50, **fields):
    ended = {} if end is None else {"time_ended": at(end), "slurm_exit_code": 0, "slurm_exit_signal": 0}
    started = {} if start is None else {"time_started": at(start), "node_list": "n1"}
    return fact("sacct", state, **{"partition": "main", **started, **ended, **fields})


def relay(kind, attempt=0, when=6, run_id=1, **body):
    told = relayed.fact_of(said(run_id, kind, attempt, time=at(when).timestamp(), **body), at(2000))
    assert told
    return told


def decide(stored, *facts, now=1000, survey=ALL, grace=GRACE):
    """Return the run as it is afterwards, and the transitions."""
    changes = plan(facts, [stored], at(now), survey=survey, grace=grace)
    if not changes:
        return stored, []
    [change] = changes
    assert change.before is stored
    return change.run, [(t.attempt, t.status, t.source) for t in change.transitions]


def after(stored, *passes):
    """Return the run after several passes, each a tuple of facts, half a minute apart."""
    for number, facts in enumerate(passes):
        stored, _ = decide(stored, *facts, now=1000 + 30 * number)
    return stored
