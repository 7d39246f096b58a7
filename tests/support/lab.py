"""A real cluster and a database: jobs of plain sbatch, registered, and the reconciler's passes over them."""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg

from hpctrack import reconcile, settings
from hpctrack.model import JobFacts
from hpctrack.slurm import accounting
from hpctrack.store import database
from tests.support import books

USER = "hpcalice"
#: Shorter than in real life, and longer than Slurm takes to list a requeued job again.
GRACE = timedelta(seconds=20)
#: The node on which nothing is preempted and nothing fails.
SAFE = ("-w", "n1")
RESTARTED = '[ "${SLURM_RESTART_COUNT:-0}" -ge %d ]'


class Listening(accounting.CommandLine):
    """Asks Slurm's commands, and keeps every word that squeue said of a job."""

    def queue(self, users: Sequence[str] | None = None) -> list[JobFacts]:
        """See `accounting.Backend`."""
        facts = super().queue(users)
        for fact in facts:
            job = fact.array_job_id or fact.het_job_id or fact.job_id
            self.said.setdefault(job, {})[fact.raw] = None
        return facts

    @functools.cached_property
    def said(self) -> dict[int, dict[str, None]]:
        """Words by job, in the order in which they came."""
        return {}


@dataclass
class Lab:
    """The cluster, a database, and what was submitted."""

    cluster: Any
    connection: psycopg.Connection[Any]
    backend: Listening
    runs: dict[str, dict[int, int]] = field(default_factory=dict)
    """By scenario: run ids by task."""
    jobs: dict[str, int] = field(default_factory=dict)
    premature: list[int] = field(default_factory=list)
    """Runs that were over while squeue listed their jobs: must stay empty."""

    def command(self, *argv: object, user: str = USER) -> str:
        """Run one of Slurm's commands as an ordinary user."""
        command = self.cluster.command_as(user, *map(str, argv))
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def root(self, *argv: object) -> str:
        """Run one of Slurm's commands as the administrator."""
        done = subprocess.run(
            list(map(str, argv)), check=False, capture_output=True, text=True, timeout=60,
            env={**self.cluster.env(), "SLURM_TIME_FORMAT": "%s"},
        )  # fmt: skip
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def submit(self, name: str, *argv: object, wrap: str = "", tasks: list[int] | None = None) -> int:
        """Submit with plain sbatch, and register the job as hpctrack sbatch would."""
        began = time.time()
        wrapped = ["--wrap", wrap] if wrap else []
        job = int(self.command("sbatch", "--parsable", "-o", "/dev/null", *argv, *wrapped))
        submission = {
            "uuid": str(uuid.uuid4()),
            "user_name": USER,
            "cluster": self.backend.cluster,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S+00", time.gmtime(began)),
        }
        run = {"experiment": "states", "job_id": job, "tags": {name: True}}
        rows = self.connection.execute(
            "SELECT * FROM register_submission(%s, %s, %s, %s)",
            (json.dumps(submission), b"x" * 32, json.dumps(run), tasks or [-1]),
        ).fetchall()
        self.connection.commit()
        self.runs[name] = {int(task): int(run_id) for task, run_id in rows}
        self.jobs[name] = job
        return job

    def step(self) -> None:
        """Make one pass, and note what is over although Slurm goes on with it."""
        report = reconcile.run_once(self.connection, self.backend, self.backend.cluster or "", grace=GRACE)
        assert report.error is None
        over = {
            change.run.slurm_job_id: change.run.run_id for change in report.changes if change.run.time_ended
        }
        if over:
            listed = set(map(int, self.root("squeue", "-a", "-h", "-o", "%A").split()))
            self.premature += [run for job, run in over.items() if job in listed]

    def until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Make passes until the condition is true."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                still_open = "SELECT * FROM runs WHERE time_ended IS NULL ORDER BY id"
                raise AssertionError(f"not within {seconds:g} s: {what}; {self.rows(still_open)}")
            self.step()
            time.sleep(0.7)

    def until_status(self, name: str, status: str, seconds: float = 30, task: int = -1) -> None:
        """Make passes until a run has a status."""
        self.until(lambda: self.run(name, task)["status"] == status, seconds, f"{name} is {status}")

    def run(self, name: str, task: int = -1) -> dict[str, Any]:
        """The run's row."""
        return self.rows("SELECT * FROM runs WHERE id = %s", self.runs[name][task])[0]

    def attempts(self, name: str, task: int = -1) -> list[dict[str, Any]]:
        """The run's attempts."""
        return self.rows("SELECT * FROM attempts WHERE run_id = %s ORDER BY attempt", self.runs[name][task])

    def timeline(self, name: str, task: int = -1) -> list[tuple[int, str]]:
        """Attempt and status of each transition, without what a poll may or may not catch."""
        query = "SELECT * FROM transitions WHERE run_id = %s ORDER BY attempt, id"
        rows = self.rows(query, self.runs[name][task])
        passing = ("CONFIGURING", "COMPLETING")
        return [(row["attempt"], row["status"]) for row in rows if row["status"] not in passing]

    def rows(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        """Query the database."""
        with self.connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            rows = cursor.execute(query, parameters).fetchall()
        self.connection.commit()
        return rows

    def accounted(self, job: object) -> list[dict[str, str]]:
        """What sacct says of a job: one record per execution."""
        return books.read(self.root("sacct", "-a", "-j", job, *books.OPTIONS))


@contextlib.contextmanager
def own_database(server: Any, name: str) -> Iterator[psycopg.Connection[Any]]:
    """Connect to a database of one's own, which goes when all is well."""
    server.execute(f"CREATE DATABASE {name} TEMPLATE template_hpctrack")
    where = settings.Settings(dsn={**server.params, "dbname": name})
    with database.connect(where) as connection:
        yield connection
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.contextmanager
def opened(cluster: Any, server: Any, name: str) -> Iterator[Lab]:
    """Give a lab with a database of its own; its jobs are cancelled in the end."""
    with own_database(server, name) as connection:
        lab = Lab(cluster, connection, Listening(cluster.layout.name, environ=cluster.env()))
        try:
            yield lab
        finally:
            if lab.jobs:
                lab.root("scancel", *lab.jobs.values())
