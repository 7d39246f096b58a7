"""A relay's window against a model of the collector, over a seeded network, on a virtual clock.

The criterion is always the same: every byte of every journal is committed exactly once, in order, and in a
bounded time after the weather has cleared.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from hpctrack.stream.node import window
from hpctrack.stream.wire import datagrams, layout

KEY = bytes(32)


@dataclass
class Weather:
    """What the network and the collectors do to the traffic until ``clear`` seconds."""

    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    delay: float = 0.001
    commit: float = 0.05
    restarts: tuple[float, ...] = ()
    #: The relay turns to the other one of two collectors.
    moves: tuple[float, ...] = ()
    absent: tuple[float, float] = (0.0, 0.0)
    capacity: int = 1 << 40
    rollback: float | None = None
    clear: float = 60.0


@dataclass
class Database:
    """What is committed, whoever did it."""

    committed: dict[bytes, list[tuple[int, int]]] = field(default_factory=dict)

    def watermark(self, name: bytes) -> int:
        ranges = self.committed.get(name)
        return ranges[-1][1] if ranges else 0

    def roll_back(self, lengths: dict[bytes, int]) -> None:
        """It was restored from a backup: the last ranges of what still goes on are gone."""
        for name, ranges in self.committed.items():
            if self.watermark(name) != lengths[name]:
                del ranges[len(ranges) // 2 :]


@dataclass
class Collected:
    """One journal in the memory of a collector."""

    #: What is known to be committed; another collector may be further.
    watermark: int = 0
    pending: list[datagrams.Header] = field(default_factory=list)
    held: dict[int, dict[tuple[int, int], dict[int, datagrams.Header]]] = field(default_factory=dict)

    @property
    def tail(self) -> int:
        return self.pending[-1].end if self.pending else self.watermark


class Collector:
    """Answers as docs/wire.md says; commits every ``commit`` seconds what has arrived in order."""

    def __init__(self, weather: Weather, database: Database) -> None:
        self.weather, self.database = weather, database
        self.journals: dict[bytes, Collected] = {}
        self.datagrams = 0

    def receive(self, header: datagrams.Header) -> datagrams.Header | None:
        self.datagrams += 1
        name = header.journal
        journal = self.journals.setdefault(name, Collected(self.database.watermark(name)))
        credit = journal.tail + self.weather.capacity
        if header.end <= journal.watermark:
            return header._replace(kind=layout.ACK, start=journal.watermark, end=credit)
        if header.start < journal.watermark:
            return header._replace(kind=layout.ACK, start=journal.watermark, end=credit, echo=0)
        if header.start < journal.tail:
            return None
        if header.end > credit and header.start != journal.tail:
            return header._replace(kind=layout.ACK, start=journal.watermark, end=credit, echo=0)
        parts = journal.held.setdefault(header.start, {}).setdefault((header.end, header.parts), {})
        parts[header.part] = header
        before = journal.tail
        self._join(journal)
        if journal.tail > before:
            return None
        return header._replace(kind=layout.HELD, start=journal.tail, end=credit)

    @staticmethod
    def _join(journal: Collected) -> None:
        while True:
            complete = [
                parts
                for (_, count), parts in journal.held.get(journal.tail, {}).items()
                if len(parts) == count
            ]
            if not complete:
                break
            start = journal.tail
            journal.pending.append(max(complete[0].values(), key=lambda part: part.echo))
            del journal.held[start]
        for start in [start for start in journal.held if start < journal.tail]:
            del journal.held[start]

    def commit(self) -> list[datagrams.Header]:
        """Store what continues what the database holds; what does not is let go."""
        answers = []
        for name, journal in self.journals.items():
            if not journal.pending:
                continue
            ranges = self.database.committed.setdefault(name, [])
            for header in journal.pending:
                if header.start == self.database.watermark(name):
                    ranges.append((header.start, header.end))
            newest = max(journal.pending, key=lambda header: header.echo)
            journal.pending, journal.watermark = [], self.database.watermark(name)
            self._join(journal)
            answers.append(
                newest._replace(
                    kind=layout.ACK,
                    start=journal.watermark,
                    end=journal.watermark + self.weather.capacity,
                    echo=newest.echo if newest.end <= journal.watermark else 0,
                )
            )
        return answers

    def restart(self) -> None:
        self.journals = {}


class Relay:
    """Cuts journals of given lengths into ranges; a range may need several parts."""

    def __init__(self, rng: random.Random, lengths: dict[bytes, int]) -> None:
        self.rng = rng
        self.lengths = lengths
        self.start_window()

    def start_window(self) -> None:
        """Start, knowing nothing of what was sent before."""
        self.window = window.Window(self.rng.random)
        self.streams = {
            name: self.window.open(name, first=index == 0) for index, name in enumerate(self.lengths)
        }
        self.sent = 0

    def send(self, now: float) -> list[datagrams.Header]:
        flights = list(self.window.send(now))
        for _ in range(64):
            cut = [stream for stream in self.window.hungry() if self._cut(stream)]
            if not cut:
                break
            flights += self.window.send(now)
        self.sent += len(flights)
        return [
            datagrams.Header(
                layout.DATA, bytes(16), -1, 0, f.stream.journal, f.start, f.end, f.token, f.part, f.parts
            )
            for f in flights
        ]

    def _cut(self, stream: window.Stream) -> bool:
        left = self.lengths[stream.journal] - stream.packed
        if left <= 0:
            return False
        parts = 1 if self.rng.random() < 0.9 else self.rng.randint(2, 5)
        self.window.add(stream, stream.packed + min(left, self.rng.randint(1, 3000)), [b""] * parts)
        return True

    def receive(self, header: datagrams.Header, now: float) -> None:
        self.window.answered(header, now)


@dataclass
class Outcome:
    seconds: float
    sent: int
    relay: Relay
    collectors: list[Collector]
    database: Database


class Simulation:
    """Relay, collectors and the network between them, on a virtual clock."""

    def __init__(self, seed: int, weather: Weather, lengths: dict[bytes, int]) -> None:
        self.rng = random.Random(seed)
        self.weather, self.lengths = weather, lengths
        self.database = Database()
        self.collectors = [Collector(weather, self.database) for _ in range(2)]
        self.relay, self.target = Relay(self.rng, lengths), 0
        self.sent_before = 0
        self.now = 0.0
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []

    def at(self, time: float, act: Callable[[Any], None], value: object = None) -> None:
        heapq.heappush(self._events, (time, next(self._order), act, value))

    def travel(self, act: Callable[[Any], None], value: object) -> None:
        """Have something arrive: late, twice or not at all, as the weather is."""
        weather, rng = self.weather, self.rng
        stormy = self.now < weather.clear
        if stormy and (rng.random() < weather.loss or weather.absent[0] <= self.now < weather.absent[1]):
            return
        for _ in range(2 if stormy and rng.random() < weather.duplication else 1):
            late = rng.random() * 0.5 if stormy and rng.random() < weather.reordering else 0
            self.at(self.now + weather.delay * (0.5 + rng.random()) + late, act, value)

    def to_collector(self, sent: tuple[Collector, datagrams.Header]) -> None:
        collector, header = sent
        answer = collector.receive(header)
        if answer is not None:
            self.travel(self.to_relay, answer)

    def to_relay(self, answer: datagrams.Header) -> None:
        self.relay.receive(answer, self.now)

    def commit(self, collector: Collector) -> None:
        for answer in collector.commit():
            self.travel(self.to_relay, answer)
        self.commit_later(collector)

    def commit_later(self, collector: Collector) -> None:
        self.at(self.now + self.weather.commit * (0.5 + self.rng.random()), self.commit, collector)

    def restart(self, _: None) -> None:
        self.rng.choice(self.collectors).restart()

    def move(self, _: None) -> None:
        self.target = 1 - self.target

    def roll_back(self, _: None) -> None:
        self.database.roll_back(self.lengths)
        for collector in self.collectors:
            collector.restart()

    def restart_relay(self, _: None) -> None:
        self.sent_before += self.relay.sent
        self.relay.start_window()

    def tick(self, _: None) -> None:
        self.at(self.now + 0.02, self.tick)

    def step(self) -> None:
        """Let the next thing happen, and the relay send what it may."""
        self.now, _, act, value = heapq.heappop(self._events)
        act(value)
        for header in self.relay.send(self.now):
            self.travel(self.to_collector, (self.collectors[self.target], header))

    def is_over(self) -> bool:
        """Whether everything is committed and known to be."""
        return all(stream.watermark == self.lengths[name] for name, stream in self.relay.streams.items())


def simulate(seed: int, weather: Weather, lengths: dict[bytes, int], relay_restarts: tuple[float, ...] = ()):
    """Run until everything is committed and known to be."""
    world = Simulation(seed, weather, lengths)
    world.at(0.0, world.tick)
    for collector in world.collectors:
        world.commit_later(collector)
    for act, times in (
        (world.restart, weather.restarts), (world.move, weather.moves), (world.restart_relay, relay_restarts),
        (world.roll_back, () if weather.rollback is None else (weather.rollback,)),
    ):  # fmt: skip
        for time in times:
            world.at(time, act)
    while not world.is_over():
        assert world.now < weather.clear + 240, "it does not end"
        world.step()
    return Outcome(
        world.now, world.sent_before + world.relay.sent, world.relay, world.collectors, world.database
    )


def journals(rng: random.Random, count: int, size: int) -> dict[bytes, int]:
    return {index.to_bytes(8, "big"): rng.randint(1, size) for index in range(count)}


def check(outcome: Outcome, lengths: dict[bytes, int]) -> None:
    for name, length in lengths.items():
        ranges = outcome.database.committed[name]
        assert ranges[0][0] == 0 and ranges[-1][1] == length
        assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))
    assert not outcome.relay.window.outstanding()
    assert outcome.relay.window._flying == 0


def survive(seed: int) -> None:
    rng = random.Random(seed)
    lengths = journals(rng, rng.randint(1, 5), 200_000)
    weather = Weather(
        loss=rng.choice((0, 0.01, 0.3, 0.7)),
        duplication=rng.choice((0, 0.3)),
        reordering=rng.choice((0, 0.1)),
        delay=rng.choice((0.0005, 0.02)),
        commit=rng.choice((0.01, 0.1, 1.0)),
        restarts=tuple(rng.uniform(0, 20) for _ in range(rng.choice((0, 3)))),
        moves=tuple(rng.uniform(0, 20) for _ in range(rng.choice((0, 0, 1, 5)))),
        absent=rng.choice(((0.0, 0.0), (0.5, 20.0), (0.0, 40.0))),
        capacity=rng.choice((1 << 40, 20_000, 1_000)),
        rollback=rng.choice((None, None, 3.0)),
    )
    relay_restarts = tuple(rng.uniform(0, 20) for _ in range(rng.choice((0, 0, 2))))
    check(simulate(seed, weather, lengths, relay_restarts), lengths)


@pytest.mark.parametrize("seed", range(150))
def test_everything_arrives_once_whatever_the_weather(seed):
    survive(seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thousands_of_schedules():
    for seed in range(1000, 6000):
        try:
            survive(seed)
        except BaseException:
            print(f"seed {seed}")
            raise


def test_two_minutes_of_partition():
    lengths = {bytes(8): 200_000}
    outcome = simulate(5, Weather(absent=(0.5, 120.5), clear=121.0), lengths)
    check(outcome, lengths)
    assert outcome.seconds < 121.0 + window.MAX_TIMEOUT * (1 + window.JITTER) + 5


def test_a_quiet_network_sees_every_range_once():
    lengths = {bytes(8): 1_000_000}
    outcome = simulate(1, Weather(), lengths)
    check(outcome, lengths)
    assert outcome.sent == outcome.collectors[0].datagrams
    assert outcome.sent <= 5 * len(outcome.database.committed[bytes(8)])  # five parts at most


def test_a_tenth_lost_costs_little_more_than_a_tenth():
    lengths = {bytes(8): 1_000_000}
    quiet = simulate(2, Weather(commit=0.02), lengths)
    lossy = simulate(2, Weather(commit=0.02, loss=0.1), lengths)
    assert lossy.sent < 1.6 * quiet.sent


def test_silence_is_met_with_few_datagrams():
    lengths = journals(random.Random(3), 20, 100_000)
    outcome = simulate(3, Weather(absent=(0.0, 40.0), clear=60.0), lengths)
    check(outcome, lengths)
    relay = Relay(random.Random(4), lengths)
    sent = [len(relay.send(tick / 50)) for tick in range(50 * 40)]
    assert sum(sent) < 60
    assert sum(sent[50 * 20 :]) <= 4
