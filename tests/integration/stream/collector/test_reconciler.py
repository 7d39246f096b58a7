"""The collector and Slurm: when it asks, and for whom."""

from __future__ import annotations

import datetime
import threading
import time
import uuid

import pytest

from hpctrack import model
from hpctrack.run.states import RunStatus
from hpctrack.store.write import collectors
from hpctrack.stream.collector import figures, reconciler
from tests.support.waiting import PATIENCE, eventually


class Books:
    """Slurm's books, which learn of the end of job 14 only when they have been looked at twice."""

    def __init__(self) -> None:
        self.looks = 0

    def _fact(self, source, status) -> model.JobFacts:
        now = datetime.datetime.now(datetime.timezone.utc)
        ended = now if status is RunStatus.FAILED else None
        submitted = now - datetime.timedelta(minutes=1)
        return model.JobFacts(
            source, "c", 14, status.value, status, slurm_user="u", attempt=0, time_submitted=submitted,
            time_started=submitted, time_ended=ended, slurm_exit_code=3 if ended else None,
        )  # fmt: skip

    def queue(self, users=None):
        return [] if self.looks > 2 else [self._fact("squeue", RunStatus.COMPLETING)]

    def ended(self, jobs, since):
        self.looks += 1
        status = RunStatus.FAILED if self.looks > 2 else RunStatus.RUNNING
        return [self._fact("sacct", status)]


@pytest.mark.parametrize("away", [0.0, 1.5], ids=["", "after another collector's lease has run out"])
def test_a_finished_job_shows_its_final_state_within_seconds(settings, connection, insert, away):
    experiment, name, books = insert("experiments", name="e"), uuid.uuid4(), Books()
    before = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=1)
    insert("submissions", uuid=name, user_name="u", time=before, cluster="c")
    run_id = insert(
        "runs", experiment_id=experiment, status="RUNNING", submission=name, task=-1, user_name="u",
        cluster="c", slurm_job_id=14, time_created=before,
    )  # fmt: skip
    collector = uuid.uuid4()
    assert collectors.beat(connection, collector, host="h", pid=1, addresses=["h:1"], stats={})
    rarely = settings._replace(reconcile_interval=3600.0)
    leads = threading.Event()
    leads.set()
    failures: list[str] = []
    thread = reconciler.Reconciler(
        rarely, collector, lambda: reconciler.Slurm("c", books, None), leads.is_set, between_looks=0.5
    )
    thread.start(failures.append)
    try:
        eventually(lambda: thread.passes)  # the regular pass, for the next hour
        if away:
            leads.clear()
        thread.ended({run_id})
        time.sleep(away)
        leads.set()
        query = "SELECT status::text FROM runs WHERE id = %s"
        eventually(lambda: connection.execute(query, [run_id]).fetchone() == ("FAILED",))
        assert books.looks == 4  # the third finds a failure, and asks again once squeue has let the job go
    finally:
        thread.stop()
        thread.join(PATIENCE)
    assert failures == []
    assert thread.trouble is None
    assert thread.add_to(figures.Figures()).slurm_interval_s == 3600.0


def test_who_does_not_lead_leaves_slurm_alone(settings):
    def find():
        raise AssertionError

    failures: list[str] = []
    thread = reconciler.Reconciler(settings, uuid.uuid4(), find, lambda: False)
    thread.start(failures.append)
    thread.ended({1})
    time.sleep(1.0)
    thread.stop()
    thread.join(PATIENCE)
    assert failures == []
    assert thread.passes == 0
