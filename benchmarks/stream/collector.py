"""The collector at the speed of the database: datagrams to committed rows of five values.

The floor is a bare psycopg client that has the same rows in memory: binary COPY into a temporary table, and
INSERT ... ON CONFLICT from there, into the same ``metrics``.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks import replay
from benchmarks.result import Result
from benchmarks.site import Collector, Run, Site, personal
from hpctrack.store import database
from hpctrack.stream.collector import committer
from hpctrack.stream.wire import journal

#: What the names of its results begin with.
RESULTS = ("stream.collector",)

ROWS = 240_000
SENDERS = 4
ROUNDS = 3
#: Rows of five values that fill a datagram.
_PER_DATAGRAM = 29
_TIME = 1.7e9
_NAMES = ("loss", "accuracy", "lr", "norm", "val/loss")
_COLUMNS = "run_id, step, progress, time, attempt, " + ", ".join(f'"{name}"' for name in _NAMES)
_UPDATES = ", ".join(f'"{name}" = excluded."{name}"' for name in _NAMES)
_MERGE = (
    f"INSERT INTO metrics ({_COLUMNS}) SELECT {_COLUMNS} FROM incoming"
    f" ON CONFLICT (run_id, step, progress) DO UPDATE"
    f" SET time = excluded.time, attempt = excluded.attempt, {_UPDATES}"
)
_HEADER, _TRAILER = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
_EPOCH = 946_684_800


def measure() -> Iterator[Result]:
    """Measure everything in turn, round by round, so that what else the machine does hits all."""
    with personal() as few, few.collector() as one, personal() as many, many.collector() as other:
        ship(few, one, SENDERS, ROWS // 10, [_NAMES])  # makes the columns
        ship(many, other, 200, ROWS // 10, subsets(200))
        speeds: dict[str, list[float]] = defaultdict(list)
        for _ in range(ROUNDS):
            speeds["floor"].append(_floor(few, merged=True))
            speeds["rows"].append(ship(few, one, SENDERS, ROWS, [_NAMES]))
            speeds["copy"].append(_floor(few, merged=False))
            speeds["single_set"].append(ship(many, other, SENDERS, ROWS, subsets(1)))
            speeds["1000_subsets"].append(ship(many, other, 1000, ROWS, subsets(1000)))
            speeds["1000_same"].append(ship(many, other, 1000, ROWS, subsets(1)))
            speeds["1000_distinct"].append(ship(many, other, 1000, ROWS // 2, _distinct(1000)))
        peaks = one.peak_mb, other.peak_mb
    speed = {name: statistics.median(values) for name, values in speeds.items()}
    rows = speed["rows"]
    yield Result(
        "stream.collector.rows", rows, "rows/s", speed["floor"], 1.0, at_least=True, note="4 streams"
    )
    yield Result("stream.collector.plain_copy", rows, "rows/s", speed["copy"], note="floor: plain COPY")
    for name, target in (("1000_subsets", 0.5), ("1000_same", None), ("1000_distinct", None)):
        narrow = f"{speed[name] / rows:.2f} of what goes into a table of 5"
        note = f"1,000 streams; floor: 4 of one set of names; both into a table of 200 columns; {narrow}"
        result = f"stream.collector.{name}"
        yield Result(result, speed[name], "rows/s", speed["single_set"], target, at_least=True, note=note)
    yield Result("stream.collector.peak", peaks[0], "MB", note="resident, 4 streams")
    yield Result("stream.collector.1000_peak", peaks[1], "MB", note="resident, 1,000 streams")


def subsets(count: int) -> list[tuple[str, ...]]:
    """Return different subsets of 200 names, five each, that together are all of them."""
    random = np.random.default_rng(1)
    return [tuple(f"metric{n:03}" for n in sorted(random.permutation(200)[:5])) for _ in range(count)]


def _distinct(count: int) -> list[tuple[str, ...]]:
    return [tuple(f"only{n}/{i}" for i in range(5)) for n in range(count)]


def ship(site: Site, collector: Collector, runs: int, rows: int, sets: Sequence[tuple[str, ...]]) -> float:
    """Ship rows of so many runs; returns rows per second, committed, acknowledged and all there."""
    registered = site.submit(runs)
    named = [(run, sets[index % len(sets)]) for index, run in enumerate(registered)]
    each = rows // runs
    loads = [functools.partial(_streams, named[first::SENDERS], each) for first in range(SENDERS)]
    seconds = replay.replay(collector.address, loads)
    ids = [run.run_id for run in registered]
    with contextlib.closing(site.connect()) as connection:
        row = connection.execute(
            "SELECT count(*), (SELECT sum(rows)::bigint FROM streams WHERE run_id = ANY (%(ids)s))"
            " FROM metrics WHERE run_id = ANY (%(ids)s)",
            {"ids": ids},
        ).fetchone()
    if row != (each * runs, each * runs):
        raise RuntimeError(f"{row} rows arrived, not {each * runs}")
    return each * runs / seconds


def _streams(named: Sequence[tuple[Run, tuple[str, ...]]], rows: int) -> list[replay.Stream]:
    return [replay.stream(run, list(_rows(run.run_id, names, rows))) for run, names in named]


def _rows(seed: int, names: Sequence[str], rows: int) -> Iterator[journal.Row]:
    values = np.random.default_rng(seed).random((rows, len(names))).tolist()
    for step, cells in enumerate(values):
        yield journal.Row.of(0, step, None, _TIME + step * 0.001, dict(zip(names, cells, strict=True)))


def _floor(site: Site, *, merged: bool) -> float:
    """Return rows per second of a bare client; plain COPY unless they are ``merged``."""
    runs = site.submit(SENDERS)
    batches = list(_batches([run.run_id for run in runs]))
    with contextlib.closing(site.connect()) as connection:
        connection.execute("CREATE TEMPORARY TABLE incoming (LIKE metrics) ON COMMIT DELETE ROWS")
        began = time.monotonic()
        for batch in batches:
            with connection.transaction():
                _copy(connection, "incoming" if merged else "metrics", batch)
                if merged:
                    connection.execute(_MERGE)
        return ROWS / (time.monotonic() - began)


def _copy(connection: database.Connection, table: str, data: bytes) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY {table} ({_COLUMNS}) FROM STDIN BINARY") as copy:
        copy.write(data)


def _batches(runs: Sequence[int]) -> Iterator[bytes]:
    """Yield COPY data of batches as the collector makes them at most, the runs in turn."""
    fields = [("run", ">i8"), ("step", ">i8"), ("progress", ">f8"), ("time", ">i8"), ("attempt", ">i4")]
    fields += [(f"v{i}", ">f8") for i in range(len(_NAMES))]
    layout = np.dtype(
        [("count", ">i2")] + [part for name, dtype in fields for part in ((f"n{name}", ">i4"), (name, dtype))]
    )
    each = ROWS // len(runs)
    steps = np.arange(each)
    size = committer.BATCH * _PER_DATAGRAM // len(runs)
    random = np.random.default_rng(0)
    for begin in range(0, each, size):
        part = steps[begin : begin + size]
        out = np.empty(len(part) * len(runs), layout)
        out["count"] = len(fields)
        for name, dtype in fields:
            out[f"n{name}"] = np.dtype(dtype).itemsize
        out["run"] = np.repeat(runs, len(part))
        out["step"] = np.tile(part, len(runs))
        out["progress"] = 0.0
        out["time"] = ((_TIME - _EPOCH) * 1e6 + out["step"] * 1000).astype(np.int64)
        out["attempt"] = 0
        for index in range(len(_NAMES)):
            out[f"v{index}"] = random.random(len(out))
        yield _HEADER + out.tobytes() + _TRAILER
