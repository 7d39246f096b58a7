"""A big database that looks like a real one, loaded by COPY: a group's years of tracked runs.

``python -m benchmarks.bigdata --runs 1000000`` fills the database that is configured (``HPCTRACK_DSN_...``).
Most runs end well, some fail in every way; a third of them are tasks of job arrays; a few live. One run, the
last, has a series of its own length, with a spike of one step.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import uuid
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

import numpy as np

from hpctrack import settings
from hpctrack.store import database

ROWS_A_RUN = 20
LONG_SERIES = 1_000_000
SPIKE = 1e6
_STATES = (
    ("COMPLETED", 80),
    ("FAILED", 9),
    ("TIMEOUT", 4),
    ("CANCELLED", 4),
    ("OUT_OF_MEMORY", 2),
    ("NODE_FAIL", 1),
)
_LIVE = (("RUNNING", 1), ("PENDING", 3))
_LIVE_RUNS = 400
_USERS = tuple(f"user{number:02}" for number in range(40))
_MODELS = ("resnet50", "vit-b16", "unet", "gpt-small", "mlp")
_METRICS = ("train_loss", "val_loss", "accuracy", "learning_rate")
#: Runs whose metrics travel in one piece.
_PIECE = 20_000


class Counts(NamedTuple):
    """How much there is to be."""

    runs: int
    experiments: int
    rows_a_run: int = ROWS_A_RUN
    long_series: int = LONG_SERIES

    @classmethod
    def of(cls, runs: int, long_series: int = LONG_SERIES) -> Counts:
        """Return what goes with so many runs: 200 experiments for a million."""
        return cls(runs, max(runs // 5000, 2), long_series=long_series)


class _Submission(NamedTuple):
    uuid: uuid.UUID
    user: str
    time: datetime
    experiment: int
    job: int
    tasks: int
    """0 for a plain job."""


def fill(connection: database.Connection, counts: Counts, seed: int = 1) -> None:
    """Fill an empty schema. The connection must be a superuser's: keys are not checked row by row."""
    chance = random.Random(seed)
    for name in _METRICS:
        connection.execute(f"ALTER TABLE metrics ADD COLUMN IF NOT EXISTS {name} double precision".encode())
    with connection.transaction():
        connection.execute("SET LOCAL session_replication_role = replica")
        submissions = list(_submissions(counts, chance))
        _copy(connection, "experiments (id, name, user_name)", _experiments(counts))
        _copy(connection, _SUBMISSIONS, map(_submission_row, submissions))
        _copy(connection, _RUNS, _runs(submissions, counts, chance))
        connection.execute(_IDS)
        connection.execute(_ATTEMPTS)
        _copy_metrics(connection, counts, np.random.default_rng(seed))
        connection.execute(_LATEST)
        connection.execute(_LATEST_OF_LONG)
        connection.execute("ANALYZE metrics, runs, run_latest")
        connection.execute(_summaries().encode())
    connection.execute("VACUUM ANALYZE")


_SUBMISSIONS = "submissions (uuid, user_name, cluster, time, submit_line, script, work_dir, git, env)"
_RUNS = (
    "runs (id, experiment_id, status, time_created, time_started, time_ended, tags, args, env, submission,"
    " task, user_name, cluster, slurm_job_id, array_job_id, array_task_id, job_name, partition, account,"
    " time_limit, stdout_path, exit_code, reason, node_list, slurm_state, time_seen, kind)"
)
#: No trigger has drawn ids while triggers were off.
_IDS = """
    SELECT setval('experiments_id_seq', (SELECT max(id) FROM experiments)),
           setval('runs_id_seq', (SELECT max(id) FROM runs))"""
_ATTEMPTS = """
    INSERT INTO attempts (run_id, attempt, slurm_job_id, status, time_submitted, time_started, time_ended,
                          exit_code, node_list, resources)
    SELECT id, 0, slurm_job_id, status, time_created, time_started, time_ended, exit_code, node_list,
           '{"elapsed_s": 3600, "cpu_s": 12000, "max_rss_bytes": 4000000000,
             "alloc_tres": {"cpu": 4, "mem": 16000000000}}'
    FROM runs WHERE time_started IS NOT NULL"""
_LATEST = """
    INSERT INTO run_latest (run_id, next_step, last_step, last_time, last, rows)
    SELECT m.run_id, m.step + 1, m.step, m.time,
           jsonb_build_object('train_loss', m.train_loss, 'val_loss', m.val_loss, 'accuracy', m.accuracy,
                              'learning_rate', m.learning_rate), m.step + 1
    FROM metrics m
    JOIN (SELECT run_id, max(step) AS step FROM metrics GROUP BY run_id) l USING (run_id, step)
    ORDER BY m.run_id"""
