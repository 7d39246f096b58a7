"""A run, as lists have it."""

from datetime import datetime, timedelta, timezone

from hpctrack.run.states import RunStatus
from hpctrack.store.read.queries import RunRow

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=timezone.utc)
RUN = RunRow(
    id=7, experiment="digits", status=RunStatus.RUNNING, time_created=NOW - timedelta(minutes=10),
    time_started=NOW - timedelta(minutes=9), time_ended=None, tags=None, args=None, user_name="alice",
    cluster="demo", kind="batch", archived=False, slurm_job_id=17, array_job_id=14, array_task_id=3,
    het_job_id=None, job_name="train.sh", partition="main", account=None, qos=None, comment=None,
    time_limit=timedelta(hours=1), attempt=0,
    exit_code=None, exit_signal=None, reason=None, node_list="n1", slurm_state="RUNNING", missing_since=None,
    silent_since=None, last_step=3, last={}, rows=3, lost=0, waiting=0,
)  # fmt: skip
