"""The window, case by case. What it does as a whole is in test_window_simulation.py."""

from __future__ import annotations

import itertools

import pytest

from hpctrack.stream.node import window
from hpctrack.stream.wire import datagrams, layout

A, B = b"journal-a"[:8], b"journal-b"[-8:]
MANY = 1 << 40


class Harness:
    """A window of journals whose every range is ten bytes long, and a clock."""

    def __init__(self, *journals: bytes, jitter: float = 0.0):
        self.window = window.Window(lambda: jitter)
        self.streams = [self.window.open(journal) for journal in journals or (A,)]
        self.now = 0.0

    def send(self, limit: int = 10_000) -> list[window.Flight]:
        """Cut and send as much as the window takes."""
        flights = list(self.window.send(self.now))
        while len(flights) < limit:
            hungry = list(self.window.hungry())
            for stream in hungry:
                self.window.add(stream, stream.packed + 10, [b"x"])
            sent = list(self.window.send(self.now))
            if not hungry or not sent:
                break
            flights += sent
        return flights

    def again(self) -> list[window.Flight]:
        """Send what was cut before, and nothing new."""
        return list(self.window.send(self.now))

    def answer(self, kind: int, start: int, echo: int, journal: bytes = A, credit: int = MANY):
        header = datagrams.Header(kind, bytes(16), -1, 0, journal, start, credit, echo)
        return self.window.answered(header, self.now)

    def grow(self, flights: int) -> None:
        """Acknowledge until so many are on their way at once, in a network without losses."""
        while True:
            sent = self.send()
            if len(sent) >= flights:
                return
            self.answer(layout.ACK, sent[-1].end, sent[-1].token)


def starts(flights: list[window.Flight]) -> list[int]:
    return [flight.start for flight in flights]


def test_it_starts_small_and_doubles_while_all_is_well():
    harness = Harness()
    first = harness.send()
    assert len(first) == window.FIRST_LIMIT
    harness.answer(layout.ACK, 40, first[-1].token)
    assert len(harness.send()) == 2 * window.FIRST_LIMIT


def test_it_does_not_grow_while_it_is_not_used():
    harness = Harness()
    for _ in range(50):
        (stream,) = harness.streams
        harness.window.add(stream, stream.packed + 10, [b"x"])
        (flight,) = harness.again()
        harness.answer(layout.ACK, flight.end, flight.token)
    assert harness.window.limit == window.FIRST_LIMIT


def test_it_never_exceeds_its_limit():
    harness = Harness()
    for _ in range(30):
        sent = harness.send()
        assert len(sent) <= window.MAX_LIMIT
        harness.answer(layout.ACK, sent[-1].end, sent[-1].token)
    assert len(sent) == window.MAX_LIMIT


def test_a_loss_that_shows_is_mended_at_once_and_halves_the_limit():
    harness = Harness()
    harness.grow(16)
    lost, *others = harness.streams[0].flights
    limit = harness.window.limit
    for flight in others[: window.REORDERING - 1]:
        harness.answer(layout.HELD, lost.start, flight.token)
    assert harness.again() == []
    harness.answer(layout.HELD, lost.start, others[window.REORDERING - 1].token)
    assert harness.again() == [lost]
    assert harness.window.limit == pytest.approx(limit / 2, abs=3)


def test_several_losses_of_one_flight_halve_it_once():
    harness = Harness()
    harness.grow(64)
    flights = list(harness.streams[0].flights)
    limit = harness.window.limit
    for flight in flights[5::2]:
        harness.answer(layout.HELD, flights[0].start, flight.token)
    assert harness.window.limit > limit / 2 - 2


def test_what_waits_for_a_slow_commit_is_not_taken_for_lost():
    harness = Harness()
    harness.grow(16)
    flights = list(harness.streams[0].flights)
    gap = flights[8]
    for flight in flights[9:]:
        harness.answer(layout.HELD, gap.start, flight.token)  # all before the gap has arrived
    assert harness.again() == [gap]


def test_silence_is_met_with_longer_and_longer_pauses():
    harness = Harness()
    harness.send()
    times = []
    for tick in range(200_000):
        harness.now = tick / 1000
        sent = harness.again()
        assert len(sent) <= (window.LEAST_LIMIT if harness.now < 2 * window.SILENCE else 1)
        times += [harness.now for _ in sent if harness.now > 2 * window.SILENCE]
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert all(after >= before - 0.01 for before, after in itertools.pairwise(pauses))
    assert pauses[-1] == pytest.approx(window.MAX_TIMEOUT, abs=0.01)
    assert len(times) < 50


def test_jitter_spreads_what_many_relays_do():
    def first_resend(jitter: float) -> float:
        harness = Harness(jitter=jitter)
        harness.send()
        return harness.window.wakeup()

    assert first_resend(0.999) > 1.2 * first_resend(0.0)


def test_an_answer_ends_the_silence():
    harness = Harness()
    harness.send()
    for tick in range(600):
        harness.now = tick / 10
        probes = harness.again()
    harness.now += 20
    (probe,) = harness.again()
    harness.answer(layout.ACK, probe.end, probe.token)
    harness.now += 0.6
    assert harness.send() and not probes
    for _ in range(100):
        harness.now += 0.05
        sent = harness.send()
        if sent:
            harness.answer(layout.ACK, max(flight.end for flight in sent), sent[-1].token)
    assert harness.window.limit > 32