#: Of runs that are over in run_metrics, as the collector leaves them; of others beside their latest values.
_SUMMARIES = """
    SET LOCAL work_mem = '512MB';
    CREATE TEMPORARY TABLE summaries ON COMMIT DROP AS
    SELECT w.run_id, v.name, w.count, v.min, v.max, v.first, v.last, l.last_step
    FROM (SELECT run_id, count(*) AS count, {} FROM metrics GROUP BY run_id) w
    JOIN run_latest l USING (run_id)
    CROSS JOIN LATERAL (VALUES {}) AS v (name, min, max, first, last);
    INSERT INTO metric_names (name) SELECT DISTINCT name FROM summaries ORDER BY name;
    INSERT INTO run_metrics (run_id, name_id, count, nans, min, min_step, max, max_step, first, first_step,
                             first_progress, last, last_step, last_progress)
    SELECT s.run_id, n.id, s.count, 0, s.min, 0, s.max, 0, s.first, 0, 0, s.last, s.last_step, 0
    FROM summaries s JOIN runs r ON r.id = s.run_id JOIN metric_names n USING (name)
    WHERE r.time_ended IS NOT NULL
    ORDER BY s.run_id, n.id;
    UPDATE run_latest l SET settled = true FROM runs r WHERE r.id = l.run_id AND r.time_ended IS NOT NULL;
    UPDATE run_latest l
    SET stats = (SELECT jsonb_object_agg(s.name, jsonb_build_array(
                            s.count, 0, s.min, 0, s.max, 0, s.first, 0, 0, s.last, s.last_step, 0))
                 FROM summaries s WHERE s.run_id = l.run_id)
    WHERE NOT l.settled"""
_LATEST_OF_LONG = "UPDATE run_latest SET rows = last_step + 1 WHERE run_id = (SELECT max(id) FROM runs)"


def _summaries() -> str:
    """Return the statements that make statistics, by one pass through all rows."""
    reckoned = ", ".join(
        f"min({name}) AS min_{name}, max({name}) AS max_{name},"
        f" min({name}) FILTER (WHERE step = 0) AS first_{name}"
        for name in _METRICS
    )
    values = ", ".join(
        f"('{name}', min_{name}, max_{name}, first_{name}, (l.last ->> '{name}')::double precision)"
        for name in _METRICS
    )
    return _SUMMARIES.format(reckoned, values)


def _copy(connection: database.Connection, target: str, rows: Iterable[tuple[object, ...]]) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY {target} FROM STDIN".encode()) as copy:
        for row in rows:
            copy.write_row(row)


def _experiments(counts: Counts) -> Iterator[tuple[object, ...]]:
    for number in range(counts.experiments):
        yield number + 1, f"experiment-{number:03}", _USERS[number % len(_USERS)]


def _submissions(counts: Counts, chance: random.Random) -> Iterator[_Submission]:
    """Yield submissions by rising time, until they have as many runs as there are to be."""
    runs, job, now = 0, 1000, datetime.now(timezone.utc)
    while runs < counts.runs:
        tasks = min(chance.choice((8, 20, 100)), counts.runs - runs) if chance.random() < 0.02 else 0
        when = now - timedelta(days=1000) * (1 - runs / counts.runs)
        user = chance.choice(_USERS)
        yield _Submission(
            uuid.UUID(int=chance.getrandbits(128), version=4), user, when,
            chance.randint(1, counts.experiments), job, tasks,
        )  # fmt: skip
        runs += max(tasks, 1)
        job += tasks + 1


def _submission_row(one: _Submission) -> tuple[object, ...]:
    env = {
        "HOME": f"/home/{one.user}",
        "PATH": "/usr/bin:/bin",
        "OMP_NUM_THREADS": "4",
        "MODULES": "cuda/12 " * 20,
    }
    git = {
        "commit": one.uuid.hex + "00000000",
        "branch": "main",
        "dirty": False,
        "remote": "git@example.org:lab/net",
    }
    script = (
        "#!/bin/bash\n#SBATCH --time=08:00:00\n#SBATCH --cpus-per-task=4\nmodule load cuda\n"
        + "srun python train.py\n" * 5
    )
    return (one.uuid, one.user, "big", one.time, "sbatch train.sh", script, f"/home/{one.user}/net",
            json.dumps(git), json.dumps(env))  # fmt: skip


