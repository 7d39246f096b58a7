"""Honest streams while strangers flood the collector: with a wrong key, with invented runs, with noise."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import socket
import statistics
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from benchmarks.result import Result
from benchmarks.site import Run, personal
from benchmarks.stream.collector import ROUNDS, ROWS, SENDERS, ship
from hpctrack.stream.collector import mmsg
from hpctrack.stream.wire import datagrams, layout
from hpctrack.stream.wire.names import Address

#: What the names of its results begin with.
RESULTS = ("stream.flood",)

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue
    from multiprocessing.synchronize import Event

#: Datagrams of a flood each second.
RATE = 30_000
#: They differ in how far the collector has to look until it knows.
KINDS = ("wrong_key", "invented_runs", "noise")
_NAMES = [("loss", "accuracy", "lr", "norm", "val/loss")]
_VARIETY = 3000
_PAUSE = 0.005


def measure() -> Iterator[Result]:
    """Measure with each flood and without one in turn, round by round."""
    speeds: dict[str, list[float]] = defaultdict(list)
    rates: dict[str, list[float]] = defaultdict(list)
    with personal() as site, site.collector() as collector:
        ship(site, collector, SENDERS, ROWS // 10, _NAMES)  # makes the columns
        (victim,) = site.submit(1)
        for _ in range(ROUNDS):
            speeds["quiet"].append(ship(site, collector, SENDERS, ROWS, _NAMES))
            for kind in KINDS:
                with _flood(_datagrams(kind, victim), collector.address) as rate:
                    speeds[kind].append(ship(site, collector, SENDERS, ROWS, _NAMES))
                rates[kind].append(rate())
    quiet = statistics.median(speeds["quiet"])
    for kind in KINDS:
        note = f"{statistics.median(rates[kind]):.0f} datagrams/s of it; floor: without"
        speed = statistics.median(speeds[kind])
        yield Result(f"stream.flood.{kind}", speed, "rows/s", quiet, 0.5, at_least=True, note=note)


def _datagrams(kind: str, victim: Run) -> list[bytes]:
    """Return some of a flood's datagrams, as large as they may be."""
    rng = random.Random(kind)
    if kind == "noise":
        return [rng.randbytes(layout.MAX_DATAGRAM) for _ in range(_VARIETY)]
    header = datagrams.Header(layout.DATA, victim.submission, victim.task, 0, bytes(8), 0, 100)
    content = rng.randbytes(layout.MAX_BODY)
    flood = []
    for number in range(_VARIETY):
        name = victim.submission if kind == "wrong_key" else rng.randbytes(16)
        flood.append(datagrams.seal(bytes(32), header._replace(submission=name, echo=number), content))
    return flood


@contextlib.contextmanager
def _flood(flood: list[bytes], address: tuple[str, int]) -> Iterator[Callable[[], float]]:
    """Flood the collector meanwhile; gives what says afterwards how many datagrams a second were sent."""
    context = multiprocessing.get_context("fork")
    began, enough, rate = context.Event(), context.Event(), context.SimpleQueue()
    process = context.Process(target=_send, args=(flood, address, began, enough, rate), daemon=True)
    process.start()
    began.wait()
    try:
        yield rate.get
    finally:
        enough.set()
        process.join()


def _send(
    flood: list[bytes], address: tuple[str, int], began: Event, enough: Event, rate: SimpleQueue[float]
) -> None:
    sock = mmsg.BatchSocket(Address("127.0.0.1", 0))
    target = struct.pack("=H", socket.AF_INET) + struct.pack(
        ">H4s8x", address[1], socket.inet_aton(address[0])
    )
    start, sent = time.monotonic(), 0
    began.set()
    while not enough.is_set():
        due = int((time.monotonic() - start) * RATE) - sent
        if due <= 0:
            time.sleep(_PAUSE)
            continue
        for number in range(sent, sent + due, 128):
            batch = [(flood[n % _VARIETY], target) for n in range(number, min(number + 128, sent + due))]
            sock.send(batch)
        sent += due
    rate.put(sent / (time.monotonic() - start))