def test_the_time_out_follows_the_round_trip():
    harness = Harness()
    for _ in range(50):
        sent = harness.send(1)
        harness.now += 1.0
        harness.answer(layout.ACK, sent[-1].end, sent[-1].token)
    assert 1.0 < harness.window.timeout < 1.5


def test_a_round_trip_is_that_of_the_transmission_that_was_answered():
    harness = Harness()
    (flight, *_) = harness.send()
    harness.now = 0.6
    again = harness.again()[0]
    assert again is flight
    harness.now = 0.61
    harness.answer(layout.ACK, flight.end, again.token)
    assert harness.window.timeout == window.MIN_TIMEOUT


def test_credit_is_kept_but_the_first_range_may_always_go():
    harness = Harness()
    sent = harness.send()
    harness.answer(layout.ACK, 40, sent[-1].token, credit=60)
    assert starts(harness.send()) == [40, 50]
    harness.answer(layout.ACK, 60, harness.streams[0].flights[-1].token, credit=60)
    assert starts(harness.send()) == [60]
    assert harness.send() == []


def test_a_watermark_inside_a_range_cuts_anew():
    harness = Harness()
    harness.send()
    stream = harness.streams[0]
    assert harness.answer(layout.ACK, 25, 0) == (stream, 25)
    assert (stream.watermark, stream.packed, len(stream.flights)) == (25, 25, 0)
    assert starts(harness.send())[0] == 25


def test_a_watermark_beyond_everything_sent_cuts_anew():
    harness = Harness()
    sent = harness.send()
    assert harness.answer(layout.ACK, 5000, sent[0].token) == (harness.streams[0], 5000)
    assert starts(harness.send())[0] == 5000


def test_a_watermark_that_went_back_cuts_anew():
    harness = Harness()
    sent = harness.send()
    harness.answer(layout.ACK, 40, sent[-1].token)
    later = harness.send()
    assert harness.answer(layout.HELD, 10, later[0].token) == (harness.streams[0], 10)


def test_an_old_answer_on_a_long_way_does_not():
    harness = Harness()
    sent = harness.send()
    harness.answer(layout.ACK, 40, sent[-1].token)
    assert harness.answer(layout.ACK, 10, sent[0].token) is None
    assert harness.answer(layout.HELD, 10, sent[1].token) is None
    assert harness.streams[0].watermark == 40


def test_a_collector_that_forgot_what_it_held_gets_it_again():
    harness = Harness()
    first, *others = harness.send()
    for flight in others:
        harness.answer(layout.HELD, 0, flight.token)
    harness.answer(layout.ACK, first.end, harness.again()[0].token)
    assert harness.again() == []  # perhaps they are being committed
    harness.now += 3.0
    for flight in others:
        assert flight in harness.again() or flight.state == window.FLYING
        harness.answer(layout.ACK, flight.end, flight.token)


def test_parts_travel_one_by_one_and_count_as_one():
    harness = Harness()
    stream = harness.streams[0]
    harness.window.add(stream, 5000, [b"a", b"b", b"c"])
    parts = harness.again()
    assert [(flight.part, flight.parts, flight.end) for flight in parts] == [
        (0, 3, 5000),
        (1, 3, 5000),
        (2, 3, 5000),
    ]
    harness.answer(layout.HELD, 0, parts[0].token)
    harness.answer(layout.HELD, 0, parts[2].token)
    harness.now = 1.0
    assert harness.again() == [parts[1]]
    harness.answer(layout.ACK, 5000, parts[1].token)
    assert not harness.window.outstanding()


def test_journals_take_turns_and_the_first_goes_first():
    harness = Harness(A, B)
    own = harness.window.open(b"relay's!", first=True)
    for stream in (*harness.streams, own):
        harness.window.add(stream, 10, [b"x"])
    assert harness.again()[0].stream is own
    sent = harness.send()
    harness.answer(layout.ACK, 10, 1)
    for _ in range(8):
        for flight in sent:
            harness.answer(layout.ACK, flight.end, flight.token, flight.stream.journal)
        sent = harness.send()
    shares = [sum(flight.stream is stream for flight in sent) for stream in harness.streams]
    assert min(shares) > 0.8 * max(shares) > 10


def test_a_loss_on_one_journal_does_not_make_the_others_look_lost():
    harness = Harness(A, B)
    sent = harness.send()
    for flight in sent:
        if flight.stream.journal == B:
            harness.answer(layout.ACK, flight.end, flight.token, B)
    assert all(flight.stream.journal == B for flight in harness.again())


def test_what_does_not_concern_us_is_ignored():
    harness = Harness()
    sent = harness.send()
    assert harness.answer(layout.ACK, 10, sent[0].token, journal=b"unknown!") is None
    assert harness.answer(layout.HELD, 0, 4_000_000_000) is None
    assert harness.streams[0].watermark == 0


def test_a_closed_journal_leaves_nothing_behind():
    harness = Harness(A, B)
    harness.send()
    harness.window.close(harness.streams[0])
    harness.window.close(harness.streams[1])
    assert not harness.window.outstanding() and harness.window._flying == 0
    assert harness.window.wakeup() is None and harness.window.oldest() is None


def test_the_age_of_the_oldest():
    harness = Harness()
    harness.now = 5.0
    sent = harness.send()
    harness.now = 7.0
    harness.again()
    assert harness.window.oldest() == 5.0
    harness.answer(layout.ACK, 40, sent[-1].token)
    harness.send()
    assert harness.window.oldest() == 7.0