def _runs(
    submissions: list[_Submission], counts: Counts, chance: random.Random
) -> Iterator[tuple[object, ...]]:
    number = 0
    for submission in submissions:
        for task in range(max(submission.tasks, 1)):
            number += 1
            yield number, *_run_row(submission, task, counts.runs - number < _LIVE_RUNS, chance)


def _run_row(one: _Submission, task: int, live: bool, chance: random.Random) -> tuple[object, ...]:
    names, weights = zip(*(_LIVE if live else _STATES), strict=True)
    state = chance.choices(names, weights)[0]
    started = None if state == "PENDING" else one.time + timedelta(seconds=chance.randint(1, 4000))
    ended = None if live or started is None else started + timedelta(seconds=chance.randint(5, 28000))
    args = {
        "model": chance.choice(_MODELS),
        "lr": round(10 ** chance.uniform(-5, -1), 6),
        "batch_size": 2 ** chance.randint(4, 9),
        "optimizer.name": chance.choice(("adam", "sgd")),
        "seed": chance.randint(0, 9999),
        "data": "/scratch/imagenet",
    }
    tags = {"baseline": True} if chance.random() < 0.01 else {"sweep": str(one.job % 50)}
    env = {"SLURM_JOB_ID": str(one.job + task), "HOSTNAME": f"n{task % 64}"}
    array = one.tasks > 0
    return (
        one.experiment, state, one.time, started, ended,
        json.dumps(tags), json.dumps(args), json.dumps(env), one.uuid, task if array else -1, one.user, "big",
        one.job + task, one.job if array else None, task if array else None,
        f"train-{one.job % 300}.sh", chance.choice(("main", "gpu", "long")), "lab", timedelta(hours=8),
        f"/home/{one.user}/net/slurm-{one.job}.out", 1 if state == "FAILED" else 0, None, f"n{task % 64}",
        state, ended, "batch",
    )  # fmt: skip


def _copy_metrics(connection: database.Connection, counts: Counts, chance: np.random.Generator) -> None:
    """Write rows as PostgreSQL's binary COPY has them (manual, "COPY"): all of one width, made by numpy."""
    target = f"COPY metrics (run_id, step, time, {', '.join(_METRICS)}) FROM STDIN (FORMAT BINARY)"
    with connection.cursor() as cursor, cursor.copy(target.encode()) as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
        for first in range(1, counts.runs + 1, _PIECE):
            runs = np.arange(first, min(first + _PIECE, counts.runs + 1))
            ids = np.repeat(runs, counts.rows_a_run)
            copy.write(_rows(ids, np.tile(np.arange(counts.rows_a_run), len(runs)), chance))
        for first in range(counts.rows_a_run, counts.long_series, 200_000):
            steps = np.arange(first, min(first + 200_000, counts.long_series))
            copy.write(_rows(np.full(len(steps), counts.runs), steps, chance, spike=counts.long_series // 3))
        copy.write(b"\xff\xff")


def _rows(ids: np.ndarray, steps: np.ndarray, chance: np.random.Generator, spike: int = -1) -> bytes:
    fields = [("run_id", ">i8"), ("step", ">i8"), ("time", ">i8"), *((name, ">f8") for name in _METRICS)]
    layout = [("count", ">i2")]
    for name, form in fields:
        layout += [(f"{name}_size", ">i4"), (name, form)]
    table = np.zeros(len(ids), dtype=layout)
    table["count"] = len(fields)
    for name, _ in fields:
        table[f"{name}_size"] = 8
    table["run_id"], table["step"] = ids, steps
    table["time"] = 800_000_000_000_000 + steps * 1_000_000  # microseconds since 2000
    noise = chance.random(len(ids))
    table["train_loss"] = 2 / np.sqrt(1 + steps) + noise / 10
    table["val_loss"] = np.where(steps == spike, SPIKE, 2.2 / np.sqrt(1 + steps) + chance.random(len(ids)))
    table["accuracy"] = 1 - noise / (2 + steps)
    table["learning_rate"] = 0.1 * 0.99 ** (steps % 1000)
    return table.tobytes()


def main() -> None:
    """Fill the configured database."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--long-series", type=int, default=LONG_SERIES)
    arguments = parser.parse_args()
    began = time.monotonic()
    with database.connect(settings.load(), autocommit=True) as connection:
        fill(connection, Counts.of(arguments.runs, arguments.long_series))
    print(f"{arguments.runs} runs in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
